//! Training steps of two models against the same models in PyTorch's Python, on the same weights and samples: packed against
//! packed, and against padded batches as transformers makes them. Each side is a process of its own, and one round of each
//! follows the other, so that a busy machine slows all alike.
//!
//! ```text
//!  weights, batch ─► ours (this program, again) ┐
//!                 ─► Python, packed             ├─► seconds, loss, peak memory
//!                 ─► Python, padded             ┘
//! ```

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ovhost_model::{LlavaOnevision, ModelConfig, PackedInput, Recompute, Targets};
use ovhost_train::{optimizer::AdamW, recipe::TrainConfig};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::python::{Peer, has};
use crate::{median, time, verdict};

const SCRIPT: &str = include_str!("pytorch.py");
/// Set in the process that is our side: the folder with the weights and the batch.
pub const SIDE: &str = "OVHOST_BENCH_PYTORCH_SIDE";
/// Packed throughput, padded throughput, and peak memory of ours over theirs.
const BARS: [f64; 3] = [1.0, 1.3, 0.7];

/// A model and the batch that it is trained on.
struct Size {
    name: &'static str,
    /// Vocabulary, width, MLP width, layers, heads, key heads of the decoder.
    text: [i64; 6],
    /// Width, MLP width, layers, heads of the tower.
    vision: [i64; 4],
    samples: usize,
    rounds: usize,
}

const SIZES: [Size; 2] = [
    Size { name: "mini", text: [4096, 256, 1024, 4, 8, 2], vision: [128, 512, 4, 4], samples: 24, rounds: 9 },
    Size { name: "small", text: [32_000, 640, 2048, 12, 10, 2], vision: [384, 1536, 8, 6], samples: 10, rounds: 4 },
];

impl Size {
    fn config(&self) -> Value {
        let [vocab, width, inner, layers, heads, key_heads] = self.text;
        let [v_width, v_inner, v_layers, v_heads] = self.vision;
        json!({"model_type": "llavaonevision1_5", "image_token_id": vocab - 2, "video_token_id": vocab - 1, "vocab_size": vocab,
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
            "text_config": {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
                "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": 64, "hidden_act": "silu",
                "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": vocab, "max_position_embeddings": 2048,
                "initializer_range": 0.02, "tie_word_embeddings": true},
            "vision_config": {"depth": v_layers, "hidden_size": v_width, "intermediate_size": v_inner, "num_heads": v_heads,
                "in_channels": 3, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 1, "hidden_act": "gelu",
                "layer_norm_eps": 1e-5, "text_hidden_size": width}})
    }
}

/// One picture of 64 to 128 pixels a side and 16 to 320 tokens of text a sample, more short ones than long ones.
fn batch(size: &Size) -> Vec<(&'static str, Tensor)> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let image = size.text[0] - 2;
    let (mut ids, mut labels, mut cu, mut grids, mut patches) = (Vec::new(), Vec::new(), vec![0i64], Vec::new(), 0);
    for _ in 0..size.samples {
        let [h, w] = [(); 2].map(|()| 2 * random.random_range(4..=8i64));
        grids.extend([1, h, w]);
        patches += h * w;
        let tokens = (h * w / 4) as usize;
        let words = (16.0 * 20f64.powf(random.random_range(0.0..1.0))) as usize;
        ids.extend(std::iter::repeat_n(image, tokens));
        labels.extend(std::iter::repeat_n(-100, tokens));
        for word in 0..words {
            let id = random.random_range(0..image);
            ids.push(id);
            labels.push(if word < 8 { -100 } else { id });
        }
        cu.push(ids.len() as i64);
    }
    let pixels: Vec<f32> = (0..patches * 192).map(|_| random.random_range(-1.0..1.0)).collect();
    vec![
        ("ids", Tensor::from_slice(&ids)),
        ("labels", Tensor::from_slice(&labels)),
        ("cu_seqlens", Tensor::from_slice(&cu)),
        ("grid_thw", Tensor::from_slice(&grids).view([-1, 3])),
        ("pixels", Tensor::from_slice(&pixels).view([-1, 192])),
    ]
}

#[derive(Debug, Serialize, Deserialize)]
struct Round {
    seconds: f64,
    /// Mean over the learnt tokens.
    loss: f64,
    /// Most bytes that the process held.
    peak: u64,
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let peers = has(&["torch", "transformers", "safetensors"], "torch transformers safetensors");
    for size in &SIZES {
        one(size, peers)?;
    }
    Ok(())
}

