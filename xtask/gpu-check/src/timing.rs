//! Training steps of a published size with random weights: seconds, tokens a second, MFU and HFU, memory by phase.

use std::time::Instant;

use anyhow::{Context, Result};
use ovhost_model::{LlavaOnevision, ModelConfig, Module, Preset, Recompute, RecomputePolicy, Work};
use ovhost_torch::{memory_peak, reset_memory_peak};
use ovhost_train::{optimizer::AdamW, recipe::TrainConfig};
use serde::Serialize;
use serde_json::json;
use tch::{Device, Kind};

use crate::compare::batch;

/// Tokens of a sample, a picture of 448 × 448 pixels (256 tokens) among them.
const SAMPLE: i64 = 1024;

/// One way of training.
#[derive(Debug, Serialize)]
pub struct Row {
    size: String,
    recompute: String,
    tokens: i64,
    patches: i64,
    /// Medians.
    step_ms: f64,
    forward_vision_ms: f64,
    forward_ms: f64,
    forward_backward_ms: f64,
    optimizer_ms: f64,
    tokens_per_s: f64,
    model_tflop: f64,
    hardware_tflop: f64,
    /// Shares of the peak; absent where the peak is not known.
    mfu: Option<f64>,
    hfu: Option<f64>,
    /// Bytes: after loading, at most in forward and backward, at most in the optimiser. Zero on the CPU.
    memory: [u64; 3],
}

/// The device in words.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(n) => std::process::Command::new("nvidia-smi")
            .args(["--query-gpu=name,driver_version", "--format=csv,noheader", "-i", &n.to_string()])
            .output()
            .ok()
            .filter(|out| out.status.success())
            .map_or_else(|| "a CUDA GPU".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        _ => format!("CPU, {} threads", tch::get_num_threads()),
    }
}

/// Peaks of dense bf16 products by the makers' data sheets, 10¹² a second.
pub fn peak_tflops(name: &str) -> Option<f64> {
    let known =
        [("H200", 989.0), ("H100 PCIe", 756.0), ("H100", 989.0), ("H800", 989.0), ("A100", 312.0), ("A800", 312.0)];
    known.iter().find(|(part, _)| name.contains(part)).map(|(_, peak)| *peak)
}

fn synchronize(device: Device) {
    if let Device::Cuda(n) = device {
        tch::Cuda::synchronize(n as i64);
    }
}

/// Milliseconds until the device has done it.
fn time<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    synchronize(device);
    let begin = Instant::now();
    let value = work()?;
    synchronize(device);
    Ok((begin.elapsed().as_secs_f64() * 1e3, value))
}

