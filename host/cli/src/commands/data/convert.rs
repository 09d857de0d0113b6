//! `ovhost data convert`: tables with pictures to shards, as resumable jobs.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::image::DEFAULT_MAX_DECODE_PIXELS;
use ovhost_prep::{ConvertSettings, Converted, Input, Part, PrepError, Progress, RunOptions, convert, convert::Phase};

use super::jobs;
use crate::console;

/// Arguments of `ovhost data convert`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  A Hugging Face folder of parquet files (LLaVA-OneVision-1.5-Mid-Training-85M: id, image, caption; -Instruct-Data: id, image,
  conversations; lists of pictures; messages):
    ovhost data convert --input LLaVA-OneVision-1.5-Mid-Training-85M --out data/mid --workers 8
  One of eight cluster jobs; each may be killed and started again. Exit code 3: the index of other parts is not done yet, run it
  once more when it is:
    ovhost data convert --input LLaVA-OneVision-1.5-Mid-Training-85M --out data/mid --shard 3/8
  LLaVA or ShareGPT JSON or JSONL with a picture folder:
    ovhost data convert --input llava.json --image-dir images --out data/train
  Other columns: the picture in `photo`, the text in `alt`:
    ovhost data convert --input some/parquet --image-column photo --text-column alt --id-column url --out data/train
  Shards again, in other sizes:
    ovhost data convert --input 'old/{00000..00099}.tar' --max-bytes 3000000000 --out data/train
  Rows that are lists, [question, answer, image number], all questions of a picture in one sample:
    ovhost data convert --input questions.json --fields question,answer,image --image-dir images \\
        --image-pattern '{image}.png' --group-by image --out data/train
  MNIST-like files, each picture with its class as caption:
    ovhost data convert --input train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz \\
        --class-names classes.txt --out data/train

Rows are LLaVA (id, image, conversations), messages (text, or parts with pictures as files or data: URIs), VQA (image, question,
answer) or captions (image, caption), with one picture, several or none. Pictures are copied byte for byte. What cannot be used is
a line of OUT/rejects.jsonl with its key and reason. Run again with the same settings it goes on where it was stopped; the output
does not depend on how often it was stopped, on --workers or on --shard.")]
pub struct Args {
    /// Parquet files or folders; shards; JSON lists, JSON Lines or folders of them; an IDX file of pictures (with --labels)
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<String>,
    /// Folder of the shards
    #[arg(long, value_parser = ovhost_store::output_path)]
    out: PathBuf,
    /// Configuration of a parquet folder to read: of the configs in its README.md, else a folder in it
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Split of a parquet folder to read, where it has several
    #[arg(long, value_name = "NAME")]
    input_split: Option<String>,
    /// Folder that picture names are relative to; the table's own if absent
    #[arg(long)]
    image_dir: Option<PathBuf>,
    /// Columns with pictures, in order; if absent those of parquet's type Image, else image, else images
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    image_column: Option<Vec<String>>,
    /// Column with the text: becomes `caption`, or `conversations` or `messages` where it holds turns
    #[arg(long, value_name = "COLUMN")]
    text_column: Option<String>,
    /// Column that gives a sample's key; if absent `id` where there is one, else the row's number
    #[arg(long, value_name = "COLUMN", alias = "id-field")]
    id_column: Option<String>,
    /// For rows that are lists: the name of each position
    #[arg(long, value_delimiter = ',')]
    fields: Option<Vec<String>>,
    /// A picture's file name made from fields, as in '{image}.png'
    #[arg(long)]
    image_pattern: Option<String>,
    /// One sample for all rows with the same value of this field; their questions become turns of one conversation
    #[arg(long, value_name = "COLUMN")]
    group_by: Option<String>,
    /// Shuffle the samples (of parquet files the row groups, and the rows in each)
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
    /// Split named in the Energon metadata; several may share a folder under different patterns
    #[arg(long, default_value = "train", value_parser = ["train", "val", "test"])]
    split: String,
    /// Most samples in a shard
    #[arg(long, default_value_t = 10_000)]
    max_count: u64,
    /// Most bytes in a shard
    #[arg(long, default_value_t = 1 << 30)]
    max_bytes: u64,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Do only the jobs whose number leaves i when divided by n
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: Part,
    /// Share of samples that may be left out before the conversion stops
    #[arg(long, default_value_t = 0.01)]
    max_reject_rate: f64,
    /// Number of samples that may be left out before the conversion stops
    #[arg(long)]
    max_rejects: Option<u64>,
    /// Read only the headers of pictures instead of decoding each one
    #[arg(long)]
    no_verify_images: bool,
    /// Pictures whose header promises more pixels are left out
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
}

