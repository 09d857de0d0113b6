//! Balance by sources: how many samples each has, how many each is to keep, and so the chance of every sample.
//!
//! What is drawn depends on the seed, the source and the key alone: not on shards, threads or order. So a number that is asked
//! for comes out in the mean, as with every draw of samples one by one; the report has the number that came out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ovhost_data::record::Record;
use ovhost_plugin::OnTrap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Balanced, Pass};
use crate::error::{AFRESH, PrepError, io};
use crate::files::{apart, put_json};
use crate::filter::{Draw, FilterSettings, filter};
use crate::jobs::{RunOptions, records};
use crate::stats::{OTHERS, StatsSettings, Tokens, read_stats, source_of, stats};

/// How many samples each source keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceRule {
    /// At most so many; of a source that is not named `rest`, and all of it where that is none.
    Caps {
        /// By source.
        each: BTreeMap<String, u64>,
        /// Of every other.
        rest: Option<u64>,
    },
    /// Shares of the result, in proportion to these numbers; every source must be named, or `rest` given.
    Weights {
        /// By source.
        each: BTreeMap<String, f64>,
        /// Of every other.
        rest: Option<f64>,
        /// Samples of the result; as many as there can be, if none.
        total: Option<u64>,
    },
}

/// Balancing by sources.
pub struct SourceSettings {
    /// Shards, in order.
    pub inputs: Vec<PathBuf>,
    /// See [`StatsSettings::source_field`].
    pub field: Option<String>,
    /// How many of each.
    pub rule: SourceRule,
    /// Seed of the draws.
    pub seed: u64,
    /// Pictures whose header promises more pixels are rejected.
    pub max_pixels: u64,
    /// Energon split of the result.
    pub split: String,
}

impl SourceRule {
    /// The chance of each source's samples (0 to 1).
    ///
    /// # Errors
    /// Sources that the rule does not know, or that it names and are not there.
    pub fn chances(&self, counts: &BTreeMap<String, u64>) -> Result<BTreeMap<String, f64>, String> {
        let named: Vec<&String> = match self {
            SourceRule::Caps { each, .. } => each.keys().collect(),
            SourceRule::Weights { each, .. } => each.keys().collect(),
        };
        if let Some(name) = named.into_iter().find(|name| !counts.contains_key(*name)) {
            let there: Vec<&str> = counts.keys().map(String::as_str).take(20).collect();
            return Err(format!("source \"{name}\" is not in the data; there are {}", there.join(", ")));
        }
        match self {
            SourceRule::Caps { each, rest } => Ok(counts
                .iter()
                .map(|(name, count)| {
                    let cap = each.get(name).copied().or(*rest).unwrap_or(*count);
                    (name.clone(), (cap as f64 / (*count).max(1) as f64).min(1.0))
                })
                .collect()),
            SourceRule::Weights { each, rest, total } => {
                let mut weights = BTreeMap::new();
                for name in counts.keys() {
                    let weight = each.get(name).copied().or(*rest).ok_or_else(|| {
                        format!(
                            "source \"{name}\" has no weight; give it one (0 leaves it out), or all others with *=1"
                        )
                    })?;
                    weights.insert(name, weight);
                }
                let sum: f64 = weights.values().sum();
                if sum <= 0.0 {
                    return Err("all weights are 0: nothing would be kept".into());
                }
                // As many as the source that runs out first allows.
                let most = counts.iter().filter(|(name, _)| weights[name] > 0.0);
                let most = most.map(|(name, count)| *count as f64 * sum / weights[name]).fold(f64::INFINITY, f64::min);
                let total = match total {
                    Some(total) if *total as f64 > most.floor() => {
                        return Err(format!(
                            "{total} samples in these shares are more than there are: at most {} can be had, since no sample is \
                             repeated",
                            most.floor()
                        ));
                    }
                    Some(total) => *total as f64,
                    None => most,
                };
                Ok(counts
                    .iter()
                    .map(|(name, count)| {
                        let wanted = total * weights[name] / sum;
                        (name.clone(), (wanted / (*count).max(1) as f64).min(1.0))
                    })
                    .collect())
            }
        }
    }

