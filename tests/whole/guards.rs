//! What is legal though it looks odd, and what a run refuses to begin with.

use std::fs;

use serde_json::json;

use crate::lab::{Lab, jsonl};

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
