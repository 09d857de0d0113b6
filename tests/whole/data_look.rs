//! `ovhost data inspect | stats | validate | balance`: what is said of shards is what is in them, however the work is cut.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use ovhost_data::shards::{Shard, ShardFile, write_nv_meta};
use serde_json::{Value, json};

use crate::lab::{Lab, command, jsonl, png};

/// Writes shards of so many samples each into `folder`, with an index and Energon's metadata.
fn shards(folder: &Path, samples: Vec<(String, Value, Vec<u8>)>, each: usize) {
    fs::create_dir_all(folder).unwrap();
    let mut written = Vec::new();
    for (i, chunk) in samples.chunks(each).enumerate() {
        let mut file = ShardFile::create(folder.join(format!("s{i:03}.tar"))).unwrap();
        for (key, json, picture) in chunk {
            let json = json.to_string();
            let mut parts: Vec<(&str, &[u8])> = vec![("json", json.as_bytes())];
            if !picture.is_empty() {
                parts.push(("png", picture));
            }
            file.write(key, &parts).unwrap();
        }
        written.push(file.publish().unwrap());
    }
    write_nv_meta(folder, "train", &written).unwrap();
}

/// 300 samples from three sources, with pictures of several sizes; every seventh is text alone.
fn varied(folder: &Path) {
    let sample = |i: usize| {
        let (source, picture) = (["web", "web", "web", "books", "charts"][i % 5], (16 + i % 9 * 4, 16 + i % 4 * 8));
        let picture =
            if i.is_multiple_of(7) { Vec::new() } else { png(picture.0 as u32, picture.1 as u32, [9, i as u8, 200]) };
        let json = json!({"question": "what is it?", "answer": "word ".repeat(1 + i % 6), "source": source});
        (format!("k{i:04}"), json, picture)
    };
    shards(folder, (0..300).map(sample).collect(), 23);
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The files of a folder, without the records of steps.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_file() && !name.contains("tmp") {
            out.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    out
}

fn keys(folder: &Path) -> Vec<String> {
    let mut tars: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    tars.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    tars.sort();
    let of = |path| Shard::open(path).unwrap().samples().iter().map(|s| s.key.clone()).collect::<Vec<_>>();
    tars.into_iter().flat_map(of).collect()
}

#[test]
fn inspect_tells_what_is_there_with_and_without_indexes() {
    let lab = Lab::new();
    varied(&lab.at("varied"));
    let text = lab.run(&["data", "inspect", "varied", "--contact-sheet", "sheet.png"]).ok();
    for word in [
        "WebDataset",
        "300 samples in 14 shards",
        "14 of them with an index",
        "source",
        "png, 16 to 48 × 16 to 40",
        "k0001",
    ] {
        assert!(text.out.contains(word), "{word}: {}", text.out);
    }
    let sheet = image::open(lab.at("sheet.png")).unwrap().to_rgb8();
    assert!(sheet.width() > 1000 && sheet.pixels().any(|p| p.0 == [9, 1, 200]), "the second sample's picture is on it");

    let args = ["data", "inspect", "varied", "data/train", "--json", "--sample", "0", "--limit", "1"];
    let seen = parse(&lab.run(&args).ok().out);
    let (varied, train) = (&seen[0], &seen[1]);
    assert_eq!((&varied["samples"], &varied["looked_at"], &varied["faults"]), (&json!(300), &json!(300), &json!(0)));
    assert_eq!(varied["members"]["png"]["samples"], 300 - 43);
    let source = &varied["members"]["json"]["schema"]["fields"]["source"];
    assert_eq!((&source["count"], &source["types"]), (&json!(300), &json!({"string": 300})));
    assert_eq!(train["samples"], 48);
    assert_eq!(varied["examples"][0]["members"][0]["content"]["source"], "web");
    // By headers it is the same; an index of another shard is told and not believed.
    for i in 0..14 {
        fs::remove_file(lab.at(&format!("varied/s{i:03}.tar.idx"))).unwrap();
    }
    fs::write(lab.at("varied/s001.tar.idx"), [7; 24]).unwrap();
    let mut scanned = parse(&lab.run(&args).ok().out).as_array().unwrap()[0].clone();
    assert!(scanned["first_faults"][0]["reason"].as_str().unwrap().contains("index"), "{}", scanned["first_faults"]);
    for (name, value) in [("indexed", json!(14)), ("faults", json!(0)), ("first_faults", json!([]))] {
        scanned[name] = value;
    }
    assert_eq!(&scanned, varied);
}

#[test]
fn inspect_and_validate_know_packs() {
    let lab = Lab::new();
    let pack = ["data", "pack", "--input", "data/train", "--out", "packed"];
    lab.run(&pack).ok();
    lab.run(&[&pack[..5], &["reference", "--layout", "reference"]].concat()).ok();
    let seen = parse(&lab.run(&["data", "inspect", "packed", "reference", "--json", "--sample", "0"]).ok().out);
    let (ours, theirs) = (&seen[0], &seen[1]);
    assert_eq!((&ours["layout"], &ours["packs"]["total_samples"]), (&json!("packed"), &json!(48)));
    assert_eq!(ours["packs"]["fingerprints"].as_object().unwrap().len(), 1);
    assert_eq!((&theirs["layout"], &theirs["packs"]["total_samples"]), (&json!("reference"), &json!(48)));
    let text = lab.run(&["data", "inspect", "packed", "--contact-sheet", "packs.png"]).ok();
    assert!(text.out.contains("samples in a pack") && text.err.contains("24 samples on packs.png"), "{}", text.err);

    for folder in ["packed", "reference"] {
        let report = lab.run(&["data", "validate", folder, "--decode", "--recipe", "recipe.toml", "--json"]).ok();
        let report = parse(&report.out);
        assert_eq!((&report["clean"], &report["samples"], &report["decoded"]), (&json!(true), &json!(48), &json!(48)));
    }
    // Other image sizes: the packs do not hold for them. The pictures' lengths that they record are stats' too.
    let stats = parse(&lab.run(&["data", "stats", "packed", "--out", "stats", "--json"]).ok().out);
    let manifest = parse(&fs::read_to_string(lab.at("packed/manifest.json")).unwrap());
    assert_eq!(stats["histograms"]["tokens"]["sum"], manifest["counts"]["tokens"]);
    assert_eq!(stats["histograms"]["pack_tokens"]["sum"], manifest["counts"]["tokens"]);
    let processor = lab.at("model/preprocessor_config.json");
    let text = fs::read_to_string(&processor).unwrap();
    fs::write(&processor, text.replace("4096", "2048")).unwrap();
    let other = lab.run(&["data", "validate", "packed", "--recipe", "recipe.toml"]);
    assert_eq!(other.code, 4, "{}", other.err);
    assert!(other.out.contains("packs made for other settings"), "{}", other.out);
}

#[test]
fn stats_are_the_same_however_they_are_cut() {
    let lab = Lab::new();
    varied(&lab.at("varied"));
    let stats = |out: &str, more: &[&str]| {
        let args = ["data", "stats", "varied", "--recipe", "recipe.toml", "--out", out];
        lab.run(&[args.as_slice(), more].concat()).ok()
    };
    let said = stats("one", &["--workers", "1"]);
    assert!(said.out.contains("300 measured") && said.out.contains("books"), "{}", said.out);
    let one = files(&lab.at("one"));
    for name in
        ["stats.json", "tokens.png", "width.png", "patches.png", "sources.png", "turns.png", "images.png", "aspect.png"]
    {
        assert!(one.contains_key(name), "{name}: {:?}", one.keys());
    }
    stats("many", &["--workers", "3"]);
    assert_eq!(files(&lab.at("many")), one);
    for part in ["2/3", "0/3"] {
        assert!(stats("parts", &["--shard", part]).out.contains("when the other parts are"));
    }
    stats("parts", &["--shard", "1/3"]);
    assert_eq!(files(&lab.at("parts")), one);
    // Killed at some moment, and begun again.
    for wait in [0, 15, 40, 90] {
        let args = ["data", "stats", "varied", "--recipe", "recipe.toml", "--out", "killed", "--workers", "2"];
        let mut child =
            command(lab.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let jobs = lab.at("killed/.ovhost/stats/jobs");
        let begin = Instant::now();
        while !jobs.exists() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    stats("killed", &[]);
    assert_eq!(files(&lab.at("killed")), one);

    let all = parse(&String::from_utf8(one["stats.json"].clone()).unwrap());
    let h = &all["histograms"];
    assert_eq!((&h["images"]["sum"], &h["width"]["max"], &h["width"]["min"]), (&json!(257), &json!(48), &json!(16)));
    assert_eq!((&all["sources"][0]["source"], &all["sources"][0]["samples"]), (&json!("web"), &json!(180)));
    // The lengths are those of packing.
    lab.run(&["data", "pack", "--input", "varied", "--out", "packed", "--set", "plugins.filter=[]"]).ok();
    let manifest = parse(&fs::read_to_string(lab.at("packed/manifest.json")).unwrap());
    assert_eq!(h["tokens"]["sum"], manifest["counts"]["tokens"]);
    let pictures = image::open(lab.at("one/tokens.png")).unwrap().to_rgb8();
    assert!(pictures.pixels().filter(|p| p.0 == [0x3B, 0x6F, 0xB6]).count() > 1000, "bars are drawn");
}

#[test]
fn stats_without_a_tokenizer_and_with_one_alone() {
    let lab = Lab::new();
    let plain = parse(&lab.run(&["data", "stats", "data/train", "--out", "a", "--json"]).ok().out);
    assert!(plain["histograms"].get("tokens").is_none() && plain["histograms"]["width"]["count"] == 48);
    assert_eq!(plain["sources"][0]["source"], "train", "the folder, where no field says it");
    let model = parse(&lab.run(&["data", "stats", "data/train", "--out", "b", "--model", "model", "--json"]).ok().out);
    let recipe =
        parse(&lab.run(&["data", "stats", "data/train", "--out", "c", "--recipe", "recipe.toml", "--json"]).ok().out);
    assert_eq!(model["histograms"], recipe["histograms"]);
    let answers =
        parse(&lab.run(&["data", "stats", "data/train", "--out", "d", "--model", "tokenizer", "--json"]).ok().out);
    assert!(answers["histograms"]["answer_tokens"]["sum"].as_u64().unwrap() >= 48);
    lab.run(&["data", "stats", "data/train", "--out", "a", "--model", "model"])
        .fails_with(&["other settings", "tokens"]);
}

/// Plants one fault of every kind and returns the folder's clean state first.
#[test]
fn validate_reports_each_fault_that_was_planted() {
    let lab = Lab::new();
    let recipe = ["--recipe", "recipe.toml", "--decode", "--json"];
    let folder = lab.at("set");
    let good = |i: usize| {
        (format!("k{i:03}"), json!({"question": "what colour?", "answer": "red"}), png(16, 16, [1, 2, i as u8]))
    };
    shards(&folder, (0..60).map(good).collect(), 10);
    let clean = parse(&lab.run(&[&["data", "validate", "set"][..], &recipe].concat()).ok().out);
    assert_eq!((&clean["clean"], &clean["samples"], &clean["decoded"]), (&json!(true), &json!(60), &json!(60)));

    // Samples of the first shard.
    let text = |json: Value| ("json", json.to_string().into_bytes());
    let question = || text(json!({"question": "what colour?", "answer": "red"}));
    let talk = json!([{"from": "human", "value": "<image><image> which?"}, {"from": "gpt", "value": "red"}]);
    let mut body = png(64, 64, [3, 4, 5]);
    let end = body.len() - 12;
    body[60..end].fill(0);
    type Parts = Vec<(&'static str, Vec<u8>)>;
    let faulty: Vec<(&str, Parts)> = vec![
        ("json", vec![("json", b"{\"question\":".to_vec()), ("png", png(16, 16, [0; 3]))]),
        ("json_type", vec![text(json!({"question": ["what"], "answer": "red"})), ("png", png(16, 16, [0; 3]))]),
        ("utf8", vec![("txt", vec![0xC3, 0x28]), ("png", png(16, 16, [0; 3]))]),
        ("image", vec![question(), ("png", body)]),
        ("missing_image", vec![text(json!({"question": "q", "answer": "red", "image": "x.png"}))]),
        ("missing_text", vec![text(json!({"id": 7})), ("png", png(16, 16, [0; 3]))]),
        ("placeholder", vec![text(json!({"conversations": talk})), ("png", png(16, 16, [0; 3]))]),
        ("record", vec![("npy", vec![1, 2, 3])]),
        (
            "too_long",
            vec![text(json!({"question": "why ".repeat(500), "answer": "red"})), ("png", png(16, 16, [0; 3]))],
        ),
        (
            "prompt",
            vec![text(json!({"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]}))],
        ),
        ("k055", vec![question(), ("png", png(16, 16, [0; 3]))]),
    ];
    let mut file = ShardFile::create(folder.join("s000.tar")).unwrap();
    for (key, parts) in &faulty {
        let parts: Vec<(&str, &[u8])> = parts.iter().map(|(n, b)| (*n, b.as_slice())).collect();
        file.write(key, &parts).unwrap();
    }
    file.publish().unwrap();
    // A link, and a member without a key.
    let mut tar = tar::Builder::new(fs::File::create(folder.join("s001.tar")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "linked.json", "../../etc/passwd").unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    tar.append_data(&mut header, "noname", &b"{}"[..]).unwrap();
    tar.into_inner().unwrap();
    fs::remove_file(folder.join("s001.tar.idx")).unwrap();
    // A cut shard, an index that lies, a shard that nobody lists, one that is listed and gone, an empty one.
    let cut = fs::read(folder.join("s002.tar")).unwrap();
    fs::write(folder.join("s002.tar"), &cut[..cut.len() * 2 / 3]).unwrap();
    let mut index = fs::read(folder.join("s003.tar.idx")).unwrap();
    index.truncate(index.len() - 8);
    fs::write(folder.join("s003.tar.idx"), index).unwrap();
    fs::copy(folder.join("s004.tar"), folder.join("s900.tar")).unwrap();
    fs::rename(folder.join("s005.tar"), folder.join("gone")).unwrap();
    fs::write(folder.join("s006.tar"), [0; 1024]).unwrap();

    let ran = lab.run(&[&["data", "validate", "set"][..], &recipe].concat());
    assert_eq!(ran.code, 4, "{}\n{}", ran.out, ran.err);
    let report = parse(&ran.out);
    let kinds: BTreeMap<&str, u64> =
        report["faults"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v["count"].as_u64().unwrap())).collect();
    let expected: BTreeMap<&str, u64> = [
        ("tar", 1),
        ("empty_shard", 1),
        // The link; the member without a key.
        ("member", 2),
        // The cut shard's, the cut index.
        ("index", 2),
        // Counts of s000, s001, s002; s900 and s006 are not listed; s005 is not there (in both files).
        ("metadata", 7),
        // k055 would be that of s005, which is gone; s900 repeats the ten of s004.
        ("duplicate_key", 10),
        ("json", 1),
        ("json_type", 1),
        ("utf8", 1),
        ("image", 1),
        ("missing_image", 1),
        ("missing_text", 1),
        ("placeholder", 1),
        ("record", 1),
        ("too_long", 1),
        ("prompt", 1),
    ]
    .into();
    assert_eq!(kinds, expected, "{report:#}");
    for kind in [
        "json",
        "json_type",
        "utf8",
        "image",
        "missing_image",
        "missing_text",
        "placeholder",
        "record",
        "too_long",
        "prompt",
    ] {
        assert_eq!(report["faults"][kind]["first"][0]["key"], kind, "{report:#}");
    }
    assert_eq!(report["notes"]["no_index"]["count"], 3);
    // For any number of threads, and in words.
    let alone = lab.run(&[&["data", "validate", "set", "--workers", "1"][..], &recipe].concat());
    assert_eq!(alone.out, ran.out);
    let words = lab.run(&["data", "validate", "set"]);
    assert_eq!(words.code, 4);
    assert!(words.out.contains("damaged shards") && words.out.contains("../../etc/passwd"), "{}", words.out);
    lab.run(&["data", "validate", "nowhere"]).fails_with(&["nowhere"]);
}

#[test]
fn validate_compares_hashes_and_packs() {
    let lab = Lab::new();
    lab.run(&["data", "pack", "--input", "data/train", "--out", "packed", "--packs-per-shard", "3"]).ok();
    lab.run(&["data", "validate", "packed"]).ok();
    // One bit in a picture's pixels: sizes, indexes and headers are all right.
    let path = lab.at("packed/packed-000001.tar");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"IDAT").unwrap() + 12;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let report = lab.run(&["data", "validate", "packed"]);
    assert_eq!(report.code, 4);
    assert!(report.out.contains("sha256") && report.out.contains("1 fault"), "{}", report.out);
    lab.run(&["data", "validate", "packed", "--no-hashes"]).ok();

    // A pack that says more than it has, in a shard of its own length.
    let path = lab.at("packed/packed-000000.tar");
    let mut bytes = fs::read(&path).unwrap();
    let mark = b"\"tokens\":";
    let at = bytes.windows(mark.len()).position(|w| w == mark).unwrap() + mark.len();
    bytes[at] = if bytes[at] == b'9' { b'8' } else { bytes[at] + 1 };
    fs::write(&path, &bytes).unwrap();
    let report = lab.run(&["data", "validate", "packed", "--no-hashes"]);
    assert_eq!(report.code, 4);
    assert!(
        report.out.contains("packs whose description is wrong") && report.out.contains("its samples have"),
        "{}",
        report.out
    );
}

/// Captions of which nine in ten say "dog", with a word list.
fn captions(lab: &Lab) {
    let caption = |i: usize| match i % 40 {
        0..36 => format!("a dog, number {i}"),
        36 | 37 => format!("a cat, number {i}"),
        38 => format!("a dog and a bird, number {i}"),
        _ => format!("nothing at all, number {i}"),
    };
    let picture = png(8, 8, [1, 2, 3]);
    shards(
        &lab.at("raw"),
        (0..800).map(|i| (format!("c{i:04}"), json!({"caption": caption(i)}), picture.clone())).collect(),
        50,
    );
    fs::write(lab.at("concepts.txt"), "dog\ncat\nbird\nhorse\n").unwrap();
}

#[test]
fn balance_thins_out_what_is_frequent_and_says_by_how_much() {
    let lab = Lab::new();
    captions(&lab);
    let balance = |out: &str, more: &[&str]| {
        let args = [
            "data",
            "balance",
            "--input",
            "raw",
            "--out",
            out,
            "--by",
            "text",
            "--concepts",
            "concepts.txt",
            "--t",
            "100",
        ];
        lab.run(&[args.as_slice(), more].concat())
    };
    let said = balance("one", &["--workers", "1"]).ok();
    let report = parse(&fs::read_to_string(lab.at("one/balance.json")).unwrap());
    let count = |name: &str, side: &str| {
        let list = report["most_frequent"].as_array().unwrap();
        list.iter().find(|c| c["concept"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))[side]
            .as_u64()
            .unwrap()
    };
    assert_eq!((count("dog", "before"), count("cat", "before"), count("bird", "before")), (740, 40, 20));
    // 740 × 100/740 in the mean, and the birds' dogs stay with their birds: 100 ± 5 standard deviations.
    assert!((60..=175).contains(&count("dog", "after")), "{report:#}");
    assert_eq!((count("cat", "after"), count("bird", "after")), (40, 20), "the rare are all kept");
    assert_eq!((&report["before"]["rows"], &report["before"]["with_concept"]), (&json!(800), &json!(780)));
    let kept = keys(&lab.at("one"));
    assert_eq!(report["after"]["rows"], kept.len());
    assert!(report["after"]["effective_concepts"].as_f64() > report["before"]["effective_concepts"].as_f64());
    assert!(said.out.contains("dog") && said.out.contains("740"), "{}", said.out);
    let rejects = jsonl(lab.at("one/rejects.jsonl"));
    assert_eq!(rejects.len() + kept.len(), 800);
    assert_eq!(rejects.iter().filter(|r| r["reason"].as_str().unwrap().contains("no concept")).count(), 20);
    assert_eq!(fs::read_to_string(lab.at("one/concepts.tsv")).unwrap().lines().count(), 4, "three were seen");

    // Equal to the two commands that it stands for.
    let filter = "[[filter]]\nplugin = \"filters/concept_balance.wasm\"\nname = \"NAME\"\nentry = \"NAME\"\n";
    let count_toml = filter.replace("NAME", "substring_count") + "assets = { concepts = \"concepts.txt\" }\n";
    fs::write(lab.at("count.toml"), count_toml).unwrap();
    let sample = filter.replace("NAME", "substring_sample")
        + "config = { t = 100 }\nassets = { concepts = \"concepts.txt\", counts = \"counts/substring_count.state\" }\n";
    fs::write(lab.at("sample.toml"), sample).unwrap();
    let filter = ["data", "filter", "--input", "raw", "--filters"];
    lab.run(&[&filter[..], &["count.toml", "--out", "counted", "--judge-only", "--save-state", "counts"]].concat())
        .ok();
    lab.run(&[&filter[..], &["sample.toml", "--out", "by-hand"]].concat()).ok();
    assert_eq!(
        fs::read(lab.at("counts/substring_count.state")).unwrap(),
        fs::read(lab.at("one/.ovhost/count/counts.state")).unwrap()
    );
    assert_eq!(keys(&lab.at("by-hand")), kept);

    // The same on other threads, in parts, and after kills.
    let one = files(&lab.at("one"));
    balance("many", &["--workers", "3"]).ok();
    assert_eq!(files(&lab.at("many")), one);
    for round in 0..6 {
        let codes = ["0/2", "1/2"].map(|part| balance("parts", &["--shard", part]).code);
        assert!(codes.iter().all(|c| [0, 3].contains(c)), "{codes:?}");
        if codes == [0, 0] {
            break;
        }
        assert!(round < 5, "it is never finished");
    }
    assert_eq!(files(&lab.at("parts")), one);
    for wait in [0, 10, 25, 60, 120] {
        let args = [
            "data",
            "balance",
            "--input",
            "raw",
            "--out",
            "killed",
            "--by",
            "text",
            "--concepts",
            "concepts.txt",
            "--t",
            "100",
        ];
        let mut child =
            command(lab.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let (records, begin) = (lab.at("killed/.ovhost"), Instant::now());
        while !records.exists() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    balance("killed", &[]).ok();
    assert_eq!(files(&lab.at("killed")), one);
    assert!(
        keys(&lab.at("one")) != {
            balance("seed", &["--seed", "1"]).ok();
            keys(&lab.at("seed"))
        }
    );
    balance("x", &["--match", "sideways"]).fails_with(&["sideways", "words"]);
}

#[test]
fn balance_by_embeddings() {
    let lab = Lab::new();
    // Three directions; the first has most of the samples.
    let sample = |i: usize| {
        let axis = if i % 20 < 17 { 0 } else { i % 20 - 16 };
        let mut vector = [0.01; 4];
        vector[axis] = 1.0;
        (format!("e{i:04}"), json!({"caption": "c", "embedding": vector}), png(8, 8, [1, 2, 3]))
    };
    shards(&lab.at("raw"), (0..1000).map(sample).collect(), 100);
    let table: Vec<u8> = (0..16).flat_map(|i| (if i % 5 == 0 { 1.0f32 } else { 0.0 }).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4, 4], &table).unwrap();
    fs::write(lab.at("concepts.safetensors"), safetensors::serialize([("concepts", view)], None).unwrap()).unwrap();
    fs::write(lab.at("names.txt"), "north\neast\nsouth\nwest\n").unwrap();
    let args = [
        "data",
        "balance",
        "--input",
        "raw",
        "--out",
        "out",
        "--by",
        "embedding",
        "--concepts",
        "concepts.safetensors",
    ];
    lab.run(&args).fails_with(&["--target-rows", "--scale"]);
    lab.run(&[&args[..], &["--top-k", "1", "--target-rows", "200", "--names", "names.txt"]].concat()).ok();
    let report = parse(&fs::read_to_string(lab.at("out/balance.json")).unwrap());
    let concepts: Vec<(&str, u64, u64)> = report["most_frequent"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["concept"].as_str().unwrap(), c["before"].as_u64().unwrap(), c["after"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        concepts.iter().map(|c| (c.0, c.1)).collect::<Vec<_>>(),
        [("north", 850), ("east", 50), ("south", 50), ("west", 50)]
    );
    assert!((20..=90).contains(&concepts[0].2) && concepts[1..].iter().all(|c| c.2 == 50), "{concepts:?}");
}

#[test]
fn balance_by_sources() {
    let lab = Lab::new();
    varied(&lab.at("raw"));
    let balance = |out: &str, more: &[&str]| {
        lab.run(&[&["data", "balance", "--input", "raw", "--out", out, "--by", "source"][..], more].concat())
    };
    balance("capped", &["--cap", "50", "--caps", "charts=20"]).ok();
    let report = parse(&fs::read_to_string(lab.at("capped/balance.json")).unwrap());
    let of = |report: &Value, name: &str| {
        let list = report["sources"].as_array().unwrap().clone();
        let one = list.into_iter().find(|s| s["source"] == name).unwrap();
        (one["before"].as_u64().unwrap(), one["after"].as_u64().unwrap())
    };
    let (web, books, charts) = (of(&report, "web"), of(&report, "books"), of(&report, "charts"));
    assert_eq!((web.0, books.0, charts.0), (180, 60, 60));
    assert!((25..=75).contains(&web.1) && (38..=60).contains(&books.1) && (6..=36).contains(&charts.1), "{report:#}");
    let kept = keys(&lab.at("capped"));
    assert_eq!((web.1 + books.1 + charts.1) as usize, kept.len());
    assert_eq!(jsonl(lab.at("capped/rejects.jsonl")).len() + kept.len(), 300);
    // A draw belongs to the key: in other shards the same samples are kept.
    let again = (0..300).map(|i| {
        let shard = Shard::open(lab.at(&format!("raw/s{:03}.tar", i / 23))).unwrap();
        let raw = shard.read(i % 23).unwrap();
        let part = |name: &str| raw.parts.iter().find(|p| p.0 == name).map(|p| p.1.clone()).unwrap_or_default();
        (raw.key.clone(), serde_json::from_slice(&part("json")).unwrap(), part("png"))
    });
    shards(&lab.at("again"), again.collect(), 70);
    let args = [
        "data",
        "balance",
        "--input",
        "again",
        "--out",
        "other",
        "--by",
        "source",
        "--cap",
        "50",
        "--caps",
        "charts=20",
    ];
    lab.run(&args).ok();
    assert_eq!(keys(&lab.at("other")), kept);
    balance("even", &["--weights", "web=1,*=1"]).ok();
    let even = parse(&fs::read_to_string(lab.at("even/balance.json")).unwrap());
    assert_eq!((of(&even, "books").1, of(&even, "charts").1), (60, 60));
    assert!((35..=85).contains(&of(&even, "web").1), "{even:#}");
    balance("x", &["--weights", "web=1"]).fails_with(&["has no weight", "*=1"]);
    balance("x", &["--caps", "wbe=1"]).fails_with(&["\"wbe\" is not in the data", "books, charts, web"]);
    balance("y", &[]).fails_with(&["--cap N"]);
}