    fn record(&self) -> Value {
        match self {
            SourceRule::Caps { each, rest } => json!({ "caps": each, "cap": rest }),
            SourceRule::Weights { each, rest, total } => json!({ "weights": each, "rest": rest, "total": total }),
        }
    }
}

/// What the reason of a sample that is not drawn begins with; its source follows.
const REASON: &str = "balance: source ";

/// Draws samples by their source's chance.
struct BySource {
    field: Option<String>,
    chances: BTreeMap<String, f64>,
    seed: u64,
}

impl Draw for BySource {
    fn record(&self) -> Value {
        json!({ "by": "source", "field": self.field, "chances": self.chances })
    }

    fn keep(&self, record: &Record, shard: &Path) -> Result<(), String> {
        let source = source_of(record, shard, self.field.as_deref());
        let chance = self.chances.get(&source).or_else(|| self.chances.get(OTHERS)).copied().unwrap_or(1.0);
        if unit(self.seed, &source, &record.key) < chance { Ok(()) } else { Err(format!("{REASON}{source}")) }
    }
}

/// Samples that each source lost, by the reasons of the rejects: the counters bound the number of different reasons.
fn lost(path: &Path) -> Result<BTreeMap<String, u64>, PrepError> {
    #[derive(serde::Deserialize)]
    struct Line {
        stage: String,
        reason: String,
    }
    let file = std::fs::File::open(path).map_err(io(path, "open"))?;
    let mut out = BTreeMap::new();
    for line in BufReader::new(file).lines() {
        let line: Line = serde_json::from_str(&line.map_err(io(path, "read"))?).map_err(|e| PrepError::Record {
            path: path.display().to_string(),
            why: format!("it is damaged ({e})"),
            next: AFRESH,
        })?;
        if let Some(source) = line.reason.strip_prefix(REASON).filter(|_| line.stage == "filter") {
            *out.entry(source.to_owned()).or_default() += 1;
        }
    }
    Ok(out)
}

/// A number from 0 to below 1 that belongs to a sample.
fn unit(seed: u64, source: &str, key: &str) -> f64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((source.len() as u64).to_le_bytes());
    hash.update(source);
    hash.update(key);
    let digest = hash.finalize();
    let bits = digest.iter().take(7).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte)) >> 3;
    bits as f64 / (1u64 << 53) as f64
}

/// Balances shards by their sources.
///
/// # Errors
/// See [`crate::jobs::run`]; a rule that does not fit the sources.
pub fn balance_sources(
    settings: &SourceSettings,
    options: &RunOptions<'_>,
    begins: &dyn Fn(Pass),
) -> Result<Balanced, PrepError> {
    apart(&settings.inputs, &options.out)?;
    let count = |step: &str, inputs: Vec<PathBuf>| {
        let out = records(&options.out, step);
        let measured = StatsSettings {
            inputs,
            tokens: Tokens::None,
            source_field: settings.field.clone(),
            max_pixels: settings.max_pixels,
        };
        let summary = stats(&measured, &RunOptions { out: out.clone(), ..*options })?;
        Ok::<_, PrepError>((out, summary))
    };
    begins(Pass::Counting);
    let (place, summary) = count("sources", settings.inputs.clone())?;
    if !summary.finished {
        return Ok(Balanced::Waiting(Pass::Counting, summary));
    }
    let before = samples(&read_stats(&place)?);
    let chances = settings.rule.chances(&before).map_err(PrepError::Option)?;
    begins(Pass::Sampling);
    let draw = BySource { field: settings.field.clone(), chances: chances.clone(), seed: settings.seed };
    let sampling = FilterSettings {
        inputs: settings.inputs.clone(),
        filters: Vec::new(),
        draw: Some(Arc::new(draw)),
        on_trap: OnTrap::Stop,
        seed: settings.seed,
        chat: None,
        max_pixels: settings.max_pixels,
        split: settings.split.clone(),
        dry: false,
        save_state: None,
    };
    let drawn = filter(&sampling, options)?;
    if !drawn.finished {
        return Ok(Balanced::Waiting(Pass::Sampling, drawn));
    }
    let lost = lost(&options.out.join("rejects.jsonl"))?;
    let sources: Vec<Value> = before
        .iter()
        .map(|(name, count)| {
            let kept = count.saturating_sub(lost.get(name).copied().unwrap_or(0));
            json!({ "source": name, "before": count, "after": kept, "chance": chances[name] })
        })
        .collect();
    let report = json!({
        "ovhost_balance": 1, "ovhost": env!("CARGO_PKG_VERSION"), "by": "source", "rule": settings.rule.record(),
        "seed": settings.seed, "before": { "rows": before.values().sum::<u64>() },
        "after": { "rows": drawn.counts.samples },
        "rejected": drawn.counts.rejected, "sources": sources,
    });
    put_json(&options.out.join("balance.json"), &report)?;
    Ok(Balanced::Done(drawn, report))
}

