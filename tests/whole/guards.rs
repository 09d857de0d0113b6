//! What is legal though it looks odd, and what a run refuses to begin with.

use std::fs;

use serde_json::json;

use crate::lab::{Lab, jsonl, root};

fn text(question: &str, answer: &str) -> Vec<(&'static str, Vec<u8>)> {
    let messages = [json!({"role": "user", "content": question}), json!({"role": "assistant", "content": answer})];
    vec![("json", json!({"messages": messages}).to_string().into_bytes())]
}

#[test]
fn text_alone_is_learnt() {
    let lab = Lab::new();
    let samples: Vec<_> = (0..24).map(|i| (format!("t{i:02}"), text("what colour is it?", "red"))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, parts)| (key.as_str(), parts.clone())).collect();
    lab.write_shard(&samples);
    for (run, policy) in [("runs/a", "none"), ("runs/b", "full"), ("runs/c", "selective")] {
        let set = [format!("run.folder={run}"), format!("train.recompute=\"{policy}\"")];
        lab.run(&["train", "--set", "train.steps=20", "--set", &set[0], "--set", &set[1]]).ok();
        let (lines, losses) = (jsonl(lab.at(run).join("metrics.jsonl")), lab.losses(run));
        assert!(lines.iter().all(|line| line["images"] == 0));
        assert!(losses[19].1 < 0.6 * losses[0].1, "{policy}: {losses:?}");
    }
}

#[test]
fn a_micro_batch_without_learnt_tokens_is_legal() {
    let lab = Lab::new();
    // Of a prompt that learns nothing of quiet records: some micro-batches of an update have learnt tokens, and some updates have
    // none at all.
    let sample = |i: usize| text(if i % 8 == 0 || i < 8 { "loud" } else { "quiet" }, "yes");
    let samples: Vec<_> = (0..32).map(|i| (format!("s{i:02}"), sample(i))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, parts)| (key.as_str(), parts.clone())).collect();
    lab.write_shard(&samples);
    let guest = root().join("tests/fixtures/guests/misbehave_prompt.wasm");
    let prompt = format!("plugins.prompt={{ plugin = \"{}\", entry = \"unlearnt\" }}", guest.display());
    let set = [
        "data.epochs=1",
        "data.shuffle_buffer=0",
        "data.packs_per_batch=1",
        "data.max_items_per_pack=1",
        "train.steps=16",
        "train.accumulation=2",
        "plugins.packer={ plugin = \"packers/sequential.wasm\" }",
        prompt.as_str(),
    ];
    let args: Vec<&str> = ["train"].into_iter().chain(set.iter().flat_map(|pair| ["--set", *pair])).collect();
    lab.run(&args).ok();
    let lines = jsonl(lab.at("runs/a/metrics.jsonl"));
    let learnt: Vec<u64> = lines.iter().map(|line| line["learnt_tokens"].as_u64().unwrap()).collect();
    assert_eq!(learnt.len(), 16);
    let both = learnt[0];
    // Two, one and no micro-batch with learnt tokens.
    assert!(both > 0 && learnt[4] == both / 2 && learnt[5] == 0, "{learnt:?}");
    for line in &lines {
        assert!(line["loss"].as_f64().unwrap().is_finite() && line["grad_norm"].as_f64().unwrap().is_finite());
    }
    assert_eq!(lines[5]["loss"], 0.0);
    assert_eq!(fs::metadata(lab.at("runs/a/rejects.jsonl")).unwrap().len(), 0, "none is lost");
    assert!(lines[15]["samples"] == 2 && lab.losses("runs/a")[4].1 < lab.losses("runs/a")[0].1);
}

#[test]
fn missing_and_partial_weights_are_refused() {
    let lab = Lab::new();
    let path = lab.at("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    let save = |keep: &dyn Fn(&str) -> bool| {
        let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
        let views: Vec<_> = tensors.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let train = ["train"];
    let dry = ["train", "--dry-run"];
    for args in [&train[..], &dry[..]] {
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        lab.run(args).fails_with(&["model.safetensors", "cut off"]);
        save(&|name| name != "visual.blocks.0.mlp.fc2.bias");
        lab.run(args).fails_with(&["visual.blocks.0.mlp.fc2.bias", "is missing"]);
        save(&|name| name != "lm_head.weight");
        lab.run(args).fails_with(&["lm_head.weight", "tie_word_embeddings"]);
        fs::remove_file(&path).unwrap();
        lab.run(args).fails_with(&["no model.safetensors"]);
        // None of that was the beginning of a run.
        assert!(!lab.at("runs/a/run.json").exists());
    }
    fs::write(&path, &whole).unwrap();
    lab.run(&["train", "--set", "train.steps=2"]).ok();
}
