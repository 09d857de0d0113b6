//! `repetition`: drops rows whose text repeats itself, by Gopher's rules and by the longest loop.
//!
//! ```text
//!  text ─┬─► runs.rs: characters ──────────► runs of one or a few                (any text)
//!        ├─► words.rs: words by places ──┬─► loops                               (any text)
//!        │                               └─► ngrams.rs: shares of n-grams        (texts of `min_words` words)
//!        └─► lines.rs: lines, paragraphs ──► shares of duplicates                (likewise)
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/repetition.wasm"
//! config = { max_top_2gram = 0.3, max_loop = 6, loop_words = 4 }
//! ```
//!
//! | reason | rule | default |
//! |---|---|---|
//! | `no text` | the row has no text at all, and `no_text` is `drop` | |
//! | `repeated character` | one character, not white space, more than `max_char_run` times in a row, white space between signs left out | 100 |
//! | `repeated word` | one word more than `max_loop` times in a row | 7 |
//! | `repeated phrase` | 2 to `loop_words` words more than `max_loop` times in a row | off |
//! | `repeated characters` | 2 to 12 characters (`❤️`, `ha`) more than `max_char_run` times in a row, likewise | 100 |
//! | `duplicate lines` | lines that came before ÷ lines | 0.30 |
//! | `duplicate line characters` | characters of lines that came before ÷ characters of the lines | 0.20 |
//! | `duplicate paragraphs` | paragraphs that came before ÷ paragraphs | 0.30 |
//! | `duplicate paragraph characters` | characters of such paragraphs ÷ characters of the paragraphs | 0.20 |
//! | `top 2-gram` to `top 4-gram` | characters in the most frequent n words that come twice or more ÷ characters of the words | 0.20, 0.18, 0.16 |
//! | `duplicate 5-grams` to `duplicate 10-grams` | characters in n words that came before ÷ characters of the words | 0.15, 0.14, … 0.10 |
//!
//! The shares and their defaults are those of Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from
//! Training Gopher", table A1; "came before" is how datatrove reads its duplicates: the first occurrence does not count.
//! Here a character counts once though n-grams overlap, and only characters of words count, above and below the line: a
//! share is 1 where everything is repeated. Eight equal words in a row are the rule of the LLaVA-OneVision-1.5 pipeline.
//! The runs of characters are our own.
//!
//! A word is a run of letters, digits and underscores, compared with its case; in scripts without spaces (Chinese, Japanese,
//! Thai, Lao, Khmer, Myanmar) it is a letter with its marks. Bounds are inclusive. A share of 1, or 0 for `max_char_run` and `max_loop`, turns a rule off. Rules are tried in the order of
//! the table.
//!
//! Gopher's shares are for pages: its other rules drop documents of fewer than 50 words before, and in one of twelve, two
//! that come twice are a third. Shares therefore judge only texts of at least `min_words` words.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::Missing;

mod lines;
mod ngrams;
mod runs;
mod table;
mod words;

use ngrams::NGrams;
use runs::{Chars, MOST_PERIOD};
use words::Words;

