//! The order of samples: shard sizes, shares and a seed in, coordinates out.
//!
//! ```text
//!  source 0: pass 0, pass 1, …  ─┐            ┌ rank 0: 0, W, 2W …
//!  source 1: pass 0, pass 1, …  ─┴─ mixer ─► coordinate 0, 1, 2, … ─┤ rank 1: 1, W + 1, …
//! ```
//! A pass of a source permutes its shards and then draws from a sliding window of coordinates, each sample once. The
//! mixer takes from the sources in turn, so that after any n coordinates a source with share s has given n·s of them but
//! for less than one. An epoch is a fixed number of coordinates. All of it is the same for every number of ranks; they
//! only deal the coordinates out among themselves.
//!
//! Only counts are needed, so restoring a position replays numbers and reads no data. The generator (ChaCha8) and the
//! way its numbers are used are fixed here, not by a library's `shuffle`, so the order is the same in every later version.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::DataError;
use crate::blend::Mixing;
use crate::pipeline::{Item, Mix};

/// A place in the stream, always between two chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Coordinates of this epoch that lie behind, of all ranks.
    pub emitted: u64,
    /// Ordinal of the next sample of this rank.
    pub ordinal: u64,
    /// Entries of the backlog that lie behind, of all ranks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub backlog: u64,
    /// Coordinates drawn from each source since the beginning; empty for a single one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drawn: Vec<u64>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A sample by its place in the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Shard by number.
    pub shard: u32,
    /// Sample of the shard.
    pub index: u64,
}

/// Where the number of ranks changed: what was left over then, and from which coordinate on all is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebase {
    /// Epoch of that coordinate.
    pub epoch: u64,
    /// Its number in the epoch.
    pub emitted: u64,
    /// Samples before it that no rank had delivered, filtered or rejected. They come first.
    pub backlog: Vec<Place>,
}

/// One source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSpec {
    /// Its first shard.
    pub first: u32,
    /// Samples per shard.
    pub counts: Vec<u64>,
    /// Its share of the coordinates is this number divided by the sum over all sources.
    pub slots: u64,
}

impl SourceSpec {
    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What decides the order.
#[derive(Debug, Clone)]
pub struct OrderSpec {
    /// The sources.
    pub sources: Arc<[SourceSpec]>,
    /// Coordinates of an epoch, of all ranks.
    pub epoch_len: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Window of the shuffle, of each source; 0 keeps the order of the files.
    pub window: usize,
    /// Epochs; none for ever.
    pub epochs: Option<u64>,
    /// Which of `world` streams: coordinate k belongs to rank k mod world.
    pub rank: u64,
    /// Number of streams.
    pub world: u64,
    /// Most items in a chunk.
    pub chunk: u64,
    /// Where the number of ranks last changed, if that is not yet over.
    pub rebase: Option<Arc<Rebase>>,
}

/// Weights count in units of this share of all.
const WEIGHT_UNITS: f64 = (1_u64 << 32) as f64;

/// Sources with their slots and the length of an epoch. By weights an epoch is as long as all sources together; by
/// repetitions it holds each source its number of times.
///
/// # Errors
/// A source without samples, a share that is nothing or too much.
pub fn slots(mix: &Mix, shards: &[(String, u64)]) -> Result<(Arc<[SourceSpec]>, u64), DataError> {
    let sum: f64 = mix.parts.iter().map(|p| p.share).sum();
    let mut first = 0;
    let mut sources = Vec::with_capacity(mix.parts.len());
    for part in &mix.parts {
        let counts: Vec<u64> = shards.iter().skip(first).take(part.shards).map(|(_, n)| *n).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 && mix.parts.len() > 1 {
            return Err(DataError::Config(format!("{} holds no samples; leave it out of the mix", part.name)));
        }
        let slots = match mix.mixing {
            Mixing::Weights => (part.share / sum * WEIGHT_UNITS).round(),
            Mixing::Repetitions => (part.share * total as f64).round(),
        };
        if total > 0 && !(1.0..1e15).contains(&slots) {
            return Err(DataError::Config(format!(
                "the share of {} is {} and it has {total} samples: that is {slots} in a round; give it a larger or smaller share",
                part.name, part.share
            )));
        }
        sources.push(SourceSpec { first: first as u32, counts, slots: slots as u64 });
        first += part.shards;
    }
    let epoch_len = match mix.mixing {
        Mixing::Weights => sources.iter().map(SourceSpec::total).sum(),
        Mixing::Repetitions => sources.iter().map(|s| s.slots).sum(),
    };
    Ok((sources.into(), epoch_len))
}

/// A run of items that one worker makes at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Consecutive ordinals.
    pub items: Vec<Item>,
    /// Where the stream stands after it.
    pub after: Position,
    /// Whether it is the last of its epoch.
    pub epoch_end: bool,
}

