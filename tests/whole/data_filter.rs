//! `ovhost data filter`: nothing lost, the same bytes however it is cut, killed or spread.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use ovhost_data::shards::{RawSample, Shard};
use serde_json::json;

use crate::lab::{Lab, command, jsonl, root};

const SAMPLES: usize = 300;

/// A lab with `raw/`: 300 samples in shards of 25, of which some are too small and many have one text.
pub fn lab() -> Lab {
    let lab = Lab::new();
    fs::write(lab.at("source/tiny.png"), crate::lab::png(4, 4, [9, 9, 9])).unwrap();
    let rows: Vec<String> = (0..SAMPLES)
        .map(|i| {
            let image = if i % 10 == 3 { "tiny" } else { ["red", "green", "blue"][i % 3] };
            let answer = if i % 4 == 0 { "the same".into() } else { format!("answer {i}") };
            json!({"id": format!("k{i:04}"), "image": format!("{image}.png"), "question": "q", "answer": answer})
                .to_string()
        })
        .collect();
    fs::write(lab.at("raw.jsonl"), rows.join("\n")).unwrap();
    let args =
        ["data", "convert", "--input", "raw.jsonl", "--image-dir", "source", "--out", "raw", "--max-count", "25"];
    lab.run(&args).ok();
    let counting = root().join("tests/fixtures/guests/counting.wasm");
    let geometry = "[[filter]]\nplugin = \"filters/image_geometry.wasm\"\nconfig = { min_side = 8 }\n";
    fs::write(lab.at("pure.toml"), geometry).unwrap();
    let counting = |entry: &str, rest: &str| {
        format!("{geometry}\n[[filter]]\nplugin = {counting:?}\nname = \"{entry}\"\nentry = \"{entry}\"\n{rest}\n")
    };
    fs::write(lab.at("streaming.toml"), counting("counting", "config = { most = 20 }")).unwrap();
    let frequent = "config = { least = 2 }\nassets = { counts = \"states/counting.state\" }";
    fs::write(lab.at("second.toml"), counting("frequent", frequent)).unwrap();
    lab
}

fn args<'a>(filters: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["data", "filter", "--input", "raw", "--filters", filters, "--out", out], more].concat()
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
    assert!(out.contains_key("/manifest.json") && out.contains_key("/rejects.jsonl"), "{:?}", out.keys());
    assert!(!out.keys().any(|name| name.contains("tmp")), "{:?}", out.keys());
    out
}

fn samples(folder: &Path) -> BTreeMap<String, RawSample> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "tar") {
            let shard = Shard::open(&entry).unwrap();
            for i in 0..shard.len() {
                let raw = shard.read(i).unwrap();
                assert!(out.insert(raw.key.clone(), raw).is_none());
            }
        }
    }
    out
}

#[test]
fn every_sample_is_kept_as_it_was_or_listed() {
    let lab = lab();
    let ran = lab.run(&args("streaming.toml", "out", &[])).ok();
    assert!(ran.out.contains("300 samples read"), "{}", ran.out);
    let (raw, kept) = (samples(&lab.at("raw")), samples(&lab.at("out")));
    let dropped = jsonl(lab.at("out/rejects.jsonl"));
    assert_eq!(raw.len(), SAMPLES);
    assert_eq!(kept.len() + dropped.len(), SAMPLES);
    assert!(kept.iter().all(|(key, sample)| raw[key] == *sample), "kept samples are what they were");
    for reject in &dropped {
        assert!(raw.contains_key(reject["key"].as_str().unwrap()) && reject["reason"].as_str().unwrap().contains(": "));
    }
    let same = kept.values().filter(|s| s.parts.iter().any(|(_, b)| String::from_utf8_lossy(b).contains("the same")));
    assert_eq!(same.count(), 20, "the first twenty of one text");
    let tiny = dropped.iter().filter(|r| r["reason"].as_str().unwrap().contains("image_geometry")).count();
    assert_eq!(tiny, 30);
    // The result is training data like any other.
    lab.edit_recipe("train = \"data/train\"", "train = \"out\"");
    lab.run(&["train", "--set", "train.steps=2", "--set", "run.folder=runs/filtered"]).ok();
}

