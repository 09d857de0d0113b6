//! `length`: drops rows whose text is too short or too long, by any of several measures.
//!
//! ```text
//!  text ─────────────► characters, words, lines, sentences, mean word length ─┐
//!  record ───────────► turns                                                  ├─► the first bound that is broken
//!  text-tokens ──────► tokens                                                 │
//!  widths, heights ──► characters per megapixel of image ─────────────────────┘
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/length.wasm"
//! config = { min_words = 5, max_tokens = 2048, max_chars_per_megapixel = 20000 }
//! ```
//!
//! Every measure has a minimum and a maximum, both inclusive, and 0 turns a bound off. By default only DataComp's basic
//! caption rule is on: more than 5 characters and more than 2 words (Gadre et al. 2023, "DataComp", appendix on
//! baselines). Bounds are tried in the order of the table.
//!
//! | reason | measure |
//! |---|---|
//! | `no text` | the row has no text at all, and `no_text` is `drop` |
//! | `too few characters`, `too many characters` | Unicode scalar values, spaces included |
//! | `too few words`, `too many words` | runs of letters, digits and underscores; each Chinese or Japanese character |
//! | `too few lines`, `too many lines` | lines that are not blank |
//! | `too few sentences`, `too many sentences` | see [`measure::sentences`] |
//! | `words too short`, `words too long` | mean characters of the words, Chinese and Japanese ones aside |
//! | `too few tokens`, `too many tokens` | the column `text-tokens` |
//! | `too few turns`, `too many turns` | answers of the model in the record, see [`measure::turns`] |
//! | `too little text for the image`, `too much text for the image` | characters per million pixels of all the row's images |
//!
//! A measure is taken only where one of its bounds is set. A bound on a value that a row should have and lacks is an
//! error of that row; a row without images has no proportion to judge.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::Missing;

pub mod measure;

/// Configuration of `length`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Fewest characters. 0 turns the bound off.
    pub min_chars: u32,
    /// Most characters. 0 turns the bound off.
    pub max_chars: u32,
    /// Fewest words; a Chinese or Japanese character is one. 0 turns the bound off.
    pub min_words: u32,
    /// Most words. 0 turns the bound off.
    pub max_words: u32,
    /// Fewest lines that are not blank. 0 turns the bound off.
    pub min_lines: u32,
    /// Most lines that are not blank. 0 turns the bound off.
    pub max_lines: u32,
    /// Fewest sentences. 0 turns the bound off.
    pub min_sentences: u32,
    /// Most sentences. 0 turns the bound off.
    pub max_sentences: u32,
    /// Least mean length of a word, in characters; Gopher uses 3. 0 turns the bound off.
    pub min_mean_word: f64,
    /// Largest mean length of a word, in characters; Gopher uses 10. 0 turns the bound off.
    pub max_mean_word: f64,
    /// Fewest tokens of the text. 0 turns the bound off.
    pub min_tokens: u32,
    /// Most tokens of the text. 0 turns the bound off.
    pub max_tokens: u32,
    /// Fewest answers of the model in the record. 0 turns the bound off.
    pub min_turns: u32,
    /// Most answers of the model in the record. 0 turns the bound off.
    pub max_turns: u32,
    /// Fewest characters per million pixels of the row's images. 0 turns the bound off.
    pub min_chars_per_megapixel: f64,
    /// Most characters per million pixels of the row's images. 0 turns the bound off.
    pub max_chars_per_megapixel: f64,
    /// What becomes of a row without text: `drop`, `keep` or `error`.
    pub no_text: Missing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_chars: 6,
            max_chars: 0,
            min_words: 3,
            max_words: 0,
            min_lines: 0,
            max_lines: 0,
            min_sentences: 0,
            max_sentences: 0,
            min_mean_word: 0.0,
            max_mean_word: 0.0,
            min_tokens: 0,
            max_tokens: 0,
            min_turns: 0,
            max_turns: 0,
            min_chars_per_megapixel: 0.0,
            max_chars_per_megapixel: 0.0,
            no_text: Missing::Drop,
        }
    }
}

/// A minimum and a maximum; 0 is no bound.
#[derive(Clone, Copy)]
struct Bound {
    min: f64,
    max: f64,
    /// Reasons below and above.
    reasons: [&'static str; 2],
}

impl Bound {
    fn new(min: impl Into<f64>, max: impl Into<f64>, low: &'static str, high: &'static str) -> Self {
        Self { min: min.into(), max: max.into(), reasons: [low, high] }
    }

    fn is_set(&self) -> bool {
        self.min > 0.0 || self.max > 0.0
    }

    /// Why `value` is refused, if it is.
    fn broken_by(&self, value: f64) -> Option<&'static str> {
        if value < self.min {
            Some(self.reasons[0])
        } else if self.max > 0.0 && value > self.max {
            Some(self.reasons[1])
        } else {
            None
        }
    }
}

