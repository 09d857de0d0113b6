//! `{{name}}`: puts each sample into the fullest open bin that has room for it (best fit).
//!
//! A bin leaves when it is full, or when another sample needs a new bin and `open_bins` are open already; then the fullest
//! goes.

use ovhost_sdk::prelude::*;

/// What a recipe may say under `config`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Bins that are open at a time, at least 1. More fill better and hold more back.
    pub open_bins: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { open_bins: 8 }
    }
}

/// An open bin: its samples, and the tokens that they take.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Bin {
    ids: Vec<u64>,
    used: u32,
}

/// The plugin.
pub struct {{Type}} {
    open_bins: usize,
    limits: Limits,
    bins: Vec<Bin>,
}

impl Plugin for {{Type}} {
    type Config = Config;
    const NAME: &'static str = "{{name}}";
    const SUMMARY: &'static str = "Packs by best fit into a fixed number of open bins.";
    const READS: &'static [Need] = &[];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.open_bins >= 1, "/open_bins", || "must be at least 1".into());
        findings.finish()?;
        let limits = Limits { capacity: 0, max_items_per_bin: 0, max_open_items: 0 };
        Ok(Self { open_bins: config.open_bins as usize, limits, bins: Vec::new() })
    }
}

/// The fullest of the bins that `fits`; of equals, the oldest.
fn fullest(bins: &[Bin], fits: impl Fn(&Bin) -> bool) -> Option<usize> {
    let candidates = bins.iter().enumerate().filter(|(_, bin)| fits(bin));
    candidates.rev().max_by_key(|(_, bin)| bin.used).map(|(i, _)| i)
}

impl {{Type}} {
    fn place(&mut self, item: &Item, out: &mut Packing) {
        let capacity = self.limits.capacity;
        let at = fullest(&self.bins, |bin| bin.used + item.length <= capacity).unwrap_or_else(|| {
            if self.bins.len() == self.open_bins {
                self.close_fullest(out);
            }
            self.bins.push(Bin::default());
            self.bins.len() - 1
        });
        let bin = &mut self.bins[at];
        bin.ids.push(item.id);
        bin.used += item.length;
        if bin.used == capacity || bin.ids.len() == self.limits.max_items_per_bin as usize {
            out.bin(self.bins.remove(at).ids);
        }
    }

    fn close_fullest(&mut self, out: &mut Packing) {
        if let Some(at) = fullest(&self.bins, |_| true) {
            out.bin(self.bins.remove(at).ids);
        }
    }

    fn open_items(&self) -> usize {
        self.bins.iter().map(|bin| bin.ids.len()).sum()
    }
}

impl Packer for {{Type}} {
    type State = Vec<Bin>;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        self.limits = limits;
        self.bins.clear();
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        let most = self.limits.max_open_items as usize;
        for item in items {
            self.place(item, out);
            // After every sample, not at the end of the call: bins must not depend on how the stream is cut into calls.
            while most > 0 && self.open_items() > most {
                self.close_fullest(out);
            }
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        for bin in self.bins.drain(..) {
            out.bin(bin.ids);
        }
    }

    fn state(&self) -> Vec<Bin> {
        self.bins.clone()
    }

    fn restore(&mut self, state: Vec<Bin>) -> Result<(), String> {
        let capacity = self.limits.capacity;
        if state.iter().any(|bin| bin.used > capacity) {
            return Err(format!("the saved bins do not fit a capacity of {capacity}"));
        }
        self.bins = state;
        Ok(())
    }
}

ovhost_sdk::export_packer!({{Type}});

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    type Tested = {{Type}};

    const LIMITS: Limits = Limits { capacity: 10, max_items_per_bin: 0, max_open_items: 0 };

    #[test]
    fn samples_go_where_they_fit_best() {
        let mut plugin = testing::packer::<Tested>(json!({}), LIMITS).unwrap();
        assert_eq!(plugin.push(&[(0, 6), (1, 5), (2, 4), (3, 3)]), [[0, 2]]);
        assert_eq!(plugin.flush(), [[1, 3]]);
    }

    #[test]
    fn the_fullest_bin_makes_room() {
        let mut plugin = testing::packer::<Tested>(json!({ "open_bins": 1 }), LIMITS).unwrap();
        assert_eq!(plugin.push(&[(0, 6), (1, 5), (2, 4)]), [[0]]);
        assert_eq!(plugin.flush(), [[1, 2]]);
    }

    #[test]
    fn a_saved_stream_goes_on_elsewhere() {
        let mut plugin = testing::packer::<Tested>(json!({}), LIMITS).unwrap();
        plugin.push(&[(0, 6), (1, 7)]);
        let mut other = plugin.restored(json!({}), &plugin.save()).unwrap();
        assert_eq!(other.push(&[(2, 3)]), [[1, 2]]);
        assert_eq!(other.flush(), [[0]]);
    }
}
