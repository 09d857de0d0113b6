//! Counting: every sample read is filtered, rejected, delivered or still held; too many rejects end the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What happened to the samples so far. `read = filtered + rejected + samples + held`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Samples taken from the shards.
    pub read: u64,
    /// Dropped by filters, by reason; past 1,000 different ones, "other reasons".
    pub filtered: BTreeMap<String, u64>,
    /// Rejected, by stage.
    pub rejected: BTreeMap<String, u64>,
    /// Samples delivered in batches.
    pub samples: u64,
    /// Tokens delivered.
    pub tokens: u64,
    /// Tokens that would have fitted into the delivered packs.
    pub capacity: u64,
    /// Packs delivered.
    pub packs: u64,
    /// Images delivered.
    pub images: u64,
}

/// Different reasons that are counted: they are part of every checkpoint, and filters make them up.
const REASONS: usize = 1_000;

fn count(counts: &mut BTreeMap<String, u64>, reason: &str, n: u64) {
    match counts.get_mut(reason) {
        Some(count) => *count += n,
        None => {
            let reason = if counts.len() < REASONS { reason } else { "other reasons" };
            *counts.entry(reason.to_owned()).or_default() += n;
        }
    }
}

impl Counters {
    /// Adds another's counts to this one's.
    pub fn add(&mut self, other: &Counters) {
        self.read += other.read;
        self.samples += other.samples;
        self.tokens += other.tokens;
        self.capacity += other.capacity;
        self.packs += other.packs;
        self.images += other.images;
        for (mine, theirs) in [(&mut self.filtered, &other.filtered), (&mut self.rejected, &other.rejected)] {
            for (key, n) in theirs {
                count(mine, key, *n);
            }
        }
    }

    /// Counts a sample that a filter dropped.
    pub fn filter(&mut self, reason: &str) {
        count(&mut self.filtered, reason, 1);
    }

    /// Samples dropped by filters.
    pub fn filtered_total(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// Samples rejected.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Share of the delivered packs that real tokens fill, 0 to 1.
    pub fn fill(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.tokens as f64 / self.capacity as f64 }
    }

    /// One line for people: `1,000 samples read: 900 delivered, 60 filtered (too short 60), 40 rejected (read 40)`, with
    /// the word for what became of the good ones.
    pub fn summary(&self, good: &str) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            let words: Vec<String> = counts.iter().take(8).map(|(reason, n)| format!("{reason} {n}")).collect();
            if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
        };
        format!(
            "{} samples read: {} {good}, {} filtered{}, {} rejected{}",
            self.read,
            self.samples,
            self.filtered_total(),
            list(&self.filtered),
            self.rejected_total(),
            list(&self.rejected)
        )
    }
}

/// The recipe's bound on rejects. Filter drops do not count: they are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectBudget {
    /// Largest share of the samples read, 0 to 1.
    pub max_rate: f64,
    /// Largest number in all.
    pub max_count: Option<u64>,
    /// How a user sets the two, and where the rejects are listed: for the text of the error.
    pub words: BudgetWords,
}

/// What a bound on rejects is called where it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetWords {
    /// The largest share.
    pub rate: &'static str,
    /// The largest number.
    pub count: &'static str,
    /// Where each reject is listed when the bound is passed.
    pub list: &'static str,
}

/// Recipe keys.
pub const RECIPE_WORDS: BudgetWords =
    BudgetWords { rate: "data.max_reject_rate", count: "data.max_rejects", list: "rejects.jsonl" };

/// Below this many samples a share says little, unless the epoch is over.
const JUDGE_FROM: u64 = 500;

impl RejectBudget {
    /// The error text when `counters` are over the bound. `last` is the reason of the latest reject.
    pub fn check(&self, counters: &Counters, epoch_end: bool, last: Option<&str>) -> Result<(), String> {
        let rejected = counters.rejected_total();
        let rate = rejected as f64 / counters.read.max(1) as f64;
        let why = if self.max_count.is_some_and(|max| rejected > max) {
            format!("{} is {}", self.words.count, self.max_count.unwrap_or_default())
        } else if rate > self.max_rate && (epoch_end || counters.read >= JUDGE_FROM) {
            format!("{:.1} % of the samples were rejected and {} is {}", rate * 100.0, self.words.rate, self.max_rate)
        } else {
            return Ok(());
        };
        let last = last.map(|l| format!(" The latest: {l}.")).unwrap_or_default();
        Err(format!(
            "too many rejected samples: {why}. {}.{last} Each is listed in {}; mend the data, or raise the bound",
            counters.summary("delivered"),
            self.words.list
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(read: u64, rejected: u64) -> Counters {
        Counters { read, rejected: [("read".to_string(), rejected)].into(), ..Default::default() }
    }

    #[test]
    fn reasons_that_never_end_are_counted_as_one() {
        let mut counters = Counters::default();
        for i in 0..5_000 {
            counters.filter(&format!("reason {i}"));
            counters.filter("reason 7");
        }
        assert_eq!((counters.filtered.len(), counters.filtered["other reasons"]), (1_001, 4_000));
        let mut sum = Counters::default();
        sum.add(&counters);
        sum.add(&counters);
        assert!(sum.filtered.len() <= 1_001);
        assert_eq!((sum.filtered_total(), counters.filtered_total()), (20_000, 10_000));
    }

    #[test]
    fn the_bound_is_judged_on_enough_samples() {
        let budget = RejectBudget { max_rate: 0.1, max_count: None, words: RECIPE_WORDS };
        assert!(budget.check(&counters(10, 5), false, None).is_ok());
        assert!(budget.check(&counters(1000, 100), true, None).is_ok());
        let text = budget.check(&counters(10, 5), true, Some("corrupt PNG")).unwrap_err();
        assert!(text.contains("50.0 %") && text.contains("max_reject_rate") && text.contains("corrupt PNG"), "{text}");
        assert!(budget.check(&counters(1000, 101), false, None).is_err());
        let count = RejectBudget { max_rate: 1.0, max_count: Some(3), words: RECIPE_WORDS };
        assert!(count.check(&counters(10, 3), false, None).is_ok());
        assert!(count.check(&counters(10, 4), false, None).unwrap_err().contains("max_rejects is 3"));
    }

    #[test]
    fn adding_and_wording() {
        let mut all = counters(10, 1);
        all.add(&Counters {
            filtered: [("small".into(), 2)].into(),
            samples: 7,
            tokens: 50,
            capacity: 100,
            ..counters(0, 1)
        });
        assert_eq!((all.read, all.rejected_total(), all.filtered_total(), all.fill()), (10, 2, 2, 0.5));
        assert_eq!(all.summary("delivered"), "10 samples read: 7 delivered, 2 filtered (small 2), 2 rejected (read 2)");
    }
}
