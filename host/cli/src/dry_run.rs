//! `ovhost train --dry-run`: everything that a run needs is opened, checked and told; nothing is trained or written.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use ovhost_data::loader::MicroBatch;
use ovhost_data::{EvalReader, Loader};
use ovhost_model::{LlavaOnevision, ModelConfig};
use ovhost_train::plan::{self, DiskPlan, MemoryPlan, TimePlan};
use serde::Serialize;
use tch::Device;

use crate::training::Training;

/// What was found.
#[derive(Serialize)]
struct Found {
    device: String,
    plugins: serde_json::Value,
    data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    questions: Option<u64>,
    weights: Weights,
    memory: MemoryPlan,
    disk: DiskPlan,
    time: TimePlan,
    /// Why the run would not begin or not end well; empty where nothing is in its way.
    problems: Vec<String>,
}

/// Shards, and the first micro-batch out of them.
#[derive(Serialize)]
struct Data {
    shards: usize,
    samples: u64,
    rank: u32,
    world: u32,
    batch: Batch,
}

/// A micro-batch.
#[derive(Serialize)]
struct Batch {
    samples: usize,
    tokens: usize,
    learnt_tokens: usize,
    images: usize,
    patches: i64,
    fill: f64,
    /// Samples that were left out on the way to it.
    left_out: usize,
}

#[derive(Serialize)]
struct Weights {
    folder: String,
    tensors: usize,
    parameters: f64,
    trained_parameters: f64,
}

impl Data {
    fn of(parts: &ovhost_data::LoaderParts, micro: &MicroBatch) -> Self {
        let shards = parts.source.shards();
        let batch = Batch {
            samples: micro.stats.samples,
            tokens: micro.input_ids.len(),
            learnt_tokens: micro.stats.learnt,
            images: micro.stats.images,
            patches: micro.grid_thw.iter().map(|grid| grid.iter().product::<i64>()).sum(),
            fill: micro.fill(),
            left_out: micro.rejects.len(),
        };
        let samples = shards.iter().map(|(_, n)| n).sum();
        Data { shards: shards.len(), samples, rank: parts.rank, world: parts.world, batch }
    }
}

/// Checks the run, prints what was found, and fails where it could not begin.
pub fn run(training: &Training, device: Device, resume: bool, json: bool) -> Result<ExitCode> {
    let found = look(training, device, resume)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print(&found, &training.recipe.train.steps);
    }
    for problem in &found.problems {
        eprintln!("error: {problem}");
    }
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn first(config: &ovhost_data::DataConfig, parts: &ovhost_data::LoaderParts, what: &str) -> Result<MicroBatch> {
    let mut loader = Loader::start(config, parts.clone()).with_context(|| what.to_owned())?;
    let micro = loader.next().with_context(|| what.to_owned())?;
    micro.with_context(|| format!("{what}: not one batch comes out of it: {}", loader.counters().summary("delivered")))
}

fn look(training: &Training, device: Device, resume: bool) -> Result<Found> {
    let Training { recipe, dir, plugins, parts } = training;
    let mut problems = Vec::new();
    let folder = dir.join(&recipe.model.folder);
    let (config, params) = (ModelConfig::from_folder(&folder)?, LlavaOnevision::check_folder(&folder)?);
    let micro = first(&recipe.data, parts, "data.train")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut validation, mut questions) = (None, None);
    if recipe.eval.every > 0 {
        // Says what is in the way of an evaluation.
        training.evaluators(&stop)?;
        if !recipe.eval.validation.is_empty() {
            let held_out = training.held_out(&stop)?;
            let micro = first(&held_out.config, &held_out.parts, "eval.validation")?;
            validation = Some(Data::of(&held_out.parts, &micro));
        }
        if !recipe.eval.shards.is_empty() && !plugins.metrics.is_empty() {
            let asked = training.asked(&stop)?;
            let (chat, images) = (Arc::clone(&asked.chat), Arc::clone(&asked.images));
            let mut reader = EvalReader::new(Some(asked.source), &asked.stages, chat, images, asked.seed)?;
            ensure!(!reader.is_empty(), "eval.shards have no samples");
            if let Err(reject) = reader.read(0)? {
                problems.push(format!("eval.shards: the first question, {}: {}", reject.key, reject.reason));
            }
            questions = Some(reader.len().min(recipe.eval.limit.unwrap_or(u64::MAX)));
        }
    }
    let run = training.folder();
    match (run.join("run.json").exists(), resume) {
        (true, false) => problems.push(format!("{} already holds a run: continue it with --resume", run.display())),
        (false, true) => problems.push(format!("--resume: {} holds no run", run.display())),
        _ => {}
    }
    if let Err(refusal) = training.refuse_ranks() {
        problems.push(format!("{refusal:#}"));
    }
    let disk = plan::disk(recipe, &params, &run)?;
    if let Some(free) = disk.free.filter(|free| *free < disk.needed) {
        problems.push(format!(
            "the disk of {} has {} free, the run needs {}: lower checkpoint.keep, or set run.folder to another disk",
            run.display(),
            size(free),
            size(disk.needed)
        ));
    }
    let values = plan::values(recipe, &params)?;
    Ok(Found {
        device: format!("{device:?}"),
        plugins: plugins.provenance(),
        data: Data::of(parts, &micro),
        validation,
        questions,
        weights: Weights {
            folder: folder.display().to_string(),
            tensors: params.len(),
            parameters: values.all,
            trained_parameters: values.trained,
        },
        memory: plan::memory(recipe, &config, &params, &micro, device)?,
        disk,
        time: plan::time(recipe, &config, &values.adapted, &micro, device)?,
        problems,
    })
}

