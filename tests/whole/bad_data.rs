//! Bad data: every sample is trained on or is a line of rejects.jsonl, and the run says so.

use std::fs;

use serde_json::{Value, json};

use crate::lab::{Lab, Ran, jsonl, png};

type Parts = Vec<(&'static str, Vec<u8>)>;

/// Trains on good samples and one bad one; returns the bad one's reject.
#[track_caller]
fn reject_of(bad: Parts) -> Value {
    let lab = Lab::new();
    let mut samples: Vec<(&str, Parts)> =
        ["g0", "g1", "g2", "g3", "g4", "g5"].iter().enumerate().map(|(i, k)| (*k, lab.good(i))).collect();
    samples.insert(3, ("bad", bad));
    lab.write_shard(&samples);
    train_once(&lab).ok();
    let rejects = jsonl(lab.at("runs/a/rejects.jsonl"));
    assert_eq!(rejects.len(), 1, "{rejects:?}");
    assert_eq!(rejects[0]["key"], "bad");
    assert!(rejects[0]["shard"].as_str().unwrap().ends_with(".tar"), "{rejects:?}");
    rejects[0].clone()
}

/// Goes once through the data.
fn train_once(lab: &Lab) -> Ran {
    lab.run(&["train", "--set", "data.epochs=1", "--set", "train.steps=50", "--set", "data.max_reject_rate=0.5"])
}

#[track_caller]
fn says(reject: &Value, parts: &[&str]) {
    let reason = reject["reason"].as_str().unwrap();
    for part in parts {
        assert!(reason.contains(part), "the reason lacks {part:?}: {reason}");
    }
}

fn question(text: &str) -> Vec<u8> {
    json!({"question": text, "answer": "red"}).to_string().into_bytes()
}

#[test]
fn a_corrupt_picture() {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(32, 32).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let mut half = jpeg.into_inner();
    half.truncate(half.len() / 3);
    says(&reject_of(vec![("json", question("what?")), ("jpg", half)]), &["jpg"]);
    let mut cut = png(64, 64, [1, 2, 3]);
    cut.truncate(60);
    says(&reject_of(vec![("json", question("what?")), ("png", cut)]), &["png"]);
    says(&reject_of(vec![("json", question("what?")), ("png", b"no picture".to_vec())]), &["png"]);
}

#[test]
fn a_decompression_bomb() {
    // A header that promises 60,000 × 60,000 pixels, in front of a valid but small body.
    let mut bytes = png(8, 8, [0, 0, 0]);
    bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    says(&reject_of(vec![("json", question("what?")), ("png", bytes)]), &["60000", "pixels"]);
}

/// The checksum of a PNG chunk (polynomial 0xEDB88320), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[test]
fn a_placeholder_without_a_picture_and_the_reverse() {
    let chat = |text: &str| {
        let turns = json!([{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]);
        json!({ "conversations": turns }).to_string().into_bytes()
    };
    says(&reject_of(vec![("json", chat("<image>\nwhat?"))]), &["1", "0"]);
    says(&reject_of(vec![("json", chat("<image>\n<image>\nwhat?")), ("png", png(16, 16, [9, 9, 9]))]), &["2", "1"]);
    let two =
        vec![("0.png", png(16, 16, [9, 9, 9])), ("1.png", png(16, 16, [9, 9, 9])), ("json", chat("<image>\nwhat?"))];
    says(&reject_of(two), &["1", "2"]);
}

#[test]
fn a_sample_that_names_a_picture_and_has_none() {
    let json = json!({"image": "lost.png", "question": "what?", "answer": "red"}).to_string().into_bytes();
    says(&reject_of(vec![("json", json)]), &["lost.png"]);
}

#[test]
fn an_over_long_sample_is_not_cut() {
    let long = "why ".repeat(400);
    says(&reject_of(vec![("json", question(&long)), ("png", png(16, 16, [9, 9, 9]))]), &["tokens", "128"]);
}

#[test]
fn json_of_the_wrong_kind() {
    says(&reject_of(vec![("json", b"{\"question\": ".to_vec()), ("png", png(16, 16, [9, 9, 9]))]), &["json"]);
    says(&reject_of(vec![("json", b"42".to_vec()), ("png", png(16, 16, [9, 9, 9]))]), &["object"]);
    let reject = reject_of(vec![("json", b"{\"colour\": \"red\"}".to_vec()), ("png", png(16, 16, [9, 9, 9]))]);
    assert_eq!(reject["stage"], "prompt");
}

#[test]
fn a_filtered_sample_is_recorded_with_its_reason() {
    let reject = reject_of(vec![("json", question("what?")), ("png", png(4, 64, [9, 9, 9]))]);
    assert_eq!(reject["stage"], "filter");
    says(&reject, &["side"]);
}

#[test]
fn a_missing_shard_names_what_is_there() {
    let lab = Lab::new();
    lab.edit_recipe("data/train\"", "data/train/{000000..000003}.tar\"");
    lab.run(&["train"]).fails_with(&["000000.tar", "data/train"]);
    lab.run(&["train", "--set", "data.train=\"data/trian\""]).fails_with(&["trian"]);
}

#[test]
fn a_truncated_tar_is_named_with_the_place() {
    let lab = Lab::new();
    let shard = lab.shard();
    let len = fs::metadata(&shard).unwrap().len();
    fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(len / 2 + 100).unwrap();
    let name = shard.file_name().unwrap().to_string_lossy().into_owned();
    lab.run(&["train"]).fails_with(&[&name, "byte"]);
}

#[test]
fn too_many_rejects_stop_the_run() {
    let lab = Lab::new();
    let samples: Vec<(String, Parts)> = (0..20)
        .map(|i| {
            (
                format!("s{i:02}"),
                if i % 2 == 0 { lab.good(i) } else { vec![("json", b"[]".to_vec()), ("png", b"x".to_vec())] },
            )
        })
        .collect();
    let samples: Vec<_> = samples.iter().map(|(k, p)| (k.as_str(), p.clone())).collect();
    lab.write_shard(&samples);
    lab.run(&["train", "--set", "data.max_reject_rate=0.1"]).fails_with(&["max_reject_rate", "0.1"]);
    assert!(!jsonl(lab.at("runs/a/rejects.jsonl")).is_empty(), "the rejects that stopped the run are listed");
}

#[test]
fn convert_counts_what_it_leaves_out() {
    let lab = Lab::new();
    let rows = [
        json!({"id": "a", "image": "red.png", "question": "q", "answer": "a"}),
        json!({"id": "b", "image": "nowhere.png", "question": "q", "answer": "a"}),
    ];
    fs::write(lab.at("rows.jsonl"), rows.map(|r| r.to_string()).join("\n")).unwrap();
    let convert = ["data", "convert", "--input", "rows.jsonl", "--image-dir", "source", "--out", "made"];
    lab.run(&[convert.as_slice(), &["--max-reject-rate", "1"]].concat()).ok();
    let rejects = jsonl(lab.at("made/rejects.jsonl"));
    assert_eq!(rejects.len(), 1);
    assert_eq!(rejects[0]["key"], "b");
    says(&rejects[0], &["nowhere.png"]);
    lab.run(&[convert.as_slice(), &["--max-reject-rate", "0"]].concat()).fails_with(&["rejects.jsonl"]);
}
