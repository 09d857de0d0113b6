//! `ovhost data index`: shards that others made, ready for fast opening here and for Megatron-Energon.

use std::{path::PathBuf, process::ExitCode, sync::atomic::Ordering};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::shards::{IndexOptions, energon::EnergonVersion, index};

use crate::console;

/// Arguments of `ovhost data index`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost data index data/train
  ovhost data index data --shards 'train-{000..099}.tar'
  ovhost data index data --shards 'val-{0..3}.tar' --split val --energon-version 5

Beside every shard lands NAME.tar.idx (where samples begin), in DIR/.nv-meta what Megatron-Energon needs to train on it:
.info.json (version 7 and later), .info.yaml (version 5), split.yaml, and dataset.yaml where there is none. index.sqlite,
which version 7 needs for joins and auxiliary data sets only, is not made.")]
pub struct Args {
    /// Folder of the data set
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Shards in it, with braces; every .tar in it and below if absent
    #[arg(long, value_delimiter = ' ')]
    shards: Vec<String>,
    /// Part that these shards are: train, val or test. Other parts stay
    #[arg(long, default_value = "train")]
    split: String,
    /// Energon that is to read it: 5, 7 or both
    #[arg(long, default_value = "both")]
    energon_version: String,
    /// Threads
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let version = match args.energon_version.as_str() {
        "both" => EnergonVersion::Both,
        "5" => EnergonVersion::V5,
        "7" => EnergonVersion::V7,
        other => anyhow::bail!("--energon-version is {other}; allowed: 5, 7, both"),
    };
    ensure!(args.folder.is_dir(), "{} is no folder; name the folder that holds the shards", args.folder.display());
    let stop = console::stop_flag("stopping after the shards at hand")?;
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} shards · {per_sec} · {eta}") {
        bar.set_style(style);
    }
    let options =
        IndexOptions { folder: args.folder, shards: args.shards, split: args.split, version, workers: args.workers };
    let indexed = index(&options, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        !stop.load(Ordering::SeqCst)
    })?;
    bar.finish_and_clear();
    let Some(indexed) = indexed else {
        eprintln!("interrupted; the same command goes on");
        return Ok(console::interrupted());
    };
    println!(
        "{} shards, {} samples in {}: {} indices written, {} were right; part {} of its metadata",
        indexed.shards,
        indexed.samples,
        options.folder.display(),
        indexed.written,
        indexed.shards - indexed.written,
        options.split
    );
    Ok(ExitCode::SUCCESS)
}
