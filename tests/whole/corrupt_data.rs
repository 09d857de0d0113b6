//! Corrupt data through the commands: filter, pack, show and train end by themselves, and every sample of every shard is in
//! the output, or a line of rejects.jsonl, or behind damage that is such a line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use ovhost_data::shards::Shard;
use serde_json::{Value, json};

use crate::{
    forge::{self, BLOCK, Tar, troubles},
    lab::{Lab, jsonl, png},
};

/// Shards with the keys that were put into them.
type Shards = BTreeMap<String, Vec<String>>;

/// Samples whose tar is good and whose content is not, or is unusual.
fn contents() -> Vec<(String, &'static str, Vec<u8>, Vec<u8>)> {
    let picture = |name: &str| fs::read(crate::lab::root().join("host/data/tests/pictures").join(name)).unwrap();
    let mut half = picture("420.jpg");
    half.truncate(half.len() / 2);
    let jpeg = |bytes: Vec<u8>| ("jpg", bytes);
    let pictures = [
        ("nothing", ("png", Vec::new())),
        ("one-pixel", ("png", png(1, 1, [9, 9, 9]))),
        ("wide", ("png", png(20_000, 100, [9, 9, 9]))),
        ("too-wide", ("png", png(20_000, 99, [9, 9, 9]))),
        ("cmyk", jpeg(picture("cmyk.jpg"))),
        ("cut", jpeg(half)),
        ("deep", ("png", picture("grey16.png"))),
        ("palette", ("png", picture("palette.png"))),
        ("grey-alpha", ("png", picture("grey_alpha.png"))),
        ("gif", ("gif", picture("palette.gif"))),
        ("text", ("webp", b"<!DOCTYPE html>".to_vec())),
    ];
    let mut out = Vec::new();
    for (key, (part, bytes)) in pictures {
        out.push((format!("picture-{key}"), part, bytes, forge::question()));
    }
    let wrong = [json!(null), json!(true), json!(-1.5), json!("x"), json!([]), json!([[1]]), json!({"a": {"b": null}})];
    for field in ["question", "answer", "answers", "conversations", "messages", "qa", "caption", "image", "images"] {
        for (i, value) in wrong.iter().enumerate() {
            let mut record = json!({"question": "what colour is it?", "answer": "red"});
            record[field] = value.clone();
            out.push((format!("{field}-{i}"), "png", png(16, 16, [9, 9, 9]), record.to_string().into_bytes()));
        }
    }
    for (i, text) in ["", "{", "[", "[]", "7", "null", "\u{feff}{}", "{\"question\": \"\\ud800\"}"].iter().enumerate() {
        out.push((format!("json-{i}"), "png", png(16, 16, [9, 9, 9]), text.as_bytes().to_vec()));
    }
    out
}

/// Fills `folder` with shards: every trouble, a good one cut and with bits wrong, and one of odd contents.
fn fill(folder: &Path) -> Shards {
    fs::create_dir_all(folder).unwrap();
    let mut shards = Shards::new();
    let mut put = |name: String, bytes: &[u8], keys: Vec<String>| {
        fs::write(folder.join(&name), bytes).unwrap();
        shards.insert(name, keys);
    };
    for (name, bytes, keys) in troubles() {
        put(format!("{name}.tar"), &bytes, keys);
    }
    let keys = ["a", "b", "c"];
    let (whole, keys) = (forge::shard(&keys), keys.map(String::from).to_vec());
    for cut in (0..whole.len()).step_by(BLOCK).chain([100, 700, 1500]) {
        put(format!("cut-{cut:05}.tar"), &whole[..cut], keys.clone());
    }
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        put(format!("flip-{at:05}.tar"), &bytes, keys.clone());
    }
    let mut tar = Tar::default();
    let contents = contents();
    for (key, part, bytes, record) in &contents {
        tar = tar.file(format!("{key}.json"), record).file(format!("{key}.{part}"), bytes);
    }
    put("contents.tar".into(), &tar.end(), contents.into_iter().map(|(key, ..)| key).collect());
    shards
}

