//! What a row knows besides its columns: its place in the stream, seeded randomness, and the values it adds.

use crate::bindings::ovhost::plugin::types::CallCtx;
use crate::columns::{Growing, Value, Write};

/// A row's context. Two rows never share randomness; one row has the same whatever batch it comes in.
///
/// ```
/// use ovhost_sdk::prelude::*;
///
/// # struct Sampled;
/// # impl Plugin for Sampled {
/// #     type Config = ();
/// #     const NAME: &'static str = "sampled";
/// #     const SUMMARY: &'static str = "Keeps about every second row.";
/// #     const READS: &'static [Need] = &[];
/// #     const WRITES: &'static [Write] = &[Write::f64s("drawn"), Write::s64s("place")];
/// #     fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
/// #         Ok(Self)
/// #     }
/// # }
/// // `WRITES` is `&[Write::f64s("drawn"), Write::s64s("place")]`.
/// impl Filter for Sampled {
///     fn row(&mut self, ctx: &mut RowCtx, _row: &Row) -> Verdict {
///         let drawn = ctx.rng().unit();
///         ctx.set("drawn", drawn);
///         ctx.set("place", ctx.ordinal() as i64);
///         if drawn < 0.5 { Verdict::Keep } else { Verdict::drop("not drawn") }
///     }
/// }
///
/// let rows = json!([{}, {}, {}]);
/// let outcome = ovhost_sdk::testing::filter::<Sampled>(json!({})).unwrap().run(rows.clone());
/// assert_eq!(outcome.column("place"), [json!(0), json!(1), json!(2)]);
/// // The same seed and row, the same draw.
/// let again = ovhost_sdk::testing::filter::<Sampled>(json!({})).unwrap().run(rows);
/// assert_eq!(outcome.column("drawn"), again.column("drawn"));
/// ```
#[derive(Debug)]
pub struct RowCtx {
    run_seed: u64,
    ordinal: u64,
    set: Vec<Slot>,
    writes: &'static [Write],
    fault: Option<String>,
}

impl RowCtx {
    /// A context for row `row` of a call; [`Self::finish`] makes it the next row's.
    pub(crate) fn new(call: &CallCtx, row: u32, writes: &'static [Write]) -> Self {
        Self {
            run_seed: call.run_seed,
            ordinal: call.first_row.wrapping_add(u64::from(row)),
            set: writes.iter().map(|_| Slot::default()).collect(),
            writes,
            fault: None,
        }
    }

    /// Ordinal of the row in its stream.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// A generator seeded by the run and the row. Every call starts it afresh.
    pub fn rng(&self) -> Rng {
        Rng::new(mix(self.run_seed ^ mix(self.ordinal)))
    }

    /// Adds this row's value of a column that [`Plugin::WRITES`](crate::Plugin::WRITES) names. A column that it does
    /// not name, or another type than declared, fails the call: that is a defect of the plugin.
    #[inline]
    pub fn set(&mut self, column: &str, value: impl SetValue) {
        // By address first, as `Row` finds its columns.
        let found = self.writes.iter().position(|write| std::ptr::eq(write.name, column));
        if let Some(i) = found.or_else(|| self.place(column)) {
            value.put(&mut self.set[i]);
        }
    }

    fn place(&mut self, column: &str) -> Option<usize> {
        let found = self.writes.iter().position(|write| write.name == column);
        if found.is_none() {
            let names: Vec<_> = self.writes.iter().map(|write| write.name).collect();
            self.fault = Some(format!("column `{column}` was set; WRITES names only {names:?}"));
        }
        found
    }

    /// Moves the row's values into the growing columns, and goes on to the next row.
    pub(crate) fn finish(&mut self, columns: &mut [Growing]) -> Result<(), String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.ordinal = self.ordinal.wrapping_add(1);
        columns.iter_mut().zip(&mut self.set).try_for_each(|(column, slot)| column.push(slot.take()))
    }
}

/// A column's value of the current row.
#[derive(Debug, Default)]
pub struct Slot {
    /// This row's value; or an earlier row's, whose memory the next text uses.
    value: Option<Value>,
    set: bool,
}

impl Slot {
    /// The value, if the row set one. The next row has none.
    fn take(&mut self) -> Option<&Value> {
        std::mem::take(&mut self.set).then_some(self.value.as_ref()).flatten()
    }
}

/// What [`RowCtx::set`] takes: a [`Value`], or what becomes one.
pub trait SetValue {
    #[doc(hidden)]
    fn put(self, slot: &mut Slot);
}

impl SetValue for &str {
    #[inline]
    fn put(self, slot: &mut Slot) {
        match &mut slot.value {
            // No allocation for each row.
            Some(Value::Utf8(text)) => {
                text.clear();
                text.push_str(self);
            }
            value => *value = Some(self.into()),
        }
        slot.set = true;
    }
}

macro_rules! set_value {
    ($($from:ty),+) => {
        $(impl SetValue for $from {
            #[inline]
            fn put(self, slot: &mut Slot) {
                *slot = Slot { value: Some(self.into()), set: true };
            }
        })+
    };
}
set_value!(Value, bool, u8, u32, i64, f32, f64, String, Vec<u32>, &[u32]);

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A small deterministic generator (SplitMix64). Not for secrets.
///
/// ```
/// use ovhost_sdk::Rng;
///
/// let (mut one, mut same) = (Rng::new(7), Rng::new(7));
/// assert_eq!(one.next_u64(), same.next_u64());
/// assert!((0.0..1.0).contains(&one.unit()));
/// ```
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The generator for `seed`; the same seed gives the same values on every machine.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Sixty-four even bits.
    pub fn next_u64(&mut self) -> u64 {
        let value = mix(self.state);
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        value
    }

    /// An even value below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 64 x 64 product: its bias is at most bound / 2^64.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An even value in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(run_seed: u64, first_row: u64) -> CallCtx {
        CallCtx { run_seed, shard: 0, batch_index: 0, first_row }
    }

    #[test]
    fn randomness_follows_the_row_not_the_batch() {
        let whole = RowCtx::new(&call(7, 100), 5, &[]).rng().next_u64();
        let cut = RowCtx::new(&call(7, 103), 2, &[]).rng().next_u64();
        assert_eq!(whole, cut);
        assert_ne!(whole, RowCtx::new(&call(7, 103), 3, &[]).rng().next_u64());
        assert_ne!(whole, RowCtx::new(&call(8, 103), 2, &[]).rng().next_u64());
    }

    #[test]
    fn the_generator_is_pinned() {
        // Reference values of SplitMix64 with seed 0: recorded runs depend on them.
        let mut rng = Rng::new(0);
        assert_eq!([rng.next_u64(), rng.next_u64()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn shuffles_are_even() {
        let mut seen = [0u32; 6];
        for seed in 0..6000 {
            let mut items = [0usize, 1, 2];
            Rng::new(mix(seed)).shuffle(&mut items);
            seen[items[0] * 2 + usize::from(items[1] > items[2])] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }
}
