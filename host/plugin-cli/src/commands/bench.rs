//! `ovhost plugin bench`: what a plugin costs a row, by the size of a call and by the number of workers.
//!
//! ```text
//!  rows (file, or made up) ─► one batch ─► cut to each size ─► rounds on warm instances ─► medians, as a table
//! ```
//! Rows are made into columns before the clock runs: what is measured is the call, copying in and out included.

mod synthetic;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ovhost_plugin::json::JsonRow;
use ovhost_plugin::{Batch, Column, ColumnData, Kind, Mode, PackLimits, Plugin};
use serde_json::{Value, json};

use crate::input::{self, PluginArgs};
use crate::places;
use crate::rows::{self, RowReader};
use crate::table::{Table, bytes, count, short, time};
use worker::{Bins, Round, Worker};

/// Arguments of `ovhost plugin bench`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin bench filters/caption_quality                   made-up rows, calls of 1 to 4096
  ovhost plugin bench filters/caption_quality --rows captions.jsonl --batches 256 --threads 4
  ovhost plugin bench packers/padding_free --lengths lengths.txt --capacity 8192
  ovhost plugin bench prompts/conversation --json

time/row is the time of the calls, copying in and out included, shared among their rows: the median
of the rounds, each of which gives all rows to the plugin at least once. Fuel is counted, not timed:
about one a wasm instruction, over one pass of all rows, the same on every machine.
Quote times from a quiet machine.")]
pub struct Args {
    #[command(flatten)]
    plugin: PluginArgs,
    /// File of rows, one JSON object a line; made-up rows if absent
    #[arg(long, value_name = "FILE", conflicts_with = "lengths")]
    rows: Option<String>,
    /// Column types, as the command `run` takes them
    #[arg(long, value_name = "COLUMN=TYPE")]
    types: Vec<String>,
    /// Most rows that are taken from the file, or made up
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Rows in a call
    #[arg(long, value_name = "ROWS,...", value_delimiter = ',', default_value = "1,16,256,1024,4096",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batches: Vec<u32>,
    /// Also measures 2, 4, ... up to so many workers, each with an instance of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Rounds, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Least time of a round, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2)]
    seconds: f64,
    /// Packers: lengths in tokens, one a line, or JSON objects with length; made up if absent
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Packers: most tokens in a bin; 8192 if absent. Longer samples are left out
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Packers: most samples in a bin; 0 is no bound
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_items_per_bin: u32,
    /// Packers: most samples held back; 0 is the packer's choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_open_items: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Capacity of a bench without `--capacity`.
const CAPACITY: u32 = 8192;
/// Width of a table's cells, which have to stand in line with those that are still to come.
const CELL: usize = 9;

/// What one setting costs.
#[derive(Debug, serde::Serialize)]
struct Cost {
    batch: u32,
    threads: u16,
    ns_per_row: f64,
    rows_per_second: f64,
    fuel_per_row: f64,
    peak_memory_bytes: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    bins: Option<Bins>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    ensure!((0.001..=60.0).contains(&args.seconds), "--seconds {} is out of range; allowed: 0.001 to 60", args.seconds);
    let plugin = places::load(&args.plugin.spec()?)?;
    let limits = args.limits(plugin.kind())?;
    let Rows { batch, origin, too_long } = args.rows(&plugin)?;
    let packs = plugin.kind() == Kind::Packer;
    if !args.json {
        let info = plugin.info();
        let mut head =
            format!("{} {} ({}) · {}, {origin}", info.kind, info.name, info.version, count(batch.rows.into(), "row"));
        if packs {
            head.push_str(&format!(" · bins of {} tokens", limits.capacity));
        }
        if too_long > 0 {
            head.push_str(&format!(", {too_long} longer left out"));
        }
        println!("{head}");
    }
    let mut costs: Vec<Cost> = Vec::new();
    // Row by row, so that an interrupt leaves what was measured before it.
    let mut table = cost_table(packs);
    for size in &args.batches {
        let cost = measure(&args, &plugin, limits, &batch, *size, 1)?;
        if !args.json {
            table.row(cost_cells(&cost));
            print!("{}", table.ready());
        }
        costs.push(cost);
    }
    let mut workers: Vec<Cost> = Vec::new();
    let mut table = worker_table(packs);
    if args.threads > 1 {
        // The size that serves best alone; which one it is depends on the plugin.
        let best = costs.iter().min_by(|a, b| a.ns_per_row.total_cmp(&b.ns_per_row)).map_or(256, |c| c.batch);
        let mut counts: Vec<u16> =
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < args.threads).collect();
        counts.push(args.threads);
        if !args.json {
            println!("workers, each with calls of {}", count(best.into(), row_word(packs)));
        }
        for threads in counts {
            let cost = measure(&args, &plugin, limits, &batch, best, threads)?;
            if !args.json {
                let times = cost.rows_per_second / workers.first().unwrap_or(&cost).rows_per_second;
                table.row([cost.threads.to_string(), short(cost.rows_per_second), format!("{times:.2}")]);
                print!("{}", table.ready());
            }
            workers.push(cost);
        }
    }
    if args.json {
        let mut report = json!({ "plugin": plugin.info(), "rows": batch.rows, "origin": origin, "batches": costs, "threads": workers });
        if packs {
            report["limits"] = serde_json::to_value(limits)?;
            report["too_long"] = too_long.into();
        }
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is measured on.
struct Rows {
    batch: Batch,
    /// Where they are from, in words.
    origin: String,
    /// Samples that no bin holds, which are not among them.
    too_long: usize,
}

impl Args {
    /// Bounds of a packer's bins; flags of packers for another kind are refused.
    fn limits(&self, kind: Kind) -> Result<PackLimits> {
        let packs =
            self.capacity.is_some() || self.max_items_per_bin > 0 || self.max_open_items > 0 || self.lengths.is_some();
        let flags = "--lengths, --capacity, --max-items-per-bin and --max-open-items";
        ensure!(kind == Kind::Packer || !packs, "{flags} are for packers; this is a {kind} plugin");
        let (max_items_per_bin, max_open_items) = (self.max_items_per_bin, self.max_open_items);
        Ok(PackLimits { capacity: self.capacity(), max_items_per_bin, max_open_items })
    }

    fn capacity(&self) -> u32 {
        self.capacity.unwrap_or(CAPACITY)
    }

    /// The rows, all of them as one batch.
    fn rows(&self, plugin: &Plugin) -> Result<Rows> {
        let limit = self.limit as usize;
        let types = input::types_for(plugin, &self.types)?;
        let (rows, origin): (Vec<JsonRow>, String) = match (&self.rows, &self.lengths) {
            (Some(file), _) => {
                let mut reader = RowReader::open(file)?;
                let rows = reader.batch(limit)?;
                ensure!(!rows.is_empty(), "{} has no rows", reader.name());
                (rows, format!("of {}", reader.name()))
            }
            (None, Some(file)) => {
                let mut lengths = rows::lengths(file)?;
                lengths.truncate(limit);
                ensure!(!lengths.is_empty(), "{} has no lengths", file.display());
                let row = |length: u32| JsonRow::from_iter([("length".to_owned(), length.into())]);
                (lengths.into_iter().map(row).collect(), format!("lengths of {}", file.display()))
            }
            (None, None) => (synthetic::rows(plugin, &types, limit, self.capacity())?, "made up".to_owned()),
        };
        let (all, mut rows) = (rows.len(), rows);
        let packs = plugin.kind() == Kind::Packer;
        if packs {
            // What no bin holds never reaches a packer.
            let capacity = u64::from(self.capacity());
            let fits = |row: &JsonRow| row.get("length").and_then(Value::as_u64).is_none_or(|n| n <= capacity);
            rows.retain(fits);
            ensure!(!rows.is_empty(), "all {all} samples are longer than a bin of {capacity} tokens; raise --capacity");
        }
        let too_long = all - rows.len();
        let mut batch = input::columns_of(plugin, types).batch(&rows, 0).context("the rows")?;
        input::ordinals(plugin, &mut batch, 0);
        if packs {
            // Numbered anew: a bench may see the same ids in every round.
            batch.columns.retain(|c| c.name != "id");
            batch.columns.push(Column::new("id", ColumnData::S64s((0..i64::from(batch.rows)).collect())));
        }
        Ok(Rows { batch, origin, too_long })
    }
}

/// Rounds of one setting on `threads` workers; the median.
fn measure(args: &Args, plugin: &Plugin, limits: PackLimits, rows: &Batch, size: u32, threads: u16) -> Result<Cost> {
    let cut: Vec<Batch> =
        (0..rows.rows).step_by(size as usize).map(|lo| rows.slice(lo, (lo + size).min(rows.rows))).collect();
    let (least, seed) = (Duration::from_secs_f64(args.seconds), args.plugin.seed);
    // Instances first, in turn: their making is not what is measured, and an error names one plugin once.
    let mut workers =
        (0..threads).map(|_| Worker::new(plugin, limits, Mode::Train, seed)).collect::<Result<Vec<_>>>()?;
    for worker in &mut workers {
        worker.round(&cut, Duration::ZERO)?;
    }
    let mut rates = Vec::new();
    let mut fuel = None;
    for _ in 0..args.rounds {
        let barrier = Barrier::new(workers.len());
        let (cut, barrier) = (&cut, &barrier);
        let done: Vec<Result<(Round, Duration)>> = std::thread::scope(|scope| {
            let one = |worker: &'_ mut Worker| {
                let fresh = worker.begin();
                barrier.wait();
                fresh?;
                let start = Instant::now();
                Ok((worker.round(cut, least)?, start.elapsed()))
            };
            let running: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || one(worker))).collect();
            let lost = |_| anyhow::anyhow!("a worker thread panicked: a defect of this program");
            running.into_iter().map(|thread| thread.join().map_err(lost).flatten()).collect()
        });
        let done = done.into_iter().collect::<Result<Vec<_>>>()?;
        rates.push(done.iter().map(|(round, took)| round.rows as f64 / took.as_secs_f64()).sum::<f64>());
        // Of the second pass, as the first one also fetches memory; all workers do the same.
        fuel = fuel.or_else(|| done.first().map(|(round, _)| round.fuel));
    }
    rates.sort_by(f64::total_cmp);
    let rate = rates[rates.len() / 2];
    Ok(Cost {
        batch: size,
        threads,
        ns_per_row: 1e9 * f64::from(threads) / rate,
        rows_per_second: rate,
        fuel_per_row: fuel.unwrap_or(0) as f64 / f64::from(rows.rows),
        peak_memory_bytes: workers.iter().map(Worker::peak_memory).max().unwrap_or(0),
        bins: workers.first().and_then(Worker::bins),
    })
}

fn row_word(packs: bool) -> &'static str {
    if packs { "sample" } else { "row" }
}

fn cost_table(packs: bool) -> Table {
    let row = row_word(packs);
    let mut head =
        vec![">batch".into(), format!(">time/{row}"), format!(">{row}s/s"), format!(">fuel/{row}"), ">memory".into()];
    if packs {
        head.extend([">bins", ">fill", ">given up", ">room left"].map(str::to_owned));
    }
    Table::new(head).wide(CELL)
}

fn worker_table(packs: bool) -> Table {
    Table::new([">workers".to_owned(), format!(">{}s/s", row_word(packs)), ">times one".to_owned()]).wide(CELL)
}

fn cost_cells(cost: &Cost) -> Vec<String> {
    let mut cells = vec![
        cost.batch.to_string(),
        time(cost.ns_per_row),
        short(cost.rows_per_second),
        short(cost.fuel_per_row),
        bytes(cost.peak_memory_bytes),
    ];
    if let Some(bins) = &cost.bins {
        cells.extend([
            bins.bins.to_string(),
            format!("{:.3} %", 100.0 * bins.fill),
            bins.given_up.to_string(),
            bins.room_left.to_string(),
        ]);
    }
    cells
}
