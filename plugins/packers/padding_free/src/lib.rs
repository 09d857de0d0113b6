//! `padding_free`: best fit. Nearly full bins from a stream on a bounded window, or from the whole set at its end; the same
//! every time.
//!
//! `mode = "window"`: up to `window` samples are held back. When there are more, one bin is made: the oldest sample, then
//! again and again the longest that still fits. So no sample waits for ever, and the many lengths in the window close the
//! last gap. At the end of the stream bins start with the longest sample instead, which needs few bins for what is
//! left.
//!
//! ```text
//!  window  36 90 115 700 700 2040 …      capacity 8192
//!  bin     [oldest 115][longest that fits 6800][… 1200][… 77]      left over: 0
//! ```
//!
//! `mode = "offline"`: everything is held back and packed when the stream ends, the longest first, each into the bin that it
//! fills best (best fit decreasing over the histogram of lengths). That takes fewer bins, and memory for every sample: it
//! is for data preparation, not for a stream without end.
//!
//! ```toml
//! [plugins.packer]
//! plugin = "packers/padding_free.wasm"
//! config = { window = 8192 }
//! ```
//!
//! Equal lengths leave in order of arrival, and a bin lists its samples in order of arrival: the result depends on
//! nothing but the stream. A checkpoint holds the open samples.

use std::rc::Rc;

use ovhost_sdk::packer::check_restored;
use ovhost_sdk::prelude::*;

mod bitmap;
mod held;
mod offline;
mod window;
use held::{Held, Saved};
use offline::Packed;
use window::{Taken, Window};

/// Lengths have a queue each, so the capacity bounds the memory; this is far above any context.
const MAX_CAPACITY: u32 = 1 << 22;

/// When bins are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Packs {
    /// As the stream goes, from a window of it.
    #[default]
    Window,
    /// At the end of the stream, from all of it.
    Offline,
}

/// Configuration of `padding_free`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// "window": bins come as the stream goes; "offline": all at its end, fewer of them, and every sample is held until then.
    pub mode: Packs,
    /// Most samples that wait for a bin, in mode "window". More fill bins better and let samples stray further from their
    /// order.
    #[schemars(range(min = 1))]
    pub window: u32,
    /// Most samples of a stream in mode "offline", 40 bytes of memory each; one more ends the run.
    #[schemars(range(min = 1))]
    pub max_samples: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Packs::Window, window: 4096, max_samples: 5_000_000 }
    }
}

/// The packer.
pub struct PaddingFree {
    config: Config,
    capacity: u32,
    max_items: usize,
    /// Most samples that are held back: by the configuration, or in mode "window" less where the host allows less.
    max_open: usize,
    window: Window,
    /// What mode "offline" has collected.
    all: Rc<Held>,
    /// The same once the stream ends, in bins of which some are out.
    packed: Option<Packed>,
    /// The bin that is being made.
    taken: Taken,
}

impl Plugin for PaddingFree {
    type Config = Config;
    const NAME: &'static str = "padding_free";
    const SUMMARY: &'static str = "Packs samples into nearly full bins: best fit, on a window or over the whole set.";
    const READS: &'static [Need] = &[Need::new("id", ovhost_sdk::ColumnType::S64), Need::u32s("length")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.window > 0, "/window", || "must be at least 1".into());
        findings.require(config.max_samples > 0, "/max_samples", || "must be at least 1".into());
        findings.finish()?;
        let (window, all, taken) = (Window::new(0), Rc::default(), Taken::default());
        Ok(Self { config, capacity: 0, max_items: 0, max_open: 0, window, all, packed: None, taken })
    }
}

impl PaddingFree {
    /// Mode "offline": collects samples until the end.
    fn hold(&mut self, items: &[Item], out: &mut Packing) {
        // Nobody else has it: what a checkpoint shared is gone when its bytes are written.
        let all = Rc::make_mut(&mut self.all);
        all.extend(items, self.capacity, &mut |id| out.give_up(id));
        if all.len() > self.max_open {
            out.fail(format!(
                "mode \"offline\" holds {} samples back, as many as max_samples allows: raise max_samples, and with it \
                 limits.memory_mib (40 a million samples); or set mode to \"window\"",
                self.max_open
            ));
        }
    }

    /// Makes one bin that starts with a sample of length `first`.
    #[inline(never)]
    fn close_bin(&mut self, first: u32, out: &mut Packing) {
        self.window.take(first, self.capacity, self.max_items, &mut self.taken);
        self.window.bin(&mut self.taken, out);
    }
}

impl Packer for PaddingFree {
    type State = Saved;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        let Limits { capacity, max_open_items, .. } = limits;
        if capacity > MAX_CAPACITY {
            return Err(format!("a capacity of {capacity} tokens is above the most that it can do, {MAX_CAPACITY}"));
        }
        self.max_open = match self.config.mode {
            Packs::Window => (self.config.window as usize).min(limits.most_open()),
            Packs::Offline if max_open_items > 0 => {
                return Err(format!(
                    "mode \"offline\" holds every sample back until the end, and the limit is {max_open_items} open samples; \
                     set that limit to 0 (none), or mode to \"window\""
                ));
            }
            Packs::Offline => self.config.max_samples as usize,
        };
        self.capacity = capacity;
        self.max_items = limits.most_items();
        self.window = Window::new(capacity);
        (self.all, self.packed) = (Rc::default(), None);
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        if self.config.mode == Packs::Offline {
            return self.hold(items, out);
        }
        let mut rest = items;
        while !rest.is_empty() {
            // As many as make the window overflow.
            let room = (self.max_open - self.window.len()).saturating_add(1);
            let (now, later) = rest.split_at(rest.len().min(room));
            self.window.insert(now, |id| out.give_up(id));
            if self.window.len() > self.max_open
                && let Some(oldest) = self.window.oldest()
            {
                self.close_bin(oldest, out);
            }
            rest = later;
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        if self.config.mode == Packs::Offline {
            let (capacity, max_items) = (self.capacity, self.max_items);
            let packed = self.packed.get_or_insert_with(|| {
                offline::pack(Rc::unwrap_or_clone(std::mem::take(&mut self.all)), capacity, max_items)
            });
            packed.give(out);
            if packed.is_empty() {
                self.packed = None;
            }
            return;
        }
        while let Some(longest) = self.window.longest() {
            self.close_bin(longest, out);
        }
    }

    fn state(&self) -> Saved {
        Saved(match self.config.mode {
            Packs::Window => Rc::new(self.window.items().collect()),
            Packs::Offline => Rc::clone(&self.all),
        })
    }

    fn restore(&mut self, Saved(state): Saved) -> Result<(), String> {
        check_restored(state.items(), self.capacity, self.max_open)?;
        (self.window, self.all, self.packed) = (Window::new(self.capacity), Rc::default(), None);
        match self.config.mode {
            Packs::Window => state.items().for_each(|item| self.window.insert(&[item], |_| ())),
            Packs::Offline => self.all = state,
        }
        Ok(())
    }
}

ovhost_sdk::export_packer!(PaddingFree);

#[cfg(test)]
mod tests;
