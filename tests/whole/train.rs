//! Training from recipe to model folder.

use std::fs;

use crate::lab::{Lab, SAMPLES, jsonl};

#[test]
fn learns_and_leaves_a_whole_run_folder() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=40"]).ok();
    let losses = lab.losses("runs/a");
    assert_eq!(losses.len(), 40);
    assert!(losses[39].1 < losses[0].1 * 0.5, "{} -> {}", losses[0].1, losses[39].1);
    for file in [
        "run.json",
        "metrics.jsonl",
        "rejects.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    ] {
        assert!(lab.at("runs/a").join(file).is_file(), "{file} is missing");
    }
    let mut steps: Vec<_> =
        fs::read_dir(lab.at("runs/a/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    steps.sort();
    assert_eq!(steps, ["step-38", "step-40"], "the last two checkpoints stay");
    let record = fs::read_to_string(lab.at("runs/a/run.json")).unwrap();
    for part in ["padding_free", "sha256", "window", "\"lr\""] {
        assert!(record.contains(part), "run.json lacks {part}");
    }
}

#[test]
fn two_runs_of_one_recipe_are_bit_identical_for_any_number_of_workers() {
    let lab = Lab::new();
    lab.run(&["train"]).ok();
    lab.run(&["train", "--set", "run.folder=runs/b", "--set", "data.workers=1"]).ok();
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/b"));
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/b"));
    lab.run(&["train", "--set", "run.folder=runs/c", "--set", "run.seed=8"]).ok();
    assert_ne!(lab.losses("runs/a"), lab.losses("runs/c"));
}

#[test]
fn another_packer_by_flag_is_less_dense() {
    let lab = Lab::new();
    let fill = |run: &str| {
        let lines = jsonl(lab.at(run).join("metrics.jsonl"));
        lines.iter().map(|l| l["fill"].as_f64().unwrap()).sum::<f64>() / lines.len() as f64
    };
    // Samples of several lengths, so that order matters to how packs fill.
    let words = ["a", "a a a", "a a a a a a a a a a", "a a a a a a a a a a a a a a a a a a a a"];
    let samples: Vec<_> = (0..SAMPLES)
        .map(|i| {
            let mut parts = lab.good(i);
            parts[0].1 = serde_json::json!({"question": words[i * 7 % 4], "answer": "red"}).to_string().into_bytes();
            (format!("s{i:03}"), parts)
        })
        .collect();
    let samples: Vec<_> = samples.iter().map(|(k, p)| (k.as_str(), p.clone())).collect();
    lab.write_shard(&samples);
    let steps = ["train", "--set", "train.steps=4"];
    lab.run(&steps).ok();
    lab.run(&[steps.as_slice(), &["--plugins", "packers/sequential.wasm", "--set", "run.folder=runs/b"]].concat()).ok();
    assert!(fill("runs/a") > fill("runs/b"), "{} and {}", fill("runs/a"), fill("runs/b"));
    let record = fs::read_to_string(lab.at("runs/b/run.json")).unwrap();
    assert!(record.contains("\"name\": \"sequential\""), "{record}");
}

#[test]
fn frozen_modules_do_not_move() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.language.train=false", "--set", "train.vision.train=false"]).ok();
    let read = |path: &str| {
        let bytes = fs::read(lab.at(path)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        tensors.tensors().into_iter().map(|(n, t)| (n, t.data().to_vec())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (before, after) = (read("model/model.safetensors"), read("runs/a/model/model.safetensors"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, bytes) in &before {
        assert_eq!(bytes != &after[name], name.contains("merger"), "{name}");
    }
}

#[test]
fn accumulation_equals_one_large_batch() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=3"];
    lab.run(&[base.as_slice(), &["--set", "data.packs_per_batch=2", "--set", "train.accumulation=2"]].concat()).ok();
    let large = ["--set", "data.packs_per_batch=4", "--set", "train.accumulation=1", "--set", "run.folder=runs/b"];
    lab.run(&[base.as_slice(), &large].concat()).ok();
    for (a, b) in lab.losses("runs/a").iter().zip(lab.losses("runs/b")) {
        assert!((a.1 - b.1).abs() < 1e-5 * a.1, "{a:?} {b:?}");
    }
}

#[test]
fn bf16_trains() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "model.precision=\"bf16\"", "--set", "train.steps=40"]).ok();
    let losses = lab.losses("runs/a");
    assert!(losses[39].1 < losses[0].1 * 0.6, "{} -> {}", losses[0].1, losses[39].1);
}

#[test]
fn a_second_run_does_not_overwrite_the_first() {
    let lab = Lab::new();
    lab.run(&["train"]).ok();
    lab.run(&["train"]).fails_with(&["already holds a run", "--resume"]);
}
