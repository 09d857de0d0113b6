//! `ovhost data convert`: every layout becomes training data, nothing lost, the same bytes however it is cut, killed or spread.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use ovhost_data::{
    record::{Record, RecordOptions},
    shards::Shard,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::{Lab, command, jsonl, root};

/// A folder that `datasets` wrote.
fn fixture(name: &str) -> String {
    root().join("tests/fixtures/hf").join(name).to_string_lossy().into_owned()
}

/// The rows of such a folder as pyarrow reads them.
fn expected(name: &str) -> Vec<Value> {
    jsonl(Path::new(&fixture(name)).join("expected.jsonl"))
}

fn records(folder: &Path) -> Vec<Record> {
    let mut tars: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    tars.retain(|path| path.extension().is_some_and(|e| e == "tar"));
    tars.sort();
    let mut out = Vec::new();
    for tar in tars {
        let shard = Shard::open(&tar).unwrap();
        out.extend((0..shard.len()).map(|i| shard.record(i, &RecordOptions::default()).unwrap()));
    }
    out
}

fn hashes(record: &Record) -> Vec<String> {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    record.media.iter().map(|m| hex(&m.bytes)).collect()
}

/// The output: every file but the step's own records.
fn output(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for name in ["", ".nv-meta"] {
        for entry in fs::read_dir(folder.join(name)).unwrap().map(|e| e.unwrap()) {
            if entry.file_type().unwrap().is_file() {
                out.insert(format!("{name}/{}", entry.file_name().to_string_lossy()), fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(out.contains_key("/manifest.json") && out.contains_key("/rejects.jsonl"), "{:?}", out.keys());
    out
}

fn trains(lab: &Lab, data: &str) {
    let set = format!("data.train=\"{data}\"");
    let folder = format!("run.folder=\"runs/{data}\"");
    let ran = lab.run(&["train", "--set", "train.steps=2", "--set", &set, "--set", &folder]).ok();
    assert!(ran.err.contains("0 rejected"), "{}", ran.err);
}

#[test]
fn hugging_face_folders_of_every_layout_become_training_data() {
    let lab = Lab::new();
    let convert = |name: &str, out: &str, more: &[&str]| {
        let input = fixture(name);
        let args = ["data", "convert", "--input", &input, "--out", out, "--max-reject-rate", "0"];
        lab.run(&[&args, more].concat()).ok()
    };
    // id, image, caption in two files.
    let ran = convert("midtraining", "mid", &["--max-count", "4"]);
    assert!(ran.out.contains("10 rows -> 10 samples with 10 pictures in 3 shards"), "{}", ran.out);
    for (record, row) in records(&lab.at("mid")).iter().zip(expected("midtraining")) {
        assert_eq!(record.key, row["id"].as_str().unwrap().replace(['/', '.'], "_"));
        assert_eq!((&record.fields["caption"], &record.fields["id"]), (&row["caption"], &row["id"]));
        assert_eq!(hashes(record), [row["image"]["bytes"]["sha256"].as_str().unwrap()], "the bytes are kept");
        assert_eq!(record.media[0].name, "jpg");
    }
    trains(&lab, "mid");

    // Conversations; a row without a picture; two rows of one id.
    let ran = convert("instruct", "instruct", &[]);
    assert!(
        ran.out.contains("1 samples had the key of another") && ran.out.contains("5 samples with 4 pictures"),
        "{}",
        ran.out
    );
    let made = records(&lab.at("instruct"));
    assert_eq!(made.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["row_0", "same", "row_2", "same-2", "row_4"]);
    for (record, row) in made.iter().zip(expected("instruct")) {
        assert_eq!((&record.fields["conversations"], &record.fields["id"]), (&row["conversations"], &row["id"]));
        assert_eq!(record.media.len(), usize::from(!row["image"].is_null()));
    }
    trains(&lab, "instruct");

    // Messages with a list of pictures: none, one, several.
    convert("messages", "messages", &["--shuffle-seed", "1"]);
    let (mut made, rows) = (records(&lab.at("messages")), expected("messages"));
    assert_ne!(
        made.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(),
        ["00000000", "00000001", "00000002", "00000003"]
    );
    made.sort_by(|a, b| a.key.cmp(&b.key));
    for (record, row) in made.iter().zip(&rows) {
        let hash = |picture: &Value| picture["bytes"]["sha256"].as_str().unwrap().to_owned();
        assert_eq!(hashes(record), row["images"].as_array().unwrap().iter().map(hash).collect::<Vec<_>>());
        assert_eq!(record.fields["messages"], row["messages"]);
    }
    assert_eq!(made[2].fields["images"], json!(["00000002.0.png", "00000002.1.png"]));
    trains(&lab, "messages");

    // Pictures in columns of their own, a split of two.
    let input = fixture("mmmu");
    let both = lab.run(&["data", "convert", "--input", &input, "--out", "mmmu"]);
    both.fails_with(&["it has the splits dev, validation", "--input-split"]);
    convert("mmmu", "mmmu", &["--input-split", "validation", "--split", "val"]);
    convert("mmmu", "config", &["--config", "Accounting", "--input-split", "validation", "--split", "val"]);
    assert_eq!(hashes(&records(&lab.at("config"))[0]), hashes(&records(&lab.at("mmmu"))[0]));
    let other = lab.run(&["data", "convert", "--input", &input, "--config", "Art", "--out", "no"]);
    other.fails_with(&["no folder Art", "--config"]);
    let made = records(&lab.at("mmmu"));
    assert_eq!(made.iter().map(|r| r.media.len()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(made[2].fields["image_3"], "validation_Accounting_2.2.png");
    convert("mmmu", "few", &["--input-split", "dev", "--image-column", "image_2,image_3", "--text-column", "question"]);
    let record = &records(&lab.at("few"))[0];
    assert_eq!(
        (record.media.len(), record.ignored),
        (0, 1),
        "a picture that is not asked for is kept as a plain member"
    );
    assert_eq!(
        (&record.fields["caption"], &record.fields["image_1"]),
        (&json!("<image 1> and <image 2>? 0"), &json!("dev_Accounting_0.image_1.bin"))
    );
    let unknown =
        lab.run(&["data", "convert", "--input", &input, "--input-split", "dev", "--out", "x", "--image-column", "pic"]);
    unknown.fails_with(&["there is no column pic", "image_1 (image)"]);
}

#[test]
fn sharegpt_and_messages_with_pictures_in_their_parts() {
    let lab = Lab::new();
    let turns = |mark: &str| json!([{"from": "system", "value": "s"}, {"from": "human", "value": format!("{mark}q")}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
    let part = |name: &str| json!({"type": "image", "image": name});
    let text = json!({"type": "text", "text": "which?"});
    let rows = [
        json!({"id": "sharegpt", "image": "red.png", "conversations": turns("<image>")}),
        json!({"id": "several", "images": ["red.png", "blue.png"], "conversations": turns("<image><image>")}),
        json!({"id": "words", "conversations": turns("")}),
        json!({"id": "parts", "messages": [{"role": "user", "content": [part("red.png"), text, part("green.png")]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}),
        json!({"id": "plain", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
    ];
    fs::create_dir(lab.at("tables")).unwrap();
    let list = Value::Array(rows[..3].to_vec());
    fs::write(lab.at("tables/a.json"), serde_json::to_string_pretty(&list).unwrap()).unwrap();
    fs::write(lab.at("tables/b.jsonl"), rows[3..].iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    lab.run(&["data", "convert", "--input", "tables", "--image-dir", "source", "--out", "out"]).ok();
    let made = records(&lab.at("out"));
    let seen: Vec<(&str, usize)> = made.iter().map(|r| (r.key.as_str(), r.media.len())).collect();
    assert_eq!(seen, [("sharegpt", 1), ("several", 2), ("words", 0), ("parts", 2), ("plain", 0)]);
    for (record, row) in made.iter().zip(&rows) {
        assert_eq!(Value::Object(record.fields.clone()), *row, "rows are kept as they were");
    }
    assert_eq!(made[3].media[1].bytes[..], fs::read(lab.at("source/green.png")).unwrap()[..]);
    trains(&lab, "out");
}

/// Runs `args` with each of the ways to be interrupted and split, and compares the output with that of an unbroken run.
fn the_same_bytes_however(lab: &Lab, name: &str, args: &[&str]) {
    let with = |out: &str, more: &[&str]| -> Vec<String> {
        [&["data", "convert", "--out", out], args, more].concat().into_iter().map(str::to_owned).collect()
    };
    let run = |out: &str, more: &[&str]| {
        let args = with(out, more);
        lab.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let at = |way: &str| format!("{name}-{way}");
    run(&at("whole"), &["--workers", "3"]).ok();
    let expected = output(&lab.at(&at("whole")));
    run(&at("one"), &["--workers", "1"]).ok();
    assert_eq!(output(&lab.at(&at("one"))), expected, "{name} with one worker");

    let broken = at("broken");
    let done = || {
        let jobs = |step: &str| fs::read_dir(lab.at(&broken).join(".ovhost").join(step).join("jobs"));
        let names = ["index-train", "convert-train"].into_iter().flat_map(|step| jobs(step).into_iter().flatten());
        names.filter(|n| n.as_ref().unwrap().file_name().to_string_lossy().ends_with(".json")).count()
    };
    let (mut seed, mut kills) = (u64::from(std::process::id()), 0);
    for wanted in [0, 1, 2, 4, 7] {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let args = with(&broken, &["--workers", "2"]);
        let mut child = command(lab.path(), &args.iter().map(String::as_str).collect::<Vec<_>>())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while done() < wanted && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        if wanted == 0 {
            std::thread::sleep(Duration::from_millis((seed >> 33) % 40));
        }
        kills += usize::from(child.try_wait().unwrap().is_none() && done() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "{name}: only {kills} of the kills fell between the first job and the end");
    run(&broken, &[]).ok();
    // A killed writer leaves its temporary file; nothing else may differ.
    for entry in fs::read_dir(lab.at(&broken)).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().to_string_lossy().contains("tmp") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(output(&lab.at(&broken)), expected, "{name} killed");

    // Two parts: the first waits for the second's index where there is one.
    let parts = at("parts");
    let first = run(&parts, &["--shard", "1/2"]);
    assert!(first.code == 3 || first.code == 0, "{}", first.err);
    run(&parts, &["--shard", "0/2"]).ok();
    run(&parts, &["--shard", "1/2"]).ok();
    assert_eq!(output(&lab.at(&parts)), expected, "{name} in two parts");
}

#[test]
fn killed_split_and_spread_it_writes_the_same_bytes() {
    let lab = Lab::new();
    for (file, rows) in [("a", 0..90), ("b", 90..170), ("c", 170..300)] {
        let row = |i: usize| {
            let image = ["red", "green", "blue", "gone"][if i % 50 == 7 { 3 } else { i % 3 }];
            // Every tenth id is there twice, in files that are indexed apart.
            let id = if i >= 200 && i.is_multiple_of(10) { i - 200 } else { i };
            json!({"id": format!("k{id}"), "image": format!("{image}.png"), "question": "q", "answer": format!("a{}", i % 150)}).to_string() + "\n"
        };
        fs::write(lab.at(&format!("{file}.jsonl")), rows.map(row).collect::<String>()).unwrap();
    }
    let json = ["--input", "{a,b,c}.jsonl", "--image-dir", "source", "--max-count", "25", "--max-reject-rate", "0.1"];
    the_same_bytes_however(&lab, "json", &json);
    let rejects = jsonl(lab.at("json-whole/rejects.jsonl"));
    assert_eq!(rejects.len(), 6);
    assert!(rejects.iter().all(|r| r["reason"].as_str().unwrap().contains("gone.png cannot be read")));
    let mut keys: Vec<String> = records(&lab.at("json-whole")).into_iter().map(|r| r.key).collect();
    assert_eq!(keys.len(), 294);
    assert!(keys.contains(&"k90-2".to_owned()));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 294);

    let grouped =
        ["--input", "{a,b,c}.jsonl", "--image-dir", "source", "--max-count", "25", "--max-reject-rate", "0.9"];
    the_same_bytes_however(&lab, "grouped", &[&grouped[..], &["--group-by", "answer", "--shuffle-seed", "4"]].concat());

    let input = fixture("midtraining");
    the_same_bytes_however(&lab, "parquet", &["--input", &input, "--max-count", "1", "--shuffle-seed", "2"]);
    the_same_bytes_however(&lab, "shards", &["--input", "json-whole", "--max-count", "20"]);
}

#[test]
fn damaged_parquet_costs_its_rows_and_says_which() {
    let lab = Lab::new();
    let good = fs::read(Path::new(&fixture("midtraining")).join("data/train-00000-of-00002.parquet")).unwrap();
    fs::create_dir(lab.at("in")).unwrap();
    // The header of the first page of the second row group's pictures.
    let mut bad = good.clone();
    bad[2266..2290].fill(0xFF);
    fs::write(lab.at("in/x.parquet"), &bad).unwrap();
    let convert = ["data", "convert", "--input", "in", "--out", "out", "--max-reject-rate"];
    lab.run(&[&convert[..], &["0.2"]].concat())
        .fails_with(&["33.3 % of the samples were rejected", "--max-reject-rate"]);
    let ran = lab.run(&[&convert[..], &["0.4"]].concat()).ok();
    assert!(ran.out.contains("6 rows -> 4 samples") && ran.out.contains("2 left out"), "{}", ran.out);
    let rejects = jsonl(lab.at("out/rejects.jsonl"));
    assert_eq!(rejects.iter().map(|r| r["key"].as_str().unwrap()).collect::<Vec<_>>(), ["00000002", "00000003"]);
    let reason = rejects[1]["reason"].as_str().unwrap();
    assert!(reason.contains("x.parquet, row group 1, column image: ") && reason.contains("(row 3 of"), "{reason}");
    fs::write(lab.at("in/x.parquet"), &good[..good.len() / 2]).unwrap();
    lab.run(&["data", "convert", "--input", "in", "--out", "new"])
        .fails_with(&["x.parquet: is no whole parquet file", "fetch"]);
}
