//! What a run will need, before it begins: recipe, parameters and a first batch in; memory, disk and operations out.
//!
//! ```text
//!  parameters ─► weights, gradients, masters, moments, the copy for checkpoints ─┐
//!  a batch ────► activations by recompute policy, a chunk of logits ─────────────┴─► MemoryPlan
//!  a batch ────► operations a token ─► timed on a cut of the model, or by run.peak_tflops ─► seconds
//! ```

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use ovhost_data::loader::MicroBatch;
use ovhost_model::{
    Flops, LlavaOnevision, ModelConfig, Module, Param, Recompute, RecomputePolicy, Storage, Targets, Work,
    default_loss_chunk,
};
use serde::Serialize;
use tch::{Device, Kind};

use crate::recipe::{Precision, Recipe};
use crate::trainer::packed_input;

/// Share of the device's peak that a run is taken to reach where nothing can be timed.
pub const STATED_MFU: f64 = 0.4;

/// Most operations of a pass that is timed on the CPU, and on a GPU.
const TIMED: [f64; 2] = [5e11, 2e14];

/// Bytes of everything that a run holds.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryPlan {
    /// All parameters, in the recipe's precision.
    pub weights: f64,
    /// Of the trained parameters, in that precision.
    pub gradients: f64,
    /// fp32 sums of gradients over micro-batches, under bf16.
    pub gradient_sums: f64,
    /// fp32 copies that are updated, under bf16.
    pub masters: f64,
    /// AdamW's two moments.
    pub moments: f64,
    /// The moving average of the weights.
    pub average: f64,
    /// Activations of the first micro-batch, by recompute policy. Of frozen weights under adapters they are a bound.
    pub activations: Vec<PolicyPlan>,
    /// Tokens whose logits exist at a time.
    pub loss_chunk: i64,
    /// All of the above at the recipe's policy, at the moment that takes the most.
    pub peak: f64,
    /// The copy that a checkpoint is written from, in the host's memory.
    pub snapshot: f64,
}

/// Activations under a policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyPlan {
    /// The policy.
    pub recompute: &'static str,
    /// Whether it is the recipe's.
    pub chosen: bool,
    /// Bytes held between the passes.
    pub held: f64,
    /// Bytes at the moment that takes the most.
    pub peak: f64,
    /// Bytes that a token more of such samples takes: what `peak` grows by.
    pub per_token: f64,
}

/// Room on the disk, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct DiskPlan {
    /// A checkpoint: weights and the optimiser's state.
    pub checkpoint: f64,
    /// Checkpoints at a time: those that are kept, the best, and one that is being written.
    pub checkpoints: usize,
    /// They and the final model.
    pub needed: f64,
    /// Free where the run's folder is; none where the system does not tell.
    pub free: Option<f64>,
}

/// How long a run will take.
#[derive(Clone, Debug, Serialize)]
pub struct TimePlan {
    /// Operations that a token needs, by the first micro-batch.
    pub flop_per_token: f64,
    /// The same with what is computed again.
    pub hardware_flop_per_token: f64,
    /// Operations of an update, in 10¹².
    pub tflop_per_update: f64,
    /// Seconds of an update; none where nothing tells.
    pub seconds_per_update: Option<f64>,
    /// Seconds of the run.
    pub seconds: Option<f64>,
    /// Where the seconds come from.
    pub by: String,
}

fn work<'a>(micro: &'a MicroBatch, learnt: i64) -> Work<'a> {
    Work { cu_seqlens: &micro.cu_seqlens, grid_thw: &micro.grid_thw, learnt }
}

fn learnt(micro: &MicroBatch, config: &ModelConfig) -> Result<i64> {
    Ok(Targets::new(&micro.labels, &micro.cu_seqlens, config.text.vocab_size, Device::Cpu)?.count())
}

fn name(policy: RecomputePolicy) -> &'static str {
    match policy {
        RecomputePolicy::None => "none",
        RecomputePolicy::Selective => "selective",
        RecomputePolicy::Full => "full",
    }
}

/// How many values a run has.
#[derive(Clone, Debug, Serialize)]
pub struct Values {
    /// Parameters, adapters included.
    pub all: f64,
    /// Those that are trained.
    pub trained: f64,
    /// Modules that adapters train, whose own weights are frozen.
    pub adapted: Vec<Module>,
}

