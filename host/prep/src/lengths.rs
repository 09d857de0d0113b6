//! Step `lengths`: how many tokens and patches each sample has, by the path that training takes; of pictures
//! only the headers are read.
//!
//! ```text
//!  shard NAME ─ records ─► filters ─► prompt ─► tokens ─► NAME.len  tokens, patches (u32 each) of every sample; 0: left out
//!             │              └──────────┴──────────┴────► rejects, with key and reason
//!             └ places ─► NAME.idx  byte offset of every sample, and of the end (u64)
//! ```
//! Numbers are little-endian. The id of a sample, which plugins see, is its shard's number and its own: it needs no other
//! shard to be counted.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ovhost_data::packed::{Layout, check_depth, layout_of, reference};
use ovhost_data::pipeline::{Item, Outcome, PipelineShared, RowPipeline, SampleSource};
use ovhost_data::record::{Record, RecordOptions, Reject};
use ovhost_data::rejects::Counters;
use ovhost_data::shards::{Shard, shard_stem, stored_size};
use serde_json::json;

use crate::error::PrepError;
use crate::files::put;
use crate::jobs::{Done, Made, MadeFile, Plan, Step, records};
use crate::pack::PackSettings;

/// Name of the step, and of its folder.
pub const STEP: &str = "lengths";

/// Samples that go through the plugins together.
const CHUNK: u64 = 64;

/// One input shard.
#[derive(Debug, Clone)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Name of its job and of the files made of it, without suffix.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Input {
    /// File of its samples' tokens and patches.
    pub fn lengths(&self, out: &Path) -> PathBuf {
        records(out, STEP).join(format!("{}.len", self.name))
    }

    /// File of its samples' byte offsets.
    pub fn offsets(&self, out: &Path) -> PathBuf {
        records(out, STEP).join(format!("{}.idx", self.name))
    }
}

/// The shards at `paths`, each with a name of its own.
pub fn inputs(paths: &[PathBuf]) -> Result<Vec<Input>, PrepError> {
    let mut names = HashSet::new();
    let mut out = Vec::with_capacity(paths.len());
    let sizes = ovhost_store::try_at_once(paths, |path| stored_size(path))?;
    for ((i, path), bytes) in paths.iter().enumerate().zip(sizes) {
        let mut name = shard_stem(path);
        // Shards of two folders may bear one name.
        while !names.insert(name.clone()) {
            name = format!("{name}-{i:06}");
        }
        out.push(Input { path: path.clone(), name, bytes });
    }
    Ok(out)
}

/// The step.
pub struct Lengths<'a> {
    /// What is packed.
    pub settings: &'a PackSettings,
    /// Its shards.
    pub inputs: &'a [Input],
}

/// A thread's pipeline, and the shard that it reads.
pub struct Worker {
    pipeline: RowPipeline,
    shard: Arc<Current>,
}

/// The shard that a pipeline reads now.
struct Current {
    /// With its [`Shard::offsets`].
    shard: RwLock<Option<(Shard, Vec<u64>)>>,
    /// Room for the bytes of neighbouring samples.
    room: Mutex<Vec<u8>>,
    options: RecordOptions,
    /// Whether pictures are read whole, for a plugin that looks into them. A length needs their headers alone.
    whole: AtomicBool,
}

impl Current {
    fn with<R>(&self, f: impl FnOnce(&Shard) -> R) -> Option<R> {
        self.shard.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(shard, _)| f(shard))
    }
}

impl SampleSource for Current {
    fn shards(&self) -> Vec<(String, u64)> {
        self.with(|s| (s.name().to_owned(), s.len() as u64)).into_iter().collect()
    }

    fn record(&self, _: u32, index: u64) -> Result<Record, Reject> {
        let read = |shard: &Shard| match self.whole.load(Ordering::Relaxed) {
            true => shard.record(index as usize, &self.options),
            false => shard.record_by_headers(index as usize, &self.options),
        };
        self.with(read).unwrap_or_else(none_open)
    }

    /// The items are neighbours.
    fn records(&self, items: &[Item]) -> Vec<Result<Record, Reject>> {
        let (Some(first), Some(last)) = (items.first(), items.last()) else { return Vec::new() };
        let samples = first.index as usize..last.index as usize + 1;
        let read = |(shard, offsets): &(Shard, Vec<u64>)| {
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            let run = shard.read_run(offsets, samples, std::mem::take(&mut *room))?;
            let whole = self.whole.load(Ordering::Relaxed);
            let records =
                items.iter().map(|item| shard.record_in(&run, item.index as usize, whole, &self.options)).collect();
            *room = run.into_room();
            Some(records)
        };
        let shard = self.shard.read().unwrap_or_else(PoisonError::into_inner);
        let run = shard.as_ref().and_then(read);
        drop(shard);
        run.unwrap_or_else(|| items.iter().map(|item| self.record(item.shard, item.index)).collect())
    }
}

