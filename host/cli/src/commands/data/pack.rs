//! `ovhost data pack`: samples to packs, offline, by a recipe's own plugins, tokenizer and image sizes.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::{
    ChatTokenizer, ImageProcessor,
    blend::Blend,
    packed::Layout,
    pipeline::PluginStages,
    rejects::{RECIPE_WORDS, RejectBudget},
    shards::expand,
};
use ovhost_plugin::{Kind, PackLimits};
use ovhost_prep::{PackSettings, Packed, Part, Phase, PrepError, Progress, RunOptions, pack, plugin_record};
use ovhost_store::output_path;
use ovhost_train::Recipe;
use serde_json::Value;

use super::jobs;
use crate::{console, training::recipe_dir, wiring};

/// Arguments of `ovhost data pack`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  By the recipe that will train on it:
    ovhost data pack --recipe recipe.toml --input data/train --out data/packed
    ovhost train --recipe recipe.toml --set 'data.train=\"data/packed\"'
  One of eight cluster jobs; each may be killed and started again. Exit code 3: the lengths of other parts are not done yet,
  run it once more when they are:
    ovhost data pack --recipe recipe.toml --input data/train --out data/packed --shard 3/8
  For readers of the reference's layout (Megatron-Energon), one picture, question and answer a sample:
    ovhost data pack --recipe recipe.toml --input data/train --out data/packed --layout reference

Tokenizer, image sizes, filters, prompt, packer, capacity and bounds on rejects are the recipe's. Packs say what they were made
for, and training on them under other settings is an error. Every sample that is not packed is a line of OUT/rejects.jsonl with
its key and reason. Run again with the same settings it goes on where it was stopped; the output does not depend on how often it
was stopped, on --workers or on --shard.")]
pub struct Args {
    /// The recipe; its folder is where its relative paths start
    #[arg(long, default_value = "recipe.toml")]
    recipe: PathBuf,
    /// Shards: files, folders, {000000..000009} patterns; the recipe's data.train if absent
    #[arg(long, num_args = 1..)]
    input: Vec<String>,
    /// Folder of the result
    #[arg(long, value_parser = output_path)]
    out: PathBuf,
    /// Plugins beside or instead of the recipe's: filters are added, a prompt or packer replaces
    #[arg(long, value_delimiter = ',')]
    plugins: Vec<String>,
    /// Override a key of the recipe, as in data.capacity=16384 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Most tokens in a pack; the recipe's data.capacity if absent
    #[arg(long)]
    capacity: Option<u32>,
    /// Packs in a shard of the result
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    packs_per_shard: u64,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Do only the shards whose number leaves i when divided by n
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: Part,
    /// Seed of the plugins and the shuffles; the recipe's run.seed if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the order of the samples and of the packs as the packer makes them
    #[arg(long)]
    no_shuffle: bool,
    /// How packs are written
    #[arg(long, value_name = "packed|reference", default_value = "packed", value_parser = parse_layout)]
    layout: Layout,
    /// Split named in the Energon metadata: train, val or test
    #[arg(long, default_value = "train", value_parser = ["train", "val", "test"])]
    split: String,
}