fn samples(stats: &Value) -> BTreeMap<String, u64> {
    let sources = stats["sources"].as_array().into_iter().flatten();
    sources.filter_map(|s| Some((s["source"].as_str()?.to_owned(), s["samples"].as_u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> BTreeMap<String, u64> {
        [("a".to_owned(), 1000), ("b".to_owned(), 100), ("c".to_owned(), 10)].into()
    }

    #[test]
    fn caps_and_weights_make_chances() {
        let caps = SourceRule::Caps { each: [("a".to_owned(), 50)].into(), rest: Some(40) };
        assert_eq!(caps.chances(&counts()).unwrap().into_values().collect::<Vec<_>>(), [0.05, 0.4, 1.0]);
        let free = SourceRule::Caps { each: [("b".to_owned(), 50)].into(), rest: None };
        assert_eq!(free.chances(&counts()).unwrap().into_values().collect::<Vec<_>>(), [1.0, 0.5, 1.0]);
        let even = SourceRule::Weights { each: BTreeMap::new(), rest: Some(1.0), total: None };
        assert_eq!(even.chances(&counts()).unwrap().into_values().collect::<Vec<_>>(), [0.01, 0.1, 1.0]);
        let weights = |total| SourceRule::Weights {
            each: [("a".to_owned(), 3.0), ("b".to_owned(), 1.0), ("c".to_owned(), 0.0)].into(),
            rest: None,
            total,
        };
        assert_eq!(
            weights(Some(100)).chances(&counts()).unwrap().into_values().collect::<Vec<_>>(),
            [0.075, 0.25, 0.0]
        );
        assert_eq!(weights(None).chances(&counts()).unwrap().into_values().collect::<Vec<_>>(), [0.3, 1.0, 0.0]);
        assert!(weights(Some(401)).chances(&counts()).unwrap_err().contains("at most 400"));
        let lost = SourceRule::Caps { each: [("x".to_owned(), 5)].into(), rest: None };
        assert!(lost.chances(&counts()).unwrap_err().contains("\"x\" is not in the data; there are a, b, c"));
        let some = SourceRule::Weights { each: [("a".to_owned(), 1.0)].into(), rest: None, total: None };
        assert!(some.chances(&counts()).unwrap_err().contains("\"b\" has no weight"));
    }

    #[test]
    fn draws_are_even_and_belong_to_seed_source_and_key() {
        let all: Vec<f64> = (0..20_000).map(|i| unit(7, "a", &i.to_string())).collect();
        let below = |x: f64| all.iter().filter(|u| **u < x).count() as f64 / 20_000.0;
        assert!((below(0.1) - 0.1).abs() < 0.01 && (below(0.7) - 0.7).abs() < 0.015, "{} {}", below(0.1), below(0.7));
        assert_eq!(unit(7, "a", "5"), all[5]);
        assert!(unit(8, "a", "5") != all[5] && unit(7, "b", "5") != all[5] && unit(7, "a5", "") != all[5]);
    }
}
