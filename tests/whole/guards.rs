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
fn a_sample_without_learnt_tokens_is_a_reject_that_says_so() {
    let lab = Lab::new();
    // Of a prompt that learns nothing of quiet records.
    let samples: Vec<_> =
        (0..32).map(|i| (format!("s{i:02}"), text(if i % 3 == 0 { "loud" } else { "quiet" }, "yes"))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, parts)| (key.as_str(), parts.clone())).collect();
    lab.write_shard(&samples);
    let guest = root().join("tests/fixtures/guests/misbehave_prompt.wasm");
    let prompt = format!("plugins.prompt={{ plugin = \"{}\", entry = \"unlearnt\" }}", guest.display());
    let set = ["data.epochs=1", "data.max_reject_rate=1.0", "train.steps=20", "train.accumulation=2", prompt.as_str()];
    let args: Vec<&str> = ["train"].into_iter().chain(set.iter().flat_map(|pair| ["--set", *pair])).collect();
    lab.run(&args).ok();
    let lines = jsonl(lab.at("runs/a/metrics.jsonl"));
    assert!(lines.iter().all(|line| line["learnt_tokens"].as_u64().unwrap() > 0));
    assert_eq!(lines.iter().map(|line| line["samples"].as_u64().unwrap()).sum::<u64>(), 11);
    let rejects = jsonl(lab.at("runs/a/rejects.jsonl"));
    assert_eq!(rejects.len(), 21);
    assert!(rejects.iter().all(|line| line["reason"].as_str().unwrap().contains("no token of it is to be learnt")));
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
