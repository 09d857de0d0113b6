//! `ovhost data balance`: fewer samples of what there is too much of, by concepts or by sources.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use ovhost_data::{image::DEFAULT_MAX_DECODE_PIXELS, shards::expand};
use ovhost_plugin::{Host, Kind, Plugin, TrustPolicy, split_pin};
use ovhost_plugin_cli::table::Table;
use ovhost_prep::{
    Part, PrepError, Progress, RunOptions,
    balance::{Balanced, ConceptSettings, SourceRule, SourceSettings, balance_concepts, balance_sources},
};
use ovhost_train::recipe::{AssetUse, PluginUse};
use serde_json::{Map, Value, json};

use super::jobs;
use crate::{console, wiring};

/// Arguments of `ovhost data balance`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  MetaCLIP's balancing of captions by the entries of a word list, at most 20,000 samples of an entry in the mean:
    ovhost data balance --input data/raw --out data/balanced --by text --concepts metaclip_500k.txt --t 20000
  LLaVA-OneVision-1.5's, by the concepts nearest to each sample's field `embedding`, about a million samples:
    ovhost data balance --input data/raw --out data/balanced --by embedding --concepts concepts.safetensors \\
        --top-k 5 --target-rows 1000000
  At most 100,000 samples of each source, and 20,000 of one:
    ovhost data balance --input data/raw --out data/balanced --by source --cap 100000 --caps coyo=20000
  Sources in the shares 2 : 1 : 1, as many samples as there can be:
    ovhost data balance --input data/raw --out data/balanced --by source --weights 'ocr=2,*=1'
  One of eight cluster jobs; each may be killed and started again. Exit code 3: the other parts have not finished a pass yet,
  run it once more when they have:
    ovhost data balance --input data/raw --out data/balanced --by text --concepts list.txt --shard 3/8

Counts, draws, and counts again what was kept. Kept samples are copied byte for byte, every other is a line of
OUT/rejects.jsonl. OUT/balance.json has the counts before and after, OUT/concepts.tsv those of every concept. Draws depend on
--seed: of concepts also on a sample's place in the input, of sources on its key and source alone. Numbers asked for come out in
the mean. Run again with the same settings it goes on where it was stopped; the result does not depend on how often it was
stopped, on --workers or on --shard.")]
pub struct Args {
    /// Shards: files, folders, {000000..000009} patterns
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<String>,
    /// Folder of the result
    #[arg(long, value_parser = ovhost_store::output_path)]
    out: PathBuf,
    /// What is balanced
    #[arg(long, value_name = "text|embedding|source", value_parser = By::from_str)]
    by: By,
    /// For text: a list with one entry a line. For embedding: a safetensors file with the tensor `concepts`, [n, d]
    #[arg(long, value_name = "FILE", help_heading = "By text or embedding")]
    concepts: Option<PathBuf>,
    /// By text: an entry in more samples than this keeps so many of them in the mean
    #[arg(long, default_value_t = 20_000, help_heading = "By text or embedding")]
    t: u64,
    /// By text: where entries match, between spaces or at any place
    #[arg(long = "match", default_value = "words", value_parser = ["words", "anywhere"], help_heading = "By text or embedding")]
    place: String,
    /// By text: A equals a
    #[arg(long, help_heading = "By text or embedding")]
    ignore_case: bool,
    /// By embedding: concepts of a sample, the nearest ones
    #[arg(long, default_value_t = 5, help_heading = "By text or embedding")]
    top_k: u32,
    /// By embedding: how the concepts of a sample make its weight
    #[arg(long, default_value = "mean", value_parser = ["mean", "sum", "max"], help_heading = "By text or embedding")]
    combine: String,
    /// By embedding: samples to keep, about
    #[arg(long, conflicts_with = "scale", help_heading = "By text or embedding")]
    target_rows: Option<u64>,
    /// By embedding: keep a sample with the chance weight × this
    #[arg(long, help_heading = "By text or embedding")]
    scale: Option<f64>,
    /// By embedding: a list with the name of each concept, one a line, for the report
    #[arg(long, value_name = "FILE", help_heading = "By text or embedding")]
    names: Option<PathBuf>,
    /// Keep samples without any concept
    #[arg(long, help_heading = "By text or embedding")]
    keep_unmatched: bool,
    /// Component with the counting and sampling entries, NAME@sha256:HEX to pin it
    #[arg(long, default_value = "filters/concept_balance.wasm", help_heading = "By text or embedding")]
    plugin: String,
    /// Memory of an instance of the plugin, MiB; by default by the size of the concepts
    #[arg(long, help_heading = "By text or embedding")]
    memory_mib: Option<u32>,
    /// Field that names a sample's source; by default source, dataset, data_source, or else the shard's folder
    #[arg(long, value_name = "FIELD", help_heading = "By source")]
    source_field: Option<String>,
    /// Most samples of every source that --caps does not name
    #[arg(long, conflicts_with = "weights", help_heading = "By source")]
    cap: Option<u64>,
    /// Most samples of single sources, as in coyo=20000,sa1b=5000
    #[arg(
        long,
        value_name = "NAME=N,...",
        value_delimiter = ',',
        conflicts_with = "weights",
        help_heading = "By source"
    )]
    caps: Vec<String>,
    /// Shares of sources in the result, as in ocr=2,chart=1.5,*=1
    #[arg(long, value_name = "NAME=W,...", value_delimiter = ',', help_heading = "By source")]
    weights: Vec<String>,
    /// With --weights: samples of the result
    #[arg(long, requires = "weights", help_heading = "By source")]
    total: Option<u64>,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Do only the shards whose number leaves i when divided by n
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    shard: Part,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of samples that may be rejected (not: left out by the draw) before the step stops
    #[arg(long, default_value_t = 0.01)]
    max_reject_rate: f64,
    /// Number of samples that may be rejected before the step stops
    #[arg(long)]
    max_rejects: Option<u64>,
    /// Pictures whose header promises more pixels are rejected
    #[arg(long, default_value_t = DEFAULT_MAX_DECODE_PIXELS)]
    max_image_pixels: u64,
    /// Split named in the Energon metadata: train, val or test
    #[arg(long, default_value = "train", value_parser = ["train", "val", "test"])]
    split: String,
}

