//! Shards to batches: parallel, deterministic, resumable after any batch.
//!
//! ```text
//!  order.rs ─ chunks ─► workers (pipeline.rs) ─► pack.rs ─ packs ─► workers (decode) ─► Loader::next ─► MicroBatch
//!             └────────────── answers awaited in the order of the questions ─────────────┘            └ LoaderState
//! ```
//! The same seed, shards, plugins and recipe give the same batches for any number of workers. Every sample that was
//! read is delivered, filtered or rejected exactly once, also across a restart: with as many ranks as before the next
//! batches are those of the unbroken run bit for bit, with another number ([`Loader::resume_all`]) nothing of the epoch is
//! lost and nothing comes twice. A state has the position, the packer's own state and the samples in it; the shuffle
//! windows follow from the position, and filters have no state: those that remember rows are refused in training.

mod config;
mod eval;
mod order;
mod pack;
mod reshard;
mod state;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use ovhost_plugin::PackLimits;
use sha2::{Digest, Sha256};

pub use config::{DataConfig, OneOrMany};
pub use eval::{EvalReader, EvalSample};
use order::{Order, OrderSpec, slots};
pub use order::{Place, Position, Rebase, shuffle};
use pack::{Delivery, PackThread, Snapshot};
use reshard::{RANK, by_rank, rank_words, reshard};
pub(crate) use state::to_hex;
pub use state::{Held, LoaderState};
use work::DecodedBin;

use crate::DataError;
use crate::chat::{ChatTokenizer, IGNORE};
use crate::image::ImageProcessor;
use crate::packed::MadeFor;
use crate::pipeline::{CHUNK, PipelineShared, RowPipeline, SampleSource, StageFactory};
use crate::record::Reject;
use crate::rejects::{Counters, RECIPE_WORDS, RejectBudget};

/// What a loader works with.
#[derive(Clone)]
pub struct LoaderParts {
    /// Samples.
    pub source: Arc<dyn SampleSource>,
    /// Filters, prompt, packer.
    pub stages: Arc<dyn StageFactory>,
    /// Tokenizer and template.
    pub chat: Arc<ChatTokenizer>,
    /// Image processing.
    pub images: Arc<ImageProcessor>,
    /// Seed of the run.
    pub seed: u64,
    /// Which of `world` data-parallel streams this is.
    pub rank: u32,
    /// Number of data-parallel streams; 1 on a single machine.
    pub world: u32,
}

/// A batch: samples one after the other, no padding. T tokens, S samples, P patches, I images.
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// Token ids, `[T]`.
    pub input_ids: Vec<i64>,
    /// Labels, not shifted; [`IGNORE`] where nothing is learnt, `[T]`.
    pub labels: Vec<i64>,
    /// Positions; they restart at 0 with each sample, `[T]`.
    pub positions: Vec<i64>,
    /// Where samples begin, and T, `[S + 1]`.
    pub cu_seqlens: Vec<i32>,
    /// Normalised patches, `[P, patch_dim]`, images in the order of their pads.
    pub pixel_values: Vec<f32>,
    /// Values of a patch.
    pub patch_dim: usize,
    /// Patches along time, height, width, `[I]`.
    pub grid_thw: Vec<[i64; 3]>,
    /// Keys, `[S]`.
    pub keys: Vec<String>,
    /// Tokens that would fit.
    pub capacity: u64,
    /// Samples rejected or filtered (stage `filter`) since the batch before.
    pub rejects: Vec<Reject>,
    /// Where to go on after this batch.
    pub state: LoaderState,
    /// For the log.
    pub stats: BatchStats,
}

impl MicroBatch {
    /// Share of the capacity that is real tokens, 0 to 1.
    pub fn fill(&self) -> f64 {
        self.input_ids.len() as f64 / self.capacity.max(1) as f64
    }
}

/// Facts about a batch for the log.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchStats {
    /// Samples.
    pub samples: usize,
    /// Packs.
    pub packs: usize,
    /// Learnt tokens.
    pub learnt: usize,
    /// Images.
    pub images: usize,
    /// How long the caller waited for data.
    pub wait: Duration,
}

