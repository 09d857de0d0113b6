//! Adapters against plain autograd, in every way in which layers are computed again, and in and out of files.

use std::path::Path;

use ovhost_model::{
    Checkpoint, LlavaOnevision, LoadOptions, LoraOptions, Module, PackedInput, Param, Preset, Recompute,
    RecomputePolicy, Targets,
};
use tch::{Device, Kind, Tensor};

const FP32: LoadOptions = LoadOptions { device: Device::Cpu, kind: Kind::Float };

fn model() -> LlavaOnevision {
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads, v.patch_size) = (2, 16, 32, 2, 4);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 16, 64, 3);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 4);
    (t.initializer_range, t.tie_word_embeddings) = (0.2, false);
    (config.image_token_id, config.video_token_id) = (48, 49);
    LlavaOnevision::random(config, 7, Device::Cpu, Kind::Float).unwrap()
}

fn options(dropout: f64) -> LoraOptions {
    LoraOptions { rank: 3, alpha: 6.0, dropout, rslora: false }
}

/// The model with adapters in all layers whose names have one of `parts`, and values in every one of them.
fn adapted(parts: &[&str], dropout: f64) -> LlavaOnevision {
    let mut model = model();
    let targets: Vec<_> = model.adaptable().into_iter().filter(|n| parts.iter().any(|part| n.contains(part))).collect();
    assert!(!targets.is_empty());
    model.adapt(&targets, options(dropout), 5).unwrap();
    fill(&model.adapters());
    model
}

fn fill(adapters: &[Param]) {
    let _guard = tch::no_grad_guard();
    for (i, param) in adapters.iter().enumerate() {
        let n = param.tensor.numel() as i64;
        let wave = (Tensor::arange(n, (Kind::Float, Device::Cpu)) * 0.37 + i as f64).sin() * 0.2;
        param.tensor.shallow_clone().copy_(&wave.view_as(&param.tensor));
    }
}

fn batch() -> (PackedInput, Targets) {
    let pixels = (Tensor::arange(8 * 48, (Kind::Float, Device::Cpu)) * 0.7).sin().view([8, 48]);
    let samples = [&[1, 48, 2, 3, 48, 4, 5][..], &[6, 7, 8, 9, 10]];
    let input = PackedInput::from_samples(&samples, Some(pixels), vec![[1, 2, 2]; 2]).unwrap();
    let labels = [-100, -100, 2, 3, -100, 4, 5, -100, 7, 8, -100, 10];
    let targets = Targets::new(&labels, &input.cu_seqlens, 50, Device::Cpu).unwrap();
    (input, targets)
}

/// Loss and the gradients of `params`.
fn gradients(model: &LlavaOnevision, params: &[Param], recompute: Recompute) -> (f64, Vec<Option<Tensor>>) {
    for param in params {
        ovhost_torch::clear_grads(&[&param.tensor]).unwrap();
    }
    let (input, targets) = batch();
    let _dropout = model.dropout(&[1, 2, 3]);
    let loss = model.backward(&input, &targets, 3.0, recompute).unwrap().double_value(&[]);
    (loss, params.iter().map(|p| Some(p.tensor.grad()).filter(Tensor::defined).map(|grad| grad.copy())).collect())
}

fn of<'a>(params: &'a [Param], name: &str) -> &'a Tensor {
    &params.iter().find(|p| p.name == name).unwrap().tensor
}

#[track_caller]
fn near(about: &str, a: &Tensor, b: &Tensor) {
    let scale = b.abs().max().double_value(&[]).max(1e-6);
    let error = (a - b).abs().max().double_value(&[]) / scale;
    assert!(error < 2e-5, "{about}: {error}");
}