/// What is balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Text,
    Embedding,
    Source,
}

impl FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(By::Text),
            "embedding" => Ok(By::Embedding),
            "source" => Ok(By::Source),
            other => Err(format!("{other:?} is not known; use text, embedding or source")),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let budget = jobs::budget(args.max_reject_rate, args.max_rejects)?;
    let inputs = expand(&args.input, Path::new(""))?;
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
    let begins = |pass: ovhost_prep::balance::Pass| {
        bar.reset();
        bar.set_message(pass.words());
    };
    let result = match args.by {
        By::Source => balance_sources(&args.sources(inputs)?, &options, &begins),
        by => {
            let host = wiring::host()?;
            let concepts = Concepts::of(args, by)?;
            let load = |counts: Option<&Path>| concepts.load(args, &host, counts);
            // What the plugin refuses is an option of this command.
            let sample = |counts: &Path| load(Some(counts)).map_err(|e| PrepError::Option(format!("{e:#}")));
            let settings = ConceptSettings {
                inputs,
                count: load(None)?,
                sample: &sample,
                names: concepts.names.clone(),
                frequent: (by == By::Text).then_some(args.t),
                on_trap: ovhost_plugin::OnTrap::Stop,
                seed: args.seed,
                max_pixels: args.max_image_pixels,
                split: args.split.clone(),
            };
            balance_concepts(&settings, &options, &begins)
        }
    };
    bar.finish_and_clear();
    match result {
        Err(PrepError::Stopped) => Ok(jobs::stopped()),
        Err(error) => Err(error.into()),
        Ok(Balanced::Waiting(pass, summary)) => {
            eprintln!(
                "{}: {} of {} jobs are done; run this again when the other parts' are",
                pass.words(),
                summary.before + summary.done,
                summary.jobs
            );
            Ok(ExitCode::from(jobs::WAITING))
        }
        Ok(Balanced::Done(summary, report)) => {
            println!("{}", summary.counts.summary("kept"));
            show(&report);
            println!(
                "{} shards, {} in {}; the report is {}",
                summary.files,
                super::bytes(summary.bytes),
                args.out.display(),
                args.out.join("balance.json").display()
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Args {
    fn sources(&self, inputs: Vec<PathBuf>) -> Result<SourceSettings> {
        let rule = if self.weights.is_empty() {
            ensure!(
                self.cap.is_some() || !self.caps.is_empty(),
                "--by source needs --cap N, --caps NAME=N,... or --weights NAME=W,..."
            );
            SourceRule::Caps { each: pairs("--caps", &self.caps)?, rest: self.cap }
        } else {
            let mut each: BTreeMap<String, f64> = pairs("--weights", &self.weights)?;
            if let Some((name, weight)) = each.iter().find(|(_, w)| !w.is_finite() || **w < 0.0) {
                bail!("--weights {name}={weight}: a weight is a number from 0");
            }
            let rest = each.remove("*");
            SourceRule::Weights { each, rest, total: self.total }
        };
        Ok(SourceSettings {
            inputs,
            field: self.source_field.clone(),
            rule,
            seed: self.seed,
            max_pixels: self.max_image_pixels,
            split: self.split.clone(),
        })
    }
}

/// `NAME=VALUE` of a list.
fn pairs<T: FromStr>(option: &str, list: &[String]) -> Result<BTreeMap<String, T>> {
    let mut out = BTreeMap::new();
    for text in list {
        // A name may have the sign in it, a number has not.
        let pair = text.rsplit_once('=').and_then(|(name, value)| Some((name.trim(), value.trim().parse::<T>().ok()?)));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            bail!("{option} {text:?} is not NAME=NUMBER");
        };
        ensure!(out.insert(name.to_owned(), value).is_none(), "{option} names {name:?} twice");
    }
    Ok(out)
}

/// The concepts of a run, and what the plugin needs for them.
struct Concepts {
    by: By,
    file: PathBuf,
    names: Vec<String>,
    memory_mib: u32,
    fuel_per_row: u64,
}

impl Concepts {
    fn of(args: &Args, by: By) -> Result<Self> {
        let file = args.concepts.clone().context("--concepts is missing: the list or the table of what is balanced")?;
        let bytes = std::fs::metadata(&file).with_context(|| format!("reading {}", file.display()))?.len();
        let lines = |path: &Path| -> Result<Vec<String>> {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
        };
        let defaults = ovhost_plugin::Limits::default();
        let mib = |bytes: u64| u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let (names, memory, fuel_per_row) = match by {
            // Half a million entries (9.6 MB) take 67 MiB in words, and 260 anywhere; the counts 8 bytes each, twice.
            By::Text => (lines(&file)?, mib(40 * bytes).saturating_add(64), defaults.fuel_per_row),
            _ => {
                let [n, d] = shape(&file)?;
                ensure!(
                    args.target_rows.is_some() || args.scale.is_some(),
                    "--by embedding needs --target-rows N (samples to keep, about) or --scale F"
                );
                let table = n.saturating_mul(d);
                let memory = mib(table.saturating_mul(4).saturating_add(2 * bytes).saturating_add(32 * n));
                let names = args.names.as_deref().map(lines).transpose()?.unwrap_or_default();
                // 14 units of fuel a product, and some air.
                (names, memory.saturating_add(64), table.saturating_mul(20).max(defaults.fuel_per_row))
            }
        };
        let memory_mib = args.memory_mib.unwrap_or(memory.clamp(defaults.memory_mib, 4096));
        Ok(Concepts { by, file, names, memory_mib, fuel_per_row })
    }

    /// The counting entry, or with `counts` the sampling one.
    fn load(&self, args: &Args, host: &Host, counts: Option<&Path>) -> Result<Plugin> {
        let mut config = match self.by {
            By::Text => json!({ "match": args.place, "ignore_case": args.ignore_case }),
            _ => json!({ "top_k": args.top_k }),
        };
        if counts.is_some() {
            config["keep_unmatched"] = json!(args.keep_unmatched);
            match self.by {
                By::Text => config["t"] = json!(args.t),
                _ => {
                    config["combine"] = json!(args.combine);
                    config["target_rows"] = json!(args.target_rows.unwrap_or(0));
                    config["scale"] = json!(args.scale.unwrap_or(0.0));
                }
            }
        }
        let what = if self.by == By::Text { "substring" } else { "embedding" };
        let entry = format!("{what}_{}", if counts.is_some() { "sample" } else { "count" });
        let asset = |path: &Path| AssetUse { path: path.to_owned(), sha256: None };
        let mut assets: BTreeMap<String, AssetUse> = [("concepts".to_owned(), asset(&self.file))].into();
        assets.extend(counts.map(|path| ("counts".to_owned(), asset(path))));
        let (name, pin) = split_pin(&args.plugin);
        let mut use_ = PluginUse {
            sha256: pin.map(str::to_owned),
            name: Some(entry.clone()),
            entry: Some(entry),
            config: config.as_object().cloned().unwrap_or_else(Map::new),
            assets,
            ..PluginUse::bare(name)
        };
        use_.limits.memory_mib = self.memory_mib;
        use_.limits.fuel_per_row = self.fuel_per_row;
        let trust = Arc::new(TrustPolicy::default());
        let spec = wiring::request(&use_, Path::new(""), args.seed, &trust, &args.out.join("crashes"))?;
        let seen = host.inspect_spec(&spec)?.kind;
        ensure!(seen == Kind::Filter, "--plugin: {} is a {seen} plugin, a filter plugin is needed here", use_.plugin);
        host.load(&spec).with_context(|| format!("--plugin {}", args.plugin))
    }
}

/// The shape of the tensor `concepts` in a safetensors file, by its header alone.
fn shape(path: &Path) -> Result<[u64; 2]> {
    let read = || -> Result<Value> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        ensure!(length <= 100 << 20, "a header of {length} bytes");
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        Ok(serde_json::from_slice(&header)?)
    };
    let header = read().with_context(|| format!("--concepts {}: it is no safetensors file", path.display()))?;
    let shape: Option<Vec<u64>> =
        header["concepts"]["shape"].as_array().and_then(|s| s.iter().map(Value::as_u64).collect());
    match shape.as_deref() {
        Some(&[n, d]) => Ok([n, d]),
        Some(other) => bail!("--concepts {}: `concepts` has the shape {other:?}; it must be [n, d]", path.display()),
        None => bail!("--concepts {}: it has no tensor `concepts`", path.display()),
    }
}

/// Rows of the report that are shown.
const ROWS: usize = 20;

fn show(report: &Value) {
    let share = |before: &Value, after: &Value| match (before.as_f64(), after.as_f64()) {
        (Some(before), Some(after)) if before > 0.0 => format!("{:.1} %", 100.0 * after / before),
        _ => "-".into(),
    };
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => format!("{:.1}", n.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    if report["by"] == "concepts" {
        let mut table = Table::new(["", ">before", ">after", ">kept"]);
        for (name, words) in [
            ("rows", "samples"),
            ("with_concept", "with a concept"),
            ("concepts_seen", "concepts seen"),
            ("pairs", "samples × their concepts"),
            ("largest", "of the most frequent one"),
            ("effective_concepts", "as even as so many equal ones"),
        ] {
            let (before, after) = (&report["before"][name], &report["after"][name]);
            table.row([words.to_owned(), text(before), text(after), share(before, after)]);
        }
        println!("\n{}", table.render());
    }
    let (list, head) = match report["by"] == "concepts" {
        true => (&report["most_frequent"], "concept"),
        false => (&report["sources"], "source"),
    };
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new([head, ">before", ">after", ">kept"]);
    for row in list.iter().take(ROWS) {
        table.row([text(&row[head]), text(&row["before"]), text(&row["after"]), share(&row["before"], &row["after"])]);
    }
    println!("{}", table.render());
}