/// The stream of batches.
pub struct Loader {
    deliveries: Option<Receiver<Delivery>>,
    threads: Vec<JoinHandle<()>>,
    packs_per_batch: usize,
    capacity: u64,
    patch_dim: usize,
    depends: BTreeMap<String, String>,
    budget: RejectBudget,
    /// Counts before this process, and what this side has counted since.
    base: Counters,
    mine: Counters,
    state: LoaderState,
    rejects: Vec<Reject>,
    /// Samples (packs, where they come packed) of an epoch, of this stream.
    epoch_len: u64,
    packed: bool,
    /// Samples (packs) since the last good one whose pictures were all corrupt, and the latest of them in words.
    corrupt: (u64, String),
    ended: bool,
    /// What the end of the data brought to light, for the call after the last batch.
    verdict: Option<DataError>,
}

impl Loader {
    /// Starts at the beginning.
    ///
    /// # Errors
    /// Bad configuration, no samples, plugins that do not fit.
    pub fn start(config: &DataConfig, parts: LoaderParts) -> Result<Self, DataError> {
        Self::open(config, parts, &[])
    }

    /// Goes on after the batch whose state this is: the next batches are those of the uninterrupted run.
    ///
    /// # Errors
    /// As [`Self::start`], and a state of other data, plugins or settings.
    pub fn resume(config: &DataConfig, parts: LoaderParts, state: LoaderState) -> Result<Self, DataError> {
        Self::open(config, parts, &[state])
    }

    /// Goes on from the states that all ranks of a checkpoint saved. With as many ranks as then it is as [`Self::resume`]
    /// with this rank's state. With another number of ranks every sample of the epoch that was not delivered, filtered or
    /// rejected by any of them comes to one of the new ranks, and none that was comes again; the packs, and with them the
    /// batches, are new ones. The counts of all that was before go to rank 0.
    ///
    /// # Errors
    /// As [`Self::resume`], and states that are not those of every rank of one checkpoint.
    pub fn resume_all(config: &DataConfig, parts: LoaderParts, states: &[LoaderState]) -> Result<Self, DataError> {
        if states.is_empty() {
            return Err(DataError::Resume("no data state was given; give the state of every rank".into()));
        }
        Self::open(config, parts, states)
    }

