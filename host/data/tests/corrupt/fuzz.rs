//! The fuzz targets without a fuzzer: their corpus, and a bounded number of seeded mutants of it.
//!
//! `OVHOST_BLESS=1` writes the part of the corpus that is made here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::json;

use crate::forge::{png, question, shard, troubles};
use crate::mutate::{Random, mutate};
use crate::targets::{Reached, chat, index, meta, pack, picture, small, tar};

/// Longest that any input may take; one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

type Inputs = Vec<(String, Vec<u8>)>;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target)
}

/// The corpus of a target, in order of its names.
fn corpus(target: &str) -> Inputs {
    let entries = std::fs::read_dir(folder(target)).unwrap();
    let file = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    let mut files: Inputs = entries.map(|entry| file(entry.unwrap().path())).collect();
    files.sort();
    files
}

/// Tries inputs one after the other on a thread of its own, so that one that hangs is named.
fn try_all(target: fn(&[u8]) -> Reached, inputs: Inputs) -> BTreeMap<Reached, usize> {
    let names: Vec<String> = inputs.iter().map(|(name, _)| name.clone()).collect();
    let (sender, results) = channel();
    std::thread::spawn(move || inputs.iter().for_each(|(_, bytes)| sender.send(target(bytes)).unwrap()));
    let mut reached = BTreeMap::new();
    for name in &names {
        match results.recv_timeout(PATIENCE) {
            Ok(stage) => *reached.entry(stage).or_default() += 1,
            Err(RecvTimeoutError::Timeout) => panic!("it hangs on {name}"),
            Err(RecvTimeoutError::Disconnected) => panic!("it panics on {name}"),
        }
    }
    println!("{reached:?}");
    reached
}

/// The corpus, and `count` inputs with one to three changes each.
fn corpus_and_mutants(name: &str, target: fn(&[u8]) -> Reached, count: usize, seed: u64) {
    let corpus = corpus(name);
    let reached = try_all(target, corpus.clone());
    assert!([Reached::Refused, Reached::Partly, Reached::Works].iter().all(|r| reached.contains_key(r)), "{reached:?}");
    let mut random = Random(seed);
    let mut inputs = Vec::new();
    for i in 0..count {
        let (name, bytes) = &corpus[random.below(corpus.len())];
        let mut bytes = bytes.clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut bytes, &corpus[random.below(corpus.len())].1, &mut random);
        }
        inputs.push((format!("mutant {i}, of {name}"), bytes));
    }
    let reached = try_all(target, inputs);
    assert!(reached.len() == 3, "{reached:?}");
}

#[test]
fn tars() {
    corpus_and_mutants("tar", tar, 3_000, 1);
}

#[test]
fn indices() {
    corpus_and_mutants("index", index, 2_000, 5);
}

#[test]
fn metadata() {
    corpus_and_mutants("meta", meta, 1_500, 6);
}

#[test]
fn pictures() {
    corpus_and_mutants("picture", picture, 2_000, 2);
}

#[test]
fn packs() {
    corpus_and_mutants("pack", pack, 2_000, 3);
}

#[test]
fn chats() {
    corpus_and_mutants("chat", chat, 2_000, 4);
}

