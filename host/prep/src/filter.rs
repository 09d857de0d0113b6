//! `filter`: shards in, the shards of the kept samples out, byte for byte as they were.
//!
//! ```text
//!  shard k ─ records ─► pure filters (any thread) ─► streaming filters (one, in order) ─► OUT/shard k
//!                └───────────┴────────────────────────────┴──► rejects, with key and reason
//! ```
//! Without streaming filters every shard is a job of its own. With one, shards run in order: reading, decoding and the pure
//! filters before it run ahead on all threads, and what it remembers is saved now and then, between two shards.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ovhost_data::columns::Compute;
use ovhost_data::packed::{Layout, layout_of};
use ovhost_data::pipeline::{
    Dropped, FilterChain, FilterStage, Row, Stream, check_filter_columns, identity, plugin_filter,
};
use ovhost_data::record::{Record, RecordOptions, Reject};
use ovhost_data::rejects::Counters;
use ovhost_data::shards::{Run, Shard, ShardFile, WrittenShard, check_split, measure, shard_stem, write_nv_meta};
use ovhost_data::{ChatTokenizer, columns};
use ovhost_plugin::{OnTrap, Plugin};
use serde_json::{Value, json};

use crate::error::{AFRESH, PrepError, io};
use crate::files::{apart, put};
use crate::jobs::{Done, Made, MadeFile, Plan, Progress, RunOptions, Step, Summary, last_state, run};
use crate::ordered::ordered;

/// Rows that go through the filters together.
pub(crate) const CHUNK: usize = 256;

/// Draws samples, each for itself.
pub trait Draw: Send + Sync {
    /// Everything that the draws depend on beside the run's seed.
    fn record(&self) -> Value;

    /// Whether a sample is kept; else why not. `shard` is the file that holds it.
    fn keep(&self, record: &Record, shard: &Path) -> Result<(), String>;
}

/// What is filtered, and how.
pub struct FilterSettings {
    /// Shards, in order.
    pub inputs: Vec<PathBuf>,
    /// Filters, in order.
    pub filters: Vec<Plugin>,
    /// Draws samples before the filters see them.
    pub draw: Option<Arc<dyn Draw>>,
    /// What a plugin's failure on a row does.
    pub on_trap: OnTrap,
    /// Seed that filters see.
    pub seed: u64,
    /// For the column `text-tokens`.
    pub chat: Option<ChatTokenizer>,
    /// Pictures whose header promises more pixels are rejected.
    pub max_pixels: u64,
    /// Energon split of the result.
    pub split: String,
    /// Only judge: no shards are written, for the first pass of plugins that count.
    pub dry: bool,
    /// Where to put what the streaming filters remember at the end: `NAME.state` for each, by its name.
    pub save_state: Option<PathBuf>,
}

/// One input shard.
struct Input {
    path: PathBuf,
    /// Name of its job and of the shard made of it, without `.tar`.
    name: String,
    samples: u64,
    bytes: u64,
    /// Ordinal of its first sample.
    first: u64,
}

struct Filter<'a> {
    settings: &'a FilterSettings,
    inputs: Vec<Input>,
    /// How many of the filters may run ahead, on any thread.
    ahead: usize,
    /// Whether pictures are read whole, for a filter that looks into them; else their headers will do.
    whole: bool,
    workers: usize,
}

/// Filters shards.
///
/// # Errors
/// See [`run`]; plugins that want columns that are not there.
pub fn filter(settings: &FilterSettings, options: &RunOptions<'_>) -> Result<Summary, PrepError> {
    if settings.filters.is_empty() && settings.draw.is_none() {
        return Err(PrepError::Option("no filter plugin is named; name at least one".into()));
    }
    check_split(&settings.split)?;
    apart(&settings.inputs, &options.out)?;
    check_state(settings)?;
    check_columns(settings)?;
    let inputs = inputs(&settings.inputs)?;
    (options.progress)(Progress::Total(inputs.iter().map(|i| i.samples).sum()));
    let ahead = settings.filters.iter().position(|p| !p.info().state_pure).unwrap_or(settings.filters.len());
    let mut reads = settings.filters.iter().flat_map(|f| &f.info().reads);
    let whole = reads.any(|(name, _)| columns::PIXELS.contains(&name.as_str()));
    let plan = plan(settings, &inputs);
    let step = Filter { settings, inputs, ahead, whole, workers: options.workers.max(1) };
    let summary = run(&step, &plan, options)?;
    if summary.finished
        && let Some(folder) = &settings.save_state
    {
        step.save_final(folder, &options.out, &plan)?;
    }
    Ok(summary)
}

