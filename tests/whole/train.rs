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

#[test]
fn layers_computed_again_train_the_same() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=12"]).ok();
    for (run, set) in [("runs/b", "train.recompute=\"full\""), ("runs/c", "train.recompute=\"selective\"")] {
        lab.run(&["train", "--set", "train.steps=12", "--set", &format!("run.folder={run}"), "--set", set]).ok();
        for ((step, a), (_, b)) in lab.losses("runs/a").into_iter().zip(lab.losses(run)) {
            assert!((a - b).abs() <= 1e-4 * a.abs(), "{run}, step {step}: {a} and {b}");
        }
    }
    let more = |run: &str, key: &str| jsonl(lab.at(run).join("metrics.jsonl"))[3][key].as_f64();
    assert_eq!(more("runs/a", "tflop"), more("runs/b", "tflop"));
    assert_eq!(more("runs/a", "mfu"), None, "no peak is given");
    lab.run(&["train", "--set", "train.steps=2", "--set", "train.recompute_every=2"]).fails_with(&[
        "train.recompute_every is 2",
        "\"none\"",
        "\"full\"",
    ]);
}

#[test]
fn steps_that_are_looked_at_late_train_the_same_and_are_guarded_alike() {
    let lab = Lab::new();
    let late = ["--set", "train.guard.look=\"late\""];
    let base =
        ["train", "--set", "train.accumulation=2", "--set", "train.moments=\"bf16\"", "--set", "checkpoint.every=3"];
    lab.run(&base).ok();
    let expected = (lab.losses("runs/a"), lab.weights("runs/a"));
    let other = [&base[..], &late, &["--set", "run.folder=runs/b"]].concat();
    lab.run(&other).ok();
    assert_eq!(expected, (lab.losses("runs/b"), lab.weights("runs/b")));
    fs::remove_dir_all(lab.at("runs/b/checkpoints/step-8")).unwrap();
    lab.run(&[&other[..], &["--resume"]].concat()).ok();
    assert_eq!(expected, (lab.losses("runs/b"), lab.weights("runs/b")));

    let wild = ["train", "--set", "train.steps=9", "--set", "train.lr=1e38", "--set", "train.warmup_steps=0"];
    for (policy, text) in [("stop", "the weights were not updated"), ("skip", "more than 2 updates in a row")] {
        let guard = [format!("train.guard.non_finite=\"{policy}\""), "train.guard.max_skips=2".to_owned()];
        let seen = |run: &str, more: &[&str]| {
            let folder = format!("run.folder={run}");
            let set = ["--set", &guard[0], "--set", &guard[1], "--set", &folder];
            lab.run(&[&wild[..], &set, more].concat()).fails_with(&[text]);
            jsonl(lab.at(run).join("guards.jsonl"))
        };
        assert_eq!(seen(&format!("runs/{policy}"), &[]), seen(&format!("runs/{policy}-late"), &late), "{policy}");
    }
    let spike = ["--set", "train.guard.spike=\"skip\"", "--set", "train.guard.spike_factor=10.0"];
    lab.run(&[&["train"], &late[..], &spike].concat()).fails_with(&["train.guard.look", "before the update"]);
}

#[test]
fn steps_that_are_not_finite_are_recorded_and_skipped_or_end_the_run() {
    let lab = Lab::new();
    // One update at this rate, and nothing is finite any more.
    let wild = ["train", "--set", "train.steps=9", "--set", "train.lr=1e38", "--set", "train.warmup_steps=0"];
    lab.run(&[&wild[..], &["--set", "run.folder=runs/stop"]].concat())
        .fails_with(&["is NaN", "the weights were not updated"]);
    let stopped = jsonl(lab.at("runs/stop/guards.jsonl"));
    assert_eq!(stopped.len(), 1);
    assert_eq!(stopped[0]["done"], "stopped");
    assert!(!stopped[0]["keys"].as_array().unwrap().is_empty());

    let guard = ["--set", "train.guard.non_finite=\"skip\"", "--set", "train.guard.max_skips=2"];
    lab.run(&[&wild[..], &guard, &["--set", "run.folder=runs/skip"]].concat())
        .fails_with(&["more than 2 updates in a row were to be skipped"]);
    let seen = jsonl(lab.at("runs/skip/guards.jsonl"));
    let done: Vec<_> = seen.iter().map(|line| line["done"].as_str().unwrap().to_owned()).collect();
    assert_eq!(done, ["skipped", "skipped", "stopped"]);
    let lines = jsonl(lab.at("runs/skip/metrics.jsonl"));
    assert_eq!(lines.iter().filter(|line| line["skipped"] == true).count(), 2);
}

#[test]
fn a_run_leaves_curves_and_shares_of_the_peak() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=4", "--set", "run.peak_tflops=0.5", "--set", "train.recompute=\"full\""])
        .ok();
    let lines = jsonl(lab.at("runs/a/metrics.jsonl"));
    for line in &lines {
        let (mfu, hfu) = (line["mfu"].as_f64().unwrap(), line["hfu"].as_f64().unwrap());
        assert!(0.0 < mfu && mfu < hfu && hfu < 1.5 * mfu, "{mfu} {hfu}");
        assert!(line["tflop"].as_f64().unwrap() > 0.0 && line["peak_memory"].as_u64().unwrap() > 1 << 20);
    }
    let events: Vec<_> = fs::read_dir(lab.at("runs/a/tensorboard")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(events.len(), 1);
    let bytes = fs::read(&events[0]).unwrap();
    let count = |needle: &[u8]| bytes.windows(needle.len()).filter(|window| *window == needle).count();
    assert_eq!((count(b"train/loss"), count(b"speed/mfu")), (4, 4));
}