    /// `states`: none for the beginning, this rank's, or those of all ranks.
    fn open(config: &DataConfig, parts: LoaderParts, states: &[LoaderState]) -> Result<Self, DataError> {
        config.check()?;
        if parts.world == 0 || parts.rank >= parts.world {
            return Err(DataError::Config(format!("data rank {} of {} does not exist", parts.rank, parts.world)));
        }
        let shards = parts.source.shards();
        let total: u64 = shards.iter().map(|(_, n)| n).sum();
        if total < u64::from(parts.world) {
            return Err(DataError::Config(format!(
                "data.train has {total} samples in {} shards, which is not one for each of {} streams; check the shards",
                shards.len(),
                parts.world
            )));
        }
        let (sources, epoch_len) = slots(&parts.source.mix(), &shards)?;
        if epoch_len < u64::from(parts.world) {
            return Err(DataError::Config(format!(
                "an epoch has {epoch_len} samples, which is not one for each of {} streams; raise the repetitions",
                parts.world
            )));
        }
        let depends = depends(config, &parts, &shards);
        let packed = parts.source.packed();
        let made_for = MadeFor::of(&parts.chat, &parts.images, parts.stages.prompt_identity());
        for (shard, head) in parts.source.heads() {
            head.check(&shard, &made_for, config.capacity)?;
        }
        if packed {
            tracing::info!("data.train holds packs: they are taken as they are, without the packer plugin");
        }
        let mut spec = OrderSpec {
            sources,
            epoch_len,
            seed: parts.seed,
            window: config.shuffle_buffer,
            epochs: config.epochs,
            rank: u64::from(parts.rank),
            world: u64::from(parts.world),
            // A pack holds the pictures of many samples: few are read ahead, and each is a place to go on from.
            chunk: if packed { 1 } else { CHUNK },
            rebase: None,
        };
        let resume = match states {
            [] => None,
            [one] if one.depends.get(RANK) == depends.get(RANK) => Some(one.clone()),
            all => {
                let all = by_rank(all)?;
                all.iter().try_for_each(|state| state.check(&depends, Some(RANK)))?;
                if all.len() == parts.world as usize {
                    Some(all[parts.rank as usize].clone())
                } else {
                    Some(LoaderState { depends: depends.clone(), ..reshard(&spec, &all)? })
                }
            }
        };
        if let Some(state) = &resume {
            state.check(&depends, None)?;
        }
        let state = resume.clone().unwrap_or_else(|| LoaderState {
            version: state::VERSION,
            depends: depends.clone(),
            position: Position::default(),
            rebase: None,
            epoch_kept: 0,
            packer: None,
            open: Vec::new(),
            bins: Vec::new(),
            counters: Counters::default(),
        });
        spec.rebase = state.rebase.clone();

        let shared = PipelineShared {
            source: parts.source.clone(),
            chat: parts.chat.clone(),
            images: parts.images.clone(),
            seed: parts.seed,
            rank: parts.rank,
        };
        let workers = config.worker_count();
        let pipelines = (0..workers)
            .map(|_| RowPipeline::new(shared.clone(), parts.stages.as_ref(), config.capacity))
            .collect::<Result<Vec<_>, _>>()?;
        let stage = if packed { None } else { Some(parts.stages.packer()?) };

        // Job queues are unbounded because the queues of answers are not: nobody asks for more than they hold.
        let (encode_in, encode_out) = unbounded();
        let (decode_in, decode_out) = unbounded();
        let (pending_in, pending_out) = bounded(2 * workers + 2);
        let (out, deliveries) = bounded(config.prefetch * config.packs_per_batch);
        let mut threads = work::start(pipelines, &parts.images, config.blank_images, &encode_out, &decode_out)?;
        let (at, position) = (state.position.clone(), state.position.clone());
        let jobs = encode_in.clone();
        let failed = |e: std::io::Error| DataError::Worker(format!("cannot start a thread: {e}; lower data.workers"));
        let feeder = std::thread::Builder::new()
            .name("data-order".into())
            .spawn(move || pack::feed(Order::new(spec, at), &jobs, &pending_in));
        threads.push(feeder.map_err(failed)?);
        let budget =
            RejectBudget { max_rate: config.max_reject_rate, max_count: config.max_rejects, words: RECIPE_WORDS };
        let packer = PackThread {
            stage,
            limits: PackLimits {
                capacity: config.capacity,
                max_items_per_bin: config.max_items_per_pack,
                max_open_items: config.max_open_items,
            },
            encode: encode_in,
            decode: decode_in,
            out,
            budget,
            seed: parts.seed,
            rank: parts.rank,
            base: state.counters.clone(),
            counters: Counters::default(),
            position,
            epoch_kept: state.epoch_kept,
            open: BTreeMap::new(),
            rejects: Vec::new(),
            latest: None,
        };
        let thread =
            std::thread::Builder::new().name("data-pack".into()).spawn(move || packer.run(resume, &pending_out));
        threads.push(thread.map_err(failed)?);
        Ok(Self {
            deliveries: Some(deliveries),
            threads,
            packs_per_batch: config.packs_per_batch,
            capacity: u64::from(config.capacity),
            patch_dim: parts.images.patch_dim(),
            depends,
            budget,
            base: state.counters.clone(),
            mine: Counters::default(),
            state,
            rejects: Vec::new(),
            epoch_len: epoch_len.div_ceil(u64::from(parts.world)),
            packed,
            corrupt: (0, String::new()),
            ended: false,
            verdict: None,
        })
    }

    /// The next batch; none when the last epoch is over. The last batch may hold fewer packs.
    ///
    /// # Errors
    /// A plugin that failed, too many rejects, an epoch without samples. After an error nothing more comes.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot report the end and errors this way round")]
    pub fn next(&mut self) -> Result<Option<MicroBatch>, DataError> {
        let result = self.collect();
        if result.is_err() {
            self.ended = true;
        }
        result
    }

    /// Up to `n` batches: the micro-batches of one optimiser step. Fewer at the very end, none after it.
    pub fn next_step(&mut self, n: usize) -> Result<Vec<MicroBatch>, DataError> {
        let mut batches = Vec::with_capacity(n);
        while batches.len() < n {
            match self.next()? {
                Some(batch) => batches.push(batch),
                None => break,
            }
        }
        Ok(batches)
    }

