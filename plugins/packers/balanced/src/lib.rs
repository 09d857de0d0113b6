//! `balanced`: bins that are full of tokens and alike in vision patches, so that the vision tower's work and memory are
//! about the same in every step.
//!
//! ```text
//!  target = capacity × (patches ÷ tokens of the stream so far)
//!  bin    oldest, next oldest that fits, … │ room for about 3 more │ best, best, … until nothing fits
//! ```
//!
//! ```toml
//! [plugins.packer]
//! plugin = "packers/balanced.wasm"
//! config = { window = 2048, weight = 1.0, max_patches = 40000 }
//! ```
//!
//! Up to `window` samples are held back. When there are more, one bin is made. It begins with the samples that have waited
//! longest; from where it has room for about three more of mean length, it takes the sample of the window with the least
//! cost. For a bin that lacks R tokens of the capacity and Q patches of the target, a sample of l tokens and p patches
//! costs `(R − l) + weight × |Q − p − d (R − l)| ÷ d`, where d is the stream's patches per token: tokens left over, and how
//! far from the target the bin would end if the rest were like the stream. Equal costs go to the oldest sample; a bin
//! lists its samples in order of arrival. The sums behind d are whole numbers and part of the state, so the result depends
//! on nothing but the stream.

use ovhost_sdk::packer::{check_numbers, check_restored};
use ovhost_sdk::prelude::*;

mod candidates;
use candidates::{Candidates, Gap};

/// A bin chooses its samples from where it has room for so many more of mean length. Fewer leave too little to balance
/// with, and more spend the good matches early: measured on made-up streams, the least variance is at 3 to 4.
const CHOICES: f64 = 3.0;

/// Configuration of `balanced`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Most vision patches in a bin, whatever the target; a sample with more shares its bin only with samples without any.
    /// 0: no bound, only the target, which follows the mean patches per token of the stream so far.
    pub max_patches: u64,
    /// Most samples that wait for a bin. Each sample placed looks at all of them.
    pub window: u32,
    /// How much a patch too many or too few counts against the tokens that it stands for. 0: patches do not count.
    pub weight: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_patches: 0, window: 1024, weight: 1.0 }
    }
}

/// The packer.
pub struct Balanced {
    config: Config,
    capacity: u32,
    max_items: usize,
    /// The configured window, or less where the host allows less.
    max_open: usize,
    open: Candidates,
    seen: Seen,
}

/// The stream so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Seen {
    samples: u64,
    tokens: u64,
    patches: u64,
}

/// What continues a stream: its sums, and the open samples with their numbers in order of arrival.
#[derive(Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct State {
    seen: Seen,
    open: Vec<(u64, Item)>,
}

impl Plugin for Balanced {
    type Config = Config;
    const NAME: &'static str = "balanced";
    const SUMMARY: &'static str = "Packs full bins whose numbers of vision patches are alike.";
    const READS: &'static [Need] =
        &[Need::new("id", ovhost_sdk::ColumnType::S64), Need::u32s("length"), Need::u32s("patches")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.window > 0, "/window", || "must be at least 1".into());
        findings.require((0.0..=100.0).contains(&config.weight), "/weight", || {
            format!("{} is how much patches count against tokens; use 0 to 100", config.weight)
        });
        findings.finish()?;
        Ok(Self { config, capacity: 0, max_items: 0, max_open: 0, open: Candidates::default(), seen: Seen::default() })
    }
}

impl Balanced {
    fn insert(&mut self, number: u64, item: Item) {
        self.open.insert(number, item);
    }

    /// Makes one bin: samples in their order while there is much room, then the best ones.
    fn close_bin(&mut self, out: &mut Packing) {
        // Below 2^53 both sums are exact, which is more tokens than there are.
        let density = if self.seen.tokens == 0 { 0.0 } else { self.seen.patches as f64 / self.seen.tokens as f64 };
        let price = if density > 0.0 { self.config.weight / density } else { 0.0 };
        let target = density * f64::from(self.capacity);
        let most = if self.config.max_patches == 0 { u64::MAX } else { self.config.max_patches };
        let choosy = CHOICES * self.seen.tokens as f64 / self.seen.samples.max(1) as f64;
        let (mut bin, mut tokens, mut patches) = (Vec::new(), 0, 0u64);
        let mut next = self.open.oldest();
        while let Some(at) = next {
            let (number, item) = self.open.take(at);
            tokens += item.length;
            patches += u64::from(item.patches);
            bin.push((number, item.id));
            let gap = Gap {
                tokens: self.capacity - tokens,
                patches: target - patches as f64,
                most_patches: most.saturating_sub(patches),
                density,
                price,
            };
            next = if bin.len() >= self.max_items {
                None
            } else if f64::from(gap.tokens) > choosy {
                self.open.oldest_that_fits(&gap)
            } else {
                self.open.best(&gap)
            };
        }
        bin.sort_unstable();
        out.bin(bin.into_iter().map(|(_, id)| id));
    }
}

impl Packer for Balanced {
    type State = State;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        self.capacity = limits.capacity;
        self.max_items = limits.most_items();
        self.max_open = (self.config.window as usize).min(limits.most_open());
        (self.open, self.seen) = (Candidates::default(), Seen::default());
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        for item in items {
            if item.length > self.capacity {
                out.give_up(item.id);
                continue;
            }
            let number = self.seen.samples;
            self.seen.samples += 1;
            self.seen.tokens += u64::from(item.length);
            self.seen.patches += u64::from(item.patches);
            self.insert(number, *item);
            if self.open.len() > self.max_open {
                self.close_bin(out);
            }
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        while self.open.len() > 0 {
            self.close_bin(out);
        }
    }

    fn state(&self) -> State {
        State { seen: self.seen, open: self.open.sorted() }
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        let State { seen, open } = state;
        check_restored(open.iter().map(|&(_, item)| item), self.capacity, self.max_open)?;
        check_numbers(open.iter().map(|&(number, _)| number), seen.samples)?;
        (self.open, self.seen) = (Candidates::default(), seen);
        for (number, item) in open {
            self.insert(number, item);
        }
        Ok(())
    }
}

ovhost_sdk::export_packer!(Balanced);

#[cfg(test)]
mod tests;
