//! `symbols`: drops rows whose text is made of too much that is not prose: symbols, digits, capitals, links, markup, emoji,
//! or characters that only a broken decoder writes.
//!
//! ```text
//!  text ──► count.rs: one pass over the characters ──► shares ──► the first rule that is broken
//!             └─ only where it saw a trigger ─► links.rs, markup.rs, mojibake.rs, lines
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/symbols.wasm"
//! config = { max_digits = 0.3, max_html = 1 }   # a maximum of 1 is off
//! ```
//!
//! | reason | rule | default | source |
//! |---|---|---|---|
//! | `no text` | the row has no text at all, and `no_text` is `drop` | | |
//! | `control characters` | control characters (but tab and line breaks) ÷ characters | 0 | ours |
//! | `replacement characters` | U+FFFD ÷ characters | 0 | ours |
//! | `mojibake` | characters of UTF-8 read as Windows-1252 ("â€™") ÷ characters | 0.01 | ours |
//! | `too few letters and digits` | letters and digits ÷ characters | 0.25 | data-juicer's alphanumeric filter |
//! | `too much URL` | characters of links and e-mail addresses ÷ characters | 0.3 | ours |
//! | `too much HTML` | characters of HTML tags and entities ÷ characters | 0.1 | ours |
//! | `too many emoji` | emoji ÷ characters | 0.25 | ours |
//! | `too few alphabetic words` | words with a letter ÷ words | 0.8 | Gopher |
//! | `too many hashes` | `#` ÷ words | 0.1 | Gopher |
//! | `too many ellipses` | runs of `...` and `…` ÷ words | 0.1 | Gopher |
//! | `too many digits` | digits ÷ characters | 0.5 | ours |
//! | `too many capitals` | capital letters ÷ letters that have case | 0.9 | ours |
//! | `too many bullet lines` | lines that start with a bullet ÷ lines | 0.9 | Gopher |
//! | `too many ellipsis lines` | lines that end in an ellipsis ÷ lines | 0.3 | Gopher |
//!
//! Gopher is Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1.
//! All shares but those of words and lines are of the characters that are not white space. A word is here what white space
//! separates, as in Gopher, and every letter of a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Myanmar). Bounds are inclusive; a maximum of 1, or a minimum
//! of 0, turns its rule off. Rules are tried in the order of the table.
//!
//! Gopher's shares were made for pages. The rules from `too few alphabetic words` to `too many capitals` therefore judge
//! only texts of at least `min_words` words, and those of lines only texts of at least `min_lines` lines: "42" is a fine
//! answer to a question, and not a page of digits.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::Missing;

mod count;
mod links;
mod markup;
mod mojibake;

use count::Counts;

/// Configuration of `symbols`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Most control characters, as a share of the characters. 1 turns the rule off.
    pub max_control: f64,
    /// Most replacement characters (U+FFFD), as a share of the characters. 1 turns the rule off.
    pub max_replacement: f64,
    /// Most characters of wrongly decoded UTF-8, as a share of the characters. 1 turns the rule off.
    pub max_mojibake: f64,
    /// Fewest letters and digits, as a share of the characters. 0 turns the rule off.
    pub min_alphanumeric: f64,
    /// Most characters of links and e-mail addresses, as a share of the characters. 1 turns the rule off.
    pub max_url: f64,
    /// Most characters of HTML tags and entities, as a share of the characters. 1 turns the rule off.
    pub max_html: f64,
    /// Most emoji, as a share of the characters. 1 turns the rule off.
    pub max_emoji: f64,
    /// Fewest words with a letter, as a share of the words. 0 turns the rule off.
    pub min_alphabetic_words: f64,
    /// Most hash signs for each word. 1 turns the rule off.
    pub max_hashes: f64,
    /// Most ellipses for each word. 1 turns the rule off.
    pub max_ellipses: f64,
    /// Most digits, as a share of the characters. 1 turns the rule off.
    pub max_digits: f64,
    /// Most capitals, as a share of the letters that have case. 1 turns the rule off.
    pub max_capitals: f64,
    /// Most lines that start with a bullet, as a share of the lines. 1 turns the rule off.
    pub max_bullet_lines: f64,
    /// Most lines that end in an ellipsis, as a share of the lines. 1 turns the rule off.
    pub max_ellipsis_lines: f64,
    /// Texts of fewer words are not judged by the rules on words, digits and capitals.
    pub min_words: u32,
    /// Texts of fewer lines are not judged by the rules on lines.
    pub min_lines: u32,
    /// What becomes of a row without text: `drop`, `keep` or `error`.
    pub no_text: Missing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_control: 0.0,
            max_replacement: 0.0,
            max_mojibake: 0.01,
            min_alphanumeric: 0.25,
            max_url: 0.3,
            max_html: 0.1,
            max_emoji: 0.25,
            min_alphabetic_words: 0.8,
            max_hashes: 0.1,
            max_ellipses: 0.1,
            max_digits: 0.5,
            max_capitals: 0.9,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_words: 10,
            min_lines: 2,
            no_text: Missing::Drop,
        }
    }
}

/// The filter.
pub struct Symbols {
    config: Config,
}

