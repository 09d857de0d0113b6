//! `ovhost data`: tables with pictures to shards, filters over shards, shards to packs, and a look into shards.

mod filter;
mod index;
mod pack;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::{
    convert::{ConvertOptions, Input, convert},
    packed::MARK,
    record::RecordOptions,
    shards::{Shard, expand},
};
use serde_json::Value;

/// Subcommands of `ovhost data`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Turn a JSON or JSONL table with a folder of pictures, or an IDX pair, into WebDataset shards
    Convert(Box<ConvertArgs>),
    /// Run filter plugins over shards: resumable, in parallel, the same bytes every time
    Filter(Box<filter::Args>),
    /// Write .tar.idx and Megatron-Energon's metadata for shards that others made
    Index(index::Args),
    /// Pack samples for training once and for all: resumable, in parallel, the same bytes every time
    Pack(Box<pack::Args>),
    /// Show samples of shards, and save their pictures
    Show(ShowArgs),
}

/// Arguments of `ovhost data convert`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  LLaVA JSON with a picture folder:
    ovhost data convert --input llava.json --image-dir images --out data/train
  Rows that are lists, [question, answer, image number], all questions of a picture in one sample:
    ovhost data convert --input questions.json --fields question,answer,image --image-dir images \\
        --image-pattern '{image}.png' --group-by image --out data/train
  MNIST-like files, each picture with its class as caption:
    ovhost data convert --input train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz \\
        --class-names classes.txt --out data/train

Rows are objects: LLaVA (id, image, conversations), messages, VQA (image, question, answer) or captions (image, caption).
Pictures are copied byte for byte. What cannot be used is a line of OUT/rejects.jsonl. The same input gives the same bytes.")]
pub struct ConvertArgs {
    /// JSON list, JSON Lines, or an IDX file of pictures (with --labels)
    #[arg(long)]
    input: PathBuf,
    /// Folder of the shards
    #[arg(long)]
    out: PathBuf,
    /// Folder that picture names are relative to; the table's own if absent
    #[arg(long)]
    image_dir: Option<PathBuf>,
    /// For rows that are lists: the name of each position
    #[arg(long, value_delimiter = ',')]
    fields: Option<Vec<String>>,
    /// A picture's file name made from fields, as in '{image}.png'
    #[arg(long)]
    image_pattern: Option<String>,
    /// One sample for all rows with the same value of this field; their questions become turns of one conversation
    #[arg(long)]
    group_by: Option<String>,
    /// Field that gives a sample's key
    #[arg(long)]
    id_field: Option<String>,
    /// Shuffle the samples (needs the table in memory)
    #[arg(long, value_name = "SEED")]
    shuffle_seed: Option<u64>,
    /// IDX labels that go with the pictures
    #[arg(long, requires = "class_names")]
    labels: Option<PathBuf>,
    /// Text file with the caption of label 0, 1, ... one a line
    #[arg(long, requires = "labels")]
    class_names: Option<PathBuf>,
    /// Shard names
    #[arg(long, default_value = "shard-%06d.tar")]
    pattern: String,
    /// Split named in the Energon metadata: train, val or test
    #[arg(long, default_value = "train")]
    split: String,
    /// Most samples in a shard
    #[arg(long, default_value_t = 10_000)]
    max_count: u64,
    /// Most bytes in a shard
    #[arg(long, default_value_t = 1 << 30)]
    max_bytes: u64,
    /// Share of samples that may be left out before the conversion fails
    #[arg(long, default_value_t = 0.01)]
    max_reject_rate: f64,
    /// Read only the headers of pictures instead of decoding each one
    #[arg(long)]
    no_verify_images: bool,
    /// Pictures whose header promises more pixels are left out
    #[arg(long, default_value_t = ovhost_data::image::DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
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
        Command::Convert(args) => convert_table(*args),
        Command::Filter(args) => filter::run(&args),
        Command::Index(args) => index::run(args),
        Command::Pack(args) => pack::run(&args),
        Command::Show(args) => show(&args),
    }
}

fn convert_table(args: ConvertArgs) -> Result<ExitCode> {
    let input = match (args.labels, args.class_names) {
        (Some(labels), Some(names)) => {
            let text =
                fs::read_to_string(&names).with_context(|| format!("reading the class names {}", names.display()))?;
            let class_names: Vec<String> =
                text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
            ensure!(!class_names.is_empty(), "{} names no class; write one caption a line", names.display());
            Input::Idx { images: args.input, labels, class_names }
        }
        _ => Input::Rows(args.input),
    };
    let mut options = ConvertOptions::new(input, args.out);
    options.images = args.image_dir;
    options.pattern = args.pattern;
    options.fields = args.fields;
    options.image_pattern = args.image_pattern;
    options.group_by = args.group_by;
    options.id_field = args.id_field;
    options.shuffle_seed = args.shuffle_seed;
    options.split = args.split;
    options.max_count = args.max_count;
    options.max_bytes = args.max_bytes;
    options.max_reject_rate = args.max_reject_rate;
    options.verify_images = !args.no_verify_images;
    options.max_pixels = args.max_image_pixels;
    let style = ProgressStyle::with_template("{spinner} {pos} samples · {msg} · {per_sec} · {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style);
    let summary = convert(&options, |p| {
        if let Some(total) = p.total {
            bar.set_length(total);
        }
        bar.set_position(p.samples);
        if p.samples % 256 == 0 {
            bar.set_message(format!("{} rows, {} left out", p.rows, p.rejects));
        }
    })?;
    bar.finish_and_clear();
    println!(
        "{} rows -> {} samples with {} pictures in {} shards ({:.1} MB), {} left out ({})",
        summary.rows,
        summary.samples,
        summary.images,
        summary.shards.len(),
        summary.bytes as f64 / 1e6,
        summary.rejects,
        summary.rejects_path.display()
    );
    Ok(ExitCode::SUCCESS)
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