/// The stream of chunks.
pub struct Order {
    spec: OrderSpec,
    coordinates: Coordinates,
    at: Position,
}

impl Order {
    /// Starts at `at`. An epoch must have at least `spec.world` coordinates, or it might give this rank none.
    pub fn new(spec: OrderSpec, at: Position) -> Self {
        Self { coordinates: Coordinates::new(&spec, &at), spec, at }
    }

    /// Where the stream stands.
    pub(super) fn position(&self) -> &Position {
        &self.at
    }

    /// Coordinates drawn from each source since the beginning; empty for a single one.
    pub(super) fn drawn(&self) -> Vec<u64> {
        self.coordinates.drawn()
    }

    /// On to the next epoch, at the end of one.
    pub(super) fn next_epoch(&mut self) {
        self.at.epoch += 1;
        self.at.emitted = 0;
    }

    /// The next coordinate of the stream before it is dealt out, and the rank that it belongs to; none at the end of an
    /// epoch.
    pub(super) fn draw(&mut self) -> Option<(Place, u64)> {
        let world = self.spec.world;
        let rebase = self.spec.rebase.as_deref();
        let backlog = rebase.map_or(&[][..], |r| &r.backlog);
        if let Some(place) = backlog.get(self.at.backlog as usize) {
            let owner = self.at.backlog % world;
            self.at.backlog += 1;
            return Some((*place, owner));
        }
        if self.at.emitted == self.spec.epoch_len {
            return None;
        }
        let owner = owner(rebase, &self.at, world);
        self.at.emitted += 1;
        Some((self.coordinates.next(&self.spec), owner))
    }

    fn over(&self) -> bool {
        let backlog = self.spec.rebase.as_ref().is_some_and(|r| self.at.backlog < r.backlog.len() as u64);
        !backlog && self.spec.epochs.is_some_and(|epochs| self.at.epoch >= epochs)
    }
}

/// Whose coordinate `at` is: they are dealt out from the beginning of an epoch, or from where the ranks changed.
fn owner(rebase: Option<&Rebase>, at: &Position, world: u64) -> u64 {
    match rebase.filter(|r| r.epoch == at.epoch) {
        Some(r) => (r.backlog.len() as u64 + at.emitted - r.emitted) % world,
        None => at.emitted % world,
    }
}

impl Iterator for Order {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let mut items = Vec::with_capacity(self.spec.chunk as usize);
        loop {
            // Without a coordinate for every rank an epoch might give this one none, and the search would not end.
            if self.over() || self.spec.epoch_len < self.spec.world {
                return None;
            }
            while let Some((Place { shard, index }, owner)) = self.draw() {
                if owner == self.spec.rank {
                    items.push(Item { ordinal: self.at.ordinal, shard, index });
                    self.at.ordinal += 1;
                    // Chunks end at multiples, so that the cut is the same wherever the stream was taken up.
                    if self.at.ordinal.is_multiple_of(self.spec.chunk) {
                        break;
                    }
                }
                if self.over() {
                    break;
                }
            }
            let epoch_end = self.at.emitted == self.spec.epoch_len;
            if epoch_end {
                self.next_epoch();
            }
            if !items.is_empty() {
                self.at.drawn = self.coordinates.drawn();
                return Some(Chunk { items, after: self.at.clone(), epoch_end });
            }
        }
    }
}

/// The coordinates of all ranks.
struct Coordinates {
    sources: Vec<Source>,
    /// Sum of all slots.
    slots: u64,
    /// Coordinates drawn, of all sources.
    total: u64,
}

/// A source in the middle of a pass.
struct Source {
    /// Coordinates drawn since the beginning.
    drawn: u64,
    pass: Pass,
}