/// The filter.
pub struct Length {
    chars: Bound,
    words: Bound,
    lines: Bound,
    sentences: Bound,
    mean_word: Bound,
    tokens: Bound,
    turns: Bound,
    per_megapixel: Bound,
    no_text: Missing,
}

impl Plugin for Length {
    type Config = Config;
    const NAME: &'static str = "length";
    const SUMMARY: &'static str =
        "Drops texts that are too short or too long: characters, words, lines, tokens, turns.";
    const READS: &'static [Need] = &[
        Need::utf8("text"),
        Need::u32s("text-tokens").optional(),
        Need::utf8("record").optional(),
        Need::u32_lists("widths").optional(),
        Need::u32_lists("heights").optional(),
    ];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let Config { no_text, .. } = config;
        let mut findings = Findings::new();
        let mut whole = |name: &str, min: u32, max: u32, low, high| {
            findings.require(max == 0 || max >= min, &format!("/max_{name}"), || {
                format!("{max} is below min_{name} = {min}; use 0 (no bound) or at least {min}")
            });
            Bound::new(min, max, low, high)
        };
        let c = &config;
        let chars = whole("chars", c.min_chars, c.max_chars, "too few characters", "too many characters");
        let words = whole("words", c.min_words, c.max_words, "too few words", "too many words");
        let lines = whole("lines", c.min_lines, c.max_lines, "too few lines", "too many lines");
        let sentences = whole("sentences", c.min_sentences, c.max_sentences, "too few sentences", "too many sentences");
        let tokens = whole("tokens", c.min_tokens, c.max_tokens, "too few tokens", "too many tokens");
        let turns = whole("turns", c.min_turns, c.max_turns, "too few turns", "too many turns");
        let mut real = |name: &str, min: f64, max: f64, low, high| {
            for (side, value) in [("min", min), ("max", max)] {
                findings.require(value >= 0.0 && value.is_finite(), &format!("/{side}_{name}"), || {
                    format!("{value} is no bound; use 0 (off) or a positive number")
                });
            }
            findings.require(max <= 0.0 || max >= min, &format!("/max_{name}"), || {
                format!("{max} is below min_{name} = {min}; use 0 (no bound) or at least {min}")
            });
            Bound::new(min, max, low, high)
        };
        let mean_word = real("mean_word", c.min_mean_word, c.max_mean_word, "words too short", "words too long");
        let per_megapixel = real(
            "chars_per_megapixel",
            c.min_chars_per_megapixel,
            c.max_chars_per_megapixel,
            "too little text for the image",
            "too much text for the image",
        );
        findings.finish()?;
        Ok(Self { chars, words, lines, sentences, mean_word, tokens, turns, per_megapixel, no_text })
    }
}

impl Filter for Length {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return self.no_text.verdict("no text") };
        match self.broken_bound(text, row) {
            Ok(None) => Verdict::Keep,
            Ok(Some(reason)) => Verdict::drop(reason),
            Err(message) => Verdict::Error(message),
        }
    }
}

impl Length {
    /// The first bound that the row breaks. `Err`: a bound is set on something that the row lacks.
    fn broken_bound(&self, text: &str, row: &Row) -> Result<Option<&'static str>, String> {
        let count = |bound: &Bound, measure: fn(&str) -> usize| {
            bound.is_set().then(|| bound.broken_by(measure(text) as f64)).flatten()
        };
        let counted = count(&self.chars, |text| text.chars().count())
            .or_else(|| count(&self.words, measure::words))
            .or_else(|| count(&self.lines, measure::lines))
            .or_else(|| count(&self.sentences, measure::sentences));
        if counted.is_some() {
            return Ok(counted);
        }
        if self.mean_word.is_set()
            && let Some(reason) = measure::mean_word(text).and_then(|mean| self.mean_word.broken_by(mean))
        {
            return Ok(Some(reason));
        }
        if self.tokens.is_set() {
            let tokens = row.u32("text-tokens").ok_or_else(|| lacks("min_tokens", "max_tokens", "text-tokens"))?;
            if let Some(reason) = self.tokens.broken_by(f64::from(tokens)) {
                return Ok(Some(reason));
            }
        }
        if self.turns.is_set() {
            let record = row.json("record")?.ok_or_else(|| lacks("min_turns", "max_turns", "record"))?;
            if let Some(reason) = self.turns.broken_by(measure::turns(record) as f64) {
                return Ok(Some(reason));
            }
        }
        if self.per_megapixel.is_set() {
            return Ok(measure::pixels(row)?.filter(|&pixels| pixels > 0).and_then(|pixels| {
                let chars = text.chars().count() as f64;
                self.per_megapixel.broken_by(chars * 1e6 / pixels as f64)
            }));
        }
        Ok(None)
    }
}

/// The message for a bound whose column is not there.
fn lacks(min: &str, max: &str, column: &str) -> String {
    format!("{min} or {max} is set and this row has no `{column}`; set both to 0, or give the column")
}

ovhost_sdk::export_filter!(Length);

#[cfg(test)]
mod tests;