fn one(size: &Size, peers: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path();
    let (config, batch) = (size.config(), batch(size));
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let model =
        LlavaOnevision::random(ModelConfig::from_json(&config.to_string(), size.name)?, 1, Device::Cpu, Kind::Float)?;
    let weights: Vec<(String, Tensor)> = model.parameters().into_iter().map(|p| (p.name, p.tensor)).collect();
    let count: usize = weights.iter().map(|(_, tensor)| tensor.numel()).sum();
    Tensor::write_safetensors(&weights, folder.join("model.safetensors"))?;
    Tensor::write_safetensors(&batch, folder.join("batch.safetensors"))?;
    drop((model, weights));

    let mut own = Command::new(std::env::current_exe()?);
    own.env(SIDE, folder);
    let mut sides = vec![Peer::of(own)?];
    if peers {
        for how in ["packed", "padded"] {
            let mut python = Command::new(crate::python::interpreter());
            python.args(["-c", SCRIPT]).arg(folder).arg(how);
            sides.push(Peer::of(python)?);
        }
    }
    let mut rounds: Vec<Vec<Round>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..=size.rounds {
        for (side, rounds) in sides.iter_mut().zip(&mut rounds) {
            let done: Round = side.go()?;
            // The first one allocates.
            if round > 0 {
                rounds.push(done);
            }
        }
    }
    let tokens = batch[0].1.numel();
    println!("{}: {:.1} M parameters, {} samples, {tokens} tokens, fp32", size.name, count as f64 / 1e6, size.samples);
    let mut all = Vec::new();
    for (name, rounds) in ["ovhost", "PyTorch, packed", "PyTorch, padded"].iter().zip(rounds) {
        let loss = rounds.last().context("no rounds")?.loss;
        let peak = rounds.iter().map(|r| r.peak).max().unwrap_or(0) as f64;
        let seconds = median(rounds.into_iter().map(|r| r.seconds).collect());
        println!("{name:<16} {:>7.0} tokens/s {:>8.0} MB at most, loss {loss:.5}", tokens as f64 / seconds, peak / 1e6);
        all.push((seconds, peak, loss));
    }
    let [(seconds, peak, loss), packed, padded] = all[..] else { return Ok(()) };
    for other in [packed, padded] {
        ensure!((loss - other.2).abs() <= 1e-4 * loss, "the losses differ: {loss} and {}", other.2);
    }
    let [fast, faster, small] = [packed.0 / seconds, padded.0 / seconds, peak / packed.1.min(padded.1)];
    println!(
        "{fast:.2} times packed (bar {}: {}), {faster:.2} times padded (bar {}: {}), {small:.2} of the smaller memory (bar {}: {})",
        BARS[0],
        verdict(fast >= BARS[0]),
        BARS[1],
        verdict(faster >= BARS[1]),
        BARS[2],
        verdict(small <= BARS[2])
    );
    Ok(())
}

/// Our side: a step for each line of standard input.
pub fn side(folder: &Path) -> Result<()> {
    let config = ModelConfig::from_folder(folder)?;
    let vocab = config.text.vocab_size;
    let options = ovhost_model::LoadOptions { device: Device::Cpu, kind: Kind::Float };
    let model = LlavaOnevision::load_with(config, folder, &options)?;
    // A rate of zero: the weights stay, so that every round computes the same and the losses can be compared.
    let settings: TrainConfig = serde_json::from_value(json!({"steps": 1, "lr": 0.0}))?;
    let mut optimizer = AdamW::new(model.parameters(), &settings)?;
    let mut batch: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder.join("batch.safetensors"))?.into_iter().collect();
    let mut take = |name: &str| batch.remove(name).with_context(|| format!("the batch lacks {name}"));
    let (ids, labels, cu, grids) = (take("ids")?, take("labels")?, take("cu_seqlens")?, take("grid_thw")?);
    let [labels, cu, grids] = [labels, cu, grids].map(|t| Vec::<i64>::try_from(t.flatten(0, -1)));
    let cu_seqlens = cu?.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>()?;
    let positions: Vec<i64> = cu_seqlens.windows(2).flat_map(|pair| 0..i64::from(pair[1] - pair[0])).collect();
    let targets = Targets::new(&labels?, &cu_seqlens, vocab, Device::Cpu)?;
    let input = PackedInput {
        input_ids_t: ids,
        positions_t: Tensor::from_slice(&positions),
        cu_seqlens,
        pixel_values: Some(take("pixels")?),
        grid_thw: grids?.chunks_exact(3).map(|g| [g[0], g[1], g[2]]).collect(),
    };
    for line in std::io::stdin().lock().lines() {
        line?;
        let (seconds, loss) = time(|| {
            let loss = model.backward(&input, &targets, targets.count() as f64, Recompute::NONE)?;
            optimizer.update(1.0)?;
            Ok(loss.f_double_value(&[])?)
        })?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&Round { seconds, loss, peak: peak()? })?)?;
        out.flush()?;
    }
    Ok(())
}

/// Most bytes that this process held.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
