//! What the optimiser keeps beside the weights: moving averages and short moments, in a run that goes on and in what it leaves.

use std::fs;

use crate::lab::Lab;

/// Losses by step, weights, and the averages where there are any.
type Results = (Vec<(u64, f64)>, Vec<u8>, Option<Vec<u8>>);

/// Losses, weights and the moving average of a run.
fn results(lab: &Lab, run: &str) -> Results {
    (lab.losses(run), lab.weights(run), fs::read(lab.at(run).join("model-ema/model.safetensors")).ok())
}

#[test]
fn they_go_on_bit_for_bit_and_are_exported_beside_the_model_or_as_it() {
    let lab = Lab::new();
    let base = ["train", "--set", "train.ema_decay=0.9", "--set", "train.moments=\"bf16\""];
    lab.run(&base).ok();
    let expected = results(&lab, "runs/a");
    assert!(expected.2.as_ref().is_some_and(|average| *average != expected.1));
    fs::remove_dir_all(lab.at("runs/a/checkpoints/step-8")).unwrap();
    let run = lab.run(&[&base[..], &["--resume"]].concat()).ok();
    assert!(run.err.contains("step-6"), "{}", run.err);
    assert_eq!(expected, results(&lab, "runs/a"));

    lab.run(&[&base[..], &["--set", "run.folder=runs/b", "--set", "train.export=\"ema\""]].concat()).ok();
    assert_eq!(expected.2, Some(lab.weights("runs/b")));
    assert!(!lab.at("runs/b/model-ema").exists());

    // The moments take half the place, and change the run by little.
    lab.run(&["train", "--set", "run.folder=runs/c"]).ok();
    let size = |run: &str| fs::metadata(lab.at(run).join("checkpoints/step-8/optimizer.safetensors")).unwrap().len();
    let average = size("runs/a") as f64 / size("runs/c") as f64;
    assert!(
        (0.95..1.05).contains(&average),
        "two bf16 moments and an fp32 average are as long as two fp32 moments: {average}"
    );
    for ((step, a), (_, c)) in expected.0.iter().zip(lab.losses("runs/c")) {
        assert!((a - c).abs() < 2e-2 * c, "step {step}: {a} and {c}");
    }
}

#[test]
fn settings_without_sense_are_named() {
    let lab = Lab::new();
    let with = |set: &str| lab.run(&["train", "--set", set]);
    with("train.ema_decay=1.0").fails_with(&["train.ema_decay is 1", "below 1"]);
    with("train.export=\"ema\"").fails_with(&["train.ema_decay is 0", "0.999"]);
    with("train.moments=\"fp8\"").fails_with(&["fp8", "bf16"]);
}
