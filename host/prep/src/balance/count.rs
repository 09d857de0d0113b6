//! Steps `count` and `recount`: a counting plugin over shards, as independent jobs whose counts are added up.
//!
//! A plugin that remembers rows must see all of them in order to be right, with one exception that this is: counts add up. So
//! every job counts from nothing, and any thread or machine may do it. A job is a group of shards, so that there are at most
//! [`GROUPS`] files of counts, which may be megabytes each.

use std::path::{Path, PathBuf};

use ovhost_data::columns::{Compute, PIXELS};
use ovhost_data::packed::{Layout, layout_of};
use ovhost_data::pipeline::{Dropped, FilterChain, Row, Stream, plugin_filter};
use ovhost_data::record::RecordOptions;
use ovhost_data::rejects::Counters;
use ovhost_data::shards::Shard;
use serde_json::json;

use super::{COUNTS, ConceptSettings, Counts};
use crate::error::{AFRESH, PrepError};
use crate::files::put;
use crate::filter::CHUNK;
use crate::jobs::{Done, Made, MadeFile, Plan, RunOptions, Step, Summary, records, run};
use crate::lengths::{Input, inputs};

/// Most jobs.
const GROUPS: usize = 256;

/// The step.
pub struct Count<'a> {
    /// Its name, and that of its folder.
    name: &'static str,
    settings: &'a ConceptSettings<'a>,
    inputs: Vec<Input>,
}

impl<'a> Count<'a> {
    /// The step of that name over `paths`.
    pub fn new(name: &'static str, settings: &'a ConceptSettings<'a>, paths: Vec<PathBuf>) -> Result<Self, PrepError> {
        Ok(Count { name, settings, inputs: inputs(&paths)? })
    }

    /// Runs it.
    pub fn run(&self, options: &RunOptions<'_>) -> Result<Summary, PrepError> {
        run(self, &self.plan(), options)
    }

    /// Its result.
    pub fn file(&self, out: &Path) -> PathBuf {
        records(out, self.name).join(COUNTS)
    }

    fn groups(&self) -> impl Iterator<Item = &[Input]> {
        self.inputs.chunks(self.inputs.len().div_ceil(GROUPS).max(1))
    }

    fn plan(&self) -> Plan {
        let shards: Vec<_> = self.inputs.iter().map(|i| json!({ "name": i.name, "bytes": i.bytes })).collect();
        let s = self.settings;
        let settings = json!({
            "count": crate::plugin_record(&s.count), "on_plugin_failure": s.on_trap, "max_image_pixels": s.max_pixels,
            "inputs": shards,
        });
        Plan { step: self.name, settings, jobs: (0..self.groups().count()).map(|i| format!("group-{i:03}")).collect() }
    }

    fn part(&self, group: usize, out: &Path) -> PathBuf {
        records(out, self.name).join(format!("group-{group:03}.counts"))
    }
}

/// A thread's counter, and the state of one that has seen nothing.
pub struct Worker {
    chain: FilterChain,
    nothing: Vec<u8>,
}

impl Step for Count<'_> {
    type Worker = Worker;

    fn worker(&self) -> Result<Worker, PrepError> {
        let mut stage = plugin_filter(&self.settings.count, self.settings.on_trap)?;
        let nothing = stage.save()?;
        Ok(Worker { chain: FilterChain::new(vec![stage]), nothing })
    }

    fn is_last(&self) -> bool {
        false
    }

    fn job(
        &self,
        worker: &mut Worker,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        for stage in worker.chain.stages() {
            stage.restore(&worker.nothing)?;
        }
        let (mut made, options) = (Made::within(out), RecordOptions { max_pixels: self.settings.max_pixels });
        let compute = Compute { chat: None, max_pixels: self.settings.max_pixels };
        let stream = Stream { seed: self.settings.seed, rank: 0, compute };
        let mut ordinal = 0;
        let mut reads = self.settings.count.info().reads.iter();
        let whole = reads.any(|(name, _)| PIXELS.contains(&name.as_str()));
        for input in self.groups().nth(index).unwrap_or_default() {
            let shard = Shard::open_damaged(&input.path)?;
            if layout_of(&shard)?.0 != Layout::Plain {
                return Err(PrepError::Option(format!(
                    "{} holds packs, and single samples are balanced; balance the shards that they were made from",
                    input.path.display()
                )));
            }
            for first in (0..shard.len()).step_by(CHUNK) {
                let last = shard.len().min(first + CHUNK);
                let mut rows = Vec::with_capacity(last - first);
                let mut rejected = |reject: ovhost_data::Reject| {
                    *made.counts.rejected.entry(reject.stage.to_owned()).or_default() += 1;
                };
                for at in first..last {
                    let record = if whole { shard.record(at, &options) } else { shard.record_by_headers(at, &options) };
                    match record {
                        Ok(record) => rows.push(Row { at, ordinal, record, added: Vec::new() }),
                        Err(reject) => rejected(reject),
                    }
                    ordinal += 1;
                }
                // A counting plugin keeps every row; what it cannot judge the sampling one rejects, with the reason.
                let kept = worker.chain.run(rows, &stream, |_, dropped| match dropped {
                    Dropped::Filtered(reject) | Dropped::Reject(reject) => rejected(reject),
                })?;
                made.counts.samples += kept.len() as u64;
                made.counts.read += (last - first) as u64;
                tick((last - first) as u64)?;
            }
        }
        for stage in worker.chain.stages() {
            let state = stage.save()?;
            Counts::parse(&state).map_err(|why| {
                PrepError::Option(format!("plugin {}: {why}; name a counting entry", self.settings.count.info().name))
            })?;
            let path = self.part(index, out);
            put(&path, &state)?;
            let name = path.strip_prefix(out).unwrap_or(&path).to_string_lossy().into_owned();
            made.files.push(MadeFile::of(&path, &name, made.counts.samples)?);
        }
        Ok(made)
    }

    fn finish(&self, out: &Path, done: &[Done], _: &Counters) -> Result<(), PrepError> {
        let mut sum: Option<Counts> = None;
        for group in 0..done.len() {
            let path = self.part(group, out);
            let one = Counts::read(&path)?;
            let wrong = |why| PrepError::Record { path: path.display().to_string(), why, next: AFRESH };
            match &mut sum {
                None => sum = Some(one),
                Some(sum) => sum.add(&one).map_err(wrong)?,
            }
        }
        // Without shards nothing was counted: a fresh plugin says what that looks like.
        let bytes = match sum {
            Some(sum) => sum.bytes(),
            None => plugin_filter(&self.settings.count, self.settings.on_trap)?.save()?,
        };
        put(&self.file(out), &bytes)
    }
}