/// Median milliseconds of some calls, after one that warms up.
pub fn median_ms(device: Device, rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut all = (0..rounds.max(1)).map(|_| Ok(time(device, &mut work)?.0)).collect::<Result<Vec<f64>>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// The configuration of a published size, or of a `config.json`.
pub fn config(size: &str) -> Result<ModelConfig> {
    if size.ends_with(".json") {
        let text = std::fs::read_to_string(size).with_context(|| format!("{size} cannot be read"))?;
        return Ok(ModelConfig::from_json(&text, size)?);
    }
    let preset = Preset::by_name(size).with_context(|| {
        let known: Vec<&str> = Preset::ALL.iter().map(|p| p.name()).collect();
        format!("--size is {size:?}; {} and a config.json are allowed", known.join(", "))
    })?;
    Ok(preset.config())
}

/// Times every policy; prints a table.
///
/// # Errors
/// An unknown size, too little memory, or what libtorch throws.
pub fn run(size: &str, tokens: i64, steps: usize, device: Device, peak: Option<f64>) -> Result<Vec<Row>> {
    let config = config(size)?;
    let lengths: Vec<i64> = (0..tokens).step_by(SAMPLE as usize).map(|at| SAMPLE.min(tokens - at)).collect();
    let pictures = lengths.iter().filter(|&&n| n >= SAMPLE).count();
    let (input, targets) = batch(&lengths, &vec![[1, 32, 32]; pictures], &config, device)?;
    println!(
        "{size}: random weights, bf16 with fp32 masters and moments, {tokens} tokens in {} samples, {pictures} pictures",
        lengths.len()
    );
    println!("drawing the weights takes a minute on the CPU");
    let model = LlavaOnevision::random(config.clone(), 1, device, Kind::BFloat16)?;
    let settings: TrainConfig = serde_json::from_value(json!({"steps": 1, "lr": 1e-6}))?;
    let mut optimizer = AdamW::new(model.parameters(), &settings)?;
    let loaded = memory_peak(device)?;
    let vision = |m: &LlavaOnevision| -> Result<()> {
        if let Some(pixels) = &input.pixel_values {
            let _guard = tch::no_grad_guard();
            let features = m.vision_features(pixels, &input.grid_thw)?;
            let _tokens = m.merge(&features)?;
        }
        Ok(())
    };
    let forward_vision_ms = median_ms(device, steps, || vision(&model))?;
    let forward_ms = median_ms(device, steps, || {
        let _guard = tch::no_grad_guard();
        let _loss = model.loss_sum_of(&input, &targets)?;
        Ok(())
    })?;
    let mut rows = Vec::new();
    for policy in [RecomputePolicy::None, RecomputePolicy::Selective, RecomputePolicy::Full] {
        let recompute = Recompute { policy, every: 1 };
        let (mut all, mut backward, mut update) = (Vec::new(), Vec::new(), Vec::new());
        let mut memory = [loaded, 0, 0];
        for round in 0..steps + 2 {
            reset_memory_peak(device)?;
            // Whole steps are timed without a wait in between; every other one is cut into its phases.
            let whole = round % 2 == 0;
            let (ms, ()) = time(device, || {
                let done = |ms: &mut Vec<f64>, from: Instant| {
                    if !whole {
                        synchronize(device);
                        ms.push(from.elapsed().as_secs_f64() * 1e3);
                    }
                };
                let begin = Instant::now();
                let _loss = model.backward(&input, &targets, targets.count() as f64, recompute)?;
                done(&mut backward, begin);
                if !whole {
                    memory[1] = memory[1].max(memory_peak(device)?);
                    reset_memory_peak(device)?;
                }
                let begin = Instant::now();
                optimizer.collect()?;
                optimizer.update(1.0)?;
                done(&mut update, begin);
                Ok(())
            })?;
            if !whole {
                memory[2] = memory[2].max(memory_peak(device)?);
            } else if round >= 2 {
                all.push(ms);
            }
        }
        let median = |mut ms: Vec<f64>| {
            ms.sort_by(f64::total_cmp);
            ms.get(ms.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let work = Work { cu_seqlens: &input.cu_seqlens, grid_thw: &input.grid_thw, learnt: targets.count() };
        let flops = config.flops(work, &[Module::Vision, Module::Merger, Module::Language], recompute);
        let step_ms = median(all);
        let share = |flop: f64| peak.map(|peak| flop / (step_ms / 1e3) / (peak * 1e12));
        let row = Row {
            size: size.to_owned(),
            recompute: format!("{policy:?}").to_lowercase(),
            tokens,
            patches: input.grid_thw.iter().map(|g| g.iter().product::<i64>()).sum(),
            step_ms,
            forward_vision_ms,
            forward_ms,
            forward_backward_ms: median(backward),
            optimizer_ms: median(update),
            tokens_per_s: tokens as f64 / (step_ms / 1e3),
            model_tflop: flops.model / 1e12,
            hardware_tflop: flops.hardware / 1e12,
            mfu: share(flops.model),
            hfu: share(flops.hardware),
            memory,
        };
        let percent = |share: Option<f64>| share.map_or("unknown peak".to_owned(), |s| format!("{:.1} %", s * 100.0));
        let gb = row.memory.map(|bytes| format!("{:.1}", bytes as f64 / 1e9));
        println!(
            "recompute {:<9} {:>8.1} ms a step (forward {:.1}, of it vision {:.1}; with backward {:.1}; optimiser {:.1}), \
             {:.0} tokens/s, MFU {}, HFU {}, GB loaded {}, backward {}, optimiser {}",
            row.recompute,
            row.step_ms,
            row.forward_ms,
            row.forward_vision_ms,
            row.forward_backward_ms,
            row.optimizer_ms,
            row.tokens_per_s,
            percent(row.mfu),
            percent(row.hfu),
            gb[0],
            gb[1],
            gb[2]
        );
        rows.push(row);
    }
    Ok(rows)
}
