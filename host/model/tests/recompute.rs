//! Activations that are computed again: the same loss and gradients as when they are held, whatever is trained.

use ovhost_model::{LlavaOnevision, Module, PackedInput, Preset, Recompute, RecomputePolicy, Targets};
use tch::{Device, Kind, Tensor};

fn model(tied: bool) -> LlavaOnevision {
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads, v.patch_size) = (3, 16, 32, 2, 4);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 16, 64, 3);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 4);
    (t.initializer_range, t.tie_word_embeddings) = (0.2, tied);
    (config.image_token_id, config.video_token_id) = (48, 49);
    LlavaOnevision::random(config, 7, Device::Cpu, Kind::Float).unwrap()
}

/// Two samples, the first with two pictures.
fn batch(pictures: bool) -> (PackedInput, Targets) {
    let image = if pictures { 48 } else { 9 };
    let first = [1, image, 2, 3, image, 4, 5];
    let pixels = pictures.then(|| (Tensor::arange(8 * 48, (Kind::Float, Device::Cpu)) * 0.7).sin().view([8, 48]));
    let grids = if pictures { vec![[1, 2, 2]; 2] } else { vec![] };
    let input = PackedInput::from_samples(&[&first[..], &[6, 7, 8, 9, 10]], pixels, grids).unwrap();
    let labels = [-100, -100, 2, 3, -100, 4, 5, -100, 7, 8, -100, 10];
    let targets = Targets::new(&labels, &input.cu_seqlens, 50, Device::Cpu).unwrap();
    (input, targets)
}

/// Loss and every parameter's gradient, after two micro-batches.
fn gradients(
    model: &LlavaOnevision,
    trained: &[Module],
    pictures: bool,
    recompute: Recompute,
) -> (f64, Vec<(String, Option<Tensor>)>) {
    for param in model.parameters() {
        let tensor = param.tensor.set_requires_grad(trained.contains(&param.module));
        ovhost_torch::clear_grads(&[&tensor]).unwrap();
    }
    let (input, targets) = batch(pictures);
    let mut loss = 0.0;
    for _ in 0..2 {
        loss += model.backward(&input, &targets, 3.0, recompute).unwrap().double_value(&[]);
    }
    let grad = |tensor: &Tensor| Some(tensor.grad()).filter(Tensor::defined);
    (loss, model.parameters().into_iter().map(|p| (p.name, grad(&p.tensor))).collect())
}

#[test]
fn what_is_computed_again_changes_nothing() {
    use Module::{Language, Merger, Vision};
    let policies = [
        Recompute { policy: RecomputePolicy::Full, every: 1 },
        Recompute { policy: RecomputePolicy::Full, every: 2 },
        Recompute { policy: RecomputePolicy::Selective, every: 1 },
        Recompute { policy: RecomputePolicy::Selective, every: 3 },
    ];
    for tied in [false, true] {
        let model = model(tied);
        for trained in [&[Vision, Merger, Language][..], &[Merger], &[Vision], &[Language], &[Vision, Merger]] {
            for pictures in [true, false] {
                if !pictures && !trained.contains(&Language) {
                    continue;
                }
                let (want, grads) = gradients(&model, trained, pictures, Recompute::NONE);
                assert!(grads.iter().any(|(_, grad)| grad.is_some()));
                for policy in policies {
                    let (loss, same) = gradients(&model, trained, pictures, policy);
                    assert_eq!(loss, want);
                    for ((name, a), (_, b)) in grads.iter().zip(&same) {
                        let about = format!("{name}, {policy:?}, {trained:?}, tied {tied}, pictures {pictures}");
                        match (a, b) {
                            (None, None) => {}
                            (Some(a), Some(b)) => {
                                let scale = a.abs().max().double_value(&[]).max(1e-6);
                                let error = (a - b).abs().max().double_value(&[]) / scale;
                                assert!(error <= 1e-5, "{about}: {error}");
                            }
                            _ => panic!("{about}: a gradient in one of both only"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_frozen_decoder_has_no_gradients_and_passes_on_the_same() {
    use Module::{Language, Merger, Vision};
    for tied in [false, true] {
        let model = model(tied);
        for recompute in [Recompute::NONE, Recompute { policy: RecomputePolicy::Full, every: 1 }] {
            let (loss, all) = gradients(&model, &[Vision, Merger, Language], true, recompute);
            let (frozen_loss, some) = gradients(&model, &[Vision, Merger], true, recompute);
            assert_eq!(loss, frozen_loss);
            for (((name, wanted), (_, got)), param) in all.iter().zip(&some).zip(model.parameters()) {
                match param.module {
                    Language => assert!(got.is_none(), "a gradient of {name} was computed"),
                    _ => assert!(got.as_ref().unwrap().equal(wanted.as_ref().unwrap()), "{name}"),
                }
            }
        }
    }
}
