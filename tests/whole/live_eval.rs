//! Evaluations in the middle of a run: what they measure, what they keep, and that the run is none the worse for them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::lab::{Lab, command};

/// A run that is evaluated every third step by held-out loss and by a metric.
fn evaluated(lab: &Lab) {
    lab.edit_recipe("[eval]\n", "[eval]\nevery = 3\nvalidation = [\"data/test\"]\nlimit = 8\n");
    lab.edit_recipe("keep = 2\n", "keep = 1\nbest = { metric = \"loss\", mode = \"min\" }\n");
}

fn best_step(lab: &Lab, run: &str) -> u64 {
    let evals = lab.evals(run);
    let loss = |at: &(u64, serde_json::Value)| at.1["loss"].as_f64().unwrap();
    evals.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap().0
}

#[test]
fn a_run_is_evaluated_and_learns_the_same() {
    let lab = Lab::new();
    // A rate at which the held-out loss does not fall for ever, so that the best is not the last.
    let base = ["train", "--set", "train.steps=14", "--set", "train.lr=3e-2", "--set", "train.decay=\"constant\""];
    lab.run(&[&base[..], &["--set", "run.folder=runs/plain"]].concat()).ok();
    evaluated(&lab);
    let run = lab.run(&base).ok();
    assert!(run.err.contains("step 3 · evaluated in") && run.err.contains("exact_match"), "{}", run.err);
    assert_eq!(lab.losses("runs/plain"), lab.losses("runs/a"));
    assert_eq!(lab.weights("runs/plain"), lab.weights("runs/a"));

    let evals = lab.evals("runs/a");
    assert_eq!(evals.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6, 9, 12, 14], "every third and the last");
    for (step, values) in &evals {
        assert!(values["loss"].as_f64().unwrap() > 0.0);
        let share = values["exact_match"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share));
        let results = fs::read_to_string(lab.at(&format!("runs/a/eval/step-{step}/results.json"))).unwrap();
        assert!(results.contains("\"samples\": 8"), "eval.limit: {results}");
    }
    assert!(evals[0].1["loss"] != evals[4].1["loss"], "the weights are the live ones");

    // One checkpoint is kept, and the best beside it.
    let best = best_step(&lab, "runs/a");
    let link = fs::read_link(lab.at("runs/a/checkpoints/best")).unwrap();
    assert_eq!(link, Path::new(&format!("step-{best}")));
    let mut steps: Vec<u64> = fs::read_dir(lab.at("runs/a/checkpoints"))
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    let mut wanted = vec![best, 14];
    wanted.dedup();
    assert_eq!(steps, wanted);

    let event = fs::read_dir(lab.at("runs/a/tensorboard")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(event).unwrap();
    let count = |needle: &[u8]| bytes.windows(needle.len()).filter(|window| *window == needle).count();
    assert_eq!((count(b"eval/loss"), count(b"eval/exact_match")), (5, 5));
    lab.run(&["report", "runs/a"]).ok();
    let page = fs::read_to_string(lab.at("runs/a/report.html")).unwrap();
    assert!(page.contains("Held-out loss") && page.contains(&format!("step {best}: loss")));
}

#[test]
fn the_held_out_loss_is_that_of_training_on_it() {
    let lab = Lab::new();
    // Updates of nothing: both see the weights of the beginning.
    let still = ["train", "--set", "train.steps=1", "--set", "train.lr=1e-30", "--set", "train.warmup_steps=0"];
    let held = ["--set", "eval.every=1", "--set", "eval.validation=[\"data/test\"]", "--set", "eval.shards=[]"];
    lab.run(&[&still[..], &held, &["--set", "run.folder=runs/held"]].concat()).ok();
    // All of it in one batch.
    let whole = ["--set", "data.train=\"data/test\"", "--set", "data.capacity=4096", "--set", "data.epochs=1"];
    lab.run(&[&still[..], &whole, &["--set", "run.folder=runs/trained"]].concat()).ok();
    let evals = lab.evals("runs/held");
    let (held, trained) = (evals[0].1["loss"].as_f64().unwrap(), lab.losses("runs/trained")[0].1);
    assert_eq!(evals.len(), 1);
    assert!((held - trained).abs() < 1e-5 * trained, "{held} and {trained}");
    assert!(lab.at("runs/held/eval/validation_rejects.jsonl").is_file());
}

#[test]
fn killed_and_stopped_around_evaluations_and_resumed_equals_unbroken() {
    let lab = Lab::new();
    evaluated(&lab);
    let base = ["train", "--set", "train.steps=60", "--set", "checkpoint.every=4", "--set", "eval.every=2"];
    lab.run(&base).ok();
    let broken = [&base[..], &["--set", "run.folder=runs/b"]].concat();
    let mut seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    for part in 0..6 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let resume: &[&str] = if lab.at("runs/b/run.json").exists() { &["--resume"] } else { &[] };
        let mut child = command(lab.path(), &[&broken[..], resume].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + (seed >> 33) % 500));
        if part % 2 == 0 {
            child.kill().unwrap();
        } else {
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        }
        child.wait().unwrap();
    }
    let resume: &[&str] = if lab.at("runs/b/run.json").exists() { &["--resume"] } else { &[] };
    lab.run(&[&broken[..], resume].concat()).ok();
    assert_eq!(lab.losses("runs/a"), lab.losses("runs/b"));
    assert_eq!(lab.evals("runs/a"), lab.evals("runs/b"));
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/b"));
    let best = |run: &str| fs::read_link(lab.at(run).join("checkpoints/best")).unwrap();
    assert_eq!(best("runs/a"), best("runs/b"));
    assert!(lab.at("runs/b/checkpoints/best/model/model.safetensors").is_file());
}

#[test]
fn what_cannot_be_evaluated_or_compared_is_said() {
    let lab = Lab::new();
    let set = |pairs: &[&str]| -> Vec<String> {
        let sets = pairs.iter().flat_map(|pair| ["--set".to_owned(), (*pair).to_owned()]);
        ["train".to_owned()].into_iter().chain(sets).collect()
    };
    let run = |pairs: &[&str]| {
        let args = set(pairs);
        lab.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&["eval.every=2", "eval.shards=[]"]).fails_with(&["eval.every is 2", "eval.validation", "eval.shards"]);
    run(&["eval.limit=0"]).fails_with(&["eval.limit is 0"]);
    let best = "checkpoint.best={ metric = \"loss\", mode = \"min\" }";
    run(&[best]).fails_with(&["checkpoint.best.metric", "eval.every is 0"]);
    run(&[best, "eval.every=2"]).fails_with(&["checkpoint.best.metric", "eval.validation"]);
    run(&["eval.every=2", "plugins.metric=[]"]).fails_with(&["eval.every is 2", "[[plugins.metric]]"]);
    run(&["eval.every=2", "eval.validation=[\"nowhere\"]"]).fails_with(&["eval.validation", "nowhere"]);
    // A value that nobody gives shows at the first evaluation: what was learnt is saved, and the run goes on.
    let wrong = ["checkpoint.best={ metric = \"bleu\", mode = \"max\" }", "eval.every=3", "checkpoint.every=0"];
    run(&wrong).fails_with(&["\"bleu\"", "exact_match", "--resume"]);
    assert!(lab.at("runs/a/checkpoints/step-3").is_dir());
    lab.run(&["train", "--resume", "--set", "eval.every=3", "--set", "checkpoint.every=0"]).ok();
    assert_eq!(lab.losses("runs/a").len(), 8);
    assert_eq!(lab.evals("runs/a").iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6, 8]);
}
