//! `ovhost data`: tables to shards, filters over shards, shards to packs, and a look into shards.

mod balance;
mod convert;
mod filter;
mod index;
mod inspect;
mod jobs;
mod pack;
mod stats;
mod tokens;
mod validate;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::{
    packed::MARK,
    record::RecordOptions,
    shards::{Shard, expand},
};
use serde_json::Value;

/// Subcommands of `ovhost data`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Thin out what there is too much of, by concepts or sources: resumable, in parallel, the same bytes every time
    Balance(Box<balance::Args>),
    /// Turn parquet, JSON, shards or IDX into WebDataset shards: resumable, in parallel, the same bytes every time
    Convert(Box<convert::Args>),
    /// Run filter plugins over shards: resumable, in parallel, the same bytes every time
    Filter(Box<filter::Args>),
    /// Write .tar.idx and Megatron-Energon's metadata for shards that others made
    Index(index::Args),
    /// Pack samples for training once and for all: resumable, in parallel, the same bytes every time
    Pack(Box<pack::Args>),
    /// Describe shards: counts, members, fields, pictures, a few samples, a contact sheet
    Inspect(inspect::Args),
    /// Show samples of shards, and save their pictures
    Show(ShowArgs),
    /// Measure shards: tokens, image sizes, turns and sources as JSON and plots; resumable, in parallel
    Stats(Box<stats::Args>),
    /// Check shards for everything that would hurt later
    Validate(Box<validate::Args>),
}

/// Arguments of `ovhost data show`.
#[derive(clap::Args)]
pub struct ShowArgs {
    /// Shards: files, folders, {000000..000009} patterns
    #[arg(required = true)]
    shards: Vec<String>,
    /// Samples to show
    #[arg(long, default_value_t = 3)]
    limit: usize,
    /// Save the shown samples' pictures into this folder
    #[arg(long, value_name = "FOLDER")]
    save_images: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Balance(args) => balance::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Filter(args) => filter::run(&args),
        Command::Index(args) => index::run(args),
        Command::Pack(args) => pack::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Show(args) => show(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Validate(args) => validate::run(&args),
    }
}

/// A bar that counts `what` and tells when it will be done.
fn style(what: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!(
        "{{bar:32}} {{pos}}/{{len}} {what} · {{per_sec}} · {{elapsed}} · {{eta}} left"
    ))
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Text out of data, so that it does not steer the terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A bar of samples whose number is not known beforehand.
fn samples_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {pos} samples · {per_sec} · {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// Bytes in decimal units, as in the other commands' summaries: 640 B, 1.2 kB, 10.4 MB.
fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.1} GB", n as f64 / 1e9),
        _ => format!("{:.1} TB", n as f64 / 1e12),
    }
}

/// A pack: what it says of itself, and each of its samples.
fn show_pack(key: &str, pack: &Value) {
    let samples = pack["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |name: &str| pack[name].to_string();
    println!(
        "  {}  pack of {} samples, {} of {} tokens, {} patches, made for {}",
        plain(key),
        samples.len(),
        of("tokens"),
        of("capacity"),
        of("patches"),
        of("fingerprint")
    );
    for sample in samples {
        let text = |name: &str| sample[name].as_str().map_or_else(|| sample[name].to_string(), plain);
        println!(
            "    {} of {}  {} tokens  {}  {}",
            text("key"),
            text("source"),
            text("tokens"),
            text("images"),
            text("record")
        );
    }
}

/// A name of somebody's file as it may stand in a terminal.
fn plain(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn show(args: &ShowArgs) -> Result<ExitCode> {
    let (mut left, mut damaged) = (args.limit, 0);
    for path in expand(&args.shards, Path::new(""))? {
        let shard = Shard::open_damaged(&path)?;
        println!("{} · {} samples", path.display(), shard.len());
        for index in 0..shard.len().min(left) {
            match shard.record(index, &RecordOptions::default()) {
                Err(reject) => println!("  {}: {}", plain(&reject.key), reject.reason),
                Ok(record) => {
                    match record.fields.get(MARK) {
                        Some(_) => show_pack(&record.key, &Value::Object(record.fields)),
                        None => println!("  {}  {}", plain(&record.key), serde_json::to_string(&record.fields)?),
                    }
                    for media in &record.media {
                        println!(
                            "      {}  {} × {}, {} bytes",
                            plain(&media.name),
                            media.width,
                            media.height,
                            media.bytes.len()
                        );
                        if let Some(folder) = &args.save_images {
                            fs::create_dir_all(folder)?;
                            let name = format!("{}.{}", record.key.replace('/', "_"), media.name);
                            fs::write(folder.join(&name), &media.bytes).with_context(|| format!("writing {name}"))?;
                        }
                    }
                }
            }
        }
        if let Some(damage) = shard.damage_reject() {
            damaged += 1;
            println!("  {}: {}", plain(&damage.key), damage.reason);
        }
        left = left.saturating_sub(shard.len());
        if left == 0 {
            break;
        }
    }
    ensure!(damaged == 0, "{damaged} of the shards are damaged; fetch or make them again");
    Ok(ExitCode::SUCCESS)
}
