//! The order of samples: shard sizes and a seed in, coordinates out.
//!
//! An epoch permutes the shards and then draws from a sliding window of coordinates. Only counts are needed, so
//! restoring a position replays numbers and reads no data. The generator (ChaCha8) and the way its numbers are used
//! are fixed here, not by a library's `shuffle`, so the order is the same in every later version.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pipeline::Item;

/// A place in the stream, always between two chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Coordinates of this epoch that lie behind, of all ranks.
    pub emitted: u64,
    /// Ordinal of the next sample of this rank.
    pub ordinal: u64,
}

/// What decides the order.
#[derive(Debug, Clone)]
pub struct OrderSpec {
    /// Samples per shard.
    pub counts: Vec<u64>,
    /// Seed of the run.
    pub seed: u64,
    /// Window of the shuffle; 0 keeps the order of the files.
    pub window: usize,
    /// Epochs; none for ever.
    pub epochs: Option<u64>,
    /// Which of `world` streams: coordinate k belongs to rank k mod world.
    pub rank: u64,
    /// Number of streams.
    pub world: u64,
    /// Most items in a chunk.
    pub chunk: u64,
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
    epoch: Epoch,
    at: Position,
}

impl Order {
    /// Starts at `at`. `spec.counts` must hold at least `spec.world` samples, or no epoch would give this rank any.
    pub fn new(spec: OrderSpec, at: Position) -> Self {
        let mut epoch = Epoch::new(&spec, at.epoch);
        for _ in 0..at.emitted {
            epoch.next(&spec);
        }
        Self { spec, epoch, at }
    }

    /// Samples of an epoch, of all ranks.
    fn total(&self) -> u64 {
        self.spec.counts.iter().sum()
    }
}

impl Iterator for Order {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let total = self.total();
        let mut items = Vec::with_capacity(self.spec.chunk as usize);
        loop {
            if self.spec.epochs.is_some_and(|epochs| self.at.epoch >= epochs) || total < self.spec.world {
                return None;
            }
            while let Some((shard, index)) = self.epoch.next(&self.spec) {
                let mine = self.at.emitted % self.spec.world == self.spec.rank;
                self.at.emitted += 1;
                if !mine {
                    continue;
                }
                items.push(Item { ordinal: self.at.ordinal, shard, index });
                self.at.ordinal += 1;
                // Chunks end at multiples, so that the cut is the same wherever the stream was taken up.
                if self.at.ordinal.is_multiple_of(self.spec.chunk) {
                    break;
                }
            }
            let epoch_end = self.at.emitted == total;
            if epoch_end {
                self.at = Position { epoch: self.at.epoch + 1, emitted: 0, ordinal: self.at.ordinal };
                self.epoch = Epoch::new(&self.spec, self.at.epoch);
            }
            if !items.is_empty() {
                return Some(Chunk { items, after: self.at, epoch_end });
            }
        }
    }
}

/// One epoch's coordinates.
struct Epoch {
    rng: ChaCha8Rng,
    shards: Vec<u32>,
    /// Next coordinate before the window: place in `shards`, index.
    cursor: (usize, u64),
    window: Vec<(u32, u64)>,
}

impl Epoch {
    fn new(spec: &OrderSpec, epoch: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"ovhost order 1");
        hash.update(spec.seed.to_le_bytes());
        hash.update(epoch.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
        let mut shards: Vec<u32> = (0..spec.counts.len() as u32).collect();
        if spec.window > 0 {
            for i in (1..shards.len()).rev() {
                shards.swap(i, below(&mut rng, i as u64 + 1) as usize);
            }
        }
        Self { rng, shards, cursor: (0, 0), window: Vec::new() }
    }

    fn next(&mut self, spec: &OrderSpec) -> Option<(u32, u64)> {
        while self.window.len() < spec.window.max(1) {
            match self.draw(spec) {
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

    fn draw(&mut self, spec: &OrderSpec) -> Option<(u32, u64)> {
        loop {
            let shard = *self.shards.get(self.cursor.0)?;
            let index = self.cursor.1;
            if index < spec.counts[shard as usize] {
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
mod tests {
    use super::*;

    fn spec(window: usize) -> OrderSpec {
        OrderSpec { counts: vec![100, 0, 37, 63], seed: 5, window, epochs: Some(2), rank: 0, world: 1, chunk: 64 }
    }

    fn coordinates(chunks: &[Chunk]) -> Vec<(u32, u64)> {
        chunks.iter().flat_map(|c| &c.items).map(|i| (i.shard, i.index)).collect()
    }

    #[test]
    fn every_sample_once_an_epoch() {
        for window in [0, 1, 10, 1000] {
            let chunks: Vec<Chunk> = Order::new(spec(window), Position::default()).collect();
            let all = coordinates(&chunks);
            assert_eq!(all.len(), 400);
            for epoch in all.chunks(200) {
                let mut sorted = epoch.to_vec();
                sorted.sort();
                sorted.dedup();
                assert_eq!(sorted.len(), 200, "window {window}");
            }
            assert_eq!(all[..200] == all[200..], window == 0);
            assert_eq!(chunks.iter().filter(|c| c.epoch_end).count(), 2);
            let ordinals: Vec<u64> = chunks.iter().flat_map(|c| &c.items).map(|i| i.ordinal).collect();
            assert_eq!(ordinals, (0..400).collect::<Vec<_>>());
        }
        let in_order = coordinates(&Order::new(spec(0), Position::default()).collect::<Vec<_>>());
        assert!(in_order[..200].is_sorted());
    }

    #[test]
    fn taken_up_anywhere() {
        let chunks: Vec<Chunk> = Order::new(spec(30), Position::default()).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let rest: Vec<Chunk> = Order::new(spec(30), chunk.after).collect();
            assert_eq!(rest, chunks[i + 1..]);
        }
    }

    #[test]
    fn ranks_share_an_epoch() {
        let of = |rank| {
            coordinates(&Order::new(OrderSpec { rank, world: 3, ..spec(20) }, Position::default()).collect::<Vec<_>>())
        };
        let mut all: Vec<_> = (0..3).flat_map(of).collect();
        let one = coordinates(&Order::new(spec(20), Position::default()).collect::<Vec<_>>());
        let mut one = one;
        all.sort();
        one.sort();
        assert_eq!(all, one);
    }

    /// The order is part of the format of saved positions; it must never change by accident.
    #[test]
    fn the_order_is_pinned() {
        let order: Vec<u64> = Order::new(
            OrderSpec { counts: vec![8], seed: 1, window: 8, epochs: Some(1), rank: 0, world: 1, chunk: 64 },
            Position::default(),
        )
        .flat_map(|c| c.items)
        .map(|i| i.index)
        .collect();
        assert_eq!(order, PINNED);
    }

    #[test]
    fn shuffling_is_pinned_too() {
        let shuffled = |purpose, seed| {
            let mut items: Vec<u32> = (0..8).collect();
            shuffle(&mut items, purpose, seed);
            items
        };
        assert_eq!(shuffled("a", 1), SHUFFLED);
        assert!(shuffled("b", 1) != SHUFFLED && shuffled("a", 2) != SHUFFLED);
    }
    const SHUFFLED: [u32; 8] = [6, 7, 2, 5, 4, 3, 1, 0];
    const PINNED: [u64; 8] = [0, 4, 7, 2, 1, 6, 3, 5];
}