/// Configuration of `repetition`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Longest run of one character that is not white space, or most times that 2 to 12 of them come in a row. 0 turns the
    /// rules off.
    pub max_char_run: u32,
    /// Most times that a word, or a phrase of up to `loop_words` words, may come in a row. 0 turns the rule off.
    pub max_loop: u32,
    /// Most words of a phrase that `max_loop` looks for: 1 (words only) to 32.
    pub loop_words: u32,
    /// Texts of fewer words are not judged by the shares below.
    pub min_words: u32,
    /// Most lines that came before, as a share of the lines. 1 turns the rule off.
    pub max_duplicate_lines: f64,
    /// Most characters of such lines, as a share of the lines' characters. 1 turns the rule off.
    pub max_duplicate_line_chars: f64,
    /// Most paragraphs (blank lines separate them) that came before, as a share. 1 turns the rule off.
    pub max_duplicate_paragraphs: f64,
    /// Most characters of such paragraphs, as a share of the paragraphs' characters. 1 turns the rule off.
    pub max_duplicate_paragraph_chars: f64,
    /// Most characters in the most frequent pair of words, as a share of the words' characters. 1 turns the rule off.
    pub max_top_2gram: f64,
    /// The same of three words.
    pub max_top_3gram: f64,
    /// The same of four words.
    pub max_top_4gram: f64,
    /// Most characters in five words that came before, as a share of the words' characters. 1 turns the rule off.
    pub max_duplicate_5grams: f64,
    /// The same of six words.
    pub max_duplicate_6grams: f64,
    /// The same of seven words.
    pub max_duplicate_7grams: f64,
    /// The same of eight words.
    pub max_duplicate_8grams: f64,
    /// The same of nine words.
    pub max_duplicate_9grams: f64,
    /// The same of ten words.
    pub max_duplicate_10grams: f64,
    /// What becomes of a row without text: `drop`, `keep` or `error`.
    pub no_text: Missing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_char_run: 100,
            max_loop: 7,
            loop_words: 1,
            min_words: 50,
            max_duplicate_lines: 0.30,
            max_duplicate_line_chars: 0.20,
            max_duplicate_paragraphs: 0.30,
            max_duplicate_paragraph_chars: 0.20,
            max_top_2gram: 0.20,
            max_top_3gram: 0.18,
            max_top_4gram: 0.16,
            max_duplicate_5grams: 0.15,
            max_duplicate_6grams: 0.14,
            max_duplicate_7grams: 0.13,
            max_duplicate_8grams: 0.12,
            max_duplicate_9grams: 0.11,
            max_duplicate_10grams: 0.10,
            no_text: Missing::Drop,
        }
    }
}

/// The n of the n-gram rules, in order.
const NS: std::ops::RangeInclusive<usize> = 2..=10;
/// Reasons of the n-gram rules, in order.
const NGRAM_REASONS: [&str; 9] = [
    "top 2-gram",
    "top 3-gram",
    "top 4-gram",
    "duplicate 5-grams",
    "duplicate 6-grams",
    "duplicate 7-grams",
    "duplicate 8-grams",
    "duplicate 9-grams",
    "duplicate 10-grams",
];
/// Rules on n-grams of more words than this are on duplicates, the others on the most frequent.
const MOST_TOP: usize = 4;
/// Longest phrase that loops are looked for: each length costs a pass over the words.
const MOST_LOOP_WORDS: u32 = 32;

impl Config {
    /// The shares of lines and paragraphs: key and bound.
    fn line_shares(&self) -> [(&'static str, f64); 4] {
        [
            ("max_duplicate_lines", self.max_duplicate_lines),
            ("max_duplicate_line_chars", self.max_duplicate_line_chars),
            ("max_duplicate_paragraphs", self.max_duplicate_paragraphs),
            ("max_duplicate_paragraph_chars", self.max_duplicate_paragraph_chars),
        ]
    }

    /// The shares of n-grams, for each of [`NS`]: key and bound.
    fn ngram_shares(&self) -> [(&'static str, f64); 9] {
        [
            ("max_top_2gram", self.max_top_2gram),
            ("max_top_3gram", self.max_top_3gram),
            ("max_top_4gram", self.max_top_4gram),
            ("max_duplicate_5grams", self.max_duplicate_5grams),
            ("max_duplicate_6grams", self.max_duplicate_6grams),
            ("max_duplicate_7grams", self.max_duplicate_7grams),
            ("max_duplicate_8grams", self.max_duplicate_8grams),
            ("max_duplicate_9grams", self.max_duplicate_9grams),
            ("max_duplicate_10grams", self.max_duplicate_10grams),
        ]
    }
}

/// The filter. Its buffers are kept from row to row; what is in them is not.
pub struct Repetition {
    config: Config,
    chars: Chars,
    words: Words,
    ngrams: NGrams,
}

impl Plugin for Repetition {
    type Config = Config;
    const NAME: &'static str = "repetition";
    const SUMMARY: &'static str = "Drops texts that repeat lines, paragraphs, n-grams, words or characters (Gopher).";
    const READS: &'static [Need] = &[Need::utf8("text")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require((1..=MOST_LOOP_WORDS).contains(&config.loop_words), "/loop_words", || {
            format!("{} is outside 1 to {MOST_LOOP_WORDS}; to turn loops off, set max_loop = 0", config.loop_words)
        });
        let idle = config.max_loop == 0 && (2..=MOST_LOOP_WORDS).contains(&config.loop_words);
        findings
            .require(!idle, "/loop_words", || "it does nothing with max_loop = 0; set that, or take this out".into());
        for (name, value) in config.line_shares().into_iter().chain(config.ngram_shares()) {
            findings.require((0.0..=1.0).contains(&value), &format!("/{name}"), || {
                format!("{value} is no share; use 0 to 1 (1 turns the rule off)")
            });
        }
        findings.finish()?;
        Ok(Self { config, chars: Chars::default(), words: Words::default(), ngrams: NGrams::default() })
    }
}