/// The values of a run on a model with these parameters.
///
/// # Errors
/// `train.lora.targets` that name nothing.
pub fn values(recipe: &Recipe, params: &[Param]) -> Result<Values> {
    let count = |p: &Param| p.tensor.numel() as f64;
    let mut out = Values { all: params.iter().map(count).sum(), trained: 0.0, adapted: Vec::new() };
    if let Some(lora) = &recipe.train.lora {
        // What can have an adapter: every linear layer but the head, and the embedding is none.
        let linear =
            |p: &&Param| p.tensor.dim() == 2 && !p.name.contains("embed_tokens") && !p.name.starts_with("lm_head");
        let layers: Vec<(String, &Param)> = params
            .iter()
            .filter(linear)
            .filter_map(|p| Some((p.name.strip_suffix(".weight")?.to_owned(), p)))
            .collect();
        let known: Vec<String> = layers.iter().map(|(name, _)| name.clone()).collect();
        let chosen = lora.select(&known)?;
        for (_, param) in layers.iter().filter(|(name, _)| chosen.contains(name)) {
            let values = lora.rank as f64 * param.tensor.size().iter().sum::<i64>() as f64;
            (out.all, out.trained) = (out.all + values, out.trained + values);
            if !out.adapted.contains(&param.module) {
                out.adapted.push(param.module);
            }
        }
    }
    let full = |p: &&Param| recipe.train.module(p.module).train && !out.adapted.contains(&p.module);
    out.trained += params.iter().filter(full).map(count).sum::<f64>();
    Ok(out)
}

/// Bytes of a weight, and of what is kept for a trained one.
struct Bytes {
    weight: f64,
    sum: f64,
    master: f64,
    moments: f64,
    average: f64,
}

impl Bytes {
    fn of(recipe: &Recipe) -> Self {
        let (weight, wide) = match recipe.model.precision {
            Precision::Fp32 => (4.0, 0.0),
            Precision::Bf16 => (2.0, 4.0),
        };
        let moments = 2.0 * recipe.train.moments.kind().elt_size_in_bytes() as f64;
        let average = if recipe.train.ema_decay > 0.0 { 4.0 } else { 0.0 };
        Bytes { weight, sum: wide, master: wide, moments, average }
    }

    /// What a checkpoint keeps of a trained value beside the weight.
    fn state(&self) -> f64 {
        self.master + self.moments + self.average
    }
}

/// The memory of a run whose micro-batches are like `micro`.
///
/// # Errors
/// A batch that does not fit the configuration.
pub fn memory(
    recipe: &Recipe,
    config: &ModelConfig,
    params: &[Param],
    micro: &MicroBatch,
    device: Device,
) -> Result<MemoryPlan> {
    let Values { all, trained, .. } = values(recipe, params)?;
    let each = Bytes::of(recipe);
    let Bytes { weight, sum, master, moments, average } = each;
    let loss_chunk = default_loss_chunk(config, device);
    let storage = Storage { bytes: weight, cpu: device == Device::Cpu, loss_chunk: loss_chunk as f64 };
    let modules = recipe.train.trained();
    let learnt = learnt(micro, config)?;
    // A second such micro-batch behind the first tells how memory grows with tokens.
    let end = micro.cu_seqlens.last().copied().unwrap_or(0);
    let twice: Vec<i32> =
        micro.cu_seqlens.iter().copied().chain(micro.cu_seqlens.iter().skip(1).map(|at| at + end)).collect();
    let grids: Vec<_> = micro.grid_thw.iter().chain(&micro.grid_thw).copied().collect();
    let doubled = Work { cu_seqlens: &twice, grid_thw: &grids, learnt: 2 * learnt };
    let mut plans = Vec::new();
    let mut peak = 0.0;
    for policy in [RecomputePolicy::None, RecomputePolicy::Selective, RecomputePolicy::Full] {
        let chosen = policy == recipe.train.recompute;
        let recompute = if chosen { recipe.train.recompute() } else { Recompute { policy, every: 1 } };
        let once = config.activations(work(micro, learnt), &modules, recompute, storage);
        let more = config.activations(doubled, &modules, recompute, storage);
        if chosen {
            peak = once.peak;
        }
        let per_token = (more.peak - once.peak) / f64::from(end.max(1));
        plans.push(PolicyPlan { recompute: name(policy), chosen, held: once.held, peak: once.peak, per_token });
    }
    let fixed = all * weight + trained * (weight + sum + each.state());
    let copied = recipe.checkpoint.asynchronous && recipe.train.lora.is_none();
    let snapshot = if copied { trained * (weight + each.state()) } else { 0.0 };
    Ok(MemoryPlan {
        weights: all * weight,
        gradients: trained * weight,
        gradient_sums: trained * sum,
        masters: trained * master,
        moments: trained * moments,
        average: trained * average,
        activations: plans,
        loss_chunk,
        peak: fixed + peak,
        snapshot,
    })
}