/// The made part of the corpus is what is made here now.
#[test]
fn the_corpus_is_up_to_date() {
    let mut made: Vec<(&str, String, Vec<u8>)> = Vec::new();
    made.push(("tar", "good".into(), shard(&["a", "dir/b"])));
    for (name, bytes, _) in troubles() {
        // What is large is large on purpose, and of no use to a fuzzer.
        if bytes.len() < 1 << 15 {
            made.push(("tar", name.into(), bytes));
        }
    }
    let good = &small().1;
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    let true_ones: Vec<u64> = good.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b)).collect();
    let [first, second, third, end] = true_ones[..] else { panic!("{true_ones:?}") };
    for (name, bytes) in [
        ("good", good.clone()),
        ("cut", good[..20].to_vec()),
        ("one_less", numbers(&[first, second, end])),
        ("from_the_second", numbers(&[second, third, end])),
        ("without_the_last", numbers(&[first, second, third])),
        ("unsorted", numbers(&[first, third, second, end])),
        ("past_the_end", numbers(&[first, second, third, end + 512])),
        ("within_a_sample", numbers(&[first, second - 1024, third, end])),
        ("huge", numbers(&[first, u64::MAX - 511])),
        ("one_number", numbers(&[end])),
        ("long", vec![7; 1 << 14]),
    ] {
        made.push(("index", name.into(), bytes));
    }
    for (name, which, text) in [
        ("info_json", 0, r#"{"shard_counts": {"a.tar": 3, "b.tar": 2}}"#),
        ("info_negative", 0, r#"{"shard_counts": {"a.tar": -3, "b.tar": 2}}"#),
        ("info_list", 0, "[]"),
        ("info_yaml", 4, "shard_counts:\n  a.tar: 3\n  b.tar: 0x10\n"),
        ("split", 1, "split_parts:\n  train:\n  - '{a,b}.tar'\n  val: []\nexclude:\n- b.tar/{1..3}\n"),
        ("split_unknown", 1, "split_parts: {train: [c.tar]}"),
        ("split_bomb", 1, "split_parts: {train: ['{0..999}{0..999}{0..999}.tar']}"),
        ("split_no_text", 1, "split_parts: {train: [[1], 2]}"),
        ("dataset_crude", 2, "__module__: megatron.energon\n__class__: CrudeWebdataset\n"),
        (
            "dataset_fields",
            2,
            "sample_type: {__module__: megatron.energon, __class__: CaptioningSample}\nfield_map: {image: png, caption: 'json[a][b]'}\n",
        ),
        ("dataset_tag", 2, "a: !!python/object:os.system [x]"),
        (
            "mix",
            3,
            "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    blend:\n    - {path: ., weight: 1, subset: {range: [25%, 75%]}}\n    - {path: ., weight: 0.5}\n",
        ),
        (
            "mix_of_itself",
            3,
            "__class__: MetadatasetV2\nsplits: {train: {blend: [{path: mix.yaml, weight: 1}, {path: mix.yaml, weight: 1}]}}",
        ),
        (
            "mix_epochized",
            3,
            "__class__: MetadatasetV2\nsplits: {train: {blend_epochized: [{path: ., repetitions: 1e300}]}}",
        ),
        ("mix_join", 3, "__class__: MetadatasetV2\nsplits: {train: {join: [{path: .}]}}"),
        ("nested", 1, "[".repeat(2_000).as_str()),
    ] {
        made.push(("meta", name.into(), [&[which][..], text.as_bytes()].concat()));
    }
    let pictures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    for entry in std::fs::read_dir(pictures).unwrap().map(|e| e.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".py") && !name.ends_with(".json") {
            made.push(("picture", name, std::fs::read(entry).unwrap()));
        }
    }
    let mut cut = png(60, 40);
    cut.truncate(60);
    made.push(("picture", "cut.png".into(), cut));
    made.push(("picture", "text.jpg".into(), b"<!DOCTYPE html>".to_vec()));
    for (i, record) in crate::json::good().into_iter().enumerate() {
        made.push(("chat", format!("good_{i}"), crate::json::input(1, &record)));
    }
    made.push(("chat", "question".into(), [vec![0], question()].concat()));
    made.push(("chat", "no_answer".into(), crate::json::input(0, &json!({"question": "a?"}))));
    made.push(("chat", "no_shape".into(), crate::json::input(0, &json!({"colour": "red"}))));
    made.push(("chat", "no_json".into(), b"\0{".to_vec()));
    for (i, json) in crate::json::packs().into_iter().enumerate() {
        made.push(("pack", format!("good_{i}"), json.to_string().into_bytes()));
    }
    let lost = json!({"captions": ["a"], "images": ["x", "y"]});
    made.push(("pack", "no_prompt".into(), lost.to_string().into_bytes()));
    let number = json!({"captions": [1], "images": ["x"]});
    made.push(("pack", "no_caption".into(), number.to_string().into_bytes()));
    made.push(("pack", "no_json".into(), b"{".to_vec()));
    made.push(("pack", "no_pack".into(), question()));
    for (target, name, bytes) in made {
        let path = folder(target).join(&name);
        if std::env::var_os("OVHOST_BLESS").is_some() {
            std::fs::create_dir_all(folder(target)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|there| there == bytes),
            "{} is not what the test makes: set OVHOST_BLESS=1",
            path.display()
        );
    }
}