#[test]
fn killed_split_and_spread_it_writes_the_same_bytes() {
    let lab = lab();
    for filters in ["pure.toml", "streaming.toml"] {
        let whole = format!("whole-{filters}");
        lab.run(&args(filters, &whole, &["--workers", "3"])).ok();
        let expected = output(&lab.at(&whole));
        let one = format!("one-{filters}");
        lab.run(&args(filters, &one, &["--workers", "1"])).ok();
        assert_eq!(output(&lab.at(&one)), expected);

        // Killed at any moment, twice before and then after each shard.
        let broken = format!("broken-{filters}");
        let jobs = lab.at(&broken).join(".ovhost/filter/jobs");
        let done = || {
            let names = fs::read_dir(&jobs).into_iter().flatten().map(|e| e.unwrap().file_name());
            names.filter(|n| n.to_string_lossy().ends_with(".json")).count()
        };
        let (mut seed, mut kills) = (u64::from(std::process::id()), 0);
        for wanted in [0, 0, 1, 2, 3, 5, 7, 9, 10] {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut child = command(lab.path(), &args(filters, &broken, &["--workers", "2"]))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while done() < wanted && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(300));
            }
            if wanted == 0 {
                std::thread::sleep(Duration::from_millis((seed >> 33) % 60));
            }
            kills += usize::from(child.try_wait().unwrap().is_none() && done() > 0);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(kills > 2, "only {kills} of the kills fell between the first shard and the end");
        lab.run(&args(filters, &broken, &[])).ok();
        // A killed writer leaves its temporary file; nothing else may differ.
        for entry in fs::read_dir(lab.at(&broken)).unwrap().map(|e| e.unwrap()) {
            if entry.file_name().to_string_lossy().contains("tmp") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        assert_eq!(output(&lab.at(&broken)), expected);
    }
    let expected = output(&lab.at("whole-pure.toml"));
    for part in ["1/3", "0/3", "2/3"] {
        lab.run(&args("pure.toml", "parts", &["--shard", part])).ok();
    }
    assert_eq!(output(&lab.at("parts")), expected);
    let ran = lab.run(&args("streaming.toml", "no", &["--shard", "1/3"]));
    ran.fails_with(&["part 1/3", "streaming", "leave the part out"]);
}

#[test]
fn what_the_first_pass_remembers_is_the_second_ones_asset() {
    let lab = lab();
    lab.run(&args("streaming.toml", "counted", &["--judge-only", "--save-state", "states"])).ok();
    assert!(
        !fs::read_dir(lab.at("counted")).unwrap().any(|e| e.unwrap().path().extension().is_some_and(|x| x == "tar"))
    );
    lab.run(&args("second.toml", "out", &[])).ok();
    let kept = samples(&lab.at("out"));
    // The only text that is there twice; tiny pictures are gone before it is counted.
    let expected = (0..SAMPLES).filter(|i| i % 4 == 0 && i % 10 != 3).count();
    assert_eq!(kept.len(), expected);
}

#[test]
fn samples_are_copied_as_they_lie_in_the_tar() {
    let lab = lab();
    // What this program would not write itself: names that begin with ./, long names, a key that comes again.
    let long = format!("{}/{}", "f".repeat(120), "k".repeat(110));
    let keys = ["./plain", &long, "x", "y", "x"];
    fs::create_dir(lab.at("odd")).unwrap();
    let mut tar = tar::Builder::new(fs::File::create(lab.at("odd/odd.tar")).unwrap());
    for key in keys {
        let json = json!({ "caption": if key == "y" { "drop me" } else { "stay" } }).to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(json.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(77);
        if key.starts_with('.') {
            header.as_gnu_mut().unwrap().name[..12].copy_from_slice(b"./plain.json");
            header.set_cksum();
            tar.append(&header, json.as_bytes()).unwrap();
        } else {
            tar.append_data(&mut header, format!("{key}.json"), json.as_bytes()).unwrap();
        }
    }
    tar.finish().unwrap();
    let filter = "[[filter]]\nplugin = \"filters/caption_quality.wasm\"\n\
                  config = { refusal_prefixes = [\"drop\"], min_chars = 0 }\n";
    fs::write(lab.at("odd.toml"), filter).unwrap();
    let args = ["data", "filter", "--input", "odd", "--filters", "odd.toml", "--out", "out", "--max-reject-rate", "1"];
    lab.run(&args).ok();
    let (raw, out) = (fs::read(lab.at("odd/odd.tar")).unwrap(), fs::read(lab.at("out/odd.tar")).unwrap());
    let three = Shard::open(lab.at("odd/odd.tar")).unwrap().offsets()[3] as usize;
    assert_eq!(out[..three], raw[..three], "byte for byte");
    assert_eq!(Shard::open(lab.at("out/odd.tar")).unwrap().len(), 3);
    let rejects = jsonl(lab.at("out/rejects.jsonl"));
    assert_eq!(rejects.len(), 2);
    assert!(rejects[1]["reason"].as_str().unwrap().contains("the same key"), "{:?}", rejects[1]);
}

#[test]
fn mistakes_are_named() {
    let lab = lab();
    lab.run(&args("pure.toml", "raw", &[])).fails_with(&["is the folder of the input", "give another --out"]);
    lab.run(&args("pure.toml", "x", &["--split", "trian"])).fails_with(&["trian", "train, val, test"]);
    lab.run(&args("pure.toml", "x", &["--save-state", "s"])).fails_with(&["none of the filters remembers rows"]);
    lab.run(&args("pure.toml", "out", &[])).ok();
    let other = lab.run(&args("streaming.toml", "out", &[]));
    other.fails_with(&["was begun with other settings", "settings.filters", "another --out"]);
    let none = lab.run(&["data", "filter", "--input", "raw", "--out", "x"]);
    none.fails_with(&["no filter is named", "--plugins"]);
    let kind = lab.run(&["data", "filter", "--input", "raw", "--out", "x", "--plugins", "packers/sequential.wasm"]);
    kind.fails_with(&["is a packer plugin", "a filter plugin is needed"]);
    lab.run(&args("streaming.toml", "x", &["--on-plugin-failure", "reject"])).fails_with(&["streaming"]);
    lab.run(&args("pure.toml", "x", &["--shard", "3/3"])).fails_with(&["0/8"]);
}
