//! `ovhost data inspect`: what is in a set of shards.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use indicatif::ProgressBar;
use ovhost_data::{image::DEFAULT_MAX_DECODE_PIXELS, shards::expand};
use ovhost_plugin_cli::table::Table;
use ovhost_prep::{
    PrepError,
    inspect::{Dataset, Example, InspectOptions, Member, Range, contact_sheet, inspect, percent},
    put_png,
};
use serde_json::Value;

use super::{bytes, jobs::workers, printable};
use crate::console;

/// Arguments of `ovhost data inspect`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  Members, fields, pictures and three samples:
    ovhost data inspect data/train
  Thumbnails of 48 drawn samples with what is said of them:
    ovhost data inspect data/train --seed 1 --contact-sheet sheet.png --sheet-samples 48
  For a script:
    ovhost data inspect data/train --json | jq '.[0].samples'

Takes plain WebDataset shards, packed shards and the reference's packed layout; a folder is a data set. Samples are counted by the
.tar.idx where there is one, else by reading headers; only the pictures of a contact sheet are decoded.")]
pub struct Args {
    /// Shards: files, folders, {000000..000009} patterns
    #[arg(required = true)]
    paths: Vec<String>,
    /// Samples of each data set that fields and members are told of, evenly spread; 0: all
    #[arg(long, default_value_t = 1000)]
    sample: u64,
    /// Samples of each data set that are shown
    #[arg(long, default_value_t = 3)]
    limit: u64,
    /// Draw samples by this seed instead of taking the first ones
    #[arg(long)]
    seed: Option<u64>,
    /// Write thumbnails with keys and captions to this PNG
    #[arg(long, value_name = "FILE.png")]
    contact_sheet: Option<PathBuf>,
    /// Samples on the contact sheet
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=1000))]
    sheet_samples: u64,
    /// Print JSON, samples whole
    #[arg(long)]
    json: bool,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Pictures whose header promises more pixels are reported and not decoded
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let paths = expand(&args.paths, Path::new(""))?;
    let stop = console::stop_flag("stopping")?;
    let bar = ProgressBar::new(paths.len() as u64).with_style(super::style("shards"));
    let tick = || {
        bar.inc(1);
        if stop.load(std::sync::atomic::Ordering::Relaxed) { Err(PrepError::Stopped) } else { Ok(()) }
    };
    let options = InspectOptions {
        sample: args.sample,
        examples: args.limit,
        seed: args.seed,
        workers: workers(args.workers),
        max_pixels: args.max_image_pixels,
    };
    let seen = inspect(&paths, &options, &tick);
    bar.finish_and_clear();
    let (datasets, folders): (Vec<_>, Vec<_>) = match seen {
        Err(PrepError::Stopped) => return Ok(console::interrupted()),
        other => other?.into_iter().unzip(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&datasets)?);
    } else {
        datasets.iter().for_each(show);
    }
    if let Some(path) = &args.contact_sheet {
        let (sheet, shown) = contact_sheet(&folders, args.sheet_samples, args.seed, args.max_image_pixels)?;
        put_png(path, &sheet)?;
        eprintln!("{shown} samples on {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn range<T: PartialEq + ToString>(range: Option<Range<T>>) -> String {
    match range {
        None => "-".into(),
        Some(r) if r.min == r.max => r.min.to_string(),
        Some(r) => format!("{} to {}", r.min.to_string(), r.max.to_string()),
    }
}

fn show(set: &Dataset) {
    let layout = match set.layout {
        "" => "samples without JSON",
        "webdataset" => "WebDataset",
        "packed" => "packs",
        _ => "packs of the reference's layout",
    };
    println!(
        "{} · {layout} · {} {} in {} shards, {}, {} of them with an index",
        set.folder,
        set.samples,
        if set.packs.is_some() { "packs" } else { "samples" },
        set.shards,
        bytes(set.bytes),
        set.indexed
    );
    println!("looked at {} of {}", set.looked_at, set.samples);
    if let Some(packs) = &set.packs {
        println!("\n  {} samples in a pack, {} in all that were looked at", range(packs.samples), packs.total_samples);
        if packs.total_capacity > 0 {
            println!(
                "  {} tokens in a pack, {} of the room is used",
                range(packs.tokens),
                percent(packs.total_tokens as f64 / packs.total_capacity as f64)
            );
        }
        for (fingerprint, n) in &packs.fingerprints {
            println!("  {n} packs made for {fingerprint}");
        }
        if let Some(head) = &packs.head {
            println!(
                "  packs of {} tokens, seed {}, tokenizer {:.12}",
                head.capacity, head.seed, head.made_for.tokenizer
            );
            println!("  images {}", head.made_for.image_processor);
            println!("  prompt {}", head.made_for.prompt);
        }
    }
    let mut table = Table::new(["member", ">samples", ">a sample", ">bytes", ">all", "content"]);
    for (name, member) in &set.members {
        let share = member.samples as f64 / set.looked_at.max(1) as f64;
        let each = member.count as f64 / member.samples.max(1) as f64;
        table.row([
            name.clone(),
            percent(share),
            format!("{each:.2}").trim_end_matches(['0']).trim_end_matches('.').to_owned(),
            range(member.bytes),
            bytes(member.total_bytes),
            content(member),
        ]);
    }
    println!("\n{}", table.render());
    if set.other_members > 0 {
        println!("  {} members of further names\n", set.other_members);
    }
    for (name, member) in &set.members {
        let Some(schema) = &member.schema else { continue };
        let mut table = Table::new([&format!("field of {name}"), "type", ">there", "values"]);
        schema.rows().into_iter().for_each(|row| table.row(row));
        println!("{}", table.render());
    }
    if set.faults > 0 {
        println!("  {} shards or samples have faults (`ovhost data validate` lists them all), such as", set.faults);
        for fault in &set.first_faults {
            let at = fault.index.map(|i| format!(" sample {i}")).unwrap_or_default();
            println!("    {}{at}: {}", fault.shard, fault.reason);
        }
        println!();
    }
    set.examples.iter().for_each(example);
}

fn content(member: &Member) -> String {
    let formats: Vec<String> = match &member.formats {
        f if f.len() == 1 => f.keys().cloned().collect(),
        f => f.iter().map(|(format, n)| format!("{format} {}", percent(*n as f64 / member.count as f64))).collect(),
    };
    let mut words = Vec::new();
    if let (Some(width), Some(height)) = (member.width, member.height) {
        words.push(format!("{}, {} × {} pixels", formats.join(", "), range(Some(width)), range(Some(height))));
    }
    words.extend(member.unreadable.map(|n| format!("{n} unreadable")));
    if let Some(schema) = &member.schema {
        let types: Vec<&str> = schema.types.keys().copied().collect();
        words.push(format!("JSON {}", types.join(" or ")));
    }
    words.join(", ")
}

fn example(example: &Example) {
    println!("  {} · sample {} of {}", printable(&example.key), example.index, example.shard);
    for member in &example.members {
        match &member.content {
            Value::Object(size) if size.contains_key("width") => {
                println!(
                    "    {}: {} {} × {}, {}",
                    printable(&member.name),
                    size["format"].as_str().unwrap_or_default(),
                    size["width"],
                    size["height"],
                    bytes(member.bytes)
                );
            }
            Value::Object(fields) => {
                println!("    {}:", printable(&member.name));
                for (field, value) in fields {
                    lines(3, &printable(field), value);
                }
            }
            Value::Null => println!("    {}: {}", printable(&member.name), bytes(member.bytes)),
            other => lines(2, &printable(&member.name), other),
        }
    }
    println!();
}

/// Characters of one string, and items of one list, that are shown.
const SHOWN: usize = 400;
const ITEMS: usize = 8;

fn lines(depth: usize, name: &str, value: &Value) {
    let space = "  ".repeat(depth);
    match value {
        Value::String(text) => {
            let head: String = text.chars().take(SHOWN).collect();
            let rest = text.chars().count().saturating_sub(SHOWN);
            let more = if rest > 0 { format!(" … {rest} more characters") } else { String::new() };
            let indent = format!("\n{space}  ");
            let text = head.lines().map(printable).collect::<Vec<_>>().join(&indent);
            println!("{space}{name}: {text}{more}");
        }
        Value::Array(items) if items.iter().any(|i| i.is_object() || i.is_array()) => {
            println!("{space}{name}: {} items", items.len());
            for (i, item) in items.iter().take(ITEMS).enumerate() {
                match item {
                    Value::Object(turn) => {
                        let who = ["from", "role"].iter().find_map(|k| turn.get(*k)?.as_str());
                        let said = ["value", "content"].iter().find_map(|k| turn.get(*k).filter(|v| v.is_string()));
                        match (who, said) {
                            (Some(who), Some(said)) if turn.len() == 2 => lines(depth + 1, &printable(who), said),
                            _ => {
                                println!("{space}  {i}:");
                                turn.iter().for_each(|(k, v)| lines(depth + 2, &printable(k), v));
                            }
                        }
                    }
                    other => lines(depth + 1, &i.to_string(), other),
                }
            }
            if items.len() > ITEMS {
                println!("{space}  … {} more", items.len() - ITEMS);
            }
        }
        Value::Array(items) if items.len() > 4 * ITEMS => {
            let head: Vec<String> = items.iter().take(ITEMS).map(Value::to_string).collect();
            println!("{space}{name}: [{}, … {} more]", head.join(", "), items.len() - ITEMS);
        }
        Value::Object(fields) if !fields.is_empty() => {
            println!("{space}{name}:");
            fields.iter().for_each(|(k, v)| lines(depth + 1, &printable(k), v));
        }
        other => println!("{space}{name}: {}", printable(&other.to_string())),
    }
}
