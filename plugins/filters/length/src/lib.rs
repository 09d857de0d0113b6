//! `length`: drops rows whose text is too short or too long, by any of several measures.
//!
//! ```text
//!  entry length          text ────────────► characters, words, lines, sentences, mean word length ─┐ the first bound
//!                        widths, heights ─► characters per megapixel of image ─────────────────────┘ that is broken
//!  entry length_tokens   text-tokens ─────► tokens
//!  entry length_turns    record ──────────► turns
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/length.wasm"
//! entry = "length"
//! config = { min_words = 5, max_chars_per_megapixel = 20000 }
//!
//! [[plugins.filter]]
//! plugin = "filters/length.wasm"
//! entry = "length_tokens"
//! config = { max_tokens = 2048 }
//! ```
//!
//! Entries are apart because the host makes every column that an entry may read: tokens cost a tokeniser's run over the text.
//!
//! Every measure has a minimum and a maximum, both inclusive, and 0 turns a bound off. By default `length` has DataComp's
//! basic caption rule: more than 5 characters and more than 2 words (Gadre et al. 2023, "DataComp", appendix on baselines);
//! the other two ask for at least one token or turn. Bounds are tried in the order of the table.
//!
//! | entry | reason | measure |
//! |---|---|---|
//! | `length` | `no text` | the row has no text at all, and `no_text` is `drop` |
//! | | `too few characters`, `too many characters` | Unicode scalar values, spaces included |
//! | | `too few words`, `too many words` | runs of letters, digits and underscores; in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) each letter with its marks |
//! | | `too few lines`, `too many lines` | lines that are not blank |
//! | | `too few sentences`, `too many sentences` | see [`measure::sentences`] |
//! | | `words too short`, `words too long` | mean characters of the words, those of scripts without spaces aside |
//! | | `too little text for the image`, `too much text for the image` | characters per million pixels of all the row's images |
//! | `length_tokens` | `too few tokens`, `too many tokens` | the column `text-tokens` |
//! | `length_turns` | `too few turns`, `too many turns` | answers of the model in the record, see [`measure::turns`] |
//!
//! A measure is taken only where one of its bounds is set. A bound on a value that a row should have and lacks is an
//! error of that row; a row without images has no proportion to judge.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::{self, Missing};

mod bound;
pub mod measure;
pub mod tokens;
pub mod turns;

use bound::Bound;
pub use tokens::LengthTokens;
pub use turns::LengthTurns;

/// Configuration of `length`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Fewest characters. 0 turns the bound off.
    pub min_chars: u32,
    /// Most characters. 0 turns the bound off.
    pub max_chars: u32,
    /// Fewest words; in scripts without spaces (Chinese, Thai) every letter is one. 0 turns the bound off.
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
            min_chars_per_megapixel: 0.0,
            max_chars_per_megapixel: 0.0,
            no_text: Missing::Drop,
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
    per_megapixel: Bound,
    no_text: Missing,
}

impl Plugin for Length {
    type Config = Config;
    const NAME: &'static str = "length";
    const SUMMARY: &'static str =
        "Drops texts that are too short or too long: characters, words, lines, sentences; against the image.";
    const READS: &'static [Need] =
        &[Need::utf8("text"), Need::u32_lists("widths").optional(), Need::u32_lists("heights").optional()];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let c = &config;
        let mut whole =
            |name: &str, min: u32, max: u32, low, high| Bound::whole(&mut findings, name, [min, max], [low, high]);
        let chars = whole("chars", c.min_chars, c.max_chars, "too few characters", "too many characters");
        let words = whole("words", c.min_words, c.max_words, "too few words", "too many words");
        let lines = whole("lines", c.min_lines, c.max_lines, "too few lines", "too many lines");
        let sentences = whole("sentences", c.min_sentences, c.max_sentences, "too few sentences", "too many sentences");
        let lengths = [c.min_mean_word, c.max_mean_word];
        let mean_word = Bound::real(&mut findings, "mean_word", lengths, ["words too short", "words too long"]);
        let per_megapixel = Bound::real(
            &mut findings,
            "chars_per_megapixel",
            [c.min_chars_per_megapixel, c.max_chars_per_megapixel],
            ["too little text for the image", "too much text for the image"],
        );
        findings.finish()?;
        Ok(Self { chars, words, lines, sentences, mean_word, per_megapixel, no_text: config.no_text })
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
        let counted = count(&self.chars, text::count_chars)
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
        if self.per_megapixel.is_set() {
            return Ok(measure::pixels(row)?.filter(|&pixels| pixels > 0).and_then(|pixels| {
                let chars = text::count_chars(text) as f64;
                self.per_megapixel.broken_by(chars * 1e6 / pixels as f64)
            }));
        }
        Ok(None)
    }
}

ovhost_sdk::export_filter!(Length, LengthTokens, LengthTurns);

#[cfg(test)]
mod tests;