impl Plugin for Symbols {
    type Config = Config;
    const NAME: &'static str = "symbols";
    const SUMMARY: &'static str =
        "Drops texts with too many symbols, digits, capitals, links, tags or broken characters.";
    const READS: &'static [Need] = &[Need::utf8("text")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        for (name, value) in config.shares() {
            findings.require((0.0..=1.0).contains(&value), &format!("/{name}"), || {
                format!("{value} is no share; use 0 to 1")
            });
        }
        findings.finish()?;
        Ok(Self { config })
    }
}

impl Config {
    /// Every bound by its key.
    fn shares(&self) -> [(&'static str, f64); 14] {
        [
            ("max_control", self.max_control),
            ("max_replacement", self.max_replacement),
            ("max_mojibake", self.max_mojibake),
            ("min_alphanumeric", self.min_alphanumeric),
            ("max_url", self.max_url),
            ("max_html", self.max_html),
            ("max_emoji", self.max_emoji),
            ("min_alphabetic_words", self.min_alphabetic_words),
            ("max_hashes", self.max_hashes),
            ("max_ellipses", self.max_ellipses),
            ("max_digits", self.max_digits),
            ("max_capitals", self.max_capitals),
            ("max_bullet_lines", self.max_bullet_lines),
            ("max_ellipsis_lines", self.max_ellipsis_lines),
        ]
    }

    /// The first rule that `text` breaks.
    fn broken_rule(&self, text: &str) -> Option<&'static str> {
        let counts = Counts::of(text);
        let of_chars = |part: u32, most: f64| over(part, counts.chars, most);
        if of_chars(counts.control, self.max_control) {
            return Some("control characters");
        }
        if of_chars(counts.replacement, self.max_replacement) {
            return Some("replacement characters");
        }
        if self.max_mojibake < 1.0 && counts.mojibake_lead && of_chars(mojibake::chars(text), self.max_mojibake) {
            return Some("mojibake");
        }
        if under(counts.letters + counts.digits, counts.chars, self.min_alphanumeric) {
            return Some("too few letters and digits");
        }
        if self.max_url < 1.0 && counts.link_mark && of_chars(links::chars(text), self.max_url) {
            return Some("too much URL");
        }
        if self.max_html < 1.0 && counts.markup_mark && of_chars(markup::chars(text), self.max_html) {
            return Some("too much HTML");
        }
        if of_chars(counts.emoji, self.max_emoji) {
            return Some("too many emoji");
        }
        self.broken_word_rule(text, &counts).or_else(|| self.broken_line_rule(text, &counts))
    }

    fn broken_word_rule(&self, text: &str, counts: &Counts) -> Option<&'static str> {
        if counts.words < self.min_words {
            return None;
        }
        if under(counts.alphabetic_words, counts.words, self.min_alphabetic_words) {
            return Some("too few alphabetic words");
        }
        if self.max_hashes < 1.0 && over(counts.hashes, counts.words, self.max_hashes) {
            return Some("too many hashes");
        }
        let dots = self.max_ellipses < 1.0 && counts.dots >= 3;
        if dots && over(count::ellipses(text), counts.words, self.max_ellipses) {
            return Some("too many ellipses");
        }
        if over(counts.digits, counts.chars, self.max_digits) {
            return Some("too many digits");
        }
        if over(counts.upper, counts.upper + counts.lower, self.max_capitals) {
            return Some("too many capitals");
        }
        None
    }

    fn broken_line_rule(&self, text: &str, counts: &Counts) -> Option<&'static str> {
        if counts.line_breaks + 1 < self.min_lines || (self.max_bullet_lines >= 1.0 && self.max_ellipsis_lines >= 1.0) {
            return None;
        }
        let (mut lines, mut bullets, mut ellipses) = (0, 0, 0);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            lines += 1;
            bullets += u32::from(starts_with_bullet(line));
            ellipses += u32::from(line.ends_with("...") || line.ends_with('…'));
        }
        if lines < self.min_lines {
            return None;
        }
        if over(bullets, lines, self.max_bullet_lines) {
            return Some("too many bullet lines");
        }
        over(ellipses, lines, self.max_ellipsis_lines).then_some("too many ellipsis lines")
    }
}

/// Whether `part` is more than the share `most` of `whole`. A product, not a quotient: nothing is over a share of nothing.
fn over(part: u32, whole: u32, most: f64) -> bool {
    f64::from(part) > most * f64::from(whole)
}

/// Whether `part` is less than the share `least` of `whole`.
fn under(part: u32, whole: u32, least: f64) -> bool {
    f64::from(part) < least * f64::from(whole)
}

/// Whether a trimmed line starts with a bullet: a sign that is nothing else, or `-`, `*`, `+` with a space behind.
fn starts_with_bullet(line: &str) -> bool {
    line.starts_with(['•', '‣', '▪', '●', '◦', '⁃', '∙', '■', '○'])
        || line.strip_prefix(['-', '*', '+', '·', '–']).is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

impl Filter for Symbols {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return self.config.no_text.verdict("no text") };
        self.config.broken_rule(text).map_or(Verdict::Keep, Verdict::drop)
    }
}

ovhost_sdk::export_filter!(Symbols);

#[cfg(test)]
mod tests;
