//! Merging holds no tensor of its sources. Alone in its process, whose peak memory it reads.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ovhost_data::tokenizer_train::train_bpe;
use ovhost_model::llava_onevision1_5::merge::{MergeOptions, VisionSource, merge};
use serde_json::{Map, json};

/// A line of this process's status, in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A bf16 file of zeros that takes no room on the disk.
fn sparse(path: &Path, tensors: &[(String, Vec<u64>)]) -> u64 {
    let (mut header, mut at) = (Map::new(), 0u64);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<u64>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + at).unwrap();
    at
}

#[test]
fn memory_does_not_grow_with_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let llm = dir.path().join("llm");
    let texts = ["What is this?", "a red square"];
    train_bpe(texts.iter().map(|s| (*s).to_owned()), 300, &llm).unwrap();
    let (vocab, width, inner) = (20_000u64, 1024u64, 4096u64);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ];
    for layer in 0..6 {
        let mut add =
            |name: &str, shape: &[u64]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for name in ["q", "k", "v", "o"] {
            add(&format!("self_attn.{name}_proj.weight"), &[width, width]);
        }
        add("input_layernorm.weight", &[width]);
        add("post_attention_layernorm.weight", &[width]);
        add("mlp.gate_proj.weight", &[inner, width]);
        add("mlp.up_proj.weight", &[inner, width]);
        add("mlp.down_proj.weight", &[width, inner]);
    }
    let bytes = sparse(&llm.join("model.safetensors"), &tensors);
    let config = json!({"model_type": "llama", "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": true});
    std::fs::write(llm.join("config.json"), config.to_string()).unwrap();
    let vision = dir.path().join("vision.json");
    let tower = json!({"model_type": "rice_vit", "depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "patch_size": 4});
    std::fs::write(&vision, tower.to_string()).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let options = MergeOptions {
        vision: VisionSource::New(vision),
        llm,
        out: dir.path().join("out"),
        seed: 1,
        untie: true,
        shard_bytes: 64 << 20,
        processor: None,
        system: String::new(),
    };
    let report = merge(&options, &mut |_, _| {}).unwrap();
    let taken = (status("VmHWM").saturating_sub(before)) << 10;
    println!(
        "{} MB of weights in {} files; {} MB more memory at the peak",
        bytes / 1_000_000,
        report.files.len(),
        taken / 1_000_000
    );
    // Below the largest tensor, and a tenth of the weights.
    assert!(bytes > 200_000_000 && taken < 24_000_000, "{taken} of {bytes}");
}
