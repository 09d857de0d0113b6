//! The model against exact values of the reference implementation, in every way in which it can be loaded and batched.

use std::path::{Path, PathBuf};

use ovhost_model::{LlavaOnevision, LoadOptions, ModelConfig, Recompute, RecomputePolicy, VerifyWay, VisionEps};
use tch::{Device, Kind};

const FP32: LoadOptions = LoadOptions { device: Device::Cpu, kind: Kind::Float };

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llava-ov-1.5")
}

fn copy(to: &Path, names: &[&str]) {
    for name in names {
        std::fs::copy(fixture().join(name), to.join(name)).unwrap();
    }
}

#[test]
fn every_expected_value_agrees() {
    let report = ovhost_model::verify(fixture(), fixture().join("expected.safetensors"), 1e-4).unwrap();
    println!("{report}");
    assert!(report.passed(), "{report}");
    for name in
        ["image.3.vit", "seq.2.logits", "seq.1.greedy", "packed.grad_norm", "adamw.9.loss", "grad.lm_head.weight"]
    {
        assert!(report.rows.iter().any(|r| r.name == name), "{name} was not compared");
    }
    assert_eq!(report.rows.iter().filter(|r| r.name.starts_with("grad.")).count(), 71);
}

/// Gradients and ten AdamW steps of the reference, whatever is computed again and however the batch and the loss are cut.
#[test]
fn every_way_to_train_agrees() {
    let full = Recompute { policy: RecomputePolicy::Full, every: 1 };
    let ways = [
        VerifyWay { recompute: full, ..VerifyWay::default() },
        VerifyWay { recompute: Recompute { every: 2, ..full }, ..VerifyWay::default() },
        VerifyWay { recompute: Recompute { policy: RecomputePolicy::Selective, ..full }, ..VerifyWay::default() },
        VerifyWay { loss_chunk: Some(5), ..VerifyWay::default() },
        VerifyWay { per_micro: 1, ..VerifyWay::default() },
        VerifyWay { recompute: full, loss_chunk: Some(7), per_micro: 2, ..VerifyWay::default() },
    ];
    for way in ways {
        let report = ovhost_model::verify_in(fixture(), fixture().join("expected.safetensors"), 1e-4, way).unwrap();
        assert!(report.passed(), "{way:?}: {report}");
        assert_eq!(report.rows.iter().filter(|r| r.name.starts_with("adamw.")).count(), 20);
    }
}

#[test]
fn other_epsilons_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), &["model.safetensors", "preprocessor_config.json"]);
    let config = LlavaOnevision::with_vision_eps(ModelConfig::from_folder(fixture()).unwrap(), VisionEps::MEGATRON);
    std::fs::write(folder.path().join("config.json"), config.to_json("float32").to_string()).unwrap();
    assert_eq!(ModelConfig::from_folder(folder.path()).unwrap().vision.eps, VisionEps::MEGATRON);
    let report = ovhost_model::verify(folder.path(), fixture().join("expected.safetensors"), 1e-6).unwrap();
    let vit = report.rows.iter().find(|r| r.name == "image.0.vit").unwrap();
    assert!(vit.relative_error > 1e-6, "{vit:?}");
}

#[test]
fn saving_is_bit_exact_and_writes_short_names() {
    let model = LlavaOnevision::load(fixture(), &FP32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save_folder(folder.path(), fixture()).unwrap();
    let file = ovhost_model::Checkpoint::open_file(&folder.path().join("model.safetensors")).unwrap();
    assert!(file.contains("visual.class_embedding") && file.contains("model.layers.0.mlp.up_proj.weight"));
    assert!(folder.path().join("preprocessor_config.json").is_file());
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["text_config"]["tie_word_embeddings"], false);
    assert_eq!(value["vocab_size"], 512);
    assert_eq!(value["vision_start_token_id"], 502, "unknown keys are kept");
    let again = LlavaOnevision::load(folder.path(), &FP32).unwrap();
    assert_eq!(ModelConfig::from_folder(folder.path()).unwrap().text, model.config().text);
    for (a, b) in model.parameters().iter().zip(again.parameters()) {
        assert_eq!(a.name, b.name);
        assert!(a.tensor.equal(&b.tensor), "{}", a.name);
    }
}

/// Loads a folder whose config.json was edited; returns the error.
fn broken(edit: impl Fn(&mut serde_json::Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), &["model.safetensors"]);
    let mut value: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture().join("config.json")).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(folder.path().join("config.json"), value.to_string()).unwrap();
    LlavaOnevision::load(folder.path(), &FP32).err().expect("must not load").to_string()
}

#[test]
fn what_does_not_fit_is_named() {
    let e = broken(|v| v["text_config"]["num_hidden_layers"] = 4.into());
    assert!(
        e.contains("layers.3.input_layernorm.weight") && e.contains("missing") && e.contains("model.safetensors"),
        "{e}"
    );
    let e = broken(|v| v["text_config"]["num_hidden_layers"] = 2.into());
    assert!(e.contains("unexpected tensor model.language_model.layers.2."), "{e}");
    let e = broken(|v| v["text_config"]["vocab_size"] = 513.into());
    assert!(e.contains("embed_tokens") && e.contains("[512, 64]") && e.contains("[513, 64]"), "{e}");
    let e = broken(|v| v["text_config"]["rope_scaling"] = serde_json::json!({"rope_type": "yarn"}));
    assert!(e.contains("text_config.rope_scaling") && e.contains("yarn") && e.contains("default"), "{e}");
    let e = broken(|v| v["text_config"]["sliding_window"] = 512.into());
    assert!(e.contains("text_config.sliding_window") && e.contains("512"), "{e}");
    let e = broken(|v| v["vision_config"]["hidden_act"] = "quick_gelu".into());
    assert!(e.contains("vision_config.hidden_act") && e.contains("\"gelu\""), "{e}");
    let e = broken(|v| v["text_config"]["num_experts"] = 8.into());
    assert!(e.contains("num_experts"), "{e}");
    let e = broken(|v| v["vision_config"]["text_hidden_size"] = 65.into());
    assert!(e.contains("text_hidden_size") && e.contains("64"), "{e}");
}

#[test]
fn damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), &["model.safetensors", "config.json"]);
    let path = folder.path().join("model.safetensors");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 100).unwrap();
    let error = LlavaOnevision::load(folder.path(), &FP32).err().unwrap().to_string();
    assert!(error.contains("model.safetensors") && error.contains("cut off"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = LlavaOnevision::load(folder.path(), &FP32).err().unwrap().to_string();
    assert!(error.contains("no model.safetensors"), "{error}");
}
