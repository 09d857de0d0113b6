//! `length_grouped`: every bin holds samples of like length. For batches that are padded to their longest sample, and for
//! steps whose attention costs about the same for each sample in them.
//!
//! ```text
//!  lengths ─► bucket …64 │ …80 │ …100 │ … │ …8192       ends by `edges`, or each `ratio` times the one before
//!                                └─ more than `depth` bins' worth ─► one bin: the oldest, then the longest that fits
//! ```
//!
//! ```toml
//! [plugins.packer]
//! plugin = "packers/length_grouped.wasm"
//! config = { ratio = 1.25, padded = true }
//! ```
//!
//! A bucket makes a bin when it holds more than `depth` bins' worth of samples; when more than `window` samples are open,
//! the fullest bucket makes one; and a sample that `max_wait` later ones have passed forces one of its own bucket. Equal
//! lengths leave in order of arrival and a bin lists its samples in that order, so the result depends on nothing but the
//! stream. A checkpoint holds the open samples and their places in it.

use std::collections::BTreeSet;

use ovhost_sdk::packer::{check_numbers, check_restored};
use ovhost_sdk::prelude::*;

mod bucket;
use bucket::Bucket;

/// Most buckets: each that is added to makes the search for the fullest longer. `first` and `ratio` cannot make as many, even
/// the least of both up to the largest capacity, so this bounds `edges`.
const MAX_BUCKETS: usize = 4096;

/// Configuration of `length_grouped`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Ends of the buckets in tokens, ascending: `[512, 2048]` makes three, up to 512, up to 2048, and above. Empty: by
    /// `first` and `ratio`.
    pub edges: Vec<u32>,
    /// Without `edges`: end of the first bucket, in tokens.
    pub first: u32,
    /// Without `edges`: each end is so many times the one before it. Nearer to 1: lengths more alike, more open samples.
    pub ratio: f64,
    /// Most samples that wait for a bin, in all buckets together.
    pub window: u32,
    /// A bucket makes a bin when it holds more than so many bins' worth. More leave a better choice for the last gap.
    pub depth: u32,
    /// A sample waits for at most so many later ones, then its bucket makes a bin, full or not. 0: no bound.
    pub max_wait: u32,
    /// A bin is a rectangle: its samples times its longest keeps to the capacity, rather than their sum.
    pub padded: bool,
}

impl Default for Config {
    fn default() -> Self {
        let (first, ratio, window, depth, max_wait) = (64, 1.25, 4096, 2, 65_536);
        Self { edges: Vec::new(), first, ratio, window, depth, max_wait, padded: false }
    }
}

/// The packer.
pub struct LengthGrouped {
    config: Config,
    capacity: u32,
    max_items: usize,
    /// The configured window, or less where the host allows less.
    max_open: usize,
    /// Longest length of each bucket, ascending; the last is the capacity.
    edges: Vec<u32>,
    buckets: Vec<Bucket>,
    /// (number of the oldest sample, bucket) of every bucket that is not empty.
    heads: BTreeSet<(u64, usize)>,
    open: usize,
    /// Number of the next sample.
    next: u64,
}

/// What continues a stream: the number of the next sample, and the open ones in order of arrival.
#[derive(Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct State {
    next: u64,
    open: Vec<(u64, Item)>,
}

impl Plugin for LengthGrouped {
    type Config = Config;
    const NAME: &'static str = "length_grouped";
    const SUMMARY: &'static str = "Packs samples of like length together, for padded batches and even attention costs.";
    const READS: &'static [Need] = &[Need::new("id", ovhost_sdk::ColumnType::S64), Need::u32s("length")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        for (i, pair) in config.edges.windows(2).enumerate() {
            findings.require(pair[0] < pair[1], &format!("/edges/{}", i + 1), || {
                format!("{} does not come after {}; edges must ascend", pair[1], pair[0])
            });
        }
        findings.require(config.edges.first() != Some(&0), "/edges/0", || "must be at least 1 token".into());
        findings.require(config.edges.len() < MAX_BUCKETS, "/edges", || {
            format!("{} edges are too many; at most {}", config.edges.len(), MAX_BUCKETS - 1)
        });
        findings.require(config.first > 0, "/first", || "must be at least 1 token".into());
        findings.require((1.01..=16.0).contains(&config.ratio), "/ratio", || {
            format!("{} is the ratio of one bucket's end to the one before it; use 1.01 to 16", config.ratio)
        });
        let default = Config::default();
        // What is refused anyway needs no second finding.
        let idle = [
            ("first", config.first > 0 && config.first != default.first),
            ("ratio", (1.01..=16.0).contains(&config.ratio) && config.ratio != default.ratio),
        ];
        for (name, set) in idle {
            findings.require(config.edges.is_empty() || !set, &format!("/{name}"), || {
                "it does nothing beside edges; take one of the two out".into()
            });
        }
        findings.require(config.window > 0, "/window", || "must be at least 1".into());
        findings.require(config.depth > 0, "/depth", || "must be at least 1".into());
        findings.finish()?;
        Ok(Self {
            config,
            capacity: 0,
            max_items: 0,
            max_open: 0,
            edges: Vec::new(),
            buckets: Vec::new(),
            heads: BTreeSet::new(),
            open: 0,
            next: 0,
        })
    }
}

