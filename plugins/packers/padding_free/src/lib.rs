//! `padding_free`: best fit on a bounded window. Nearly full bins from a stream, in little memory, the same every time.
//!
//! Up to `window` samples are held back. When there are more, one bin is made: the oldest sample, then again and again
//! the longest that still fits. So no sample waits for ever, and the many lengths in the window close the last gap. At
//! the end of the stream bins start with the longest sample instead, which needs the fewest bins for what is left.
//!
//! ```text
//!  window  36 90 115 700 700 2040 …      capacity 8192
//!  bin     [oldest 115][longest that fits 6800][… 1200][… 77]      left over: 0
//! ```
//!
//! ```toml
//! [plugins.packer]
//! plugin = "packers/padding_free.wasm"
//! config = { window = 8192 }
//! ```
//!
//! Equal lengths leave in order of arrival, and a bin lists its samples in order of arrival: the result depends on
//! nothing but the stream. A checkpoint holds the open samples.

use ovhost_sdk::prelude::*;

mod window;
use window::Window;

/// Lengths have a queue each, so the capacity bounds the memory; this is far above any context.
const MAX_CAPACITY: u32 = 1 << 22;

/// Configuration of `padding_free`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most samples that wait for a bin. More fill bins better and let samples stray further from their order.
    #[schemars(range(min = 1))]
    pub window: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { window: 4096 }
    }
}

/// The packer.
pub struct PaddingFree {
    config: Config,
    capacity: u32,
    max_items: usize,
    /// The configured window, or less where the host allows less.
    max_open: usize,
    window: Window,
    /// (number, id) of the bin that is being made.
    bin: Vec<(u64, u64)>,
}

impl Plugin for PaddingFree {
    type Config = Config;
    const NAME: &'static str = "padding_free";
    const SUMMARY: &'static str = "Packs samples into nearly full bins: best fit on a bounded window.";
    const READS: &'static [Need] = &[Need::new("id", ovhost_sdk::ColumnType::S64), Need::u32s("length")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.window > 0, "/window", || "must be at least 1".into());
        findings.finish()?;
        Ok(Self { config, capacity: 0, max_items: 0, max_open: 0, window: Window::new(0), bin: Vec::new() })
    }
}

impl PaddingFree {
    /// Makes one bin that starts with a sample of length `first`.
    fn close_bin(&mut self, first: u32, out: &mut Packing) {
        self.bin.clear();
        self.bin.push(self.window.take(first));
        let mut room = self.capacity - first;
        while self.bin.len() < self.max_items
            && let Some(length) = self.window.longest_up_to(room)
        {
            self.bin.push(self.window.take(length));
            room -= length;
        }
        self.bin.sort_unstable();
        out.bin(self.bin.iter().map(|&(_, id)| id));
    }
}

impl Packer for PaddingFree {
    type State = Vec<Item>;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        let capacity = limits.capacity;
        if capacity > MAX_CAPACITY {
            return Err(format!("a capacity of {capacity} tokens is above the most that it can do, {MAX_CAPACITY}"));
        }
        let unless_zero = |value: u32| if value == 0 { usize::MAX } else { value as usize };
        self.capacity = capacity;
        self.max_items = unless_zero(limits.max_items_per_bin);
        self.max_open = (self.config.window as usize).min(unless_zero(limits.max_open_items));
        self.window = Window::new(capacity);
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        for item in items {
            if item.length > self.capacity {
                out.give_up(item.id);
                continue;
            }
            self.window.insert(*item);
            if self.window.len() > self.max_open
                && let Some(oldest) = self.window.oldest()
            {
                self.close_bin(oldest, out);
            }
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        while let Some(longest) = self.window.longest_up_to(self.capacity) {
            self.close_bin(longest, out);
        }
    }

    fn state(&self) -> Vec<Item> {
        self.window.items().collect()
    }

    fn restore(&mut self, state: Vec<Item>) -> Result<(), String> {
        if state.len() > self.max_open {
            return Err(format!(
                "{} samples are open in the saved state, the window holds {}",
                state.len(),
                self.max_open
            ));
        }
        if let Some(item) = state.iter().find(|item| item.length > self.capacity) {
            let (length, capacity) = (item.length, self.capacity);
            return Err(format!(
                "a saved sample has {length} tokens, the capacity is {capacity}; resume with the same"
            ));
        }
        self.window = Window::new(self.capacity);
        state.into_iter().for_each(|item| self.window.insert(item));
        Ok(())
    }
}

ovhost_sdk::export_packer!(PaddingFree);

#[cfg(test)]
mod tests;