fn none_open() -> Result<Record, Reject> {
    let reason = "no shard is open".into();
    Err(Reject { key: String::new(), shard: String::new(), stage: "read", reason })
}

fn whole(record: Record) -> Result<Record, String> {
    check_depth(&record.fields)?;
    Ok(record)
}

impl Lengths<'_> {
    /// The plan: one job a shard.
    pub fn plan(&self) -> Plan {
        let s = self.settings;
        let shards: Vec<_> = self.inputs.iter().map(|i| json!({ "name": i.name, "bytes": i.bytes })).collect();
        let settings = json!({
            "made_for": s.made_for(), "filters": s.filters, "on_plugin_failure": s.on_trap, "seed": s.seed,
            "capacity": s.limits.capacity, "layout": s.layout_name(), "max_image_pixels": s.images.max_decode_pixels,
            "inputs": shards,
        });
        Plan { step: STEP, settings, jobs: self.inputs.iter().map(|i| i.name.clone()).collect() }
    }
}

impl Step for Lengths<'_> {
    type Worker = Worker;

    fn worker(&self) -> Result<Worker, PrepError> {
        let s = self.settings;
        let options = RecordOptions { max_pixels: s.images.max_decode_pixels };
        let shard = Arc::new(Current {
            shard: RwLock::default(),
            room: Mutex::default(),
            options,
            whole: AtomicBool::new(true),
        });
        let shared = PipelineShared {
            source: shard.clone(),
            chat: s.chat.clone(),
            images: s.images.clone(),
            seed: s.seed,
            rank: 0,
        };
        let reshape = if s.layout == Layout::Reference { reference::turn } else { whole };
        let pipeline = RowPipeline::new(shared, s.stages.as_ref(), s.limits.capacity)?.with_reshape(reshape);
        shard.whole.store(pipeline.reads_pixels(), Ordering::Relaxed);
        Ok(Worker { pipeline, shard })
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
        let input = &self.inputs[index];
        let shard = Shard::open_damaged(&input.path)?;
        if layout_of(&shard)?.0 != Layout::Plain {
            return Err(PrepError::Option(format!(
                "{} holds packs already; give the shards that they were made from",
                input.path.display()
            )));
        }
        if shard.is_compressed() {
            return Err(PrepError::Option(format!(
                "{} is compressed, and packing reads its samples once more at random places; unpack it (`ovhost data filter` reads \
                 compressed shards and writes plain ones)",
                input.path.display()
            )));
        }
        let (count, offsets, damage) = (shard.len() as u64, shard.offsets(), shard.damage_reject());
        *worker.shard.shard.write().unwrap_or_else(PoisonError::into_inner) = Some((shard, offsets.clone()));
        let mut made = Made { counts: Counters { read: count, ..Counters::default() }, ..Made::within(out) };
        let mut lengths: Vec<u8> = Vec::with_capacity(8 * count as usize);
        for first in (0..count).step_by(CHUNK as usize) {
            let last = count.min(first + CHUNK);
            let id = |i: u64| ((index as u64) << 32) | i;
            let items: Vec<Item> = (first..last).map(|i| Item { ordinal: id(i), shard: 0, index: i }).collect();
            for outcome in worker.pipeline.run(&items)? {
                let numbers = match outcome {
                    Outcome::Sample(sample) => [sample.input_ids.len() as u32, sample.patches],
                    Outcome::Filtered(reject) => {
                        made.counts.filter(&reject.reason);
                        made.rejects.push(reject);
                        [0, 0]
                    }
                    Outcome::Reject(reject) => {
                        *made.counts.rejected.entry(reject.stage.to_owned()).or_default() += 1;
                        made.rejects.push(reject);
                        [0, 0]
                    }
                };
                lengths.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
            }
            tick(last - first)?;
        }
        *worker.shard.shard.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(damage) = damage {
            made.counts.read += 1;
            *made.counts.rejected.entry(damage.stage.to_owned()).or_default() += 1;
            made.rejects.push(damage);
        }
        let offsets: Vec<u8> = offsets.iter().flat_map(|o| o.to_le_bytes()).collect();
        for (path, bytes) in [(input.lengths(out), &lengths), (input.offsets(out), &offsets)] {
            put(&path, bytes)?;
            let name = path.strip_prefix(out).unwrap_or(&path).to_string_lossy().into_owned();
            made.files.push(MadeFile::of(&path, &name, count)?);
        }
        Ok(made)
    }

    fn finish(&self, _: &Path, _: &[Done], _: &Counters) -> Result<(), PrepError> {
        Ok(())
    }
}
