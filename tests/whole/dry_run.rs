//! `ovhost train --dry-run`: what it checks, what it tells, and that it leaves nothing behind.

use std::fs;

use serde_json::Value;

use crate::lab::{Lab, Ran, command, jsonl};

fn plan(lab: &Lab, more: &[&str]) -> Value {
    let out = lab.run(&[&["train", "--dry-run", "--json"], more].concat()).ok().out;
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn a_plan_is_what_the_run_then_does() {
    let lab = Lab::new();
    let held = ["--set", "eval.every=4", "--set", "eval.validation=[\"data/test\"]", "--set", "eval.limit=5"];
    let plan = plan(&lab, &held);
    assert!(!lab.at("runs").exists(), "nothing is written");
    assert_eq!(plan["data"]["samples"], 48);
    assert_eq!(plan["validation"]["samples"], 12);
    assert_eq!(plan["questions"], 5);
    assert_eq!(plan["problems"].as_array().unwrap().len(), 0);
    lab.run(&[&["train"], &held[..]].concat()).ok();
    let record: Value = serde_json::from_slice(&fs::read(lab.at("runs/a/run.json")).unwrap()).unwrap();
    for key in ["parameters", "trained_parameters"] {
        assert_eq!(plan["weights"][key].as_f64(), record[key].as_f64(), "{key}");
    }
    let first = &jsonl(lab.at("runs/a/metrics.jsonl"))[0];
    let batch = &plan["data"]["batch"];
    for (key, of) in
        [("tokens", "tokens"), ("learnt_tokens", "learnt_tokens"), ("images", "images"), ("samples", "samples")]
    {
        assert_eq!(batch[key], first[of], "{key}");
    }
    let (planned, done) = (plan["time"]["tflop_per_update"].as_f64().unwrap(), first["tflop"].as_f64().unwrap());
    assert!((planned / done - 1.0).abs() < 1e-9, "{planned} {done}");
    assert!(plan["time"]["by"].as_str().unwrap().starts_with("measured"), "{}", plan["time"]);
    assert!(plan["time"]["seconds_per_update"].as_f64().unwrap() > 0.0);
    // A checkpoint is as large as planned, but for headers, the tokenizer and the state.
    let folder = lab.at("runs/a/checkpoints/step-8");
    let size = |name: &str| fs::metadata(folder.join(name)).unwrap().len() as f64;
    let (planned, real) =
        (plan["disk"]["checkpoint"].as_f64().unwrap(), size("model/model.safetensors") + size("optimizer.safetensors"));
    assert!((real / planned - 1.0).abs() < 0.1, "{planned} {real}");
}

#[test]
fn memory_follows_the_recipe() {
    let lab = Lab::new();
    let memory = |more: &[&str]| plan(&lab, more)["memory"].clone();
    let number = |memory: &Value, key: &str| memory[key].as_f64().unwrap();
    let fp32 = memory(&[]);
    let weights = number(&fp32, "weights");
    assert_eq!(number(&fp32, "moments"), 2.0 * weights);
    assert_eq!(number(&fp32, "snapshot"), 3.0 * weights);
    assert_eq!(number(&fp32, "masters"), 0.0);
    let of = |memory: &Value, at: usize| memory["activations"][at]["peak"].as_f64().unwrap();
    assert!(of(&fp32, 0) > of(&fp32, 1) && of(&fp32, 1) > of(&fp32, 2), "none, selective, full: {fp32}");
    let bf16 = memory(&["--set", "model.precision=\"bf16\"", "--set", "checkpoint.asynchronous=false"]);
    assert_eq!(number(&bf16, "weights"), weights / 2.0);
    assert_eq!(number(&bf16, "masters"), weights);
    assert_eq!(number(&bf16, "snapshot"), 0.0);
    let frozen = memory(&["--set", "train.language.train=false"]);
    assert!(number(&frozen, "moments") < number(&fp32, "moments"));
    let full = memory(&["--set", "train.recompute=\"full\""]);
    assert!(number(&full, "peak") < number(&fp32, "peak"));
}

#[test]
fn what_is_in_the_way_is_said() {
    let lab = Lab::new();
    let run = lab.run(&["train", "--dry-run"]).ok();
    for part in ["48 samples in 1 shards", "all there", "recompute = \"full\"", "checkpoints of", "an update"] {
        assert!(run.out.contains(part), "{part} is missing:\n{}", run.out);
    }
    lab.run(&["train", "--dry-run", "--set", "data.train=\"nowhere\""]).fails_with(&["nowhere"]);
    lab.run(&["train", "--dry-run", "--resume"]).fails_with(&["--resume", "holds no run"]);
    lab.run(&["train", "--dry-run", "--plugins", "packers/none.wasm"]).fails_with(&["packers/none.wasm"]);
    // Every sample is filtered away: no first batch.
    let none = ["--set", "plugins.filter=[{ plugin = \"filters/image_geometry.wasm\", config = { min_side = 999 } }]"];
    lab.run(&[&["train", "--dry-run"], &none[..]].concat()).fails_with(&["data.train"]);
    lab.run(&["train"]).ok();
    lab.run(&["train", "--dry-run"]).fails_with(&["already holds a run", "--resume"]);
    lab.run(&["train", "--dry-run", "--resume"]).ok();
    fs::write(lab.at("model/model.safetensors"), b"short").unwrap();
    lab.run(&["train", "--dry-run", "--set", "run.folder=runs/b"]).fails_with(&["model.safetensors", "damaged"]);
}

#[test]
fn several_processes_are_refused_as_long_as_gradients_are_not_summed() {
    let lab = Lab::new();
    let run = |rank: &str, world: &str, args: &[&str]| {
        Ran::of(command(lab.path(), args).env("RANK", rank).env("WORLD_SIZE", world).output().unwrap())
    };
    run("1", "4", &["train"]).fails_with(&["WORLD_SIZE is 4", "gradients", "not summed"]);
    assert!(!lab.at("runs").exists());
    run("4", "4", &["train"]).fails_with(&["RANK is 4", "WORLD_SIZE is 4"]);
    run("x", "4", &["train"]).fails_with(&["RANK", "\"x\"", "not a number"]);
    // The data is dealt out: another rank begins with other samples.
    let dry = run("1", "4", &["train", "--dry-run", "--json"]);
    assert_eq!(dry.code, 1);
    assert!(dry.err.contains("WORLD_SIZE is 4"), "{}", dry.err);
    let plan: Value = serde_json::from_str(&dry.out).unwrap();
    assert_eq!((&plan["data"]["rank"], &plan["data"]["world"]), (&1.into(), &4.into()));
    run("0", "1", &["train", "--set", "train.steps=2"]).ok();
}