fn input(args: &Args) -> Result<Input> {
    let (Some(labels), Some(names)) = (&args.labels, &args.class_names) else {
        return Ok(Input::find(&args.input, args.config.as_deref(), args.input_split.as_deref())?);
    };
    let text = fs::read_to_string(names).with_context(|| format!("reading the class names {}", names.display()))?;
    let class_names: Vec<String> = text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    ensure!(!class_names.is_empty(), "{} names no class; write one caption a line", names.display());
    let [images] = args.input.as_slice() else {
        anyhow::bail!("--labels go with one --input file of pictures; {} were given", args.input.len());
    };
    Ok(Input::Idx { images: images.into(), labels: labels.clone(), class_names })
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let budget = jobs::budget(args.max_reject_rate, args.max_rejects)?;
    let settings = ConvertSettings {
        input: input(args)?,
        image_dir: args.image_dir.clone(),
        pattern: args.pattern.clone(),
        fields: args.fields.clone(),
        image_pattern: args.image_pattern.clone(),
        group_by: args.group_by.clone(),
        id_column: args.id_column.clone(),
        image_columns: args.image_column.clone(),
        text_column: args.text_column.clone(),
        shuffle_seed: args.shuffle_seed,
        split: args.split.clone(),
        max_count: args.max_count,
        max_bytes: args.max_bytes,
        verify_images: !args.no_verify_images,
        max_pixels: args.max_image_pixels,
    };
    let stop = console::stop_flag("stopping; the same command goes on from what was saved")?;
    let bar = ProgressBar::no_length();
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
    let result = convert(&settings, &options, &|phase| show(&bar, phase));
    bar.finish_and_clear();
    let (summary, rows, renamed) = match result {
        Err(PrepError::Stopped) => return Ok(jobs::stopped()),
        Err(error) => return Err(error.into()),
        Ok(Converted::Waiting(summary)) => {
            eprintln!(
                "the index of {} of {} files is done; shards are written when the other parts' is: run this again then",
                summary.before + summary.done,
                summary.jobs
            );
            return Ok(ExitCode::from(jobs::WAITING));
        }
        Ok(Converted::Written { summary, rows, renamed }) => (summary, rows, renamed),
    };
    if renamed > 0 {
        println!("{renamed} samples had the key of another and got a number appended to it");
    }
    if summary.finished {
        println!(
            "{rows} rows -> {} samples with {} pictures in {} shards ({:.1} MB), {} left out ({})",
            summary.counts.samples,
            summary.counts.images,
            summary.files,
            summary.bytes as f64 / 1e6,
            summary.counts.rejected_total(),
            args.out.join("rejects.jsonl").display()
        );
    } else {
        jobs::unfinished(&summary);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(bar: &ProgressBar, phase: Phase) {
    let template = match phase {
        Phase::Indexing(_) => "{spinner} {pos} rows indexed · {per_sec} · {elapsed}",
        Phase::Writing(_) => "{bar:32} {pos}/{len} rows · {per_sec} · {elapsed} · {eta} left",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.reset();
    if let Phase::Writing(rows) = phase {
        bar.set_length(rows);
    }
}
