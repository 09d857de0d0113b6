//! `ovhost data`: tables to shards, filters over shards, shards to packs, and a look into shards.

mod convert;
mod filter;
mod index;
mod pack;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use ovhost_data::{
    packed::MARK,
    record::RecordOptions,
    shards::{Shard, expand},
};
use serde_json::Value;

/// Subcommands of `ovhost data`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Turn parquet, JSON, shards or IDX into WebDataset shards: resumable, in parallel, the same bytes every time
    Convert(Box<convert::Args>),
    /// Run filter plugins over shards: resumable, in parallel, the same bytes every time
    Filter(Box<filter::Args>),
    /// Write .tar.idx and Megatron-Energon's metadata for shards that others made
    Index(index::Args),
    /// Pack samples for training once and for all: resumable, in parallel, the same bytes every time
    Pack(Box<pack::Args>),
    /// Show samples of shards, and save their pictures
    Show(ShowArgs),
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
        Command::Convert(args) => convert::run(&args),
        Command::Filter(args) => filter::run(&args),
        Command::Index(args) => index::run(args),
        Command::Pack(args) => pack::run(&args),
        Command::Show(args) => show(&args),
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
