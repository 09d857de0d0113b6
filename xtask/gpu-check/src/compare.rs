//! The device against the CPU: the fixtures' exact values in fp32 in every way of training, and a batch with bf16, whose
//! gradients are compared one by one.

use std::path::Path;

use anyhow::{Context, Result};
use ovhost_model::{
    LlavaOnevision, ModelConfig, PackedInput, Recompute, RecomputePolicy, Targets, VerifyWay, verify_in,
};
use ovhost_train::{optimizer::AdamW, recipe::TrainConfig};
use serde::Serialize;
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// Largest error of an fp32 value over the largest value of its tensor, against the reference.
const FP32: f64 = 1e-4;
/// Largest error of a bf16 gradient over its norm, CPU against device: bf16 keeps 8 bits, and the two add up in another order.
const BF16: f64 = 3e-2;
/// Steps of AdamW that are compared.
const STEPS: usize = 10;

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    values: usize,
    worst: f64,
    allowed: f64,
    /// Whether the worst error is allowed.
    pub passed: bool,
}

impl Row {
    fn new(name: String, values: usize, worst: f64, allowed: f64) -> Self {
        // A NaN is not close to anything.
        let row = Row { name, values, worst, allowed, passed: worst <= allowed };
        let verdict = if row.passed { "pass" } else { "FAIL" };
        println!("{verdict}  {:<44} {:>4} values, worst {:.1e}, allowed {:.0e}", row.name, values, worst, allowed);
        row
    }
}

/// The largest error; NaN if one is, which `f64::max` would pass over.
fn largest(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

/// Every comparison.
///
/// # Errors
/// Fixtures that cannot be read, or what libtorch throws. Values that differ are rows that did not pass.
pub fn run(fixtures: &Path, device: Device) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let expected = fixtures.join("expected.safetensors");
    for policy in [RecomputePolicy::None, RecomputePolicy::Selective, RecomputePolicy::Full] {
        for (loss_chunk, per_micro) in [(None, 0), (Some(7), 1)] {
            let way = VerifyWay { recompute: Recompute { policy, every: 1 }, loss_chunk, per_micro, device };
            let report = verify_in(fixtures, &expected, FP32, way).context("the fixtures on the device")?;
            // Pixels may be one 8-bit level off, which the report judges by itself: what failed counts, else what is within.
            let judged =
                report.rows.iter().filter(|r| if report.passed() { r.relative_error <= FP32 } else { !r.passed });
            let worst = largest(judged.map(|r| r.relative_error));
            let split = if per_micro == 0 { "one batch" } else { "chunked, accumulated" };
            rows.push(Row::new(
                format!("fixtures fp32, recompute {policy:?}, {split}"),
                report.rows.len(),
                worst,
                FP32,
            ));
            if !report.passed() {
                println!("{report}");
            }
        }
    }
    for (kind, allowed) in [(Kind::Float, FP32), (Kind::BFloat16, BF16)] {
        for policy in [RecomputePolicy::None, RecomputePolicy::Full] {
            rows.extend(both(kind, policy, allowed, device)?);
        }
    }
    Ok(rows)
}

fn config() -> Result<ModelConfig> {
    let config = json!({"model_type": "llavaonevision1_5", "image_token_id": 500, "video_token_id": 501, "vocab_size": 512,
        "text_config": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "vocab_size": 512, "max_position_embeddings": 2048, "initializer_range": 0.02, "tie_word_embeddings": false},
        "vision_config": {"depth": 4, "hidden_size": 128, "intermediate_size": 512, "num_heads": 2, "in_channels": 3,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 1, "hidden_act": "gelu",
            "layer_norm_eps": 1e-5, "text_hidden_size": 256}});
    Ok(ModelConfig::from_json(&config.to_string(), "the check's configuration")?)
}

