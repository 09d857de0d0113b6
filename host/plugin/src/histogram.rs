//! How values are spread, in a fixed small memory: numbers in, quantiles out that are at most one step too high.

use serde::Serialize;
use serde::ser::SerializeMap;

/// Counts of values by size, on a scale of so many steps within a power of two: with 3 `BITS` eighths (a quantile is at most
/// an eighth too high), with 7 parts of 128. Values below two to the power of `BITS` + 1 are exact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram<const BITS: u32 = 3> {
    /// Empty until the first value, then as long as the largest needs.
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl<const BITS: u32> Histogram<BITS> {
    /// Steps within a power of two; the error of a quantile is one of them.
    const STEPS: u64 = 1 << BITS;

    /// The place of a value on the scale: by its leading `BITS` + 1 bits.
    fn place(value: u64) -> usize {
        if value < Self::STEPS {
            return value as usize;
        }
        let power = value.ilog2();
        let step = (value >> (power - BITS)) - Self::STEPS;
        (u64::from(power - BITS + 1) * Self::STEPS + step) as usize
    }

    /// The largest value of a place.
    fn upper(place: usize) -> u64 {
        let place = place as u64;
        if place < Self::STEPS {
            return place;
        }
        let (power, step) = (place / Self::STEPS - 1, place % Self::STEPS);
        // The first value of the next place, less one; the last place ends with the numbers.
        ((Self::STEPS + step + 1) as u128 * (1_u128 << power) - 1).try_into().unwrap_or(u64::MAX)
    }

    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.add_many(value, 1);
    }

    /// Adds a value so many times.
    pub fn add_many(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        let place = Self::place(value);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += times;
        self.total += times;
        self.max = self.max.max(value);
    }

    /// Adds another's values.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value; 0 without values.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The places that have values: the least and the largest value of each, and how many there are.
    pub fn places(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let bounds = |at: usize| (at.checked_sub(1).map_or(0, |before| Self::upper(before) + 1), Self::upper(at));
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(at, n)| (bounds(at).0, bounds(at).1, *n))
    }

    /// A value that `percent` (0 to 100) of the values do not exceed; none without values.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        self.per_mille(percent.min(100) * 10)
    }

    /// A value that `share` thousandths (0 to 1000) of the values do not exceed; none without values.
    pub fn per_mille(&self, share: u64) -> Option<u64> {
        let rank = (u128::from(self.total) * u128::from(share.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        let place = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        })?;
        Some(Self::upper(place).min(self.max))
    }
}

impl<const BITS: u32> Serialize for Histogram<BITS> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, percent) in [("p50", 50), ("p99", 99)] {
            map.serialize_entry(name, &self.percentile(percent))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn no_gaps<const BITS: u32>() {
        for at in 0..Histogram::<BITS>::place(u64::MAX) {
            let upper = Histogram::<BITS>::upper(at);
            assert_eq!(Histogram::<BITS>::place(upper), at);
            assert_eq!(Histogram::<BITS>::place(upper + 1), at + 1);
        }
        assert_eq!(Histogram::<BITS>::upper(Histogram::<BITS>::place(u64::MAX)), u64::MAX);
    }

    #[test]
    fn places_have_no_gaps() {
        no_gaps::<3>();
        no_gaps::<7>();
    }

    fn percentiles<const BITS: u32>(values: &[u64]) -> Result<(), TestCaseError> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let (mut left, mut right) = (Histogram::<BITS>::default(), Histogram::<BITS>::default());
        for (i, value) in values.iter().enumerate() {
            if i % 3 == 0 { left.add(*value) } else { right.add(*value) }
        }
        left.merge(&right);
        for percent in [1, 50, 99, 100] {
            let exact = sorted[(values.len() * percent).div_ceil(100) - 1];
            let found = left.percentile(percent as u64).unwrap();
            let most = exact >> BITS;
            prop_assert!(found >= exact && found - exact <= most, "{percent} %: {found}, exactly {exact}");
        }
        // The places hold all of the values, each where it belongs.
        let mut again = Histogram::<BITS>::default();
        for (low, high, n) in left.places() {
            prop_assert_eq!(n, values.iter().filter(|v| (low..=high).contains(*v)).count() as u64);
            again.add_many(high.min(left.max()), n);
        }
        prop_assert_eq!(again, left);
        Ok(())
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_values(values in prop::collection::vec(any::<u64>().prop_map(|v| v >> (v % 64)), 1..200)) {
            percentiles::<3>(&values)?;
            percentiles::<7>(&values)?;
        }
    }

    #[test]
    fn it_shows_two_percentiles_or_none() {
        let mut histogram: Histogram = Histogram::default();
        assert_eq!(serde_json::to_value(&histogram).unwrap(), serde_json::json!({"p50": null, "p99": null}));
        (1..=100).for_each(|value| histogram.add(value));
        assert_eq!(serde_json::to_value(&histogram).unwrap(), serde_json::json!({"p50": 51, "p99": 100}));
    }
}
