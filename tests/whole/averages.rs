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

#[test]
fn evaluations_and_the_best_checkpoint_are_those_of_the_average() {
    let lab = Lab::new();
    lab.edit_recipe("[eval]\n", "[eval]\nevery = 3\nvalidation = [\"data/test\"]\nlimit = 8\n");
    lab.edit_recipe("keep = 2\n", "keep = 1\nbest = { metric = \"loss\", mode = \"min\" }\n");
    // A rate at which the loss goes up and down, so that the best is not the last.
    let base = ["train", "--set", "train.ema_decay=0.8", "--set", "train.lr=3e-2", "--set", "train.decay=\"constant\""];
    let run = |folder: &str, more: &[&str]| {
        let folder = format!("run.folder={folder}");
        lab.run(&[&base[..], &["--set", "train.steps=14", "--set", &folder], more].concat()).ok()
    };
    let said = run("runs/a", &[]).err;
    assert!(said.contains("s, moving average: "), "{said}");
    run("runs/last", &["--set", "eval.weights=\"last\""]);
    // Measuring the average changes nothing of the run.
    assert_eq!(results(&lab, "runs/a"), results(&lab, "runs/last"));

    // The loss of a folder on the same samples: an update of nothing, all of them in one batch.
    let loss_of = |model: &str, folder: &str| {
        let sets = [
            format!("model.folder={model}"),
            format!("run.folder=runs/{folder}"),
            "train.steps=1".into(),
            "train.lr=1e-30".into(),
            "train.warmup_steps=0".into(),
            "data.train=\"data/test\"".into(),
            "data.capacity=4096".into(),
            "data.epochs=1".into(),
            "eval.every=0".into(),
            "checkpoint={ every = 0 }".into(),
        ];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
        lab.run(&[&["train"], &sets[..]].concat()).ok();
        lab.losses(&format!("runs/{folder}"))[0].1
    };
    let evaluated = |run: &str| -> Vec<(u64, f64)> {
        lab.evals(run).iter().map(|(step, values)| (*step, values["loss"].as_f64().unwrap())).collect()
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b, "{a} and {b}");
    let (averaged, last) = (evaluated("runs/a"), evaluated("runs/last"));
    near(averaged[4].1, loss_of("runs/a/model-ema", "of-average"));
    near(last[4].1, loss_of("runs/a/model", "of-last"));
    assert!((averaged[4].1 - last[4].1).abs() > 1e-3 * last[4].1, "{averaged:?} {last:?}");

    // The best by the average, and what its checkpoint is exported as.
    let best = averaged.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let link = fs::read_link(lab.at("runs/a/checkpoints/best")).unwrap();
    assert_eq!(link.to_str(), Some(format!("step-{}", best.0).as_str()));
    let said = lab.run(&["model", "export", "runs/a/checkpoints/best", "--out", "best"]).ok();
    assert!(said.out.contains(&format!("after step {}, moving average", best.0)), "{}", said.out);
    near(best.1, loss_of("best", "of-best"));

    // The newest is the last: what the run wrote itself, either way.
    lab.run(&["model", "export", "runs/a", "--out", "out/ema", "--weights", "ema"]).ok();
    lab.run(&["model", "export", "runs/a", "--out", "out/last", "--weights", "last"]).ok();
    let bytes = |path: &str| fs::read(lab.at(path).join("model.safetensors")).unwrap();
    assert_eq!(bytes("out/ema"), bytes("runs/a/model-ema"));
    assert_eq!(bytes("out/last"), bytes("runs/a/model"));
    lab.run(&["model", "export", "runs/a", "--out", "best"]).fails_with(&["best is there already"]);
    lab.run(&["model", "export", "runs/a", "--out", "x", "--base", "model"]).fails_with(&["--base", "whole weights"]);
    lab.run(&["model", "export", "data", "--out", "x"]).fails_with(&["neither a checkpoint"]);
    lab.run(&["model", "export", "runs/of-last", "--out", "x", "--weights", "ema"])
        .fails_with(&["no moving average", "--weights last"]);
    lab.run(&["train", "--set", "eval.weights=\"ema\""]).fails_with(&["eval.weights is \"ema\"", "0.999"]);
    assert!(!lab.at("x").exists());
}
