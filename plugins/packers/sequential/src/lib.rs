//! `sequential`: the simple baseline. Samples fill one bin in their order; a sample that does not fit opens the next.
//!
//! ```text
//!  3 4 2 | 5 1 | 6 …        capacity 9: no sample waits for a better place, no order changes
//! ```
//!
//! Use it to see what packing is worth, or where the order of samples must stay as it is.

use ovhost_sdk::prelude::*;

/// `sequential` has nothing to configure.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {}

/// The packer.
pub struct Sequential {
    limits: Limits,
    open: Vec<Item>,
    /// Tokens in `open`.
    used: u32,
}

impl Plugin for Sequential {
    type Config = Config;
    const NAME: &'static str = "sequential";
    const SUMMARY: &'static str = "Fills one bin after the other in the order of the samples.";
    const READS: &'static [Need] = &[Need::new("id", ovhost_sdk::ColumnType::S64), Need::u32s("length")];

    fn new(_config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let limits = Limits { capacity: 0, max_items_per_bin: 0, max_open_items: 0 };
        Ok(Self { limits, open: Vec::new(), used: 0 })
    }
}

/// Whether one more than `count` keeps to `most`, where 0 is no bound.
fn room(count: usize, most: u32) -> bool {
    most == 0 || count < most as usize
}

impl Sequential {
    fn close(&mut self, out: &mut Packing) {
        out.bin(self.open.drain(..).map(|item| item.id));
        self.used = 0;
    }

    fn fits(&self, item: &Item) -> bool {
        let Limits { capacity, max_items_per_bin, max_open_items } = self.limits;
        let count = self.open.len();
        // `used` never exceeds the capacity.
        item.length <= capacity - self.used && room(count, max_items_per_bin) && room(count, max_open_items)
    }
}

impl Packer for Sequential {
    type State = Vec<Item>;

    fn start(&mut self, limits: Limits) -> Result<(), String> {
        (self.limits, self.open, self.used) = (limits, Vec::new(), 0);
        Ok(())
    }

    fn push(&mut self, items: &[Item], out: &mut Packing) {
        for item in items {
            if item.length > self.limits.capacity {
                out.give_up(item.id);
                continue;
            }
            if !self.fits(item) {
                self.close(out);
            }
            self.used += item.length;
            self.open.push(*item);
        }
    }

    fn flush(&mut self, out: &mut Packing) {
        self.close(out);
    }

    fn state(&self) -> Vec<Item> {
        self.open.clone()
    }

    fn restore(&mut self, state: Vec<Item>) -> Result<(), String> {
        let total: u64 = state.iter().map(|item| u64::from(item.length)).sum();
        if total > u64::from(self.limits.capacity) {
            let capacity = self.limits.capacity;
            return Err(format!("the saved bin has {total} tokens, the capacity is {capacity}; resume with the same"));
        }
        (self.open, self.used) = (state, total as u32);
        Ok(())
    }
}

ovhost_sdk::export_packer!(Sequential);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    fn limits(capacity: u32, max_items_per_bin: u32, max_open_items: u32) -> Limits {
        Limits { capacity, max_items_per_bin, max_open_items }
    }

    fn pack(limits: Limits, lengths: &[u32]) -> Vec<Vec<u64>> {
        let mut packer = testing::packer::<Sequential>(json!({}), limits).unwrap();
        let items: Vec<_> = (0..).zip(lengths.iter().copied()).collect();
        let mut bins = packer.push(&items);
        bins.extend(packer.flush());
        bins
    }

    #[test]
    fn bins_fill_in_order() {
        assert_eq!(pack(limits(9, 0, 0), &[3, 4, 2, 5, 1, 6]), [vec![0, 1, 2], vec![3, 4], vec![5]]);
        assert_eq!(pack(limits(9, 0, 0), &[9, 9, 1]), [vec![0], vec![1], vec![2]]);
        assert!(pack(limits(9, 0, 0), &[]).is_empty());
    }

    #[test]
    fn counts_are_bounded() {
        assert_eq!(pack(limits(9, 2, 0), &[1; 5]), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(pack(limits(9, 0, 3), &[1; 5]), [vec![0, 1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_sample_above_the_capacity_is_given_up() {
        // The harness sees that it came back exactly once.
        assert_eq!(pack(limits(9, 0, 0), &[3, 10, 3]), [vec![0, 2]]);
    }

    #[test]
    fn saved_state_continues_exactly() {
        let mut packer = testing::packer::<Sequential>(json!({}), limits(9, 0, 0)).unwrap();
        packer.push(&[(0, 3), (1, 4)]);
        let state = packer.save();
        let mut copy = packer.restored(json!({}), &state).unwrap();
        let rest = [(2, 2), (3, 5)];
        assert_eq!((packer.push(&rest), packer.flush()), (copy.push(&rest), copy.flush()));
        assert!(packer.restored(json!({}), b"\x0apadding").is_err());
    }
}
