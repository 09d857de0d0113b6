//! `ovhost data pack`: nothing lost, the same bytes however it is cut, killed or spread; and training on what it makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use ovhost_data::shards::{RawSample, Shard};
use serde_json::{Value, json};

use crate::lab::{COLOURS, Lab, Sample, command, jsonl, png};

const SAMPLES: usize = 240;

/// Members of a tar, as `lab.write_shard` takes them, into a shard of any name.
fn write_tar(path: &Path, samples: &[Sample<'_>]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (key, parts) in samples {
        for (part, bytes) in parts {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{key}.{part}"), bytes.as_slice()).unwrap();
        }
    }
    tar.finish().unwrap();
}

/// Question and answer `i`, of many lengths; every 12th is one of the troublesome.
fn sample(i: usize) -> (String, Vec<(&'static str, Vec<u8>)>) {
    let (name, rgb) = COLOURS[i % COLOURS.len()];
    let words = "what colour is it? ".repeat(1 + i * 7 % 5);
    let plain = json!({"question": words, "answer": format!("{name} {i}"), "score": 0.1 + i as f64 / 7.0});
    let picture = png(16 + 8 * (i as u32 % 3), 16, rgb);
    let mut parts = vec![("json", plain), ("png", Value::Null)];
    // Longer than a plain tar header holds, so that a header of its own comes before the sample.
    let mut key = if i.is_multiple_of(5) { format!("{}/k{i:04}", "folder".repeat(20)) } else { format!("k{i:04}") };
    match i % 24 {
        3 => parts.truncate(0),
        7 => parts[0].1 = json!({"question": "word ".repeat(300), "answer": "too long"}),
        11 => {
            parts = vec![(
                "json",
                json!({"messages": [
                    {"role": "user", "content": "Which is it?"}, {"role": "assistant", "content": name},
                    {"role": "user", "content": "Are you sure?"}, {"role": "assistant", "content": format!("yes {i}")},
                ]}),
            )]
        }
        15 => {
            parts = vec![
                (
                    "json",
                    json!({"question": "first or second?", "answer": format!("second {i}"), "images": ["a", "b"]}),
                ),
                ("a.png", Value::Null),
                ("b.png", Value::Null),
            ]
        }
        19 => key = format!("tiny{i:04}"),
        _ => {}
    }
    let parts = parts.into_iter().map(|(part, value)| match part {
        "json" => ("json", value.to_string().into_bytes()),
        other if key.starts_with("tiny") => (other, png(4, 4, rgb)),
        other => (other, picture.clone()),
    });
    let mut parts: Vec<_> = parts.collect();
    if parts.is_empty() {
        // A picture that is none.
        parts = vec![("json", b"{\"question\": \"q\", \"answer\": \"a\"}".to_vec()), ("png", vec![1, 2, 3])];
    }
    (key, parts)
}

/// A lab with `raw/`: shards of 40 samples, one without any, and one that is cut short.
pub fn lab() -> Lab {
    let lab = Lab::new();
    let samples: Vec<_> = (0..SAMPLES).map(sample).collect();
    for (shard, samples) in samples.chunks(40).enumerate() {
        let samples: Vec<Sample<'_>> = samples.iter().map(|(k, p)| (k.as_str(), p.clone())).collect();
        write_tar(&lab.at(&format!("raw/part-{shard:03}.tar")), &samples);
    }
    write_tar(&lab.at("raw/part-100.tar"), &[]);
    write_tar(&lab.at("raw/part-101.tar"), &[("whole", lab.good(1)), ("cut", lab.good(2))]);
    let cut = fs::File::options().write(true).open(lab.at("raw/part-101.tar")).unwrap();
    cut.set_len(Shard::open(lab.at("raw/part-101.tar")).unwrap().offsets()[1] + 700).unwrap();
    lab.edit_recipe("workers = 2", "workers = 2\nmax_reject_rate = 0.2");
    lab
}

fn args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["data", "pack", "--input", "raw", "--out", out, "--packs-per-shard", "10"], more].concat()
}

