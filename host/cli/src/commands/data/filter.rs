//! `ovhost data filter`: filter plugins over shards, offline, as resumable jobs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::{ChatTokenizer, image::DEFAULT_MAX_DECODE_PIXELS, shards::expand};
use ovhost_plugin::{Kind, OnTrap, Plugin, Trust, TrustPolicy, split_pin};
use ovhost_prep::{FilterSettings, Part, PrepError, Progress, RunOptions, filter};
use ovhost_store::output_path;
use ovhost_train::recipe::PluginUse;

use super::jobs;
use crate::{console, training::recipe_dir, wiring};

/// Arguments of `ovhost data filter`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  One filter with its defaults:
    ovhost data filter --input data/train --out data/clean --plugins filters/caption_quality.wasm
  Several, configured, from a file with [[filter]] tables as in a recipe:
    ovhost data filter --input 'raw/part-{000..099}.tar' --out data/clean --filters filters.toml --workers 8
  One of eight cluster jobs; each may be killed and started again:
    ovhost data filter --input raw --out data/clean --filters filters.toml --shard 3/8
  Two passes, count and then balance (what the first remembers is the second's asset):
    ovhost data filter --input raw --out counts --filters count.toml --judge-only --save-state counts
    ovhost data filter --input raw --out data/balanced --filters sample.toml

Kept samples are copied byte for byte into a shard of the same name. Every other sample is a line of OUT/rejects.jsonl with its
key and reason. Run again with the same settings it goes on where it was stopped; the output does not depend on how often it
was stopped, on --workers or on --shard.")]
pub struct Args {
    /// Shards: files, folders, {000000..000009} patterns
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<String>,
    /// Folder of the result
    #[arg(long, value_parser = output_path)]
    out: PathBuf,
    /// File with `[[filter]]` tables, written as the `[[plugins.filter]]` tables of a recipe; its paths start in its folder.
    /// The keys trust and trusted_keys at its top are those of a recipe's `[plugins]`
    #[arg(long)]
    filters: Option<PathBuf>,
    /// Filters after those of --filters, with their default configuration
    #[arg(long, value_delimiter = ',')]
    plugins: Vec<String>,
    /// Model or tokenizer folder, for filters that read the column text-tokens
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Do only the shards whose number leaves i when divided by n
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: Part,
    /// Seed that the filters see
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What a filter's failure on a sample does: stop, or reject the sample
    #[arg(long, value_name = "stop|reject", default_value = "stop", value_parser = parse_on_trap)]
    on_plugin_failure: OnTrap,
    /// Share of samples that may be rejected (not: filtered) before the step stops
    #[arg(long, default_value_t = 0.01)]
    max_reject_rate: f64,
    /// Number of samples that may be rejected before the step stops
    #[arg(long)]
    max_rejects: Option<u64>,
    /// Pictures whose header promises more pixels are rejected
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
    /// Split named in the Energon metadata: train, val or test
    #[arg(long, default_value = "train", value_parser = ["train", "val", "test"])]
    split: String,
    /// Judge and count, but write no shards
    #[arg(long)]
    judge_only: bool,
    /// Write what streaming filters remember at the end to FOLDER/NAME.state
    #[arg(long, value_name = "FOLDER")]
    save_state: Option<PathBuf>,
}

/// A file of filters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterFile {
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    trusted_keys: Vec<String>,
    filter: Vec<PluginUse>,
}

fn parse_on_trap(text: &str) -> Result<OnTrap, String> {
    match text {
        "stop" => Ok(OnTrap::Stop),
        "reject" => Ok(OnTrap::Reject),
        other => Err(format!("{other:?} is not known; use stop or reject")),
    }
}

fn load(args: &Args) -> Result<Vec<Plugin>> {
    let host = wiring::host()?;
    let (mut out, mut trust) = (Vec::new(), Arc::new(TrustPolicy::default()));
    let crashes = args.out.join("crashes");
    let load = |use_: &PluginUse, dir: &Path, trust: &Arc<TrustPolicy>, key: String| -> Result<Plugin> {
        let spec = wiring::request(use_, dir, args.seed, trust, &crashes)?;
        let seen = host.inspect_spec(&spec)?.kind;
        ensure!(seen == Kind::Filter, "{key}: {} is a {seen} plugin, a filter plugin is needed here", use_.plugin);
        host.load(&spec).with_context(|| format!("{key} ({})", use_.plugin))
    };
    if let Some(path) = &args.filters {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file: FilterFile = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let dir = recipe_dir(path);
        trust = Arc::new(TrustPolicy::new(file.trust, &file.trusted_keys, &dir)?);
        for (i, use_) in file.filter.iter().enumerate() {
            out.push(load(use_, &dir, &trust, format!("filter {} of {}", i + 1, path.display()))?);
        }
    }
    for text in &args.plugins {
        let (name, pin) = split_pin(text);
        let use_ = PluginUse { sha256: pin.map(str::to_owned), ..PluginUse::bare(name) };
        out.push(load(&use_, Path::new("."), &trust, "--plugins".into())?);
    }
    ensure!(!out.is_empty(), "no filter is named; use --plugins filters/NAME.wasm or --filters FILE.toml");
    Ok(out)
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let budget = jobs::budget(args.max_reject_rate, args.max_rejects)?;
    let inputs = expand(&args.input, Path::new(""))?;
    let settings = FilterSettings {
        inputs,
        filters: load(args)?,
        draw: None,
        on_trap: args.on_plugin_failure,
        seed: args.seed,
        chat: args.tokenizer.as_ref().map(ChatTokenizer::from_folder).transpose()?,
        max_pixels: args.max_image_pixels,
        split: args.split.clone(),
        dry: args.judge_only,
        save_state: args.save_state.clone(),
    };
    let stop = console::stop_flag("stopping; the same command goes on from what was saved")?;
    let bar = bar();
    let options = RunOptions {
        out: args.out.clone(),
        workers: jobs::workers(args.workers),
        part: args.shard,
        budget,
        stop: &stop,
        progress: &|p| match p {
            Progress::Total(n) => bar.set_length(n),
            Progress::Samples(n) => bar.inc(n),
            Progress::Skipped(n) => {
                bar.inc(n);
                bar.reset_eta();
            }
            Progress::Job => {}
        },
    };
    let result = filter(&settings, &options);
    bar.finish_and_clear();
    let summary = match result {
        Err(PrepError::Stopped) => return Ok(jobs::stopped()),
        other => other?,
    };
    println!("{}", summary.counts.summary("kept"));
    for plugin in &settings.filters {
        let counters = plugin.counters();
        if counters.rows_in > 0 {
            tracing::info!(
                "{}: {} rows, {} kept, {:.0} ns a row, at most {:.1} MiB",
                plugin.info().name,
                counters.rows_in,
                counters.rows_kept,
                counters.call_ns as f64 / counters.rows_in as f64,
                counters.peak_memory as f64 / f64::from(1 << 20)
            );
        }
    }
    if summary.finished {
        println!(
            "{} shards, {:.1} MB in {}; the others are in {}",
            summary.files,
            summary.bytes as f64 / 1e6,
            args.out.display(),
            args.out.join("rejects.jsonl").display()
        );
    } else {
        jobs::unfinished(&summary);
    }
    Ok(ExitCode::SUCCESS)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} samples · {per_sec} · {elapsed} · {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