/// d loss / d A = scale · Bᵀ dW and d loss / d B = scale · dW Aᵀ, where dW is the gradient of the merged weight.
#[test]
fn gradients_are_those_of_the_merged_weights() {
    let adapted = adapted(&["_proj", "qkv", "fc", "mlp."], 0.0);
    let (dir, adapters) = (tempfile::tempdir().unwrap(), adapted.adapters());
    assert_eq!(adapters.len(), 2 * (3 * 7 + 2 * 3 + 2));
    adapted.save_folder(dir.path(), dir.path()).unwrap();
    let merged = LlavaOnevision::load(dir.path(), &FP32).unwrap();
    for p in merged.parameters().iter().chain(&adapters) {
        let _ = p.tensor.set_requires_grad(true);
    }
    let (want, plain) = gradients(&merged, &merged.parameters(), Recompute::NONE);
    let (loss, ours) = gradients(&adapted, &adapters, Recompute::NONE);
    assert!((loss - want).abs() < 1e-5 * want, "{loss} and {want}");
    for (pair, grads) in adapters.chunks(2).zip(ours.chunks(2)) {
        let name = pair[0].name.strip_suffix(".lora_A.weight").unwrap();
        let at = merged.parameters().iter().position(|p| p.name == format!("{name}.weight")).unwrap();
        let (dw, a, b) = (plain[at].as_ref().unwrap(), pair[0].tensor.detach(), pair[1].tensor.detach());
        near(&pair[0].name, grads[0].as_ref().unwrap(), &(b.tr().matmul(dw) * 2.0));
        near(&pair[1].name, grads[1].as_ref().unwrap(), &(dw.matmul(&a.tr()) * 2.0));
    }
    assert!(adapted.parameters().iter().all(|p| !p.tensor.grad().defined()), "the base has no gradients");
}

#[test]
fn adapters_change_nothing_before_they_are_trained_and_the_same_after_merging() {
    let (input, _) = batch();
    let plain = model().hidden(&input).unwrap();
    let mut fresh = model();
    let all = fresh.adaptable();
    fresh.adapt(&all, options(0.5), 5).unwrap();
    assert!(fresh.hidden(&input).unwrap().equal(&plain));
    fill(&fresh.adapters());
    let moved = fresh.hidden(&input).unwrap();
    assert!(!moved.allclose(&plain, 1e-3, 1e-3, false));
    let dir = tempfile::tempdir().unwrap();
    fresh.save_folder(dir.path(), dir.path()).unwrap();
    let merged = LlavaOnevision::load(dir.path(), &FP32).unwrap();
    near("logits", &merged.logits(&merged.hidden(&input).unwrap()).unwrap(), &fresh.logits(&moved).unwrap());
}

#[test]
fn computed_again_is_bit_equal_with_dropout() {
    let model = adapted(&["_proj", "qkv", "fc"], 0.3);
    // The merger in full beside the adapters.
    let mut params = model.adapters();
    params.extend(model.parameters().into_iter().filter(|p| p.module == Module::Merger));
    for p in &params {
        let _ = p.tensor.set_requires_grad(true);
    }
    let (want, held) = gradients(&model, &params, Recompute::NONE);
    for (policy, every) in [(RecomputePolicy::Full, 1), (RecomputePolicy::Full, 2), (RecomputePolicy::Selective, 1)] {
        let (loss, again) = gradients(&model, &params, Recompute { policy, every });
        assert_eq!(loss, want, "{policy:?}");
        for ((p, a), b) in params.iter().zip(&held).zip(&again) {
            assert!(a.as_ref().unwrap().equal(b.as_ref().unwrap()), "{}, {policy:?}, every {every}", p.name);
        }
    }
    // Dropout is there, depends on the numbers it is drawn from, and ends with its guard.
    let (input, targets) = batch();
    let loss = |from: Option<&[u64]>| {
        let _dropout = from.map(|from| model.dropout(from));
        model.loss_sum_of(&input, &targets).unwrap().double_value(&[])
    };
    assert!((loss(Some(&[1, 2, 3])) / 3.0 - want).abs() < 1e-5);
    assert_ne!(loss(Some(&[1, 2, 4])), loss(Some(&[1, 2, 3])));
    assert_ne!(loss(None), loss(Some(&[1, 2, 3])));
    assert_eq!(loss(None), loss(None));
}