impl Coordinates {
    fn new(spec: &OrderSpec, at: &Position) -> Self {
        let slots = spec.sources.iter().map(|s| s.slots).sum();
        let single = spec.sources.len() == 1;
        let source = |(i, source): (usize, &SourceSpec)| {
            let whole = at.epoch * spec.epoch_len + at.emitted;
            let drawn = if single { whole } else { at.drawn.get(i).copied().unwrap_or(0) };
            let passes = drawn.checked_div(source.total()).unwrap_or(0);
            let mut pass = Pass::new(spec, i, passes);
            for _ in 0..drawn - passes * source.total() {
                pass.next(spec, source);
            }
            Source { drawn, pass }
        };
        let sources: Vec<Source> = spec.sources.iter().enumerate().map(source).collect();
        Coordinates { total: sources.iter().map(|s| s.drawn).sum(), slots, sources }
    }

    fn drawn(&self) -> Vec<u64> {
        if self.sources.len() == 1 { Vec::new() } else { self.sources.iter().map(|s| s.drawn).collect() }
    }

    fn next(&mut self, spec: &OrderSpec) -> Place {
        let i = if self.sources.len() == 1 { 0 } else { self.turn(spec) };
        self.total += 1;
        let (source, own) = (&mut self.sources[i], &spec.sources[i]);
        source.drawn += 1;
        loop {
            if let Some((shard, index)) = source.pass.next(spec, own) {
                return Place { shard: own.first + shard, index };
            }
            source.pass = Pass::new(spec, i, (source.drawn - 1).checked_div(own.total()).unwrap_or(0));
        }
    }

    /// Whose turn it is. Draw number c + 1 of a source with share s may come once n·s > c of the n coordinates so far and
    /// the present one are its own, and must come before (c + 1)/s; of those that may, the one that must first. That keeps
    /// every source within one draw of its share at all times (unit jobs with such windows fit on one machine whenever the
    /// shares sum to 1, and the earliest deadline first finds the order: Liu and Layland 1973).
    fn turn(&self, spec: &OrderSpec) -> usize {
        let n = u128::from(self.total) + 1;
        let all = u128::from(self.slots);
        let deadline = |i: usize| {
            let (drawn, slots) = (u128::from(self.sources[i].drawn), u128::from(spec.sources[i].slots));
            (drawn * all < n * slots).then(|| ((drawn + 1) * all).div_ceil(slots))
        };
        let may = (0..self.sources.len()).filter_map(|i| deadline(i).map(|at| (at, i)));
        // Some source is always behind its share, or their draws would sum to more than n.
        may.min().map_or(0, |(_, i)| i)
    }
}

/// One pass over a source.
struct Pass {
    rng: ChaCha8Rng,
    shards: Vec<u32>,
    /// Next coordinate before the window: place in `shards`, index.
    cursor: (usize, u64),
    window: Vec<(u32, u64)>,
}

impl Pass {
    fn new(spec: &OrderSpec, source: usize, pass: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"ovhost order 1");
        hash.update(spec.seed.to_le_bytes());
        hash.update(pass.to_le_bytes());
        if source > 0 {
            hash.update((source as u64).to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
        let mut shards: Vec<u32> = (0..spec.sources[source].counts.len() as u32).collect();
        if spec.window > 0 {
            for i in (1..shards.len()).rev() {
                shards.swap(i, below(&mut rng, i as u64 + 1) as usize);
            }
        }
        Self { rng, shards, cursor: (0, 0), window: Vec::new() }
    }

    fn next(&mut self, spec: &OrderSpec, source: &SourceSpec) -> Option<(u32, u64)> {
        while self.window.len() < spec.window.max(1) {
            match self.draw(source) {
                Some(coordinate) => self.window.push(coordinate),
                None => break,
            }
        }
        match self.window.len() {
            0 => None,
            1 => self.window.pop(),
            n => {
                let i = below(&mut self.rng, n as u64) as usize;
                Some(self.window.swap_remove(i))
            }
        }
    }

    fn draw(&mut self, source: &SourceSpec) -> Option<(u32, u64)> {
        loop {
            let shard = *self.shards.get(self.cursor.0)?;
            let index = self.cursor.1;
            if index < source.counts[shard as usize] {
                self.cursor.1 += 1;
                return Some((shard, index));
            }
            self.cursor = (self.cursor.0 + 1, 0);
        }
    }
}

/// Puts `items` in random order, the same for the same seed and purpose in every later version.
pub fn shuffle<T>(items: &mut [T], purpose: &str, seed: u64) {
    let hash = Sha256::new().chain_update(b"ovhost shuffle 1 ").chain_update(purpose).chain_update(seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    for i in (1..items.len()).rev() {
        items.swap(i, below(&mut rng, i as u64 + 1) as usize);
    }
}

/// A number below `n`, by multiplication: the bias is below n / 2^64.
fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests;
