//! A training step of a small model: tokens a second of packed batches, against the same samples one at a time (the
//! slow path that packing must equal) on the same weights.

use anyhow::{Result, ensure};
use ovhost_model::{LlavaOnevision, ModelConfig, PackedInput, Targets};
use ovhost_train::{optimizer::AdamW, recipe::TrainConfig};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::{median, time};

const CONFIG: &str = r#"{"model_type": "llavaonevision1_5", "image_token_id": 500, "video_token_id": 501, "vocab_size": 512,
    "text_config": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": 512, "max_position_embeddings": 2048, "initializer_range": 0.02, "tie_word_embeddings": false},
    "vision_config": {"depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "in_channels": 3, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "text_hidden_size": 128}}"#;

/// Samples of a batch, each one picture of 64×64 (16 tokens) and 40 to 240 tokens of text.
const SAMPLES: usize = 24;

struct Sample {
    ids: Vec<i64>,
    labels: Vec<i64>,
    pixels: Vec<f32>,
}

fn samples() -> Vec<Sample> {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    (0..SAMPLES)
        .map(|_| {
            let text = random.random_range(40..240);
            let ids: Vec<i64> = [500; 16].into_iter().chain((0..text).map(|_| random.random_range(0..500))).collect();
            let labels = ids.iter().enumerate().map(|(i, &id)| if i < 24 { -100 } else { id }).collect();
            let pixels = (0..64 * 192).map(|_| random.random_range(-1.0..1.0)).collect();
            Sample { ids, labels, pixels }
        })
        .collect()
}

fn batch(samples: &[Sample], vocab: i64) -> Result<(PackedInput, Targets)> {
    let ids: Vec<i64> = samples.iter().flat_map(|s| s.ids.iter().copied()).collect();
    let labels: Vec<i64> = samples.iter().flat_map(|s| s.labels.iter().copied()).collect();
    let positions: Vec<i64> = samples.iter().flat_map(|s| 0..s.ids.len() as i64).collect();
    let mut cu_seqlens = vec![0i32];
    for sample in samples {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + sample.ids.len() as i32);
    }
    let pixels: Vec<f32> = samples.iter().flat_map(|s| s.pixels.iter().copied()).collect();
    let targets = Targets::new(&labels, &cu_seqlens, vocab, Device::Cpu)?;
    let input = PackedInput {
        input_ids_t: Tensor::from_slice(&ids),
        positions_t: Tensor::from_slice(&positions),
        cu_seqlens,
        pixel_values: Some(Tensor::from_slice(&pixels).f_view([-1, 192])?),
        grid_thw: vec![[1, 8, 8]; samples.len()],
    };
    Ok((input, targets))
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let config = ModelConfig::from_json(CONFIG, "the benchmark's configuration")?;
    let vocab = config.text.vocab_size;
    let model = LlavaOnevision::random(config, 1, Device::Cpu, Kind::Float)?;
    // A rate of zero: the weights stay, so that every round computes the same and the two losses can be compared.
    let settings: TrainConfig = serde_json::from_value(json!({"steps": 1, "lr": 0.0}))?;
    let mut optimizer = AdamW::new(model.parameters(), &settings)?;
    let samples = samples();
    let tokens: usize = samples.iter().map(|s| s.ids.len()).sum();
    let packed = batch(&samples, vocab)?;
    let alone = samples.iter().map(|s| batch(std::slice::from_ref(s), vocab)).collect::<Result<Vec<_>>>()?;
    let mut step = |batches: &[&(PackedInput, Targets)]| -> Result<f64> {
        let mut sum = 0.0;
        for (input, targets) in batches {
            let loss = model.loss_sum_of(input, targets)?;
            loss.f_backward()?;
            sum += loss.f_double_value(&[])?;
        }
        optimizer.update(1.0)?;
        Ok(sum)
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..12 {
        let (seconds, loss) = time(|| step(&[&packed]))?;
        let (slow, same) = time(|| step(&alone.iter().collect::<Vec<_>>()))?;
        ensure!((loss - same).abs() <= 1e-4 * same, "packed and alone give different losses: {loss} and {same}");
        if round >= 2 {
            a.push(seconds);
            b.push(slow);
        }
    }
    let (a, b) = (median(a), median(b));
    let count: usize = model.parameters().iter().map(|p| p.tensor.numel()).sum();
    println!(
        "{:.2} M parameters, {SAMPLES} samples, {tokens} tokens, forward, backward and AdamW, {} threads:\n\
         packed {:.0} tokens/s ({:.1} ms), one sample at a time {:.0} tokens/s; packed is {:.2} times as fast",
        count as f64 / 1e6,
        tch::get_num_threads(),
        tokens as f64 / a,
        a * 1e3,
        tokens as f64 / b,
        b / a
    );
    Ok(())
}