/// Samples of several lengths, one without a picture.
pub fn batch(
    lengths: &[i64],
    grids: &[[i64; 3]],
    config: &ModelConfig,
    device: Device,
) -> Result<(PackedInput, Targets)> {
    let image = config.image_token_id;
    let merge = config.vision.spatial_merge_size.pow(2);
    // Below every special token.
    let words = config.text.vocab_size.min(image).min(config.video_token_id);
    let dim = config.vision.patch_dim();
    let (mut ids, mut labels, mut positions, mut cu) = (Vec::new(), Vec::new(), Vec::new(), vec![0i32]);
    for (i, &length) in lengths.iter().enumerate() {
        let pads = grids.get(i).map_or(0, |[_, h, w]| h * w / merge);
        for at in 0..length {
            let word = (at * 7919 + i as i64 * 104_729) % words;
            ids.push(if at < pads { image } else { word });
            labels.push(if at < pads + 16 { -100 } else { word });
            positions.push(at);
        }
        cu.push(i32::try_from(ids.len())?);
    }
    let patches: i64 = grids.iter().map(|[_, h, w]| h * w).sum();
    let pixels = Tensor::f_arange(patches * dim, (Kind::Float, Device::Cpu))?.f_sin()?.f_view([patches, dim])?;
    let targets = Targets::new(&labels, &cu, config.text.vocab_size, device)?;
    let input = PackedInput {
        input_ids_t: Tensor::from_slice(&ids),
        positions_t: Tensor::from_slice(&positions),
        cu_seqlens: cu,
        pixel_values: Some(pixels),
        grid_thw: grids.to_vec(),
    };
    Ok((input, targets))
}

/// Losses of some steps, and the first step's gradients in fp32 on the CPU.
struct Trained {
    losses: Vec<f64>,
    grads: Vec<(String, Tensor)>,
}

fn train(kind: Kind, policy: RecomputePolicy, device: Device) -> Result<Trained> {
    let config = config()?;
    let model = LlavaOnevision::random(config.clone(), 3, device, kind)?;
    let settings: TrainConfig = serde_json::from_value(json!({"steps": STEPS, "lr": 1e-3}))?;
    let mut optimizer = AdamW::new(model.parameters(), &settings)?;
    let (input, targets) = batch(&[300, 41, 170], &[[1, 16, 24], [1, 4, 4]], &config, device)?;
    let (mut losses, mut grads) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let recompute = Recompute { policy, every: 1 };
        let loss = model.backward(&input, &targets, targets.count() as f64, recompute)?;
        if step == 0 {
            for param in model.parameters() {
                let grad = param.tensor.f_grad()?;
                if grad.defined() {
                    grads.push((param.name, grad.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_mul_scalar(1.0)?));
                }
            }
        }
        losses.push(loss.f_double_value(&[])?);
        optimizer.collect()?;
        optimizer.update(1.0)?;
    }
    Ok(Trained { losses, grads })
}

fn both(kind: Kind, policy: RecomputePolicy, allowed: f64, device: Device) -> Result<Vec<Row>> {
    let (cpu, gpu) = (train(kind, policy, Device::Cpu)?, train(kind, policy, device)?);
    let mut errors = Vec::new();
    for ((name, a), (other, b)) in cpu.grads.iter().zip(&gpu.grads) {
        anyhow::ensure!(name == other, "the gradients of {name} and {other} stand at the same place");
        let norm = |t: &Tensor| -> Result<f64> { Ok(t.f_norm()?.f_double_value(&[])?) };
        // Keys' biases have no gradient but rounding: the floor keeps noise over noise from counting.
        errors.push(norm(&a.f_sub(b)?)? / norm(a)?.max(1e-6));
    }
    let name = |what: &str| format!("{what}, {kind:?}, recompute {policy:?}");
    // Rounding differs from the first step on, and AdamW divides small gradients by their own size.
    let far = allowed * 10.0;
    let off = largest(cpu.losses.iter().zip(&gpu.losses).map(|(a, b)| (a - b).abs() / a.abs()));
    Ok(vec![
        Row::new(name("gradients, device against CPU"), cpu.grads.len(), largest(errors), allowed),
        Row::new(name("losses of ten steps of AdamW"), cpu.losses.len(), off, far.min(3e-2)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_the_largest_error_wherever_it_stands() {
        assert_eq!(largest([0.5, 2.0, 1.0]), 2.0);
        for errors in [[f64::NAN, 1.0], [1.0, f64::NAN]] {
            assert!(!Row::new("nan".into(), 2, largest(errors), 1.0).passed);
        }
    }
}
