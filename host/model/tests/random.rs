//! Random models: sizes, seeds, variants, and batches that do not fit.

use ovhost_model::{LlavaOnevision, Module, PackedInput, Preset};
use tch::{Device, Kind, Tensor};

fn small(change: impl Fn(&mut ovhost_model::ModelConfig)) -> LlavaOnevision {
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads, v.patch_size) = (1, 16, 32, 2, 4);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 16, 32, 2);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 8);
    (config.image_token_id, config.video_token_id) = (48, 49);
    change(&mut config);
    LlavaOnevision::random(config, 7, Device::Cpu, Kind::Float).unwrap()
}

fn batch(ids: &[i64], images: usize) -> PackedInput {
    let pixels = (images > 0).then(|| Tensor::ones([4 * images as i64, 48], (Kind::Float, Device::Cpu)));
    PackedInput::from_samples(&[ids], pixels, vec![[1, 2, 2]; images]).unwrap()
}

#[test]
fn presets_have_the_published_number_of_parameters() {
    // (vision, merger, language), from the published shapes.
    for (preset, merger, language) in [
        (Preset::B3, 25_174_016i64, 3_085_938_688i64),
        (Preset::B4, 27_271_680, 4_411_424_256),
        (Preset::B8, 33_564_672, 8_190_735_360),
        (Preset::B14, 37_760_000, 14_768_307_200),
        (Preset::B32, 37_760_000, 32_762_123_264),
    ] {
        let c = preset.config();
        assert_eq!(Preset::by_name(preset.name()), Some(preset));
        let (v, t) = (&c.vision, &c.text);
        let (w, f) = (v.hidden_size, v.intermediate_size);
        let block = 4 * w + 3 * w * w + 3 * w + w * w + w + 2 * w * f + f + w;
        assert_eq!(v.depth * block + w * v.patch_dim() + w + v.head_dim() / 2 + 2 * w, 302_914_592);
        let joined = 4 * w;
        assert_eq!(2 * w + joined * joined + joined + joined * t.hidden_size + t.hidden_size, merger);
        let (q, kv) = (t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim);
        let mut layer = 2 * t.hidden_size + t.hidden_size * (2 * q + 2 * kv) + 3 * t.hidden_size * t.intermediate_size;
        layer += if t.qk_norm { 2 * t.head_dim } else { 0 } + if t.qkv_bias { q + 2 * kv } else { 0 };
        let heads = if t.tie_word_embeddings { 1 } else { 2 };
        assert_eq!(t.num_hidden_layers * layer + t.hidden_size + heads * t.vocab_size * t.hidden_size, language);
    }
}

#[test]
fn a_seed_means_the_same_weights() {
    let (a, b) = (small(|_| {}), small(|_| {}));
    for (x, y) in a.parameters().iter().zip(b.parameters()) {
        assert!(x.tensor.equal(&y.tensor), "{}", x.name);
        assert!(!x.tensor.requires_grad());
    }
    let modules = |m: Module| a.parameters().iter().filter(|p| p.module == m).count();
    assert_eq!((modules(Module::Vision), modules(Module::Merger)), (17, 6));
    assert!(
        a.parameters()
            .iter()
            .filter(|p| p.module == Module::Merger)
            .all(|p| p.name.starts_with("model.visual.merger."))
    );
}

#[test]
fn qwen2_and_tied_variants_run_save_and_load() {
    let model = small(|c| {
        (c.text.qkv_bias, c.text.qk_norm, c.text.tie_word_embeddings) = (true, false, true);
    });
    let names: Vec<String> = model.parameters().into_iter().map(|p| p.name).collect();
    assert!(names.iter().any(|n| n.ends_with("self_attn.q_proj.bias")));
    assert!(!names.iter().any(|n| n.contains("q_norm") || n.contains("lm_head") || n.ends_with("o_proj.bias")));
    let folder = tempfile::tempdir().unwrap();
    model.save_folder(folder.path(), folder.path()).unwrap();
    let options = ovhost_model::LoadOptions { device: Device::Cpu, kind: Kind::Float };
    let again = LlavaOnevision::load(folder.path(), &options).unwrap();
    assert_eq!(again.config().text, model.config().text);
    let input = batch(&[1, 48, 2, 3], 1);
    assert!(again.hidden(&input).unwrap().equal(&model.hidden(&input).unwrap()));
}

#[test]
fn bf16_stays_near_fp32() {
    let config = small(|_| {}).config().clone();
    let model = LlavaOnevision::random(config, 7, Device::Cpu, Kind::BFloat16).unwrap();
    let input = batch(&[1, 48, 2, 3], 1);
    let labels = Tensor::from_slice(&[-100i64, -100, 2, 3]);
    let (loss, n) = model.loss_sum(&input, &labels).unwrap();
    let (exact, _) = small(|_| {}).loss_sum(&input, &labels).unwrap();
    assert_eq!((n, loss.kind()), (2, Kind::Float));
    assert!((loss.double_value(&[]) - exact.double_value(&[])).abs() < 0.05);
    for p in model.parameters() {
        let _ = p.tensor.set_requires_grad(true);
    }
    model.loss_sum(&input, &labels).unwrap().0.f_backward().unwrap();
    let grads: Vec<Tensor> = model.parameters().iter().map(|p| p.tensor.grad()).collect();
    assert!(grads.iter().all(|g| g.defined() && g.isfinite().all().int64_value(&[]) == 1));
}

#[test]
fn the_chunk_of_the_loss_does_not_matter() {
    let mut model = small(|_| {});
    let input = batch(&[1, 2, 3, 4, 5, 6], 0);
    let labels = Tensor::from_slice(&[1i64, 2, 3, -100, 5, 6]);
    let (whole, n) = model.loss_sum(&input, &labels).unwrap();
    model.set_loss_chunk(1);
    let (parts, _) = model.loss_sum(&input, &labels).unwrap();
    assert_eq!(n, 4, "a sample's first label is never learnt");
    assert!((whole.double_value(&[]) - parts.double_value(&[])).abs() < 1e-5);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let model = small(|_| {});
    let error = |input: PackedInput| model.hidden(&input).expect_err("must be refused").to_string();
    assert!(error(batch(&[1, 2], 1)).contains("0 image tokens in the text but 1 images with 1 tokens"));
    assert!(error(batch(&[1, 48], 0)).contains("1 image tokens"));
    assert!(error(batch(&[1, 50], 0)).contains("token id 50 at position 1"));
    assert!(error(batch(&[1, 49], 0)).contains("video"));
    let mut input = batch(&[48, 1], 1);
    input.pixel_values = Some(Tensor::ones([4, 47], (Kind::Float, Device::Cpu)));
    assert!(error(input).contains("48 values"));
    let mut input = batch(&[1, 2], 0);
    input.cu_seqlens = vec![0, 3];
    assert!(error(input).contains("do not fit together"));
    let labels = Tensor::from_slice(&[0i64, 50]);
    let error = model.loss_sum(&batch(&[1, 2], 0), &labels).err().unwrap().to_string();
    assert!(error.contains("label 50 at position 1"), "{error}");
}