/// The output: every file but the step's own records.
pub fn output(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for name in ["", ".nv-meta"] {
        for entry in fs::read_dir(folder.join(name)).unwrap().map(|e| e.unwrap()) {
            if entry.file_type().unwrap().is_file() {
                out.insert(format!("{name}/{}", entry.file_name().to_string_lossy()), fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(out.contains_key("/pack.json") && out.contains_key("/rejects.jsonl"), "{:?}", out.keys());
    assert!(!out.keys().any(|name| name.contains("tmp")), "{:?}", out.keys());
    out
}

fn tars(folder: &Path) -> Vec<Shard> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    paths.sort();
    paths.iter().map(|p| Shard::open_damaged(p).unwrap()).collect()
}

/// All packs of a folder, in order: the members and the JSON.
fn packs(folder: &Path) -> Vec<(RawSample, Value)> {
    let mut out = Vec::new();
    for shard in tars(folder) {
        for i in 0..shard.len() {
            let raw = shard.read(i).unwrap();
            let json = serde_json::from_slice(part(&raw, "json")).unwrap();
            out.push((raw, json));
        }
    }
    out
}

fn part<'a>(raw: &'a RawSample, name: &str) -> &'a [u8] {
    &raw.parts.iter().find(|(part, _)| part == name).unwrap_or_else(|| panic!("no {name} in {}", raw.key)).1
}

#[test]
fn every_sample_is_packed_as_it_was_or_listed() {
    let lab = lab();
    let ran = lab.run(&args("out", &[])).ok();
    let mut raw = BTreeMap::new();
    for shard in tars(&lab.at("raw")) {
        for i in 0..shard.len() {
            let sample = shard.read(i).unwrap();
            raw.insert((shard.name().to_owned(), i as u64), sample);
        }
    }
    assert_eq!(raw.len(), SAMPLES + 1);
    let rejects = jsonl(lab.at("out/rejects.jsonl"));
    let mut seen = BTreeSet::new();
    let packs = packs(&lab.at("out"));
    for (number, (pack, json)) in packs.iter().enumerate() {
        assert_eq!((pack.key.as_str(), json["ovhost_pack"].as_u64()), (format!("{number:08}").as_str(), Some(1)));
        let mut tokens = 0;
        for sample in json["samples"].as_array().unwrap() {
            let place = (sample["source"].as_str().unwrap().to_owned(), sample["index"].as_u64().unwrap());
            let was = &raw[&place];
            assert_eq!(sample["key"], json!(was.key));
            assert_eq!(sample["record"], serde_json::from_slice::<Value>(part(was, "json")).unwrap());
            let images: Vec<&[u8]> = was.parts.iter().filter(|(p, _)| p != "json").map(|(_, b)| b.as_slice()).collect();
            let now: Vec<&[u8]> =
                sample["images"].as_array().unwrap().iter().map(|n| part(pack, n.as_str().unwrap())).collect();
            assert_eq!(now, images, "{place:?}");
            tokens += sample["tokens"].as_u64().unwrap();
            assert!(seen.insert(place));
        }
        assert!(json["tokens"] == json!(tokens) && tokens <= 128, "{tokens} tokens");
    }
    // One line more: the sample that the damage cut is not among those that can be read.
    assert_eq!(seen.len() + rejects.len(), raw.len() + 1);
    let keys: BTreeSet<&str> = rejects.iter().map(|r| r["key"].as_str().unwrap()).collect();
    assert!(raw.iter().all(|(place, s)| seen.contains(place) != keys.contains(s.key.as_str())));
    let count = |stage: &str| rejects.iter().filter(|r| r["stage"] == stage).count();
    // Of 240: the broken pictures and the cut shard, the tiny ones, the long ones.
    assert_eq!((count("read"), count("filter"), count("length")), (11, 10, 10));
    let images: BTreeSet<usize> = packs
        .iter()
        .flat_map(|(_, json)| json["samples"].as_array().unwrap())
        .map(|s| s["images"].as_array().unwrap().len())
        .collect();
    assert_eq!(images, [0, 1, 2].into(), "text alone and several pictures are packed too");
    let described: Value = serde_json::from_slice(&fs::read(lab.at("out/pack.json")).unwrap()).unwrap();
    assert_eq!(described["counts"]["samples"], json!(seen.len()));
    assert_eq!(described["fingerprint"], packs[0].1["fingerprint"]);
    assert_eq!(described["packer"]["name"], json!("padding_free"));
    assert!(described["fill"].as_f64().unwrap() > 0.8, "{}", described["fill"]);
    assert!(ran.out.contains("242 samples read: 211 packed, 10 filtered"), "{}", ran.out);
    // Packs are neither in the order of their samples nor of the packer.
    let first = |json: &Value| json["samples"][0]["row"].as_u64().unwrap();
    assert!(!packs.iter().map(|(_, json)| first(json)).is_sorted());
    lab.run(&args("out", &[])).ok();

    lab.run(&args("ordered", &["--no-shuffle", "--plugins", "packers/sequential.wasm"])).ok();
    let ordered = self::packs(&lab.at("ordered"));
    let rows = ordered.iter().flat_map(|(_, j)| j["samples"].as_array().unwrap()).map(|s| s["row"].as_u64().unwrap());
    assert!(rows.is_sorted());
}

#[test]
fn killed_split_and_spread_it_writes_the_same_bytes() {
    let lab = lab();
    lab.run(&args("whole", &["--workers", "3"])).ok();
    let expected = output(&lab.at("whole"));
    assert!(expected.keys().filter(|k| k.ends_with(".tar")).count() > 2);
    lab.run(&args("one", &["--workers", "1"])).ok();
    assert_eq!(output(&lab.at("one")), expected);
    let mut seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64;
    let begin = seed;
    for _ in 0..15 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut child = command(lab.path(), &args("broken", &["--workers", "2"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + (seed >> 33) % 250));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    lab.run(&args("broken", &[])).ok();
    // A killed writer leaves its temporary file; nothing else may differ.
    for entry in fs::read_dir(lab.at("broken")).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().to_string_lossy().contains("tmp") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(output(&lab.at("broken")), expected, "kill times from {begin}");
    // Parts: nobody packs before all lengths are there; then anybody does, and each writes its part.
    for part in ["1/3", "0/3"] {
        let ran = lab.run(&args("parts", &["--shard", part]));
        assert!(ran.code == 3 && ran.err.contains("run this again"), "{} {}", ran.code, ran.err);
    }
    let ran = lab.run(&args("parts", &["--shard", "2/3"])).ok();
    assert!(ran.out.contains("packed shards are written"), "{}", ran.out);
    for part in ["1/3", "0/3"] {
        lab.run(&args("parts", &["--shard", part])).ok();
    }
    assert_eq!(output(&lab.at("parts")), expected);
    // What somebody removed is made again.
    fs::remove_file(lab.at("one/packed-000001.tar")).unwrap();
    fs::remove_file(lab.at("one/.ovhost/pack/packs.bin")).unwrap();
    lab.run(&args("one", &[])).ok();
    assert_eq!(output(&lab.at("one")), expected);
}

#[test]
fn mistakes_are_named() {
    let lab = lab();
    lab.run(&args("out", &[])).ok();
    lab.run(&args("out", &["--capacity", "100"]))
        .fails_with(&["other settings", "settings.capacity was 128 and is 100"]);
    lab.run(&args("out", &["--no-shuffle"])).fails_with(&["other settings", "settings.shuffle"]);
    let again = lab.run(&["data", "pack", "--input", "out", "--out", "twice"]);
    again.fails_with(&["packed-000000.tar holds packs already"]);
    lab.run(&["data", "filter", "--input", "out", "--out", "f", "--plugins", "filters/caption_quality.wasm"])
        .fails_with(&["packed-000000.tar holds packs", "pack what is kept"]);
    // Nothing is left: an error, and yet every sample is listed.
    let none = lab.run(&["data", "pack", "--input", "raw/part-100.tar", "--out", "none"]);
    none.fails_with(&["no sample was left to pack"]);
    let few = ["--set", "data.max_reject_rate=0.01"];
    lab.run(&args("strict", &few)).fails_with(&["too many rejected samples", "max_reject_rate"]);
    let eval = ["eval", "--recipe", "recipe.toml", "--model", "model", "--data", "out", "--out", "e"];
    lab.run(&eval).fails_with(&["the shards hold packs", "name the shards"]);
    let shown = lab.run(&["data", "show", "out", "--limit", "1"]).ok();
    assert!(shown.out.contains("samples") && shown.out.contains("img0_0.png"), "{}", shown.out);
}

fn packed_lab() -> Lab {
    let lab = lab();
    lab.run(&args("out", &[])).ok();
    lab.edit_recipe("train = \"data/train\"", "train = \"out\"");
    lab
}

#[test]
fn training_in_the_middle_of_packed_data_goes_on_exactly() {
    let lab = packed_lab();
    // Two epochs and a bit of 2 packs a step.
    let base = ["train", "--set", "train.steps=60", "--set", "checkpoint.every=3"];
    lab.run(&base).ok();
    lab.run(&[base.as_slice(), &["--set", "run.folder=runs/w", "--set", "data.workers=1"]].concat()).ok();
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/w"));
    let broken = [base.as_slice(), &["--set", "run.folder=runs/b"]].concat();
    let mut seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64;
    let mut at = 0;
    for part in 0..3 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        at += 2 + (seed >> 33) % 15;
        let args = if part == 0 { broken.clone() } else { [broken.as_slice(), &["--resume"]].concat() };
        let mut child = command(lab.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        let steps = || fs::read_to_string(lab.at("runs/b/metrics.jsonl")).map_or(0, |t| t.lines().count() as u64);
        while steps() < at.min(55) {
            assert!(begin.elapsed() < Duration::from_secs(120), "the run did not reach step {at}");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    lab.run(&[broken.as_slice(), &["--resume"]].concat()).ok();
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/b"), "killed near step {at}");
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/b"), "killed near step {at}");
    // Samples are packed once and come each time in the same company, without the packer.
    let lines = jsonl(lab.at("runs/a/metrics.jsonl"));
    assert!(lines.iter().all(|l| l["fill"].as_f64().unwrap() <= 1.0));
}

#[test]
fn packs_of_other_settings_do_not_train() {
    let lab = packed_lab();
    let refused = |edit: &[&str], parts: &[&str]| {
        let ran = lab.run(&[&["train", "--set", "run.folder=runs/no"], edit].concat());
        ran.fails_with(parts);
        let steps = fs::read_to_string(lab.at("runs/no/metrics.jsonl")).unwrap_or_default();
        assert!(steps.is_empty(), "{parts:?}: before step 1, not after {steps}");
        let _ = fs::remove_dir_all(lab.at("runs/no"));
    };
    refused(&["--set", "data.capacity=100"], &["packed for 128", "data.capacity is 100"]);
    refused(
        &["--set", "plugins.prompt.config.system=\"be brief\""],
        &["packed for other settings", "prompt.config.system was null and is \"be brief\""],
    );
    refused(&["--set", "data.train=[\"out\", \"data/train\"]"], &["holds packs", "single samples", "one or the other"]);
    let processor = lab.at("model/preprocessor_config.json");
    let text = fs::read_to_string(&processor).unwrap();
    assert!(text.contains("4096"));
    fs::write(&processor, text.replace("4096", "2048")).unwrap();
    refused(&[], &["image_processor.max_pixels was 4096 and is 2048"]);
}

#[test]
fn the_references_layout_both_ways() {
    let lab = lab();
    lab.run(&args("out", &["--layout", "reference", "--set", "data.max_reject_rate=0.3"])).ok();
    let packs = packs(&lab.at("out"));
    let mut samples = 0;
    for (number, (pack, json)) in packs.iter().enumerate() {
        assert_eq!(pack.key, format!("ps_{number:08}"));
        let list = |name: &str| json[name].as_array().unwrap().clone();
        let count = list("images").len();
        assert!(list("prompts").len() == count && list("captions").len() == count);
        assert_eq!(pack.parts.len(), count + 1);
        for (i, prompt) in list("prompts").iter().enumerate() {
            assert!(prompt.as_str().unwrap().starts_with("<image>what colour"), "{prompt}");
            assert!(part(pack, &format!("img{i}.jpg")).starts_with(b"\x89PNG"), "bytes as they were");
        }
        samples += count;
    }
    let rejects = jsonl(lab.at("out/rejects.jsonl"));
    assert_eq!(samples + rejects.len(), SAMPLES + 2);
    let why = |words: &str| {
        let named = |r: &&Value| r["stage"] == "pack" && r["reason"].as_str().unwrap().contains(words);
        rejects.iter().filter(named).count()
    };
    assert_eq!((why("0 pictures"), why("2 pictures")), (10, 10));
    let loader = fs::read_to_string(lab.at("out/.nv-meta/sample_loader.py")).unwrap();
    assert!(loader.contains("def sample_loader(") && loader.contains("def part_filter("));
    let dataset = fs::read_to_string(lab.at("out/.nv-meta/dataset.yaml")).unwrap();
    assert!(dataset.contains("PackedCaptioningSample") && dataset.contains("sample_loader.py:sample_loader"));
    lab.edit_recipe("train = \"data/train\"", "train = \"out\"");
    lab.run(&["train", "--set", "train.steps=4", "--set", "data.epochs=1"]).ok();
    let lines = jsonl(lab.at("runs/a/metrics.jsonl"));
    assert!(lines.len() == 4 && lines.iter().all(|l| l["fill"].as_f64().unwrap() > 0.5), "{lines:?}");
    // A sample that went bad leaves the others of its pack alone.
    let shard = lab.at("out/packed-000000.tar");
    let opened = Shard::open(&shard).unwrap();
    let picture = opened.samples()[0].members.iter().find(|m| m.part == "img0.jpg").unwrap().clone();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[picture.offset as usize..][..8].fill(0);
    fs::write(&shard, bytes).unwrap();
    lab.run(&["train", "--set", "train.steps=100", "--set", "data.epochs=1", "--set", "run.folder=runs/bad"]).ok();
    let rejects = jsonl(lab.at("runs/bad/rejects.jsonl"));
    assert_eq!(rejects.len(), 1, "{rejects:?}");
    assert!(rejects[0]["key"] == "ps_00000000-0" && rejects[0]["shard"].as_str().unwrap().contains("pack ps_00000000"));
}
