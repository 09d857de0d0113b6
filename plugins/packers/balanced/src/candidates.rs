//! The open samples of the packer as parallel arrays: items in, "the best for what a bin still lacks" out.
//!
//! One pass over the window per sample placed. Places in the arrays mean nothing (a taken sample's is filled by the
//! last), so ties are broken by the samples' numbers, and the answer depends on the set of open samples alone.

use std::cmp::Ordering;

use ovhost_sdk::Item;

/// What a bin still lacks, and what it may take.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Tokens up to the capacity: no sample may be longer.
    pub tokens: u32,
    /// Patches up to the target; negative when the bin is above it.
    pub patches: f64,
    /// Patches up to the bound: no sample may have more.
    pub most_patches: u64,
    /// Patches per token of the stream.
    pub density: f64,
    /// Tokens that one patch away from the target counts as.
    pub price: f64,
}

impl Gap {
    /// Whether a sample of that many tokens and patches keeps to the bounds.
    fn takes(&self, (length, patches): (u32, u32)) -> bool {
        length <= self.tokens && u64::from(patches) <= self.most_patches
    }

    /// How badly a sample leaves the bin, in tokens: those left over, and the distance from the target if the rest were
    /// filled with samples of the stream's own density.
    fn cost(&self, length: u32, patches: u32) -> f64 {
        let left = f64::from(self.tokens - length);
        left + self.price * (self.patches - f64::from(patches) - self.density * left).abs()
    }
}

/// Open samples.
#[derive(Debug, Default)]
pub struct Candidates {
    sizes: Vec<(u32, u32)>,
    /// (number, id)
    names: Vec<(u64, u64)>,
}

impl Candidates {
    /// Number of open samples.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Adds a sample; its number is its place in the stream.
    pub fn insert(&mut self, number: u64, item: Item) {
        self.sizes.push((item.length, item.patches));
        self.names.push((number, item.id));
    }

    /// Place of the best sample for `gap`, if any fits. Of equals the oldest.
    pub fn best(&self, gap: &Gap) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for (at, &(length, patches)) in self.sizes.iter().enumerate() {
            if !gap.takes((length, patches)) {
                continue;
            }
            let cost = gap.cost(length, patches);
            let better = match best {
                None => true,
                Some((least, other)) => match cost.total_cmp(&least) {
                    Ordering::Less => true,
                    Ordering::Equal => self.names[at].0 < self.names[other].0,
                    Ordering::Greater => false,
                },
            };
            if better {
                best = Some((cost, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Place of the sample that has been open longest.
    pub fn oldest(&self) -> Option<usize> {
        (0..self.names.len()).min_by_key(|&at| self.names[at].0)
    }

    /// Place of the sample that has been open longest among those that fit.
    pub fn oldest_that_fits(&self, gap: &Gap) -> Option<usize> {
        (0..self.names.len()).filter(|&at| gap.takes(self.sizes[at])).min_by_key(|&at| self.names[at].0)
    }

    /// Takes the sample at a place; gives its number and itself.
    pub fn take(&mut self, at: usize) -> (u64, Item) {
        let (length, patches) = self.sizes.swap_remove(at);
        let (number, id) = self.names.swap_remove(at);
        (number, Item { id, length, patches })
    }

    /// The open samples with their numbers, in order of arrival.
    pub fn sorted(&self) -> Vec<(u64, Item)> {
        let names = self.names.iter().zip(&self.sizes);
        let mut items: Vec<_> =
            names.map(|(&(number, id), &(length, patches))| (number, Item { id, length, patches })).collect();
        items.sort_unstable_by_key(|&(number, _)| number);
        items
    }
}
