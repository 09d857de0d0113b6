//! Runs with adapters: what moves, what is kept, and that a run that goes on is an unbroken one.

use std::{collections::BTreeMap, fs};

use crate::lab::Lab;

fn tensors(lab: &Lab, path: &str) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(lab.at(path)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensors().into_iter().map(|(n, t)| (n, t.data().to_vec())).collect()
}

const LORA: [&str; 7] = [
    "train",
    "--set",
    "train.lora={ rank = 4, dropout = 0.2, targets = [\"self_attn.{q,v}_proj\"] }",
    "--set",
    "train.vision.train=false",
    "--set",
    "train.merger.lr=1e-3",
];

#[test]
fn only_adapters_and_modules_without_them_move() {
    let lab = Lab::new();
    lab.run(&LORA).ok();
    let (before, after) = (tensors(&lab, "model/model.safetensors"), tensors(&lab, "runs/a/model/model.safetensors"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, bytes) in &before {
        let moves = name.contains("merger") || name.contains("q_proj.weight") || name.contains("v_proj.weight");
        assert_eq!(bytes != &after[name], moves, "{name}");
    }
    let trained = tensors(&lab, "runs/a/checkpoints/step-8/model/trained.safetensors");
    assert!(trained.keys().all(|name| name.contains("merger") || name == "base.norms"), "{:?}", trained.keys());
    assert_eq!(trained.len(), 7);
    let adapter = tensors(&lab, "runs/a/checkpoints/step-8/model/adapter_model.safetensors");
    assert_eq!(adapter.len(), 2 * 2 * 2);
    assert_eq!(adapter, tensors(&lab, "runs/a/adapter/adapter_model.safetensors"));
    assert!(lab.at("runs/a/adapter/adapter_config.json").is_file());
    assert!(!lab.at("runs/a/checkpoints/step-8/model/model.safetensors").exists());
}

#[test]
fn it_learns_goes_on_and_computes_again_bit_for_bit() {
    let lab = Lab::new();
    lab.run(&[&LORA[..], &["--set", "train.steps=30", "--set", "train.lr=2e-2"]].concat()).ok();
    let losses = lab.losses("runs/a");
    assert!(losses[29].1 < losses[0].1 * 0.9, "{} -> {}", losses[0].1, losses[29].1);

    let small = [&LORA[..], &["--set", "run.folder=runs/b"]].concat();
    lab.run(&small).ok();
    let expected = (lab.losses("runs/b"), lab.weights("runs/b"));
    fs::remove_dir_all(lab.at("runs/b/checkpoints/step-8")).unwrap();
    let run = lab.run(&[&small[..], &["--resume"]].concat()).ok();
    assert!(run.err.contains("step-6"), "{}", run.err);
    assert_eq!(expected, (lab.losses("runs/b"), lab.weights("runs/b")));

    let again = ["--set", "run.folder=runs/c", "--set", "train.recompute=\"full\""];
    lab.run(&[&LORA[..], &again].concat()).ok();
    assert_eq!(expected, (lab.losses("runs/c"), lab.weights("runs/c")));
    let without = [&small[..], &["--set", "run.folder=runs/d", "--set", "train.lora.dropout=0.0"]].concat();
    lab.run(&without).ok();
    assert_ne!(expected.0, lab.losses("runs/d"));
}

#[test]
fn what_does_not_fit_is_said() {
    let lab = Lab::new();
    let with = |set: &str| lab.run(&["train", "--set", set]);
    with("train.lora.targets=[\"self_attn.q_prj\"]").fails_with(&[
        "self_attn.q_prj",
        "names no linear layer",
        "self_attn.q_proj",
    ]);
    with("train.lora.rank=0").fails_with(&["train.lora.rank is 0"]);
    with("train.lora.ranks=2").fails_with(&["ranks", "did you mean `rank`"]);
    lab.run(&["train", "--set", "train.lora.rank=2", "--set", "train.language.train=false"])
        .fails_with(&["train.language.train is false", "train.lora.targets"]);
    assert!(!lab.at("runs/a/run.json").exists(), "nothing was begun");

    lab.run(&LORA).ok();
    lab.run(&["train", "--resume", "--allow-recipe-change"]).fails_with(&["with adapters", "no train.lora"]);
    let model = lab.at("model/model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    let end = bytes.len();
    bytes[end - 4000..].iter_mut().step_by(4).for_each(|byte| *byte ^= 0x40);
    bytes[end - 4000..].iter_mut().skip(2).step_by(4).for_each(|byte| *byte ^= 0x20);
    fs::write(&model, bytes).unwrap();
    lab.run(&[&LORA[..], &["--resume"]].concat()).fails_with(&["other weights than those of model.folder"]);
}

#[test]
fn a_checkpoint_is_exported_merged_as_the_run_would_have_done() {
    let lab = Lab::new();
    // The same rate at every step, so that six steps of eight are a run of six.
    let base = [&LORA[..], &["--set", "train.decay=\"constant\"", "--set", "train.ema_decay=0.5"]].concat();
    let stopped = "runs/a/checkpoints/step-6";
    lab.run(&[&base[..], &["--set", "train.steps=8"]].concat()).ok();
    lab.run(&[&base[..], &["--set", "train.steps=6", "--set", "run.folder=runs/six"]].concat()).ok();
    let export = |args: &[&str]| lab.run(&[&["model", "export"], args].concat());
    let out = export(&[stopped, "--out", "last", "--weights", "last", "--adapter", "adapter"]).ok().out;
    assert!(out.contains("after step 6") && out.contains("adapters merged"), "{out}");
    let weights = |folder: &str| tensors(&lab, &format!("{folder}/model.safetensors"));
    assert_eq!(weights("last"), weights("runs/six/model"));
    let adapter = |folder: &str| tensors(&lab, &format!("{folder}/adapter_model.safetensors"));
    assert_eq!(adapter("adapter"), adapter("runs/six/adapter"));
    export(&[stopped, "--out", "average"]).ok();
    assert_eq!(weights("average"), weights("runs/six/model-ema"));
    assert_ne!(weights("average"), weights("last"));
    lab.run(&["infer", "--model", "last", "--prompt", "hello", "--max-new-tokens", "2"]).ok();

    // Elsewhere the base must be named, and must be the one.
    fs::rename(lab.at("runs/a"), lab.at("moved")).unwrap();
    export(&["moved/checkpoints/step-6", "--out", "x"]).fails_with(&["--base", "model"]);
    export(&["moved/checkpoints/step-6", "--out", "x", "--base", "model", "--weights", "last"]).ok();
    assert_eq!(weights("x"), weights("last"));
    export(&["moved/checkpoints/step-6", "--out", "y", "--base", "last"]).fails_with(&["other weights"]);
    assert!(!lab.at("y").exists());
}
