//! `near_dup`: keeps the first of texts that are nearly the same (MinHash with bands).
//!
//! ```text
//!  text ─► shingles of `ngram` words ─► 112 least hashes ─► 14 bands × 8 ─► any band seen? ─ yes ─► drop "near duplicate"
//!                                                                                      └─ no ──► remember all 14, keep
//! ```
//!
//! Two texts count as near duplicates if they agree in a band. With b bands of r hashes that happens with a probability of
//! 1 − (1 − sʳ)ᵇ at a Jaccard similarity s of their shingles: for 14 × 8, 0.05 at 0.5, 0.56 at 0.7, 0.92 at 0.8, 0.9996 at
//! 0.9. `bands` and `rows` come from `threshold`, `permutations` and `recall` unless they are given: the most rows a band,
//! which find the fewest pairs below the threshold, with a probability of at least `recall` at it.
//!
//! Letters of scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) count as words, so that one `ngram` serves
//! mixed data. A row without words is kept. Only
//! kept rows are remembered. Of every key 48 bits count: with m rows remembered, a row is dropped by mistake with a
//! probability of about m × b² / 2⁴⁸ (1 in 1.4 million at a million rows). The state is the keys in ascending order.

use ovhost_sdk::prelude::*;
use ovhost_sdk::seen::Seen;

mod bands;
mod signature;
use bands::Shape;
use signature::Signer;

/// Most hashes of a text: more cost time and memory and change little.
const MAX_HASHES: u32 = 1024;

/// What shingles are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Unit {
    /// Words; every letter of a script without spaces (Chinese, Thai) is one. Punctuation and white space are left out.
    #[default]
    Words,
    /// Characters as they are, runs of white space as one space.
    Chars,
}

/// Configuration of `near_dup`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Similarity from which texts count as the same: the share of their shingles that they have in common (Jaccard).
    pub threshold: f64,
    /// Least probability that a pair at the threshold is found.
    pub recall: f64,
    /// Most hashes of a text. Time and memory grow with them, and the bands tell similarities apart more sharply.
    pub permutations: u32,
    /// Bands of the index, in place of the three above. 0: derived from them, and `rows` too.
    pub bands: u32,
    /// Hashes of a band. 0: derived, and `bands` too.
    pub rows: u32,
    /// Units in a row that make a shingle. A text with fewer is one shingle.
    pub ngram: u32,
    /// What shingles are made of.
    pub unit: Unit,
    /// `A` equals `a`, in all scripts.
    pub ignore_case: bool,
    /// Most rows that are remembered, 4 bytes a band each and a little more; a row beyond is an error.
    pub max_rows: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threshold: 0.8,
            recall: 0.9,
            permutations: 112,
            bands: 0,
            rows: 0,
            ngram: 5,
            unit: Unit::Words,
            ignore_case: true,
            max_rows: 1_000_000,
        }
    }
}

/// The filter.
pub struct NearDup {
    config: Config,
    shape: Shape,
    signer: Signer,
    seen: Seen<u32>,
}

impl Plugin for NearDup {
    type Config = Config;
    const NAME: &'static str = "near_dup";
    const SUMMARY: &'static str = "Drops rows whose text is nearly the same as an earlier one.";
    const READS: &'static [Need] = &[Need::utf8("text")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let share = |value: f64| value > 0.0 && value <= 1.0;
        findings.require(share(config.threshold), "/threshold", || {
            format!("{} is a share of common shingles; use more than 0 and at most 1", config.threshold)
        });
        findings.require(config.recall > 0.0 && config.recall < 1.0, "/recall", || {
            format!("{} is a probability; use more than 0 and less than 1", config.recall)
        });
        let count = 1..=MAX_HASHES;
        findings.require(count.contains(&config.permutations), "/permutations", || {
            format!("{} is not in 1 to {MAX_HASHES}", config.permutations)
        });
        let given = Shape { bands: config.bands, rows: config.rows };
        let derived = given == Shape { bands: 0, rows: 0 };
        findings.require(derived || (config.bands > 0 && config.rows > 0), "/bands", || {
            format!("bands = {} and rows = {}: give both, or neither", config.bands, config.rows)
        });
        findings.require(given.hashes() <= u64::from(MAX_HASHES), "/bands", || {
            format!("{} bands of {} make more than {MAX_HASHES} hashes", config.bands, config.rows)
        });
        let default = Config::default();
        let idle = [
            ("threshold", config.threshold != default.threshold),
            ("recall", config.recall != default.recall),
            ("permutations", config.permutations != default.permutations),
        ];
        for (name, set) in idle {
            findings.require(derived || !set, &format!("/{name}"), || {
                format!(
                    "bands = {} and rows = {} say the shape already; take this or those out",
                    config.bands, config.rows
                )
            });
        }
        findings
            .require((1..=100).contains(&config.ngram), "/ngram", || format!("{} is not in 1 to 100", config.ngram));
        findings.require(config.max_rows > 0, "/max_rows", || "must be at least 1".into());
        findings.finish()?;
        let shape = if derived {
            let shape = Shape::derive(config.threshold, config.permutations, config.recall);
            shape.ok_or_else(|| {
                let Config { threshold, permutations, recall, .. } = config;
                let message = format!(
                    "{permutations} hashes find a pair at {threshold} with less than {recall}; raise permutations, or lower recall"
                );
                ConfigError::at("/permutations", message)
            })?
        } else {
            given
        };
        Ok(Self { signer: Signer::new(&config, shape), config, shape, seen: Seen::new() })
    }
}

/// 48 bits of a key, which is what [`Seen`] stores of it.
fn hash(key: u64) -> u128 {
    u128::from(key >> 16)
}

impl Filter for NearDup {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        let keys = self.signer.keys(row.str("text").unwrap_or_default());
        if keys.iter().any(|&key| self.seen.contains(hash(key))) {
            return Verdict::drop("near duplicate");
        }
        let (most, bands) = (self.config.max_rows as usize, self.shape.bands as usize);
        if !keys.is_empty() && self.seen.len() + bands > most.saturating_mul(bands) {
            return Verdict::Error(format!(
                "{most} rows are remembered, as many as max_rows allows: raise max_rows, and with it limits.memory_mib \
                 ({} a million rows) and limits.output_mib ({})",
                9 * bands,
                4 * bands
            ));
        }
        for &key in keys {
            self.seen.insert(hash(key));
        }
        Verdict::Keep
    }
}

impl NearDup {
    fn rules(&self) -> String {
        let (Shape { bands, rows }, Config { ngram, unit, ignore_case, .. }) = (self.shape, &self.config);
        let unit = match unit {
            Unit::Words => "words",
            Unit::Chars => "characters",
        };
        format!("near_dup ({bands} bands of {rows}, {ngram} {unit}, case ignored: {ignore_case})")
    }
}

impl StatefulFilter for NearDup {
    fn save(&self) -> Vec<u8> {
        self.seen.save(&self.rules())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.seen = Seen::restore(&self.rules(), state)?;
        Ok(())
    }
}

ovhost_sdk::export_stateful_filter!(NearDup);

#[cfg(test)]
mod tests;