/// Every key of every shard was used or is rejected; of a damaged shard one line says so, and what is missing is behind it.
fn account(shards: &Shards, used: &BTreeMap<String, Vec<String>>, rejects: &[Value]) {
    let none = Vec::new();
    for (name, keys) in shards {
        let mine: Vec<&Value> = rejects.iter().filter(|r| r["shard"] == json!(name)).collect();
        let damaged = mine.iter().any(|r| r["reason"].as_str().unwrap().contains("the shard is damaged at byte"));
        let used = used.get(name).unwrap_or(&none);
        let mut left: Vec<&str> =
            used.iter().map(String::as_str).chain(mine.iter().map(|r| r["key"].as_str().unwrap())).collect();
        for key in keys {
            match left.iter().position(|k| k == key) {
                Some(at) => drop(left.remove(at)),
                None => assert!(damaged, "{name}: {key} is lost; used: {used:?}, rejects: {mine:?}"),
            }
        }
        // Nor does anything come out that was not put in, but for damage before any sample.
        left.retain(|key| !key.is_empty());
        assert!(left.is_empty() || damaged, "{name}: {left:?}");
    }
    assert!(rejects.iter().all(|r| r["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
}

fn tars(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    paths.sort();
    paths
}

/// Index files and metadata that say nothing true, beside the shards.
fn litter(folder: &Path) {
    let wrong: [&[u8]; 5] = [b"", b"abc", &[0xff; 24], &[7; 8], &[0; 8 * 5000]];
    for (i, path) in tars(folder).iter().enumerate() {
        let mut index = path.clone().into_os_string();
        index.push(".idx");
        fs::write(index, wrong[i % wrong.len()]).unwrap();
    }
    fs::create_dir_all(folder.join(".nv-meta")).unwrap();
    for name in [".info.json", ".info.yaml", "split.yaml", "dataset.yaml"] {
        fs::write(folder.join(".nv-meta").join(name), b"\xff{ shard_counts: [").unwrap();
    }
}

#[test]
fn filter_pack_and_show_account_for_every_sample() {
    let lab = Lab::new();
    let shards = fill(&lab.at("raw"));
    litter(&lab.at("raw"));

    let args =
        ["data", "filter", "--input", "raw", "--plugins", "filters/image_geometry.wasm", "--max-reject-rate", "1"];
    lab.run(&[args.as_slice(), &["--out", "out"]].concat()).ok();
    let mut kept = BTreeMap::new();
    for path in tars(&lab.at("out")) {
        let shard = Shard::open(&path).unwrap();
        kept.insert(shard.name().to_owned(), shard.samples().iter().map(|s| s.key.clone()).collect());
    }
    let rejects = jsonl(lab.at("out/rejects.jsonl"));
    account(&shards, &kept, &rejects);
    let manifest: Value = serde_json::from_slice(&fs::read(lab.at("out/manifest.json")).unwrap()).unwrap();
    let total = kept.values().map(|keys: &Vec<String>| keys.len()).sum::<usize>() + rejects.len();
    assert_eq!(manifest["counts"]["read"], json!(total));

    lab.edit_recipe("workers = 2", "workers = 2\nmax_reject_rate = 1.0");
    lab.run(&["data", "pack", "--input", "raw", "--out", "packed"]).ok();
    let mut packed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in tars(&lab.at("packed")) {
        let shard = Shard::open(&path).unwrap();
        for i in 0..shard.len() {
            let raw = shard.read(i).unwrap();
            let json = &raw.parts.iter().find(|(part, _)| part == "json").unwrap().1;
            let json: Value = serde_json::from_slice(json).unwrap();
            for sample in json["samples"].as_array().unwrap() {
                let text = |name: &str| sample[name].as_str().unwrap().to_owned();
                packed.entry(text("source")).or_default().push(text("key"));
            }
        }
    }
    account(&shards, &packed, &jsonl(lab.at("packed/rejects.jsonl")));

    let shown = lab.run(&["data", "show", "raw", "--limit", "100000"]).fails_with(&["of the shards are damaged"]);
    for (name, keys) in &shards {
        assert!(shown.out.contains(name.as_str()), "{name}");
        assert!(name.starts_with("cut-") || keys.is_empty() || shown.out.contains(&keys[0]), "{name}");
    }
    assert!(!shown.out.contains('\x1b'), "a key turns the terminal red");
}

#[test]
fn training_goes_through_whatever_is_in_a_whole_tar() {
    let lab = Lab::new();
    let mut shards = fill(&lab.at("raw"));
    // Training wants whole shards, and says which is not.
    for path in tars(&lab.at("raw")) {
        if let Err(error) = Shard::open(&path) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("hole") || name.starts_with("size-8") || name.starts_with("cut-00700") {
                let train = format!("data.train=\"raw/{name}\"");
                lab.run(&["train", "--set", &train]).fails_with(&[&name, "damaged at byte"]);
            }
            assert!(error.to_string().contains("damaged"), "{error}");
            fs::remove_file(&path).unwrap();
            shards.remove(&name);
        }
    }
    litter(&lab.at("raw"));
    let sets = ["data.train=\"raw\"", "data.epochs=1", "train.steps=500", "data.max_reject_rate=1.0"];
    let sets: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
    // Metadata says which shards are meant: where it cannot be read, none are guessed.
    lab.run(&[&["train"], sets.as_slice()].concat()).fails_with(&[".info.json", "cannot read"]);
    fs::remove_dir_all(lab.at("raw/.nv-meta")).unwrap();
    fs::remove_dir_all(lab.at("runs/a")).ok();
    let ran = lab.run(&[&["train"], sets.as_slice()].concat()).ok();
    let rejects = jsonl(lab.at("runs/a/rejects.jsonl"));
    let total: usize = tars(&lab.at("raw")).iter().map(|p| Shard::open(p).unwrap().len()).sum();
    let said = format!("{total} samples read: {} delivered", total - rejects.len());
    assert!(ran.err.contains(&said), "{said}\n{}", ran.err);
    // Each of the broken ones is there with its reason, and none of the unusual.
    let reason = |key: &str| {
        let reject = rejects.iter().find(|r| r["key"] == json!(key) && r["shard"] == json!("contents.tar"));
        reject.map(|r| r["reason"].as_str().unwrap().to_owned())
    };
    for (key, words) in [
        ("picture-nothing", "the file is empty"),
        ("picture-too-wide", "too elongated"),
        ("picture-cut", "corrupt JPEG"),
        ("picture-text", "not a picture"),
        ("json-1", "not valid JSON"),
        ("json-4", "holds a number"),
        ("conversations-0", ""),
        ("qa-4", ""),
    ] {
        match (reason(key), words) {
            (Some(reason), words) => assert!(reason.contains(words), "{key}: {reason}"),
            (None, "") => {}
            (None, words) => panic!("{key} should be rejected: {words}"),
        }
    }
    for key in ["picture-cmyk", "picture-deep", "picture-palette", "picture-grey-alpha", "picture-gif"] {
        let reason = reason(key);
        assert!(
            reason.as_ref().is_none_or(|r| r.contains("image_geometry") || r.contains("tokens")),
            "{key}: {reason:?}"
        );
    }
}

/// Every record of a step cut short, emptied or with a byte wrong: the next run goes on, or says what is wrong with it.
#[test]
fn altered_records_of_a_step() {
    let lab = Lab::new();
    let pack = ["data", "pack", "--out", "packed", "--packs-per-shard", "2"];
    lab.run(&pack).ok();
    let whole: BTreeMap<PathBuf, Vec<u8>> =
        files(&lab.at("packed")).into_iter().map(|p| (p.clone(), fs::read(p).unwrap())).collect();
    assert!(whole.len() > 10, "{whole:?}");
    let alterations: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| {
            let middle = bytes.len() / 3;
            bytes[middle..].iter_mut().step_by(7).for_each(|b| *b = b.wrapping_add(1));
        },
    ];
    for (n, (path, bytes)) in whole.iter().enumerate() {
        // Two of the three for each.
        for (i, alter) in alterations.iter().enumerate().filter(|(i, _)| *i != n % 3) {
            let mut altered = bytes.clone();
            if altered.is_empty() {
                continue;
            }
            alter(&mut altered);
            fs::write(path, &altered).unwrap();
            // What the packing made of the lengths is made again.
            if i == 2 {
                for made in ["write/jobs", "pack/jobs"] {
                    let _ = fs::remove_dir_all(lab.at("packed/.ovhost").join(made));
                }
            }
            let ran = lab.run(&pack);
            assert!(ran.code == 0 || ran.code == 1, "{} altered: {}\n{}", path.display(), ran.code, ran.err);
            assert!(!ran.err.contains("panicked"), "{}", ran.err);
            if ran.code == 1 {
                assert!(ran.err.contains("error:") && ran.err.len() > 60, "{}", ran.err);
            }
            whole.iter().for_each(|(path, bytes)| {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            });
        }
    }
    lab.run(&pack).ok();
    fs::write(lab.at("packed/.nv-meta/split.yaml"), "train: [a\n").unwrap();
    fs::remove_file(lab.at("packed/.ovhost/write/jobs/packed-000000.json")).unwrap();
    lab.run(&pack).fails_with(&["split.yaml", "will not be overwritten"]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

/// A packed shard whose packs say something else than what is in them.
#[test]
fn altered_packs() {
    let lab = Lab::new();
    lab.run(&["data", "pack", "--out", "packed"]).ok();
    let path = tars(&lab.at("packed")).remove(0);
    let shard = Shard::open(&path).unwrap();
    let raw: Vec<_> = (0..shard.len()).map(|i| shard.read(i).unwrap()).collect();
    // The change is made to pack 1; the other packs are what they were.
    let train = |change: &dyn Fn(&mut Value)| {
        let mut tar = Tar::default();
        for (i, sample) in raw.iter().enumerate() {
            for (part, bytes) in &sample.parts {
                let mut bytes = bytes.clone();
                if part == "json" && i == 1 {
                    let mut json: Value = serde_json::from_slice(&bytes).unwrap();
                    change(&mut json);
                    bytes = json.to_string().into_bytes();
                }
                tar = tar.file(format!("{}.{part}", sample.key), &bytes);
            }
        }
        fs::write(&path, tar.end()).unwrap();
        let _ = fs::remove_dir_all(lab.at("runs"));
        let sets = ["data.train=\"packed\"", "data.epochs=1", "train.steps=50", "data.max_reject_rate=1.0"];
        let sets: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
        lab.run(&[&["train"], sets.as_slice()].concat())
    };
    let rejects = || jsonl(lab.at("runs/a/rejects.jsonl"));
    train(&|_| ()).ok();
    assert_eq!(rejects().len(), 0);
    train(&|json| json["fingerprint"] = json!("other")).fails_with(&["packed for other settings", "fingerprint"]);
    train(&|json| json["capacity"] = json!(1 << 30)).fails_with(&["data.capacity"]);
    train(&|json| json["ovhost_pack"] = json!(99)).fails_with(&["version 99"]);
    for change in [
        (|json: &mut Value| json["samples"] = json!("none")) as fn(&mut Value),
        |json| json["samples"][0]["tokens"] = json!(-1),
        |json| json["seed"] = json!("x"),
        |json| drop(json.as_object_mut().unwrap().remove("ovhost_pack")),
        |json| *json = json!([1, 2]),
    ] {
        train(&change).ok();
        assert_eq!((rejects().len(), &rejects()[0]["key"]), (1, &json!("00000001")), "{:?}", rejects());
    }
    for change in [
        (|json: &mut Value| json["samples"][0]["images"] = json!(["img9_9.png"])) as fn(&mut Value),
        |json| json["samples"][0]["record"] = json!({}),
        |json| json["samples"][0]["record"]["question"] = json!([1]),
        |json| json["samples"][0]["row"] = json!(u64::MAX),
    ] {
        train(&change).ok();
        assert_eq!(rejects().len(), 1, "one sample alone: {:?}", rejects());
    }
}
