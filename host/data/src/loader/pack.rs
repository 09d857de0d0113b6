//! The packing thread: encoded samples in order in, packs in order out, each with the state after it.
//!
//! ```text
//!  Order ─► feeder ─► (answer of chunk 1), (answer of chunk 2) … ─► packer ─► Delivery::Bin … Delivery::End
//!              └─────► encode jobs ─► workers ◄── decode jobs ◄───────┘
//! ```
//! Where samples come packed, a chunk is one pack and goes through as it is.
//!
//! After each push that finished packs the packer's state is saved, so that a checkpoint can be taken after any of
//! them although this thread runs ahead of the trainer.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, PackLimits, Packing};

use super::order::{Chunk, Position};
use super::state::{Held, LoaderState, from_hex};
use super::work::{DecodeJob, DecodedBin, EncodeJob};
use crate::DataError;
use crate::pipeline::{CHUNK, EncodedSample, Item, Outcome, PackStage};
use crate::record::Reject;
use crate::rejects::{Counters, RejectBudget};

/// The stream after one push.
pub struct Snapshot {
    pub position: Position,
    pub epoch_kept: u64,
    /// None once flushed.
    pub packer: Option<Vec<u8>>,
    pub open: Vec<Held>,
    /// All packs of the push.
    pub bins: Vec<Vec<Held>>,
    pub counters: Counters,
}

/// What the packing thread hands to the loader, in order.
pub enum Delivery {
    /// Pack `index` of `snapshot.bins`; its pixels come through `work`.
    Bin { work: Receiver<Result<DecodedBin, DataError>>, snapshot: Arc<Snapshot>, index: usize, rejects: Vec<Reject> },
    /// Nothing more comes.
    End { snapshot: Arc<Snapshot>, rejects: Vec<Reject> },
    /// Nothing more comes because of `error`; `rejects` are those that no pack carried.
    Failed { error: DataError, rejects: Vec<Reject> },
}

/// A chunk that workers are busy with.
pub struct Pending {
    pub chunk: Chunk,
    pub answer: Receiver<Result<Vec<Outcome>, DataError>>,
}

/// Gives out chunks until the stream ends or nobody listens.
pub fn feed(order: impl Iterator<Item = Chunk>, jobs: &Sender<EncodeJob>, pending: &Sender<Pending>) {
    for chunk in order {
        let (reply, answer) = bounded(1);
        if jobs.send(EncodeJob { items: chunk.items.clone(), reply }).is_err() {
            return;
        }
        if pending.send(Pending { chunk, answer }).is_err() {
            return;
        }
    }
}

/// The packing thread.
pub struct PackThread {
    /// None where samples come packed: then a chunk is a pack.
    pub stage: Option<Box<dyn PackStage>>,
    pub limits: PackLimits,
    pub encode: Sender<EncodeJob>,
    pub decode: Sender<DecodeJob>,
    pub out: Sender<Delivery>,
    pub budget: RejectBudget,
    pub seed: u64,
    pub rank: u32,
    /// Counts before this process.
    pub base: Counters,
    pub counters: Counters,
    pub position: Position,
    pub epoch_kept: u64,
    /// Samples in the packer, by id.
    pub open: BTreeMap<u64, EncodedSample>,
    /// What was left out and not delivered yet: rejected or filtered.
    pub rejects: Vec<Reject>,
    /// The latest rejected (not filtered) sample in words, for the text of a stop.
    pub latest: Option<String>,
}

/// The loader went away.
struct Gone;

enum Stop {
    Gone,
    Failed(DataError),
}

