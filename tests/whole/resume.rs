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

#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.steps=400", "--set", "checkpoint.every=0"];
    let child = command(lab.path(), &base).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_step(&lab, "runs/a", 5);
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{err}");
    assert!(err.contains("--resume"), "{err}");
    let steps = jsonl(lab.at("runs/a/metrics.jsonl")).len();
    assert!(lab.at("runs/a/checkpoints").join(format!("step-{steps}")).is_dir());
    assert!(!lab.at("runs/a/model").exists(), "an interrupted run has no final model");
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
