//! What is done with finished evaluations: `ovhost eval compare` and `ovhost eval report`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ovhost_data::image::DEFAULT_MAX_DECODE_PIXELS;
use ovhost_data::pipeline::{SampleSource, ShardSource};
use ovhost_data::shards::expand;
use ovhost_eval::results::{RECIPE, write_whole};
use ovhost_eval::{TaskSource, task};
use ovhost_eval_report::compare::{CompareOptions, Pairing, Verdict, compare};
use ovhost_eval_report::report::{ReportOptions, report};
use serde_json::Value;
use tracing::warn;

use super::INCOMPLETE;

/// Exit code of a comparison in which B is worse than is allowed.
const WORSE: u8 = 4;

/// What is done with finished evaluations.
#[derive(clap::Subcommand)]
pub enum After {
    /// Compare two evaluations, pair by pair
    Compare(CompareArgs),
    /// Make a report of an evaluation: report.md and report.html
    Report(ReportArgs),
}

/// Arguments of `ovhost eval compare`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost eval compare scores/base scores/new
  ovhost eval compare scores/base scores/new --fail-below 1 --significant       for CI: more than a point worse, and not by chance
  ovhost eval compare lmms_eval_out/model/20251120_101500_samples_ai2d.jsonl scores/new --task ai2d

A is the baseline; an evaluation's folder, or what lmms-eval wrote. Exit code 4 tells that B is worse than --fail-below allows, 3 that
too little of A has a partner in B to say so.")]
pub struct CompareArgs {
    /// The baseline: a folder of results, or samples files of lmms-eval
    a: PathBuf,
    /// What is compared with it
    b: PathBuf,
    /// Only these per-sample scores; the first is the one that the overall line and the verdict take
    #[arg(long = "metric")]
    metrics: Vec<String>,
    /// Only these tasks
    #[arg(long = "task")]
    tasks: Vec<String>,
    /// Share of the intervals, above 0.5 and below 1
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
    /// Fail when B is worse by more than this many points (hundredths of a score from 0 to 1), in any task or overall
    #[arg(long, value_name = "POINTS")]
    fail_below: Option<f64>,
    /// With --fail-below: fail only where the interval of the difference excludes 0
    #[arg(long, requires = "fail_below")]
    significant: bool,
    /// With --fail-below: share of A's scored samples that may have no partner in B
    #[arg(long, default_value_t = 0.01)]
    allow_missing: f64,
    /// How samples find each other: auto (doc_id and equal doc_hash or target) or doc-id
    #[arg(long, default_value = "auto", value_parser = ["auto", "doc-id"])]
    pair_by: String,
    /// text, markdown or json
    #[arg(long, default_value = "text", value_parser = ["text", "markdown", "json"])]
    format: String,
}

/// Arguments of `ovhost eval report`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost eval report scores
  ovhost eval report scores --worst 50 --data-root benchmarks")]
pub struct ReportArgs {
    /// Folder of results
    folder: PathBuf,
    /// Samples shown of every task, and as many without a score
    #[arg(long)]
    worst: Option<usize>,
    /// Only these tasks
    #[arg(long = "task")]
    tasks: Vec<String>,
    /// Longest side of pictures in the page; 0 leaves them out
    #[arg(long)]
    thumbnail: Option<u32>,
    /// Longest question or answer shown, in characters
    #[arg(long)]
    text_limit: Option<usize>,
    /// Folder with the tasks' data sets, for the pictures; the one that the evaluation used if absent
    #[arg(long, env = "OVHOST_EVAL_DATA")]
    data_root: Option<PathBuf>,
    /// TASK=FOLDER: the data set of one task; of a recipe's data eval=SHARDS
    #[arg(long)]
    data: Vec<String>,
    /// The page; report.html in the folder if absent (report.md lies beside it)
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: After) -> Result<ExitCode> {
    match command {
        After::Compare(args) => run_compare(args),
        After::Report(args) => run_report(args),
    }
}