    /// State after the batch delivered last (at first: the beginning).
    pub fn state(&self) -> &LoaderState {
        &self.state
    }

    /// Counts up to the batch delivered last, and to the very end once [`Self::next`] gave none.
    pub fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// Samples left out (rejected or filtered) that no batch carried: those after the last batch, or before an error.
    pub fn take_rejects(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.rejects)
    }

    fn collect(&mut self) -> Result<Option<MicroBatch>, DataError> {
        if let Some(error) = self.verdict.take() {
            return Err(error);
        }
        let mut group: Vec<DecodedBin> = Vec::with_capacity(self.packs_per_batch);
        let mut wait = Duration::ZERO;
        let mut last: Option<(Arc<Snapshot>, usize)> = None;
        while !self.ended && group.len() < self.packs_per_batch {
            let from = Instant::now();
            let gone = || DataError::Worker("the packing thread is gone".into());
            let delivery = self.deliveries.as_ref().ok_or_else(gone)?.recv().map_err(|_| gone())?;
            match delivery {
                Delivery::Bin { work, snapshot, index, rejects } => {
                    self.rejects.extend(rejects);
                    let bin = work.recv().map_err(|_| DataError::Worker("a worker thread is gone".into()))??;
                    wait += from.elapsed();
                    self.count(&bin, &snapshot)?;
                    last = Some((snapshot, index));
                    if !bin.samples.is_empty() {
                        group.push(bin);
                    }
                }
                Delivery::End { snapshot, rejects } => {
                    self.ended = true;
                    self.rejects.extend(rejects);
                    // The pack thread judged the epoch before its last pictures were decoded.
                    let words = Some(self.corrupt.1.as_str()).filter(|w| !w.is_empty());
                    let verdict = self.budget.check(&self.all_counters(&snapshot), true, words);
                    self.verdict = verdict.err().map(DataError::Rejects);
                    let all = snapshot.bins.len();
                    last = Some((snapshot, all));
                }
                Delivery::Failed { error, rejects } => {
                    self.rejects.extend(rejects);
                    return Err(error);
                }
            }
        }
        if let Some((snapshot, index)) = last {
            self.state = self.state_after(&snapshot, index);
        }
        if group.is_empty() {
            return self.verdict.take().map_or(Ok(None), Err);
        }
        Ok(Some(self.assemble(group, wait)))
    }

    fn count(&mut self, bin: &DecodedBin, snapshot: &Snapshot) -> Result<(), DataError> {
        for reject in &bin.rejects {
            *self.mine.rejected.entry(reject.stage.to_string()).or_default() += 1;
        }
        self.rejects.extend(bin.rejects.iter().cloned());
        self.mine.samples += bin.samples.len() as u64;
        self.mine.tokens += bin.samples.iter().map(|s| s.input_ids.len() as u64).sum::<u64>();
        self.mine.images += bin.grid_thw.len() as u64;
        if !bin.samples.is_empty() {
            self.mine.packs += 1;
            self.mine.capacity += self.capacity;
        }
        if !bin.samples.is_empty() {
            self.corrupt.0 = 0;
        }
        let Some(last) = bin.rejects.last() else { return Ok(()) };
        if bin.samples.is_empty() {
            self.corrupt.0 += if self.packed { 1 } else { bin.rejects.len() as u64 };
        }
        self.corrupt.1 = last.words();
        let all = self.all_counters(snapshot);
        // With max_reject_rate = 1 and endless epochs nothing else would ever end this.
        if self.corrupt.0 > self.epoch_len + snapshot.open.len() as u64 {
            return Err(DataError::Rejects(format!(
                "the pictures of the last {} {}, more than a whole epoch, are all unusable. {}. The latest: {}. Mend the \
                 data",
                self.corrupt.0,
                if self.packed { "packs" } else { "samples" },
                all.summary("delivered"),
                self.corrupt.1
            )));
        }
        self.budget.check(&all, false, Some(&self.corrupt.1)).map_err(DataError::Rejects)
    }

    fn all_counters(&self, snapshot: &Snapshot) -> Counters {
        let mut all = self.base.clone();
        all.add(&snapshot.counters);
        all.add(&self.mine);
        all
    }

    fn state_after(&self, snapshot: &Snapshot, index: usize) -> LoaderState {
        let rebase = self.state.rebase.clone().filter(|r| r.epoch >= snapshot.position.epoch);
        LoaderState {
            version: state::VERSION,
            depends: self.depends.clone(),
            position: snapshot.position.clone(),
            rebase,
            epoch_kept: snapshot.epoch_kept,
            packer: snapshot.packer.as_deref().map(state::to_hex),
            open: snapshot.open.clone(),
            bins: snapshot.bins.iter().skip(index + 1).cloned().collect(),
            counters: self.all_counters(snapshot),
        }
    }

    fn assemble(&mut self, bins: Vec<DecodedBin>, wait: Duration) -> MicroBatch {
        let tokens: usize = bins.iter().flat_map(|b| &b.samples).map(|s| s.input_ids.len()).sum();
        let mut batch = MicroBatch {
            input_ids: Vec::with_capacity(tokens),
            labels: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            cu_seqlens: vec![0],
            pixel_values: Vec::new(),
            patch_dim: self.patch_dim,
            grid_thw: Vec::new(),
            keys: Vec::new(),
            capacity: self.capacity * bins.len() as u64,
            rejects: std::mem::take(&mut self.rejects),
            state: self.state.clone(),
            stats: BatchStats { packs: bins.len(), wait, ..BatchStats::default() },
        };
        for bin in bins {
            if batch.pixel_values.is_empty() {
                batch.pixel_values = bin.pixel_values;
            } else {
                batch.pixel_values.extend_from_slice(&bin.pixel_values);
            }
            batch.grid_thw.extend(bin.grid_thw);
            for sample in bin.samples {
                batch.positions.extend(0..sample.input_ids.len() as i64);
                batch.input_ids.extend(sample.input_ids.iter().map(|id| i64::from(*id)));
                batch.labels.extend(sample.labels.iter().map(|l| i64::from(*l)));
                batch.cu_seqlens.push(batch.input_ids.len() as i32);
                batch.keys.push(sample.key);
            }
        }
        batch.stats.samples = batch.keys.len();
        batch.stats.images = batch.grid_thw.len();
        batch.stats.learnt = batch.labels.iter().filter(|l| **l != i64::from(IGNORE)).count();
        batch
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Nobody listens any more: each thread ends at its next send.
        self.deliveries = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a saved place depends on, in words where that helps.
fn depends(config: &DataConfig, parts: &LoaderParts, shards: &[(String, u64)]) -> BTreeMap<String, String> {
    let mut hash = Sha256::new();
    for (name, count) in shards {
        hash.update(format!("{name}\0{count}\n"));
    }
    let total: u64 = shards.iter().map(|(_, n)| n).sum();
    let mix = parts.source.mix();
    let mut shares = String::new();
    if mix.parts.len() > 1 || mix.parts.iter().any(|p| p.share != 1.0) {
        let words: Vec<String> = mix.parts.iter().map(|p| format!("{} of {} shards", p.share, p.shards)).collect();
        shares = format!(" mixed by {:?}: {},", mix.mixing, words.join(", ")).to_lowercase();
    }
    let list = format!("{} shards with {total} samples,{shares} {}", shards.len(), state::to_hex(&hash.finalize()));
    [
        ("data.train", list),
        ("data.shuffle_buffer", config.shuffle_buffer.to_string()),
        ("data.capacity", config.capacity.to_string()),
        ("data.packs_per_batch", config.packs_per_batch.to_string()),
        ("data.max_items_per_pack", config.max_items_per_pack.to_string()),
        ("data.max_open_items", config.max_open_items.to_string()),
        ("data.blank_images", config.blank_images.to_string()),
        ("seed", parts.seed.to_string()),
        (RANK, rank_words(parts.rank, parts.world)),
        ("tokenizer", parts.chat.fingerprint().to_string()),
        ("image processor", format!("{:?}", parts.images)),
        ("plugins", parts.stages.fingerprint()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}

#[cfg(test)]
mod tests;
