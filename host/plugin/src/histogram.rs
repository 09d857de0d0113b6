//! How values are spread, in a fixed small memory: numbers in, quantiles out that are at most an eighth too high.

use serde::Serialize;
use serde::ser::SerializeMap;

/// Steps within a power of two; the error of a quantile is one of them.
const STEPS: u64 = 8;

/// Counts of values by size, on a scale of eighths of powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Empty until the first value, then as long as the largest needs.
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// The place of a value on the scale: exact below 16, then by the leading four bits.
fn place(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = u64::from(value.ilog2());
    let step = (value >> (power - 3)) - STEPS;
    ((power - 2) * STEPS + step) as usize
}

/// The largest value of a place.
fn upper(place: usize) -> u64 {
    let place = place as u64;
    if place < STEPS {
        return place;
    }
    let (power, step) = (place / STEPS + 2, place % STEPS);
    // The first value of the next place, less one; the last place ends with the numbers.
    ((STEPS + step + 1) as u128 * (1_u128 << (power - 3)) - 1).try_into().unwrap_or(u64::MAX)
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        let place = place(value);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds another's values.
    pub fn merge(&mut self, other: &Histogram) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// A value that `percent` (0 to 100) of the values do not exceed; none without values.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (u128::from(self.total) * u128::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0_u128;
        let place = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        })?;
        Some(upper(place).min(self.max))
    }
}

impl Serialize for Histogram {
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

    #[test]
    fn places_have_no_gaps() {
        for at in 0..place(u64::MAX) {
            assert_eq!(place(upper(at)), at);
            assert_eq!(place(upper(at) + 1), at + 1);
        }
        assert_eq!(upper(place(u64::MAX)), u64::MAX);
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_values(values in prop::collection::vec(any::<u64>().prop_map(|v| v >> (v % 64)), 1..200)) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let (mut left, mut right) = (Histogram::default(), Histogram::default());
            for (i, value) in values.iter().enumerate() {
                if i % 3 == 0 { left.add(*value) } else { right.add(*value) }
            }
            left.merge(&right);
            for percent in [1, 50, 99, 100] {
                let exact = sorted[(values.len() * percent).div_ceil(100) - 1];
                let found = left.percentile(percent as u64).unwrap();
                prop_assert!(found >= exact && found - exact <= exact / STEPS, "{percent} %: {found}, exactly {exact}");
            }
        }
    }

    #[test]
    fn it_shows_two_percentiles_or_none() {
        let mut histogram = Histogram::default();
        assert_eq!(serde_json::to_value(&histogram).unwrap(), serde_json::json!({"p50": null, "p99": null}));
        (1..=100).for_each(|value| histogram.add(value));
        assert_eq!(serde_json::to_value(&histogram).unwrap(), serde_json::json!({"p50": 51, "p99": 100}));
    }
}