impl From<DataError> for Stop {
    fn from(error: DataError) -> Self {
        Stop::Failed(error)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

impl PackThread {
    /// Runs to the end of the stream; `resume` is where it was.
    pub fn run(mut self, resume: Option<LoaderState>, pending: &Receiver<Pending>) {
        match self.stream(resume, pending) {
            Ok(()) | Err(Stop::Gone) => {}
            Err(Stop::Failed(error)) => {
                // What was left out before the failure is often its reason: it goes along.
                let rejects = std::mem::take(&mut self.rejects);
                let _ = self.out.send(Delivery::Failed { error, rejects });
            }
        }
    }

    fn stream(&mut self, resume: Option<LoaderState>, pending: &Receiver<Pending>) -> Result<(), Stop> {
        if let Some(stage) = &mut self.stage {
            stage.start(&self.limits)?;
        }
        if let Some(state) = resume {
            self.restore(state)?;
        }
        for Pending { chunk, answer } in pending {
            let outcomes = answer.recv().map_err(|_| DataError::Worker("a worker thread is gone".into()))??;
            self.take(chunk, outcomes)?;
        }
        let mut bins = Vec::new();
        while let Some(packing) = self.stage.as_mut().map(|stage| stage.flush()).transpose()?.flatten() {
            bins.extend(self.settle(packing)?);
        }
        let snapshot = Arc::new(self.snapshot(None, &bins));
        self.deliver(bins, &snapshot)?;
        let rejects = std::mem::take(&mut self.rejects);
        self.out.send(Delivery::End { snapshot, rejects }).map_err(|_| Stop::Gone)
    }

    fn take(&mut self, chunk: Chunk, outcomes: Vec<Outcome>) -> Result<(), Stop> {
        let mut samples = Vec::new();
        for outcome in outcomes {
            self.counters.read += 1;
            match outcome {
                Outcome::Sample(sample) => samples.push(*sample),
                Outcome::Filtered(reject) => {
                    self.counters.filter(&reject.reason);
                    self.rejects.push(reject);
                }
                Outcome::Reject(reject) => self.reject(reject),
            }
        }
        self.position = chunk.after.clone();
        self.epoch_kept += samples.len() as u64;
        let kept = self.epoch_kept;
        if chunk.epoch_end {
            self.epoch_kept = 0;
        }
        let mut bins = Vec::new();
        if !samples.is_empty() {
            bins = self.push(&chunk, samples)?;
        }
        self.check_budget(chunk.epoch_end)?;
        if chunk.epoch_end && kept == 0 {
            let mut all = self.base.clone();
            all.add(&self.counters);
            let last = self.rejects.last().map(|r| format!(" The latest of them: {}: {}.", r.key, r.reason));
            return Err(DataError::Rejects(format!(
                "no sample of epoch {} is left to train on. {}.{} Loosen the filters or mend the data",
                chunk.after.epoch.saturating_sub(1),
                all.summary("delivered"),
                last.unwrap_or_default()
            ))
            .into());
        }
        if !bins.is_empty() {
            let packer = self.stage.as_mut().map(|stage| stage.save()).transpose()?;
            let snapshot = Arc::new(self.snapshot(packer, &bins));
            self.deliver(bins, &snapshot)?;
        }
        Ok(())
    }

    /// The bins that a chunk's samples (at least one) finish.
    fn push(&mut self, chunk: &Chunk, samples: Vec<EncodedSample>) -> Result<Vec<Vec<EncodedSample>>, DataError> {
        // The samples of a pack are delivered at once, so nothing is ever held between two of them.
        let Some(stage) = &mut self.stage else { return Ok(vec![samples]) };
        let first_row = chunk.items.first().map_or(0, |i| i.ordinal);
        let ctx = CallCtx { run_seed: self.seed, shard: self.rank, batch_index: first_row / CHUNK, first_row };
        let batch = items_batch(&samples);
        self.open.extend(samples.into_iter().map(|s| (s.item.ordinal, s)));
        let packing = stage.push(&ctx, &batch)?;
        self.settle(packing)
    }

    fn reject(&mut self, reject: Reject) {
        *self.counters.rejected.entry(reject.stage.to_string()).or_default() += 1;
        self.latest = Some(reject.words());
        self.rejects.push(reject);
    }

    fn check_budget(&self, epoch_end: bool) -> Result<(), DataError> {
        let mut all = self.base.clone();
        all.add(&self.counters);
        self.budget.check(&all, epoch_end, self.latest.as_deref()).map_err(DataError::Rejects)
    }

    /// Ids back to samples; what the packer gave up becomes rejects.
    fn settle(&mut self, packing: Packing) -> Result<Vec<Vec<EncodedSample>>, DataError> {
        let unknown = |id: u64| {
            DataError::Worker(format!("the packer returned sample {id}, which it was not given or returned before"))
        };
        let mut bins = Vec::with_capacity(packing.bins.len());
        for ids in &packing.bins {
            let samples = ids.iter().map(|id| self.open.remove(id).ok_or_else(|| unknown(*id)));
            let samples = samples.collect::<Result<Vec<_>, _>>()?;
            if !samples.is_empty() {
                bins.push(samples);
            }
        }
        for id in packing.dropped {
            let sample = self.open.remove(&id).ok_or_else(|| unknown(id))?;
            let reason = format!("the packer gave it up ({} tokens)", sample.input_ids.len());
            self.reject(Reject { key: sample.key, shard: sample.source, stage: "pack", reason });
        }
        Ok(bins)
    }

    fn snapshot(&self, packer: Option<Vec<u8>>, bins: &[Vec<EncodedSample>]) -> Snapshot {
        Snapshot {
            position: self.position.clone(),
            epoch_kept: self.epoch_kept,
            packer,
            open: self.open.values().map(held).collect(),
            bins: bins.iter().map(|bin| bin.iter().map(held).collect()).collect(),
            counters: self.counters.clone(),
        }
    }

    /// Rejects so far travel with the first pack, so that they are reported once whatever happens after.
    fn deliver(&mut self, bins: Vec<Vec<EncodedSample>>, snapshot: &Arc<Snapshot>) -> Result<(), Stop> {
        for (index, samples) in bins.into_iter().enumerate() {
            let (reply, work) = bounded(1);
            self.decode.send(DecodeJob { samples, reply }).map_err(|_| Gone)?;
            let rejects = std::mem::take(&mut self.rejects);
            let bin = Delivery::Bin { work, snapshot: snapshot.clone(), index, rejects };
            self.out.send(bin).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Makes the held samples again, restores the packer and delivers the packs that were formed already.
    fn restore(&mut self, state: LoaderState) -> Result<(), Stop> {
        let mut wanted: Vec<Held> = state.open.iter().chain(state.bins.iter().flatten()).copied().collect();
        wanted.sort_unstable_by_key(|h| h.id);
        let mut made = BTreeMap::new();
        // A few at a time: the pictures of a whole window need not be in memory twice.
        for group in wanted.chunks(8 * CHUNK as usize) {
            let jobs: Vec<_> = group.chunks(CHUNK as usize).map(|held| self.again(held)).collect::<Result<_, _>>()?;
            for (held, answer) in jobs {
                let outcomes = answer.recv().map_err(|_| DataError::Worker("a worker thread is gone".into()))??;
                for (held, outcome) in held.iter().zip(outcomes) {
                    made.insert(held.id, check_held(held, outcome)?);
                }
            }
        }
        let mut bins = Vec::with_capacity(state.bins.len());
        for bin in &state.bins {
            bins.push(bin.iter().filter_map(|h| made.remove(&h.id)).collect::<Vec<_>>());
        }
        self.open = made;
        self.position = state.position;
        self.epoch_kept = state.epoch_kept;
        let packer = state.packer.as_deref().map(from_hex).transpose()?;
        if let (Some(packer), Some(stage)) = (&packer, &mut self.stage) {
            stage.restore(packer)?;
        }
        if !bins.is_empty() {
            let snapshot = Arc::new(self.snapshot(packer, &bins));
            self.deliver(bins, &snapshot)?;
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "a pair used in one place")]
    fn again<'h>(&self, held: &'h [Held]) -> Result<(&'h [Held], Receiver<Result<Vec<Outcome>, DataError>>), Gone> {
        let (reply, answer) = bounded(1);
        let items = held.iter().map(|h| Item { ordinal: h.id, shard: h.shard, index: h.index }).collect();
        self.encode.send(EncodeJob { items, reply }).map_err(|_| Gone)?;
        Ok((held, answer))
    }
}

fn check_held(held: &Held, outcome: Outcome) -> Result<EncodedSample, DataError> {
    let place = format!("sample {} of shard number {}", held.index, held.shard);
    let now = match outcome {
        Outcome::Sample(sample) if sample.input_ids.len() as u32 == held.tokens => return Ok(*sample),
        Outcome::Sample(sample) => format!("it has {} tokens", sample.input_ids.len()),
        Outcome::Filtered(reject) => format!("a filter drops it ({})", reject.reason),
        Outcome::Reject(reject) => format!("it is rejected ({}: {})", reject.stage, reject.reason),
    };
    Err(DataError::Resume(format!(
        "{place} had {} tokens when the checkpoint was written, and now {now}: the shards or a plugin changed",
        held.tokens
    )))
}

fn held(sample: &EncodedSample) -> Held {
    let Item { ordinal, shard, index } = sample.item;
    Held { id: ordinal, shard, index, tokens: sample.input_ids.len() as u32 }
}

fn items_batch(samples: &[EncodedSample]) -> Batch {
    let columns = vec![
        Column::new("id", ColumnData::S64s(samples.iter().map(|s| s.item.ordinal as i64).collect())),
        Column::new("length", ColumnData::U32s(samples.iter().map(|s| s.input_ids.len() as u32).collect())),
        Column::new("patches", ColumnData::U32s(samples.iter().map(|s| s.patches).collect())),
    ];
    Batch { rows: samples.len() as u32, columns }
}