fn check_columns(settings: &FilterSettings) -> Result<(), PrepError> {
    let mut offered: Vec<String> = columns::STANDARD.map(String::from).into();
    if settings.chat.is_none() {
        offered.retain(|c| c != "text-tokens");
    }
    let wants =
        |name: &str| settings.filters.iter().find(|f| f.info().reads.iter().any(|(n, must)| *must && n == name));
    if let Some(filter) = wants("text-tokens").filter(|_| settings.chat.is_none()) {
        return Err(PrepError::Option(format!(
            "filter {} reads the column text-tokens, which needs a tokenizer; give --tokenizer FOLDER",
            filter.info().name
        )));
    }
    check_filter_columns(&settings.filters, &mut offered)?;
    Ok(())
}

/// Whether what the streaming filters remember can be kept as asked.
fn check_state(settings: &FilterSettings) -> Result<(), PrepError> {
    if settings.save_state.is_none() {
        return Ok(());
    }
    let mut names: Vec<&str> =
        settings.filters.iter().filter(|f| !f.info().state_pure).map(|f| f.info().name.as_str()).collect();
    if names.is_empty() {
        return Err(PrepError::Option(
            "--save-state is given, but none of the filters remembers rows; leave it out".into(),
        ));
    }
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        None => Ok(()),
        Some(w) => Err(PrepError::Option(format!(
            "two filters that remember rows are named {}, and their states would be one file; give each a `name`",
            w[0]
        ))),
    }
}

fn inputs(paths: &[PathBuf]) -> Result<Vec<Input>, PrepError> {
    let mut out: Vec<Input> = Vec::with_capacity(paths.len());
    let mut first = 0;
    for ((i, path), (bytes, samples)) in paths.iter().enumerate().zip(measure(paths)?) {
        let stem = shard_stem(path);
        // Shards of two folders may bear one name.
        let name = if out.iter().any(|o| o.name == stem) { format!("{stem}-{i:06}") } else { stem };
        out.push(Input { path: path.clone(), name, samples, bytes, first });
        first += samples;
    }
    Ok(out)
}

fn plan(settings: &FilterSettings, inputs: &[Input]) -> Plan {
    let filters: Vec<Value> = settings.filters.iter().map(plugin_record).collect();
    let shards: Vec<Value> =
        inputs.iter().map(|i| json!({ "name": i.name, "samples": i.samples, "bytes": i.bytes })).collect();
    let draw = settings.draw.as_ref().map(|d| d.record());
    let mut settings = json!({
        "filters": filters, "seed": settings.seed, "on_plugin_failure": settings.on_trap, "split": settings.split,
        "tokenizer": settings.chat.as_ref().map(|c| c.fingerprint().to_owned()), "max_image_pixels": settings.max_pixels,
        "dry": settings.dry, "inputs": shards,
    });
    if let Some(draw) = draw {
        settings["draw"] = draw;
    }
    Plan { step: "filter", settings, jobs: inputs.iter().map(|i| i.name.clone()).collect() }
}

/// A plugin as a plan records it.
pub fn plugin_record(plugin: &Plugin) -> Value {
    let mut record = json!({ "name": plugin.info().name });
    if let (Value::Object(record), Value::Object(rest)) = (&mut record, identity(plugin.info())) {
        record.extend(rest);
    }
    record
}

/// The threads' chains, and the one of the streaming filters.
struct Chains {
    ahead: Vec<FilterChain>,
    behind: FilterChain,
}

/// A shard that is filtered.
struct Reading<'a> {
    shard: &'a Shard,
    /// Its [`Shard::offsets`].
    offsets: &'a [u64],
    /// Ordinal of its first sample.
    first: u64,
    /// Room for the bytes of chunks, used again and again.
    rooms: &'a Mutex<Vec<Vec<u8>>>,
}

/// A chunk after the filters that run ahead.
struct Judged {
    /// All of its bytes, where samples are small.
    run: Option<Run>,
    rows: Vec<Row>,
    rejects: Vec<(usize, Dropped)>,
    read: u64,
}