fn parse_layout(text: &str) -> Result<Layout, String> {
    match text {
        "packed" => Ok(Layout::Packed),
        "reference" => Ok(Layout::Reference),
        other => Err(format!("{other:?} is not known; use packed or reference")),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut recipe = Recipe::read(&args.recipe, &args.settings)?;
    recipe.data.capacity = args.capacity.unwrap_or(recipe.data.capacity);
    recipe.data.check()?;
    let dir = recipe_dir(&args.recipe);
    let paths = match args.input.as_slice() {
        [] => Blend::of_config(&recipe.data, &dir)?.plain_paths()?,
        input => expand(input, Path::new(""))?,
    };
    let settings = settings(args, &recipe, &dir, paths)?;
    let stop = console::stop_flag("stopping; the same command goes on from what was saved")?;
    let bar = ProgressBar::no_length();
    let options = RunOptions {
        out: args.out.clone(),
        workers: jobs::workers(args.workers),
        part: args.shard,
        budget: RejectBudget {
            max_rate: recipe.data.max_reject_rate,
            max_count: recipe.data.max_rejects,
            words: RECIPE_WORDS,
        },
        stop: &stop,
        progress: &|p| match p {
            Progress::Samples(n) => bar.inc(n),
            Progress::Skipped(n) => {
                bar.inc(n);
                bar.reset_eta();
            }
            // Its phases say their own lengths.
            Progress::Job | Progress::Total(_) => {}
        },
    };
    let result = pack(&settings, &options, &|phase| show(&bar, phase));
    bar.finish_and_clear();
    match result {
        Err(PrepError::Stopped) => Ok(jobs::stopped()),
        Err(error) => Err(error.into()),
        Ok(Packed::Waiting(summary)) => {
            eprintln!(
                "the lengths of {} of {} shards are done; packs are made when the other parts' are: run this again then",
                summary.before + summary.done,
                summary.jobs
            );
            Ok(ExitCode::from(jobs::WAITING))
        }
        Ok(Packed::Written(summary)) => {
            println!("{}", summary.counts.summary("packed"));
            if !summary.finished {
                println!(
                    "{} of {} packed shards are written ({} now); the step is finished when the other parts are",
                    summary.before + summary.done,
                    summary.jobs,
                    summary.done
                );
                return Ok(ExitCode::SUCCESS);
            }
            ensure!(
                summary.counts.packs > 0,
                "no sample was left to pack; each is listed with its reason in {}",
                args.out.join("rejects.jsonl").display()
            );
            println!(
                "{} packs of {} tokens, {:.2} % full, in {} shards ({:.1} MB) in {}",
                summary.counts.packs,
                recipe.data.capacity,
                summary.counts.fill() * 100.0,
                summary.files,
                summary.bytes as f64 / 1e6,
                args.out.display()
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn settings(args: &Args, recipe: &Recipe, dir: &Path, inputs: Vec<PathBuf>) -> Result<PackSettings> {
    let seed = args.seed.unwrap_or(recipe.run.seed);
    let host = wiring::host()?;
    let kinds = [Kind::Filter, Kind::Prompt, Kind::Packer];
    let plugins =
        wiring::plugins(&host, Some(&recipe.plugins), &args.plugins, dir, seed, &args.out.join("crashes"), &kinds)?;
    let prompt = plugins.prompt.clone().context("the recipe names no prompt plugin")?;
    let packer = plugins.packer.clone().context("the recipe names no packer plugin")?;
    let model_folder = dir.join(&recipe.model.folder);
    let mut images = ImageProcessor::from_folder(&model_folder)?;
    images.max_decode_pixels = recipe.data.max_image_pixels;
    let stages = PluginStages::new(plugins.filters.clone(), prompt, Some(packer.clone()))?;
    Ok(PackSettings {
        inputs,
        out: args.out.clone(),
        stages: Arc::new(stages.with_on_trap(recipe.data.on_plugin_failure)),
        filters: Value::Array(plugins.filters.iter().map(plugin_record).collect()),
        packer: plugin_record(&packer),
        on_trap: recipe.data.on_plugin_failure,
        chat: Arc::new(ChatTokenizer::from_folder(&model_folder)?),
        images: Arc::new(images),
        limits: PackLimits {
            capacity: recipe.data.capacity,
            max_items_per_bin: recipe.data.max_items_per_pack,
            max_open_items: recipe.data.max_open_items,
        },
        seed,
        shuffle: !args.no_shuffle,
        packs_per_shard: args.packs_per_shard,
        layout: args.layout,
        split: args.split.clone(),
    })
}

/// Sets the bar up for a step.
fn show(bar: &ProgressBar, phase: Phase) {
    let (template, length) = match phase {
        Phase::Lengths(_) => ("{spinner} {msg}: {pos} samples · {per_sec} · {elapsed}", None),
        Phase::Packing => ("{spinner} {msg} · {elapsed}", None),
        Phase::Writing(_, samples) => {
            ("{msg} {bar:32} {pos}/{len} samples · {per_sec} · {elapsed} · {eta} left", Some(samples))
        }
    };
    bar.reset();
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    if let Some(length) = length {
        bar.set_length(length);
    }
    bar.set_message(match phase {
        Phase::Lengths(shards) => format!("lengths of {shards} shards"),
        Phase::Packing => "packing".into(),
        Phase::Writing(shards, _) => format!("writing {shards} shards"),
    });
}
