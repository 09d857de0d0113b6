//! `ovhost data stats`: histograms, totals and sources of a set of shards.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use ovhost_data::{image::DEFAULT_MAX_DECODE_PIXELS, shards::expand};
use ovhost_plugin_cli::table::Table;
use ovhost_prep::{
    Part, PrepError, Progress, RunOptions,
    stats::{StatsSettings, Tokens, read_stats, stats},
};
use serde_json::Value;

use super::{bytes, jobs, tokens::TokenArgs};
use crate::console;

/// Arguments of `ovhost data stats`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  Image sizes, images, turns and characters, without a tokenizer:
    ovhost data stats data/train --out stats
  With the tokens and patches of training, by the recipe:
    ovhost data stats data/train --out stats --recipe recipe.toml
  The same for a model folder and the prompt prompts/conversation.wasm:
    ovhost data stats data/train --out stats --model models/llava-ov-1.5-4b
  One of eight cluster jobs; each may be killed and started again. Whoever is last writes stats.json and the plots:
    ovhost data stats data/train --out /shared/stats --shard 3/8

Writes OUT/stats.json (totals, percentiles, buckets, sources) and a PNG for each histogram. Percentiles are at most 1/128 too
high, and values below 256 exact; sums and counts are exact. The result does not depend on --workers, on --shard or on how
often it was stopped. A sample that cannot be read is a line of OUT/rejects.jsonl.")]
pub struct Args {
    /// Shards: files, folders, {000000..000009} patterns; packed shards too
    #[arg(required = true)]
    paths: Vec<String>,
    /// Folder of the result
    #[arg(long, value_parser = ovhost_store::output_path)]
    out: PathBuf,
    #[command(flatten)]
    tokens: TokenArgs,
    /// Field that names a sample's source; by default source, dataset, data_source, or else the shard's folder
    #[arg(long, value_name = "FIELD")]
    source_field: Option<String>,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Do only the shards whose number leaves i when divided by n
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: Part,
    /// Share of samples that may be rejected before the step stops
    #[arg(long, default_value_t = 1.0)]
    max_reject_rate: f64,
    /// Number of samples that may be rejected before the step stops
    #[arg(long)]
    max_rejects: Option<u64>,
    /// Pictures whose header promises more pixels are rejected
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
    /// Print stats.json instead of a summary
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let budget = jobs::budget(args.max_reject_rate, args.max_rejects)?;
    let inputs = expand(&args.paths, Path::new(""))?;
    // Whatever is too long for a recipe is measured all the same.
    let tokens = args.tokens.load(Some(u32::MAX), &args.out.join("crashes"))?;
    let settings =
        StatsSettings { inputs, tokens, source_field: args.source_field.clone(), max_pixels: args.max_image_pixels };
    let stop = console::stop_flag("stopping; the same command goes on from what was saved")?;
    let bar = super::samples_bar();
    let options = RunOptions {
        out: args.out.clone(),
        workers: jobs::workers(args.workers),
        part: args.shard,
        budget,
        stop: &stop,
        progress: &|p| match p {
            Progress::Samples(n) | Progress::Skipped(n) => bar.inc(n),
            Progress::Job | Progress::Total(_) => {}
        },
    };
    let result = stats(&settings, &options);
    bar.finish_and_clear();
    let summary = match result {
        Err(PrepError::Stopped) => return Ok(jobs::stopped()),
        other => other?,
    };
    if !summary.finished {
        jobs::unfinished(&summary);
        return Ok(ExitCode::SUCCESS);
    }
    let stats = read_stats(&args.out)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&stats)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", summary.counts.summary("measured"));
    show(&stats, matches!(settings.tokens, Tokens::None));
    println!("{} and plots in {}", args.out.join("stats.json").display(), args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Sources that are shown.
const SOURCES: usize = 20;

fn show(stats: &Value, no_tokens: bool) {
    let empty = serde_json::Map::new();
    let mut table = Table::new(["", ">count", ">mean", ">min", ">p5", ">p50", ">p95", ">p99", ">max", ">sum"]);
    for (name, h) in stats["histograms"].as_object().unwrap_or(&empty) {
        let p = &h["percentiles"];
        let cells =
            [&h["count"], &h["mean"], &h["min"], &p["p5"], &p["p50"], &p["p95"], &p["p99"], &h["max"], &h["sum"]];
        table.row(std::iter::once(name.clone()).chain(cells.map(number)));
    }
    println!("\n{}", table.render());
    if no_tokens && stats["histograms"].get("tokens").is_none() {
        println!("  (tokens and patches: give --recipe, or --model)\n");
    }
    let sources = stats["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table =
        Table::new(["source", ">samples", ">share", ">images", ">bytes", ">turns", ">characters", ">tokens"]);
    for s in sources.iter().take(SOURCES) {
        table.row([
            s["source"].as_str().unwrap_or_default().to_owned(),
            number(&s["samples"]),
            format!("{:.1} %", s["share"].as_f64().unwrap_or_default() * 100.0),
            number(&s["images"]),
            bytes(s["image_bytes"].as_u64().unwrap_or_default()),
            number(&s["turns"]),
            number(&s["characters"]),
            number(&s["tokens"]),
        ]);
    }
    println!("{}", table.render());
    if sources.len() > SOURCES {
        println!("  and {} more sources\n", sources.len() - SOURCES);
    }
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(n) if n.fract() != 0.0 => format!("{n:.2}"),
        Some(n) => format!("{n}"),
        None => "-".into(),
    }
}
