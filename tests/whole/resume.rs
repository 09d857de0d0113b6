//! Kill and go on: the result is that of an unbroken run, bit for bit.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::lab::{Lab, command, jsonl};

fn wait_for_step(lab: &Lab, run: &str, step: u64) {
    let path = lab.at(run).join("metrics.jsonl");
    let begin = Instant::now();
    loop {
        let lines = fs::read_to_string(&path).map_or(0, |t| t.lines().count() as u64);
        if lines >= step {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "the run did not reach step {step}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_random_steps_and_resumed_equals_unbroken() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=60", "--set", "checkpoint.every=3"];
    lab.run(&base).ok();
    let broken = [base.as_slice(), &["--set", "run.folder=runs/b"]].concat();
    // Not the same points each time: a kill is legal anywhere, in the middle of a checkpoint too.
    let mut seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64;
    let mut at = 0;
    for part in 0..3 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        at += 2 + (seed >> 33) % 15;
        let args = if part == 0 { broken.clone() } else { [broken.as_slice(), &["--resume"]].concat() };
        let mut child = command(lab.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_step(&lab, "runs/b", at.min(55));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = lab.run(&[broken.as_slice(), &["--resume"]].concat()).ok();
    assert!(last.err.contains("resuming from") || last.err.contains("no checkpoint yet"), "{}", last.err);
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/b"), "killed near step {at}");
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/b"), "killed near step {at}");
}

/// A model whose checkpoints take a while to write: 40 MB each.
fn larger_model(lab: &Lab) {
    let path = lab.at("architecture.json");
    let mut architecture: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    architecture["text_config"]["hidden_size"] = 256.into();
    architecture["text_config"]["intermediate_size"] = 2048.into();
    architecture["vision_config"]["text_hidden_size"] = 256.into();
    fs::write(&path, architecture.to_string()).unwrap();
    fs::remove_dir_all(lab.at("model")).unwrap();
    let args = ["model", "new", "--config", "architecture.json", "--processor", "preprocessor_config.json"];
    lab.run(&[&args[..], &["--tokenizer", "tokenizer", "--out", "model", "--seed", "3"]].concat()).ok();
}

fn half_written(lab: &Lab, run: &str) -> bool {
    let folder = lab.at(run).join("checkpoints");
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with(".tmp-step-"))
}

#[test]
fn killed_while_a_checkpoint_is_written_and_in_accumulation_equals_unbroken() {
    let lab = Lab::new();
    larger_model(&lab);
    let steps = ["train", "--set", "train.steps=16", "--set", "train.accumulation=4", "--set", "checkpoint.every=2"];
    // The unbroken one waits for its checkpoints: written beside the training they are the same.
    lab.run(&[&steps[..], &["--set", "checkpoint.asynchronous=false"]].concat()).ok();
    let broken = [&steps[..], &["--set", "run.folder=runs/b"]].concat();
    let mut halves = 0;
    for part in 0..5u64 {
        let resume: &[&str] = if part == 0 { &[] } else { &["--resume"] };
        let mut child = command(lab.path(), &[&broken[..], resume].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if part == 2 {
            // At some moment of an update of four micro-batches.
            std::thread::sleep(Duration::from_millis(600));
        }
        let begin = Instant::now();
        while !half_written(&lab, "runs/b") && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoint was written");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(part * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        halves += u32::from(half_written(&lab, "runs/b"));
    }
    assert!(halves > 0, "no kill fell into a write");
    let last = lab.run(&[&broken[..], &["--resume"]].concat()).ok();
    assert!(last.err.contains("resuming from") || last.err.contains("no checkpoint yet"), "{}", last.err);
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/b"));
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/b"));
    let state = |run: &str| fs::read(lab.at(run).join("checkpoints/step-16/optimizer.safetensors")).unwrap();
    assert!(state("runs/a") == state("runs/b"), "the optimiser's state differs");
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_costs_none_before_it() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=4000", "--set", "checkpoint.every=5", "--set", "checkpoint.keep=3"];
    let child = command(lab.path(), &base).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_step(&lab, "runs/a", 12);
    let (home, aside) = (lab.at("runs/a/checkpoints"), lab.at("runs/a/aside"));
    fs::rename(&home, &aside).unwrap();
    fs::write(&home, b"no folder").unwrap();
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("saving the checkpoint of step"), "{err}");
    fs::remove_file(&home).unwrap();
    fs::rename(&aside, &home).unwrap();
    let stop = ["train", "--resume", "--allow-recipe-change", "--set", "train.steps=30", "--set", "checkpoint.every=0"];
    let run = lab.run(&stop).ok();
    assert!(run.err.contains("resuming from"), "{}", run.err);
}

#[test]
fn two_processes_do_not_train_in_one_folder() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=4000", "--set", "checkpoint.every=0"];
    let mut child = command(lab.path(), &base).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_step(&lab, "runs/a", 2);
    lab.run(&["train", "--resume"]).fails_with(&["another process", "runs/a", "run.folder"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=400", "--set", "checkpoint.every=0"];
    for (signal, run) in [("-INT", "runs/a"), ("-TERM", "runs/b")] {
        interrupted_by(&lab, &[&base[..], &["--set", &format!("run.folder={run}")]].concat(), signal, run);
    }
}

fn interrupted_by(lab: &Lab, args: &[&str], signal: &str, run: &str) {
    let child = command(lab.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_step(lab, run, 5);
    let status = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{err}");
    assert!(err.contains("--resume"), "{err}");
    let steps = jsonl(lab.at(run).join("metrics.jsonl")).len();
    assert!(lab.at(run).join("checkpoints").join(format!("step-{steps}/state.json")).is_file());
    assert!(!lab.at(run).join("model").exists(), "an interrupted run has no final model");
}

#[test]
fn a_half_written_checkpoint_is_passed_over() {
    let lab = Lab::new();
    lab.run(&["train"]).ok();
    let expected = (lab.losses("runs/a"), lab.weights("runs/a"));
    let newest = lab.at("runs/a/checkpoints/step-8/optimizer.safetensors");
    let half = fs::metadata(&newest).unwrap().len() / 2;
    fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(half).unwrap();
    let run = lab.run(&["train", "--resume"]).ok();
    assert!(run.err.contains("not whole") && run.err.contains("step-6"), "{}", run.err);
    assert_eq!(expected, (lab.losses("runs/a"), lab.weights("runs/a")));
}

#[test]
fn no_whole_checkpoint_at_all_is_an_error() {
    let lab = Lab::new();
    lab.run(&["train"]).ok();
    for step in ["step-6", "step-8"] {
        fs::write(lab.at("runs/a/checkpoints").join(step).join("state.json"), b"{").unwrap();
    }
    lab.run(&["train", "--resume"]).fails_with(&["no whole checkpoint", "state.json"]);
}

#[test]
fn resuming_with_another_recipe_is_refused() {
    let lab = Lab::new();
    lab.run(&["train"]).ok();
    let other = ["train", "--resume", "--set", "train.lr=1e-4"];
    lab.run(&other).fails_with(&["train.lr", "0.003", "0.0001", "--allow-recipe-change"]);
    // The place in the data means nothing with another packer or another seed.
    lab.run(&["train", "--resume", "--plugins", "packers/sequential.wasm"]).fails_with(&["plugins", "model.folder="]);
    lab.run(&["train", "--resume", "--set", "run.seed=9"]).fails_with(&["run.seed", "model.folder="]);
    let further = ["train", "--resume", "--set", "train.lr=1e-4", "--set", "train.steps=12"];
    lab.run(&[further.as_slice(), &["--allow-recipe-change"]].concat()).ok();
    assert_eq!(lab.losses("runs/a").len(), 12);
    // The run is the new recipe's now.
    lab.run(&further).ok();
    lab.run(&["train", "--resume"]).fails_with(&["train.lr"]);
}
