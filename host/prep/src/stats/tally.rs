//! What is counted: histograms, totals, sources. Whole numbers only, so that parts add up to the same in any order.

use std::collections::BTreeMap;

use ovhost_plugin::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// Different sources that are told apart; the samples of further ones are counted together.
const SOURCES: usize = 10_000;

/// What those are called.
pub const OTHERS: &str = "(other sources)";

/// How values of one kind are spread: percentiles are at most 1/128 too high.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    places: Histogram<7>,
    /// Sum of all values.
    pub sum: u64,
    min: u64,
}

/// A spread in a part's file: `[least of the place, how many]` for every place, then what places do not tell.
#[derive(Serialize, Deserialize)]
struct Stored {
    places: Vec<[u64; 2]>,
    sum: u64,
    min: u64,
    max: u64,
}

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let places = self.places.places().map(|(low, _, n)| [low, n]).collect();
        Stored { places, sum: self.sum, min: self.min, max: self.places.max() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { places, sum, min, max } = Stored::deserialize(deserializer)?;
        let mut spread = Spread { sum, min, ..Spread::default() };
        let last = places.len().saturating_sub(1);
        for (i, [low, n]) in places.into_iter().enumerate() {
            // Any value of the place says the same, but the largest one of all is known.
            spread.places.add_many(if i == last { max } else { low }, n);
        }
        Ok(spread)
    }
}

impl Spread {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.min = if self.places.total() == 0 { value } else { self.min.min(value) };
        self.places.add(value);
        self.sum = self.sum.saturating_add(value);
    }

    /// Adds another's values.
    pub fn merge(&mut self, other: &Spread) {
        if other.places.total() == 0 {
            return;
        }
        self.min = if self.places.total() == 0 { other.min } else { self.min.min(other.min) };
        self.places.merge(&other.places);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.places.total()
    }

    /// The least value; 0 without values.
    pub fn min(&self) -> u64 {
        self.min
    }

    /// The largest value; 0 without values.
    pub fn max(&self) -> u64 {
        self.places.max()
    }

    /// The mean; 0 without values.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }

    /// A value that so many thousandths of the values do not exceed; 0 without values.
    pub fn per_mille(&self, share: u64) -> u64 {
        self.places.per_mille(share).unwrap_or(0).max(self.min)
    }

    /// Least and largest value of each place, and how many are in it.
    pub fn places(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.places.places()
    }

    /// For people and scripts. `scale`: values are so many times what they are of.
    pub fn report(&self, unit: &str, scale: u64) -> Value {
        let shown = |value: u64| if scale == 1 { json!(value) } else { json!(value as f64 / scale as f64) };
        let percentiles: serde_json::Map<String, Value> =
            PERCENTILES.iter().map(|(name, share)| ((*name).to_owned(), shown(self.per_mille(*share)))).collect();
        let places: Vec<Value> =
            self.places().map(|(low, high, n)| json!([shown(low), shown(high.min(self.max())), n])).collect();
        json!({
            "unit": unit, "count": self.count(), "sum": shown(self.sum), "mean": self.mean() / scale as f64,
            "min": shown(self.min()), "max": shown(self.max()), "percentiles": percentiles, "buckets": places,
        })
    }
}

/// Percentiles that are reported: name, and thousandths.
pub const PERCENTILES: [(&str, u64); 9] = [
    ("p1", 10),
    ("p5", 50),
    ("p25", 250),
    ("p50", 500),
    ("p75", 750),
    ("p90", 900),
    ("p95", 950),
    ("p99", 990),
    ("p99.9", 999),
];

/// What one source has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Samples.
    pub samples: u64,
    /// Pictures.
    pub images: u64,
    /// Bytes of the pictures.
    pub image_bytes: u64,
    /// Answers, that is turns to learn.
    pub turns: u64,
    /// Characters of the answers.
    pub characters: u64,
    /// Tokens, where they are counted.
    pub tokens: u64,
}