impl Filter for Repetition {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return self.config.no_text.verdict("no text") };
        self.broken_rule(text).map_or(Verdict::Keep, Verdict::drop)
    }
}

impl Repetition {
    /// The first rule that `text` breaks.
    fn broken_rule(&mut self, text: &str) -> Option<&'static str> {
        let config = &self.config;
        // As many bytes as characters, or more.
        let runs = config.max_char_run > 0 && text.len() > config.max_char_run as usize;
        if runs {
            self.chars.read(text);
            if self.chars.has_run(1, config.max_char_run) {
                return Some("repeated character");
            }
        }
        self.words.read(text);
        if config.max_loop > 0 {
            for length in 1..=config.loop_words as usize {
                if self.words.has_loop(text, length, config.max_loop) {
                    return Some(if length == 1 { "repeated word" } else { "repeated phrase" });
                }
            }
        }
        if runs && (2..=MOST_PERIOD).any(|period| self.chars.has_run(period, config.max_char_run)) {
            return Some("repeated characters");
        }
        if self.words.len() < config.min_words as usize {
            return None;
        }
        self.broken_line_rule(text).or_else(|| self.broken_ngram_rule(text))
    }

    fn broken_line_rule(&mut self, text: &str) -> Option<&'static str> {
        let config = &self.config;
        let lines = lines::lines(text).map(lines::Duplicates::of)?;
        if lines.share() > config.max_duplicate_lines {
            return Some("duplicate lines");
        }
        if lines.char_share() > config.max_duplicate_line_chars {
            return Some("duplicate line characters");
        }
        let paragraphs = lines::Duplicates::of(lines::paragraphs(text));
        if paragraphs.share() > config.max_duplicate_paragraphs {
            return Some("duplicate paragraphs");
        }
        (paragraphs.char_share() > config.max_duplicate_paragraph_chars).then_some("duplicate paragraph characters")
    }

    fn broken_ngram_rule(&mut self, text: &str) -> Option<&'static str> {
        let shares = self.config.ngram_shares().map(|(_, most)| most);
        let longest = NS.rev().find(|n| shares[n - NS.start()] < 1.0)?;
        self.ngrams.start(text, &self.words);
        for n in 2..=longest {
            // Longer n-grams repeat only where shorter ones do.
            if !self.ngrams.lengthen() {
                return None;
            }
            let most = shares[n - NS.start()];
            if most >= 1.0 {
                continue;
            }
            let share = if n <= MOST_TOP { self.ngrams.top_share() } else { self.ngrams.duplicate_share() };
            if share > most {
                return Some(NGRAM_REASONS[n - NS.start()]);
            }
        }
        None
    }
}

ovhost_sdk::export_filter!(Repetition);

#[cfg(test)]
mod tests;