fn run_compare(args: CompareArgs) -> Result<ExitCode> {
    let options = CompareOptions {
        metrics: args.metrics,
        tasks: args.tasks,
        confidence: args.confidence,
        fail_below: args.fail_below,
        significant: args.significant,
        allow_missing: args.allow_missing,
        pairing: if args.pair_by == "doc-id" { Pairing::DocId } else { Pairing::Auto },
    };
    let comparison = compare(&args.a, &args.b, &options)?;
    match args.format.as_str() {
        "json" => print!("{}", comparison.json()?),
        "markdown" => print!("{}", comparison.markdown()),
        _ => print!("{}", comparison.text()),
    }
    Ok(match comparison.verdict() {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail(_) => ExitCode::from(WORSE),
        Verdict::Incomparable(_) => ExitCode::from(INCOMPLETE),
    })
}

fn run_report(args: ReportArgs) -> Result<ExitCode> {
    let usual = ReportOptions::default();
    let options = ReportOptions {
        worst: args.worst.unwrap_or(usual.worst),
        tasks: args.tasks.clone(),
        thumbnail: args.thumbnail.unwrap_or(usual.thumbnail),
        text_limit: args.text_limit.unwrap_or(usual.text_limit),
    };
    let gallery = Gallery::new(&args)?;
    let made = report(&args.folder, &|task, doc_id| gallery.pictures(task, doc_id), &options)?;
    let page = args.out.clone().unwrap_or_else(|| args.folder.join("report.html"));
    write_whole(&page.with_extension("md"), made.markdown.as_bytes())?;
    write_whole(&page, made.html.as_bytes())?;
    println!("{}", page.display());
    Ok(ExitCode::SUCCESS)
}

/// Pictures of samples, out of the data that was evaluated.
struct Gallery {
    /// The tasks as they were evaluated.
    configs: Value,
    root: Option<PathBuf>,
    named: HashMap<String, String>,
    /// What is open; none where it could not be opened.
    open: RefCell<HashMap<String, Option<Arc<dyn SampleSource>>>>,
}

impl Gallery {
    fn new(args: &ReportArgs) -> Result<Self> {
        let json = |name: &str| -> Value {
            let read = fs::read(args.folder.join(name)).ok();
            read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
        };
        let mut named = HashMap::new();
        for text in &args.data {
            let Some((task, folder)) = text.split_once('=') else { bail!("--data {text}: it is not TASK=FOLDER") };
            named.insert(task.to_owned(), folder.to_owned());
        }
        let used = json("run.json").get("data_root").and_then(Value::as_str).map(PathBuf::from);
        let configs = json("results.json").get("configs").cloned().unwrap_or_default();
        Ok(Self { configs, root: args.data_root.clone().or(used), named, open: RefCell::default() })
    }

    fn pictures(&self, task: &str, doc_id: u64) -> Vec<(String, Vec<u8>)> {
        let mut open = self.open.borrow_mut();
        let source = open.entry(task.to_owned()).or_insert_with(|| match self.source(task) {
            Ok(source) => source,
            Err(error) => {
                warn!("no pictures of {task}: {error:#}");
                None
            }
        });
        let Some(source) = source else { return Vec::new() };
        let mut left = doc_id;
        for (shard, (_, samples)) in source.shards().into_iter().enumerate() {
            if left < samples {
                let record = source.record(shard as u32, left);
                let media = record.map(|r| r.media).unwrap_or_default();
                return media.into_iter().map(|m| (m.name, m.bytes.to_vec())).collect();
            }
            left -= samples;
        }
        Vec::new()
    }

    /// The task's data; none where nobody says where they are.
    fn source(&self, name: &str) -> Result<Option<Arc<dyn SampleSource>>> {
        let named = self.named.get(name);
        if name == RECIPE {
            let Some(shards) = named else { return Ok(None) };
            let paths = expand(std::slice::from_ref(shards), Path::new(""))?;
            return Ok(Some(Arc::new(ShardSource::open(&paths, DEFAULT_MAX_DECODE_PIXELS)?)));
        }
        let data = self.configs.get(name).and_then(|c| c.get("data")).cloned();
        let data: task::Data = serde_json::from_value(data.context("results.json does not say what its data set is")?)?;
        let (root, exact) = match (named, &self.root) {
            (Some(folder), _) => (PathBuf::from(folder), true),
            (None, Some(root)) => (root.clone(), false),
            (None, None) => return Ok(None),
        };
        Ok(Some(TaskSource::open(&data, &root, exact, DEFAULT_MAX_DECODE_PIXELS)?.shared()))
    }
}