/// Bytes in words.
fn size(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

/// Operations in words.
fn operations(number: f64) -> String {
    if number >= 1e9 { format!("{:.3} GFLOP", number / 1e9) } else { format!("{:.3} MFLOP", number / 1e6) }
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 7200.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s if s >= 1.0 => format!("{s:.1} s"),
        s => format!("{:.0} ms", s * 1e3),
    }
}

fn print(found: &Found, steps: &u64) {
    let Found { data, memory, disk, time, weights, .. } = found;
    let of = |what: &str, data: &Data| {
        let b = &data.batch;
        println!(
            "{what:<12} {} samples in {} shards{}; the first micro-batch: {} samples, {} tokens ({} learnt), {:.1} % full, \
             {} images, {} patches; {} left out on the way",
            data.samples,
            data.shards,
            if data.world > 1 { format!(", rank {} of {}", data.rank, data.world) } else { String::new() },
            b.samples,
            b.tokens,
            b.learnt_tokens,
            b.fill * 100.0,
            b.images,
            b.patches,
            b.left_out
        );
    };
    let names = found.plugins.as_array().into_iter().flatten().filter_map(|p| p["name"].as_str());
    println!("{:<12} {}", "plugins", names.collect::<Vec<_>>().join(", "));
    of("data", data);
    if let Some(data) = &found.validation {
        of("held out", data);
    }
    if let Some(questions) = found.questions {
        println!("{:<12} {questions} asked in each evaluation", "questions");
    }
    println!(
        "{:<12} {} tensors in {}, all there and of the right shapes; {:.2} M parameters, {:.2} M trained",
        "weights",
        weights.tensors,
        weights.folder,
        weights.parameters / 1e6,
        weights.trained_parameters / 1e6
    );
    println!("{:<12} {} at most on {}", "memory", size(memory.peak), found.device);
    let parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("sums of gradients", memory.gradient_sums),
        ("masters", memory.masters),
        ("moments", memory.moments),
        ("moving average", memory.average),
    ];
    for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0.0) {
        println!("{:<12} {:>10}  {name}", "", size(bytes));
    }
    for policy in &memory.activations {
        println!(
            "{:<12} {:>10}  activations with recompute = \"{}\"{}: {} held, {} a token more",
            "",
            size(policy.peak),
            policy.recompute,
            if policy.chosen { ", the recipe's" } else { "" },
            size(policy.held),
            size(policy.per_token)
        );
    }
    println!("{:<12} logits of {} tokens at a time", "", memory.loss_chunk);
    if memory.snapshot > 0.0 {
        println!(
            "{:<12} {:>10}  beside it, in the host's memory: the copy that checkpoints are written from",
            "",
            size(memory.snapshot)
        );
    }
    println!(
        "{:<12} {} for {} checkpoints of {} and the model{}",
        "disk",
        size(disk.needed),
        disk.checkpoints,
        size(disk.checkpoint),
        disk.free.map(|free| format!("; {} free", size(free))).unwrap_or_default()
    );
    println!(
        "{:<12} {} a token, {} with what is computed again; {:.4} TFLOP an update",
        "operations",
        operations(time.flop_per_token),
        operations(time.hardware_flop_per_token),
        time.tflop_per_update
    );
    match (time.seconds_per_update, time.seconds) {
        (Some(update), Some(all)) => {
            println!("{:<12} {} an update, {} for {steps} ({})", "time", duration(update), duration(all), time.by);
        }
        _ => println!("{:<12} {}", "time", time.by),
    }
}
