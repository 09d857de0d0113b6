//! `ovhost data validate`: everything about shards that would hurt later.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
};

use anyhow::{Result, bail};
use ovhost_data::{image::DEFAULT_MAX_DECODE_PIXELS, shards::expand};
use ovhost_prep::{
    PrepError,
    stats::Tokens,
    validate::{Found, Kind, Report, ValidateSettings, validate},
};

use super::{jobs::workers, tokens::TokenArgs};
use crate::console;

/// Exit code where faults were found.
const FAULTS: u8 = 4;

/// Arguments of `ovhost data validate`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  Structure, metadata, JSON, picture headers:
    ovhost data validate data/train
  Every picture decoded, every sample tokenised as the recipe will, on 32 threads:
    ovhost data validate data/train --decode --recipe recipe.toml --workers 32
  For a script:
    ovhost data validate data/train --json > report.json || exit 1

Checks the tar, its index, Energon's .nv-meta, manifests with their hashes, keys, JSON, text, pictures and their placeholders,
and of packed shards their descriptions, lengths and fingerprints. It never stops at a fault. Exit code 0: clean; 4: faults
were found; 1: it could not be checked.")]
pub struct Args {
    /// Shards: files, folders, {000000..000009} patterns; packed shards too
    #[arg(required = true)]
    paths: Vec<String>,
    /// Decode every picture instead of reading its header
    #[arg(long)]
    decode: bool,
    /// A sample without a picture is a fault
    #[arg(long)]
    require_images: bool,
    /// Leave the sha256 of manifest.json and pack.json unchecked
    #[arg(long)]
    no_hashes: bool,
    #[command(flatten)]
    tokens: TokenArgs,
    /// Most tokens of a sample; the recipe's data.capacity if absent
    #[arg(long)]
    capacity: Option<u32>,
    /// Findings of each kind that are listed; the others are counted
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    first: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Pictures whose header promises more pixels are faults
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let inputs = expand(&args.paths, Path::new(""))?;
    let encoding = match args.tokens.load(args.capacity, &PathBuf::from("crashes"))? {
        Tokens::Exact(encoding) => Some(*encoding),
        Tokens::None if args.capacity.is_none() => None,
        Tokens::None => bail!("--capacity is given, but nothing that counts tokens; add --recipe or --model"),
        Tokens::Answers(_) => {
            bail!(
                "lengths need image sizes: the folder of --model has no preprocessor_config.json; give a model folder"
            )
        }
    };
    let settings = ValidateSettings {
        inputs,
        decode: args.decode,
        hashes: !args.no_hashes,
        require_images: args.require_images,
        max_pixels: args.max_image_pixels,
        encoding,
        most: args.first as usize,
        workers: workers(args.workers),
    };
    let stop = console::stop_flag("stopping")?;
    let bar = super::samples_bar();
    let tick = |n: u64| {
        bar.inc(n);
        if stop.load(Ordering::Relaxed) { Err(PrepError::Stopped) } else { Ok(()) }
    };
    let result = validate(&settings, &tick);
    bar.finish_and_clear();
    let report = match result {
        Err(PrepError::Stopped) => return Ok(console::interrupted()),
        other => other?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        show(&report, args.decode);
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::from(FAULTS) })
}

fn show(report: &Report, decode: bool) {
    let packs = if report.packs > 0 { format!(" in {} packs", report.packs) } else { String::new() };
    let looked = if decode { "decoded" } else { "looked at" };
    println!(
        "{} shards, {} samples{packs}, {} pictures {looked}: {}",
        report.shards,
        report.samples,
        report.images,
        match report.total() {
            0 => "clean".to_owned(),
            1 => "1 fault".to_owned(),
            n => format!("{n} faults"),
        }
    );
    let section = |(kind, found): (&Kind, &Found)| {
        println!("\n{} {}", found.count, kind.words());
        for one in &found.first {
            let key = if one.key.is_empty() { String::new() } else { format!(" {}", super::printable(&one.key)) };
            println!("  {}{key}: {}", one.file, super::printable(&one.reason));
        }
        if found.count > found.first.len() as u64 {
            println!("  and {} more (--first)", found.count - found.first.len() as u64);
        }
    };
    report.faults.iter().for_each(section);
    for (kind, found) in &report.notes {
        println!("\nnote: {} {}", found.count, kind.words());
    }
}