#[test]
fn files_are_those_of_peft_and_read_back_bit_for_bit() {
    let model = adapted(&["q_proj"], 0.1);
    for p in model.parameters().iter().filter(|p| p.module == Module::Merger) {
        let _ = p.tensor.set_requires_grad(true);
        let _ = tch::no_grad(|| p.tensor.shallow_clone().g_add_scalar_(0.5));
    }
    let dir = tempfile::tempdir().unwrap();
    model.save_trained(dir.path(), Path::new("base")).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&"LORA".into(), &3.into(), &6.0.into()));
    assert_eq!(config["target_modules"][0], "model.language_model.layers.0.self_attn.q_proj");
    let file = Checkpoint::open_file(&dir.path().join("adapter_model.safetensors")).unwrap();
    let name = "base_model.model.model.language_model.layers.2.self_attn.q_proj.lora_B.weight";
    assert_eq!(file.tensor(name).unwrap().size(), [16, 3]);
    assert_eq!(file.names().count(), 6);

    let again = || {
        let mut again = self::model();
        let targets: Vec<_> = again.adaptable().into_iter().filter(|n| n.contains("q_proj")).collect();
        again.adapt(&targets, options(0.1), 99).unwrap();
        again
    };
    let mut read = again();
    read.load_trained(dir.path()).unwrap();
    let both = |m: &LlavaOnevision| m.parameters().into_iter().chain(m.adapters()).collect::<Vec<_>>();
    for p in both(&model) {
        assert!(p.tensor.equal(of(&both(&read), &p.name)), "{}", p.name);
    }
    // What was trained once is kept although it is frozen now.
    let next = tempfile::tempdir().unwrap();
    read.save_trained(next.path(), Path::new("base")).unwrap();
    let mut third = again();
    third.load_trained(next.path()).unwrap();
    assert!(
        of(&third.parameters(), "model.visual.merger.mlp.0.bias")
            .equal(of(&model.parameters(), "model.visual.merger.mlp.0.bias"))
    );

    // Another base is seen, and other adapters are.
    let mut fresh = self::model();
    let weight = of(&fresh.parameters(), "lm_head.weight").shallow_clone();
    let _ = tch::no_grad(|| weight.shallow_clone().g_mul_scalar_(1.001));
    let targets: Vec<_> = fresh.adaptable().into_iter().filter(|n| n.contains("q_proj")).collect();
    fresh.adapt(&targets, options(0.1), 1).unwrap();
    let error = fresh.load_trained(dir.path()).unwrap_err().to_string();
    assert!(error.contains("other weights than those of model.folder"), "{error}");
    let mut wide = self::model();
    wide.adapt(&targets, LoraOptions { rank: 4, ..options(0.1) }, 1).unwrap();
    let error = wide.load_trained(dir.path()).unwrap_err().to_string();
    assert!(error.contains("lora_A.weight") && error.contains("[3, 16]") && error.contains("[4, 16]"), "{error}");
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let mut model = model();
    let all = model.adaptable();
    assert!(all.iter().all(|name| model.parameters().iter().any(|p| p.name == format!("{name}.weight"))));
    let error = model.adapt(&["lm_head".into()], options(0.0), 1).unwrap_err().to_string();
    assert!(error.contains("lm_head"), "{error}");
    assert!(model.adapt(&all, LoraOptions { rank: 0, ..options(0.0) }, 1).is_err());
    assert!(model.save_adapters(Path::new("nowhere"), Path::new("base")).is_err());
    model.adapt(&all, options(0.0), 1).unwrap();
    assert!(model.adapt(&all, options(0.0), 1).is_err());
    assert_eq!(LoraOptions { rank: 4, alpha: 8.0, dropout: 0.0, rslora: true }.scale(), 4.0);
}