impl Filter<'_> {
    fn stream(&self) -> Stream<'_> {
        let compute = Compute { chat: self.settings.chat.as_ref(), max_pixels: self.settings.max_pixels };
        Stream { seed: self.settings.seed, rank: 0, compute }
    }

    fn chain(&self, plugins: &[Plugin]) -> Result<FilterChain, PrepError> {
        let stages: Result<Vec<Box<dyn FilterStage>>, _> =
            plugins.iter().map(|p| plugin_filter(p, self.settings.on_trap)).collect();
        Ok(FilterChain::new(stages?))
    }

    /// Rows `from..to` of a shard through the filters that run ahead.
    fn chunk(
        &self,
        reading: &Reading<'_>,
        chain: &mut FilterChain,
        from: usize,
        to: usize,
    ) -> Result<Judged, PrepError> {
        let Reading { shard, offsets, first, rooms } = *reading;
        let options = RecordOptions { max_pixels: self.settings.max_pixels };
        let room = rooms.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let run = shard.read_run(offsets, from..to, room.unwrap_or_default());
        let (mut rows, mut rejects) = (Vec::with_capacity(to - from), Vec::new());
        for index in from..to {
            let record = match &run {
                Some(run) => shard.record_in(run, index, self.whole, &options),
                None if self.whole => shard.record(index, &options),
                None => shard.record_by_headers(index, &options),
            };
            match record {
                Ok(record) => match self.settings.draw.as_ref().map(|draw| draw.keep(&record, shard.path())) {
                    Some(Err(reason)) => {
                        let reject = Reject { key: record.key, shard: record.shard, stage: "filter", reason };
                        rejects.push((index, Dropped::Filtered(reject)));
                    }
                    _ => rows.push(Row { at: index, ordinal: first + index as u64, record, added: Vec::new() }),
                },
                Err(reject) => rejects.push((index, Dropped::Reject(reject))),
            }
        }
        let stream = self.stream();
        let mut rows = chain.run(rows, &stream, |at, dropped| rejects.push((at, dropped)))?;
        // What costs work is made here, on this thread, and not where the streaming filters wait for it.
        for plugin in &self.settings.filters[self.ahead..] {
            for (name, _) in plugin.info().reads.iter().filter(|(name, _)| columns::COSTLY.contains(&name.as_str())) {
                columns::precompute(&mut rows, name, stream.compute);
            }
        }
        Ok(Judged { run, rows, rejects, read: (to - from) as u64 })
    }

    fn save_final(&self, folder: &Path, out: &Path, plan: &Plan) -> Result<(), PrepError> {
        std::fs::create_dir_all(folder).map_err(io(folder, "make the folder"))?;
        let bytes = last_state(plan, out)?;
        let states = split_states(&bytes)?;
        for (plugin, state) in self.settings.filters[self.ahead..].iter().filter(|p| !p.info().state_pure).zip(states) {
            put(&folder.join(format!("{}.state", plugin.info().name)), state)?;
        }
        Ok(())
    }
}