/// The disk space of a run in `folder`.
///
/// # Errors
/// As [`values`].
pub fn disk(recipe: &Recipe, params: &[Param], folder: &Path) -> Result<DiskPlan> {
    let Values { all, trained, .. } = values(recipe, params)?;
    let each = Bytes::of(recipe);
    // With adapters a checkpoint leaves out what is not trained.
    let weights = if recipe.train.lora.is_some() { trained } else { all };
    let checkpoint = weights * each.weight + trained * each.state();
    let checkpoints = recipe.checkpoint.keep + usize::from(recipe.checkpoint.best.is_some()) + 1;
    let models = if recipe.train.ema_decay > 0.0 { 2.0 } else { 1.0 };
    let needed = checkpoints as f64 * checkpoint + models * all * each.weight;
    Ok(DiskPlan { checkpoint, checkpoints, needed, free: free_space(folder) })
}

/// Bytes that may be written below `path`, or below the nearest folder above it that exists.
fn free_space(path: &Path) -> Option<f64> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|folder| folder.is_dir())?;
    let name = std::ffi::CString::new(there.as_os_str().as_encoded_bytes()).ok()?;
    let mut told = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a string with an end and room for the answer, both alive for the call.
    let done = unsafe { libc::statvfs(name.as_ptr(), told.as_mut_ptr()) };
    // SAFETY: all zeros are a valid statvfs, and the call has filled it where it returned 0.
    (done == 0).then(|| unsafe { told.assume_init() }).map(|s| s.f_bavail as f64 * s.f_frsize as f64)
}

/// The time of a run whose micro-batches are like `micro`: measured where a pass is short enough, else by `run.peak_tflops`.
///
/// # Errors
/// A batch that does not fit the model, or what libtorch throws.
pub fn time(
    recipe: &Recipe,
    config: &ModelConfig,
    adapted: &[Module],
    micro: &MicroBatch,
    device: Device,
) -> Result<TimePlan> {
    let (modules, recompute) = (recipe.train.trained(), recipe.train.recompute());
    let learnt = learnt(micro, config)?;
    let full: Vec<Module> = modules.iter().copied().filter(|module| !adapted.contains(module)).collect();
    let whole = config.flops_adapted(work(micro, learnt), &full, adapted, recompute);
    // What is timed has no adapters and trains all of a module.
    let flops = |config: &ModelConfig| config.flops(work(micro, learnt), &modules, recompute);
    let tokens = micro.input_ids.len().max(1) as f64;
    let most = if device == Device::Cpu { TIMED[0] } else { TIMED[1] };
    let mut cut = config.clone();
    if whole.hardware > most {
        (cut.text.num_hidden_layers, cut.vision.depth) = (cut.text.num_hidden_layers.min(2), cut.vision.depth.min(1));
    }
    let peak = recipe.run.peak_tflops * 1e12;
    let (rate, by) = if flops(&cut).hardware <= most {
        let rate = flops(&cut).hardware / timed(recipe, &cut, micro, device)?;
        let what = match whole.hardware > most {
            true => format!("{} decoder layers and {} vision block", cut.text.num_hidden_layers, cut.vision.depth),
            false => "the whole model".to_owned(),
        };
        let words = format!(
            "measured: forward and backward of {what} with random weights on the first micro-batch, {:.1} GFLOP/s; the \
             optimiser and waiting for data come on top",
            rate / 1e9
        );
        (Some(rate), words)
    } else if peak > 0.0 {
        let words = format!(
            "not measured: a stated {:.0} % of run.peak_tflops, {}",
            STATED_MFU * 100.0,
            recipe.run.peak_tflops
        );
        (Some(peak * STATED_MFU * whole.hardware / whole.model), words)
    } else {
        (None, "not measured: a pass would take too long here; set run.peak_tflops for an estimate".to_owned())
    };
    let Flops { model, hardware } = whole;
    let seconds_per_update = rate.map(|rate| recipe.train.accumulation as f64 * hardware / rate);
    Ok(TimePlan {
        flop_per_token: model / tokens,
        hardware_flop_per_token: hardware / tokens,
        tflop_per_update: recipe.train.accumulation as f64 * model / 1e12,
        seconds_per_update,
        seconds: seconds_per_update.map(|seconds| seconds * recipe.train.steps as f64),
        by,
    })
}

/// Seconds of the shorter of two passes, after one that is not counted.
fn timed(recipe: &Recipe, config: &ModelConfig, micro: &MicroBatch, device: Device) -> Result<f64> {
    let kind = match recipe.model.precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    };
    let model = LlavaOnevision::random(config.clone(), 1, device, kind).context("making a model to time")?;
    let trained = recipe.train.trained();
    for param in model.parameters() {
        let _ = param.tensor.set_requires_grad(trained.contains(&param.module));
    }
    let targets = Targets::new(&micro.labels, &micro.cu_seqlens, config.text.vocab_size, device)?;
    let input = packed_input(micro, device)?;
    let mut best = f64::INFINITY;
    for pass in 0..3 {
        let began = Instant::now();
        // Reading the loss waits for the device.
        model.backward(&input, &targets, 1.0, recipe.train.recompute())?.f_double_value(&[])?;
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
        if pass > 0 {
            best = best.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
