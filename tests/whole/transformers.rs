//! `transformers` computes what this program computes, from the same folders; and it reads what this program writes.
//!
//! The packages are those of `$OVHOST_PYTHON` (else `python3`); what is not installed is skipped with a word.

use std::{fs, path::Path, process::Command};

use ovhost_model::Checkpoint;
use serde_json::{Value, json};

use crate::lab::{Lab, root};

/// Runs `transformers_peer.py`; none where Python cannot be started.
fn python(args: &[&str]) -> Option<String> {
    let python = std::env::var_os("OVHOST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    // Its torch must not find the libraries of another.
    command.arg(root().join("tests/whole/transformers_peer.py")).args(args).env_remove("LD_LIBRARY_PATH");
    let output = command.env("OMP_NUM_THREADS", "1").output().ok()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "transformers_peer.py {args:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Whether all of these are installed; says so where one is not.
fn installed(packages: &[&str]) -> bool {
    let versions: Value =
        python(&[&["versions"], packages].concat()).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    let missing: Vec<&str> = packages.iter().copied().filter(|p| versions.get(p).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {} not installed; name a Python that has it in OVHOST_PYTHON", missing.join(", "));
    }
    missing.is_empty()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The lab's tokenizer in a folder of its own.
fn with_tokenizer(lab: &Lab, name: &str) -> String {
    let dir = lab.at(name);
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(lab.at("tokenizer")).unwrap().map(|e| e.unwrap().path()) {
        fs::copy(&entry, dir.join(entry.file_name().unwrap())).unwrap();
    }
    text(&dir).to_owned()
}

/// Every row of `model verify` passes, and there are at least so many.
fn verified(lab: &Lab, model: &str, expected: &str, rows: &[&str]) {
    let ran =
        lab.run(&["model", "verify", "--model", model, "--expected", &format!("{expected}/expected.safetensors")]).ok();
    for row in rows {
        assert!(ran.out.contains(row), "no {row} in:\n{}", ran.out);
    }
}

#[test]
fn decoders_of_three_families_give_the_same_logits() {
    if !installed(&["transformers", "torch"]) {
        return;
    }
    let lab = Lab::new();
    for kind in ["qwen2", "qwen3", "llama"] {
        let folder = with_tokenizer(&lab, kind);
        python(&["language", kind, &folder]);
        let out = format!("{kind}-merged");
        lab.run(&["model", "merge", "--new-vision", "architecture.json", "--llm", kind, "--out", &out]).ok();
        verified(&lab, &out, &format!("{kind}/expected"), &["seq.0.logits", "seq.1.loss_sum", "seq.0.greedy"]);
        // What is switched is in force: a decoder without it computes something else.
        let path = lab.at(&out).join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["text_config"]["rope_theta"] = json!(10_000.0);
        fs::write(&path, config.to_string()).unwrap();
        let file = format!("{kind}/expected/expected.safetensors");
        assert_ne!(lab.run(&["model", "verify", "--model", &out, "--expected", &file]).code, 0, "{kind}");
    }
}

#[test]
fn a_rice_tower_gives_the_same_features() {
    if !installed(&["transformers", "torch"]) {
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.at("rice")).unwrap();
    python(&["tower", text(&lab.at("rice"))]);
    let folder = with_tokenizer(&lab, "llm");
    python(&["language", "qwen3", &folder]);
    lab.run(&["model", "merge", "--vision", "rice", "--llm", "llm", "--out", "merged", "--max-shard-size", "20KB"])
        .ok();
    verified(&lab, "merged", "rice/expected", &["image.0.vit", "image.1.vit"]);
}

#[test]
fn exports_load_in_transformers() {
    if !installed(&["transformers", "torch", "PIL"]) {
        return;
    }
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=3"]).ok();
    let out = lab.at("theirs");
    python(&["export", text(&lab.at("runs/a/model")), text(&out)]);
    verified(&lab, "runs/a/model", "theirs", &["image.0.pixel_values", "seq.0.logits", "seq.0.greedy"]);
    // A merged folder, in several files.
    let folder = with_tokenizer(&lab, "llm");
    python(&["language", "qwen3", &folder]);
    let args = ["--new-vision", "architecture.json", "--processor", "preprocessor_config.json", "--llm", "llm"];
    lab.run(&[["model", "merge"].as_slice(), &args, &["--out", "merged", "--max-shard-size", "50KB"]].concat()).ok();
    python(&["export", text(&lab.at("merged")), text(&lab.at("of-merged"))]);
    verified(&lab, "merged", "of-merged", &["image.0.pixel_values", "seq.0.logits", "seq.0.greedy"]);
}

#[test]
fn adapters_load_in_peft_and_give_the_logits_of_the_merged_model() {
    if !installed(&["peft", "transformers", "torch"]) {
        return;
    }
    let lab = Lab::new();
    for (run, more) in
        [("runs/a", ""), ("runs/b", ", rslora = true, alpha = 6.0, targets = [\"language_model.layers.1.mlp.*\"]")]
    {
        let sets = [
            format!("train.lora={{ rank = 3{more} }}"),
            format!("run.folder={run}"),
            "train.lr=2e-2".into(),
            "train.vision.train=false".into(),
            "train.merger.train=false".into(),
        ];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
        lab.run(&[&["train"], &sets[..]].concat()).ok();
        let (adapter, out) = (lab.at(run).join("adapter"), lab.at(run).join("theirs"));
        python(&["adapter", text(&lab.at("model")), text(&adapter), text(&out)]);
        let rows = ["seq.0.logits", "seq.1.logits", "seq.1.loss_sum", "seq.0.greedy"];
        verified(&lab, &format!("{run}/model"), text(&out), &rows);
        // Without the adapters it computes something else.
        let file = out.join("expected.safetensors");
        assert_ne!(lab.run(&["model", "verify", "--model", "model", "--expected", text(&file)]).code, 0, "{run}");
    }
}

#[test]
fn gguf_files_of_every_quantisation_give_the_weights_of_its_own_package() {
    if !installed(&["gguf", "torch"]) {
        return;
    }
    let lab = Lab::new();
    let folder = with_tokenizer(&lab, "gguf");
    for kind in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"] {
        python(&["gguf", kind, &folder]);
        let out = format!("from-{kind}");
        lab.run(&["model", "import", &format!("gguf/{kind}.gguf"), "--out", &out]).ok();
        let ours = Checkpoint::open_file(&lab.at(&out).join("model.safetensors")).unwrap();
        let theirs = Checkpoint::open_file(&lab.at(&format!("gguf/expected/{kind}.safetensors"))).unwrap();
        assert!(ours.names().eq(theirs.names()), "{kind}");
        for name in theirs.names() {
            let (a, b) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
            let error = (&a - &b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]);
            assert!(a.size() == b.size() && error < 1e-6, "{kind} {name}: {error}");
        }
        // The tokenizer is the one that went in.
        let (there, here) = (lab.at("tokenizer/tokenizer.json"), lab.at(&out).join("tokenizer.json"));
        let read = |path: &Path| tokenizers::Tokenizer::from_file(path).unwrap();
        let line = "What colour is it? 42 red\n\n<|im_end|>circles  über";
        let ids = |path: &Path| read(path).encode(line, false).unwrap().get_ids().to_vec();
        assert_eq!(ids(&there), ids(&here), "{kind}");
    }
}