impl Step for Filter<'_> {
    type Worker = Chains;

    fn worker(&self) -> Result<Chains, PrepError> {
        let (ahead, behind) = self.settings.filters.split_at(self.ahead);
        let threads = if self.in_order() { self.workers } else { 1 };
        let ahead = (0..threads).map(|_| self.chain(ahead)).collect::<Result<_, _>>()?;
        Ok(Chains { ahead, behind: self.chain(behind)? })
    }

    fn in_order(&self) -> bool {
        self.ahead < self.settings.filters.len()
    }

    fn save(&self, chains: &mut Chains) -> Result<Vec<u8>, PrepError> {
        let mut state = Vec::new();
        for stage in chains.behind.stages().filter(|s| s.is_streaming()) {
            let bytes = stage.save()?;
            state.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            state.extend_from_slice(&bytes);
        }
        Ok(state)
    }

    fn restore(&self, chains: &mut Chains, state: &[u8]) -> Result<(), PrepError> {
        let states = split_states(state)?;
        let mut streaming: Vec<_> = chains.behind.stages().filter(|s| s.is_streaming()).collect();
        if streaming.len() != states.len() {
            let why = format!("it is of {} filters, and {} remember rows", states.len(), streaming.len());
            return Err(PrepError::Record { path: "the saved state".into(), why, next: AFRESH });
        }
        for (stage, state) in streaming.iter_mut().zip(states) {
            stage.restore(state)?;
        }
        Ok(())
    }

    fn job(
        &self,
        chains: &mut Chains,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let input = &self.inputs[index];
        let shard = Shard::open_damaged(&input.path)?;
        if layout_of(&shard)?.0 != Layout::Plain {
            return Err(PrepError::Option(format!(
                "{} holds packs, and a filter judges single samples; filter the shards that they were made from, and pack what is \
                 kept",
                input.path.display()
            )));
        }
        let mut made =
            Made { counts: Counters { read: shard.len() as u64, ..Counters::default() }, ..Made::within(out) };
        if shard.len() as u64 != input.samples {
            return Err(PrepError::Option(format!(
                "{} has {} samples now and had {} when the step was planned; do not change shards under a running step, and \
                 make the .tar.idx beside a remote shard again if it is of another one",
                input.path.display(),
                shard.len(),
                input.samples
            )));
        }
        let name = format!("{}.tar", input.name);
        let mut file = if self.settings.dry { None } else { Some(ShardFile::create(out.join(&name))?) };
        let offsets = shard.offsets();
        let Chains { ahead, behind } = chains;
        let stream = self.stream();
        let chunks = shard.len().div_ceil(CHUNK);
        let rooms = Mutex::default();
        let reading = Reading { shard: &shard, offsets: &offsets, first: input.first, rooms: &rooms };
        let make = |chain: &mut FilterChain, i: usize| {
            self.chunk(&reading, chain, i * CHUNK, shard.len().min((i + 1) * CHUNK))
        };
        let mut take = |judged: Judged| -> Result<(), PrepError> {
            let Judged { run, rows, mut rejects, read } = judged;
            tick(read)?;
            let kept = behind.run(rows, &stream, |at, dropped| rejects.push((at, dropped)))?;
            for row in &kept {
                if let Some(file) = &mut file {
                    if file.ends_with(&row.record.key) {
                        let reason = "the sample before it has the same key, and those between them were dropped: the two would be \
                                      read as one; give samples different keys";
                        let reject = Reject {
                            key: row.record.key.clone(),
                            shard: row.record.shard.clone(),
                            stage: "write",
                            reason: reason.into(),
                        };
                        rejects.push((row.at, Dropped::Reject(reject)));
                        continue;
                    }
                    match run.as_ref().and_then(|run| run.raw(&offsets, row.at)) {
                        Some(bytes) => file.write_raw(&row.record.key, bytes)?,
                        None => file.write_raw(&row.record.key, &shard.read_raw(&offsets, row.at)?)?,
                    }
                }
                made.counts.samples += 1;
                made.counts.images += row.record.media.len() as u64;
            }
            rooms.lock().unwrap_or_else(PoisonError::into_inner).extend(run.map(Run::into_room));
            rejects.sort_by_key(|(at, _)| *at);
            for (_, dropped) in rejects {
                made.rejects.push(count_drop(&mut made.counts, dropped));
            }
            Ok(())
        };
        if ahead.len() > 1 {
            ordered(ahead, chunks, make, take)?;
        } else if let [chain] = &mut ahead[..] {
            for i in 0..chunks {
                take(make(chain, i)?)?;
            }
        }
        if let Some(damage) = shard.damage_reject() {
            made.counts.read += 1;
            made.rejects.push(count_drop(&mut made.counts, Dropped::Reject(damage)));
        }
        if let Some(file) = file.filter(|f| f.samples() > 0) {
            made.files.push(MadeFile::publish(file, name)?);
        }
        Ok(made)
    }

    fn finish(&self, out: &Path, done: &[Done], _: &Counters) -> Result<(), PrepError> {
        if self.settings.dry {
            return Ok(());
        }
        let written = |f: &MadeFile| WrittenShard { path: out.join(&f.name), samples: f.samples, bytes: f.bytes };
        let shards: Vec<WrittenShard> = done.iter().flat_map(|d| &d.files).map(written).collect();
        Ok(write_nv_meta(out, &self.settings.split, &shards)?)
    }
}

/// States as they are put end to end: a length (u64, little-endian) before each.
fn split_states(mut bytes: &[u8]) -> Result<Vec<&[u8]>, PrepError> {
    let damaged = || PrepError::Record { path: "the saved state".into(), why: "it is cut short".into(), next: AFRESH };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*head)).map_err(|_| damaged())?;
        let (state, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        out.push(state);
        bytes = rest;
    }
    Ok(out)
}

fn count_drop(counts: &mut Counters, dropped: Dropped) -> Reject {
    match dropped {
        Dropped::Filtered(reject) => {
            counts.filter(&reject.reason);
            reject
        }
        Dropped::Reject(reject) => {
            *counts.rejected.entry(reject.stage.to_owned()).or_default() += 1;
            reject
        }
    }
}