impl Source {
    fn add(&mut self, other: &Source) {
        self.samples += other.samples;
        self.images += other.images;
        self.image_bytes += other.image_bytes;
        self.turns += other.turns;
        self.characters += other.characters;
        self.tokens += other.tokens;
    }
}

/// All that is counted of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Samples that were measured; of packs the samples in them.
    pub samples: u64,
    /// Packs.
    pub packs: u64,
    /// Room for tokens in all packs.
    pub capacity: u64,
    /// By what is measured.
    pub spreads: BTreeMap<String, Spread>,
    /// Pictures by the ending of their name.
    pub formats: BTreeMap<String, u64>,
    /// By name.
    pub sources: BTreeMap<String, Source>,
}

impl Tally {
    /// Adds a value of what is measured under `name`.
    pub fn add(&mut self, name: &str, value: u64) {
        match self.spreads.get_mut(name) {
            Some(spread) => spread.add(value),
            None => self.spreads.entry(name.to_owned()).or_default().add(value),
        }
    }

    /// Adds a sample's numbers to its source.
    pub fn add_source(&mut self, name: &str, numbers: &Source) {
        let known = self.sources.contains_key(name) || self.sources.len() < SOURCES;
        let name = if known { name } else { OTHERS };
        match self.sources.get_mut(name) {
            Some(source) => source.add(numbers),
            None => self.sources.entry(name.to_owned()).or_default().add(numbers),
        }
    }

    /// Adds another's numbers.
    pub fn merge(&mut self, other: &Tally) {
        self.samples += other.samples;
        self.packs += other.packs;
        self.capacity += other.capacity;
        for (name, spread) in &other.spreads {
            self.spreads.entry(name.clone()).or_default().merge(spread);
        }
        for (format, n) in &other.formats {
            *self.formats.entry(format.clone()).or_default() += n;
        }
        other.sources.iter().for_each(|(name, source)| self.add_source(name, source));
    }

    /// Sources by size, the largest first; equals by name.
    pub fn by_size(&self) -> Vec<(&String, &Source)> {
        let mut sources: Vec<_> = self.sources.iter().collect();
        sources.sort_by(|a, b| b.1.samples.cmp(&a.1.samples).then(a.0.cmp(b.0)));
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_written_and_read_again_add_up_to_the_whole() {
        let values: Vec<u64> = (0..5000u64).map(|i| i * i % 70_001).collect();
        let mut whole = Spread::default();
        values.iter().for_each(|v| whole.add(*v));
        let mut sum = Spread::default();
        for part in values.chunks(777) {
            let mut one = Spread::default();
            part.iter().for_each(|v| one.add(*v));
            let text = serde_json::to_string(&one).unwrap();
            let read: Spread = serde_json::from_str(&text).unwrap();
            assert_eq!(read, one);
            sum.merge(&read);
        }
        sum.merge(&serde_json::from_str(&serde_json::to_string(&Spread::default()).unwrap()).unwrap());
        assert_eq!(sum, whole);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        assert_eq!((whole.min(), whole.max(), whole.count()), (sorted[0], sorted[4999], 5000));
        for (_, share) in PERCENTILES {
            let exact = sorted[(5 * share as usize).max(1) - 1];
            let found = whole.per_mille(share);
            assert!(found >= exact && found - exact <= exact / 128, "{share}: {found}, exactly {exact}");
        }
        let report = whole.report("tokens", 1);
        assert_eq!(report["sum"], values.iter().sum::<u64>());
        let counted: u64 = report["buckets"].as_array().unwrap().iter().map(|b| b[2].as_u64().unwrap()).sum();
        assert_eq!(counted, 5000);
    }

    #[test]
    fn sources_without_end_are_counted_together() {
        let mut tally = Tally::default();
        for i in 0..SOURCES + 50 {
            tally.add_source(&format!("s{i}"), &Source { samples: 1, ..Source::default() });
        }
        assert_eq!((tally.sources.len(), tally.sources[OTHERS].samples), (SOURCES + 1, 50));
        assert_eq!(tally.by_size()[0].0, OTHERS);
    }
}