/// Ends of the buckets for lengths up to `capacity`, which is the last of them.
fn edges(config: &Config, capacity: u32) -> Vec<u32> {
    let mut ends: Vec<u32> = if config.edges.is_empty() {
        let mut end = config.first;
        std::iter::from_fn(|| {
            let this = end;
            // One multiplication and a cut per step: the same on every machine.
            end = (f64::from(end) * config.ratio).min(f64::from(u32::MAX)) as u32;
            end = end.max(this.saturating_add(1));
            (this < capacity).then_some(this)
        })
        .collect()
    } else {
        config.edges.iter().copied().filter(|&end| end < capacity).collect()
    };
    ends.push(capacity);
    ends
}

impl LengthGrouped {
    fn clear(&mut self) {
        self.buckets = self.edges.iter().map(|_| Bucket::default()).collect();
        self.heads.clear();
        (self.open, self.next) = (0, 0);
    }

    /// Adds a sample that is not above the capacity; gives its bucket.
    fn insert(&mut self, number: u64, item: Item) -> usize {
        let at = self.edges.partition_point(|&end| end < item.length);
        if self.buckets[at].len() == 0 {
            self.heads.insert((number, at));
        }
        self.buckets[at].insert(number, item);
        self.open += 1;
        at
    }

    /// What a bucket would take of the capacity, all in one bin.
    fn load(&self, bucket: &Bucket) -> u64 {
        if self.config.padded { bucket.padded_tokens() } else { bucket.tokens() }
    }

    fn is_full(&self, at: usize) -> bool {
        let (bucket, depth) = (&self.buckets[at], u64::from(self.config.depth));
        self.load(bucket) > depth * u64::from(self.capacity)
            || (bucket.len() as u64) > depth.saturating_mul(self.max_items as u64)
    }

    /// The bucket with the largest load; of equals the one with most samples, then the first.
    fn fullest(&self) -> Option<usize> {
        let load = |at: &usize| (self.load(&self.buckets[*at]), self.buckets[*at].len(), std::cmp::Reverse(*at));
        (0..self.buckets.len()).max_by_key(load)
    }

    /// Number of the sample that a bin of `count` samples, `tokens` in all and `longest` at most, takes next from its bucket.
    fn choose(&self, bucket: &Bucket, count: usize, tokens: u32, longest: u32) -> Option<u64> {
        if count >= self.max_items {
            return None;
        }
        if !self.config.padded {
            return bucket.longest_up_to(self.capacity - tokens).map(|(number, _)| number);
        }
        // How long the longest may be with one sample more.
        let bound = self.capacity / (count as u32 + 1);
        if longest > bound {
            return None;
        }
        // The nearest from below adds no padding to the others; only then one from above.
        let above = || bucket.shortest_above(longest).filter(|&(_, length)| length <= bound);
        bucket.longest_up_to(longest).or_else(above).map(|(number, _)| number)
    }

    /// Makes one bin of the bucket's oldest sample and what fits beside it.
    fn close_bin(&mut self, at: usize, out: &mut Packing) {
        let mut next = self.buckets[at].oldest();
        if let Some(head) = next {
            self.heads.remove(&(head, at));
        }
        let (mut bin, mut tokens, mut longest) = (Vec::new(), 0, 0);
        while let Some(number) = next
            && let Some(item) = self.buckets[at].take(number)
        {
            tokens += item.length;
            longest = longest.max(item.length);
            bin.push((number, item.id));
            next = self.choose(&self.buckets[at], bin.len(), tokens, longest);
        }
        self.open -= bin.len();
        if let Some(head) = self.buckets[at].oldest() {
            self.heads.insert((head, at));
        }
        bin.sort_unstable();
        out.bin(bin.into_iter().map(|(_, id)| id));
    }
}

impl Packer for LengthGrouped {
    type State = State;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        self.capacity = limits.capacity;
        self.max_items = limits.most_items();
        self.max_open = (self.config.window as usize).min(limits.most_open());
        self.edges = edges(&self.config, limits.capacity);
        self.clear();
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        for item in items {
            if item.length > self.capacity {
                out.give_up(item.id);
                continue;
            }
            let number = self.next;
            self.next += 1;
            let at = self.insert(number, *item);
            if self.is_full(at) {
                self.close_bin(at, out);
            }
            if self.open > self.max_open
                && let Some(fullest) = self.fullest()
            {
                self.close_bin(fullest, out);
            }
            let wait = u64::from(self.config.max_wait);
            while wait > 0
                && let Some(&(oldest, at)) = self.heads.first()
                && number - oldest >= wait
            {
                self.close_bin(at, out);
            }
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        while let Some(&(_, at)) = self.heads.first() {
            self.close_bin(at, out);
        }
    }

    fn state(&self) -> State {
        let mut open: Vec<_> = self.buckets.iter().flat_map(Bucket::items).collect();
        open.sort_unstable_by_key(|&(number, _)| number);
        State { next: self.next, open }
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        let State { next, open } = state;
        check_restored(open.iter().map(|&(_, item)| item), self.capacity, self.max_open)?;
        check_numbers(open.iter().map(|&(number, _)| number), next)?;
        self.clear();
        for (number, item) in open {
            self.insert(number, item);
        }
        self.next = next;
        Ok(())
    }
}

ovhost_sdk::export_packer!(LengthGrouped);

#[cfg(test)]
mod tests;
