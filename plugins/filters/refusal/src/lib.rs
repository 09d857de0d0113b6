//! `refusal`: drops rows whose text is a refusal, talk of the model about itself, a missing image, or boilerplate.
//!
//! ```text
//!  lists/*.txt, `phrases`, the asset ──► fold.rs ──► find.rs: one automaton over all phrases
//!  text ───────────────────────────────► fold.rs ──►   its matches, checked for place and word ends ──► reason
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/refusal.wasm"
//! config = { boilerplate = "off", phrases = ["image description:"], phrases_at = "text_start" }
//! ```
//!
//! | reason | rule |
//! |---|---|
//! | `no text` | the row has no text at all, and `no_text` is `drop` |
//! | `refusal` | a phrase of `lists/refusal.txt`: "I'm sorry", "I cannot", "抱歉" |
//! | `AI identity` | a phrase of `lists/ai_identity.txt`: "As an AI language model", "作为人工智能，" |
//! | `no image` | a phrase of `lists/no_image.txt`: "unable to view images", "请上传图片" |
//! | `boilerplate` | a phrase of `lists/boilerplate.txt`: "Lorem ipsum", "we use cookies", "版权所有" |
//! | `phrase` | one of `phrases` or of the asset `phrases` |
//!
//! The lists are English and Chinese (both scripts). Of several matches the reason is the first of the table. Each list has
//! its own place, see [`Position`]. A phrase matches whole words ("art" is not in "party"); characters of scripts without
//! spaces, such as Chinese and Thai, have no word ends to respect. "I cannot" is no refusal before a phrase of
//! `lists/idioms.txt` ("I can't believe how", "I cannot wait").
//!
//! The asset `phrases` is a text file with one phrase a line; blank lines and lines that start with `#` are not phrases.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::Missing;

mod find;
mod fold;

pub use find::Position;
use find::{Finder, Phrase};
use fold::Folding;

/// Configuration of `refusal`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Where refusals count: `off`, `text_start`, `line_start` or `anywhere`.
    pub refusal: Position,
    /// Where a model's talk about itself counts.
    pub ai_identity: Position,
    /// Where talk of a missing image counts.
    pub no_image: Position,
    /// Where boilerplate counts.
    pub boilerplate: Position,
    /// Further phrases, beside those of the asset `phrases`.
    pub phrases: Vec<String>,
    /// Where `phrases` and the asset's phrases count.
    pub phrases_at: Position,
    /// Whether upper and lower case are the same.
    pub fold_case: bool,
    /// Whether typographic forms are the same: apostrophes, quotes, dashes, full-width letters, kinds and runs of spaces,
    /// invisible characters, and spaces beside Chinese characters.
    pub fold_forms: bool,
    /// What becomes of a row without text: `drop`, `keep` or `error`.
    pub no_text: Missing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            refusal: Position::LineStart,
            ai_identity: Position::Anywhere,
            no_image: Position::Anywhere,
            boilerplate: Position::Anywhere,
            phrases: Vec::new(),
            phrases_at: Position::Anywhere,
            fold_case: true,
            fold_forms: true,
            no_text: Missing::Drop,
        }
    }
}

/// Reasons in order of precedence; a phrase's list is an index into it.
const REASONS: [&str; 5] = ["refusal", "AI identity", "no image", "boilerplate", "phrase"];
const OWN: usize = 4;
const LISTS: [&str; 4] = [
    include_str!("lists/refusal.txt"),
    include_str!("lists/ai_identity.txt"),
    include_str!("lists/no_image.txt"),
    include_str!("lists/boilerplate.txt"),
];
const ASSET: &str = "phrases";
/// Phrases of the list of refusals that plain speech has too, before an idiom.
const HEADS: [&str; 4] = ["I cannot", "I can't", "I cant", "I can not"];
const IDIOMS: &str = include_str!("lists/idioms.txt");

/// The filter.
pub struct Refusal {
    finder: Finder,
    no_text: Missing,
}

impl Plugin for Refusal {
    type Config = Config;
    const NAME: &'static str = "refusal";
    const SUMMARY: &'static str = "Drops refusals, AI self-description, missing-image talk and web boilerplate.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const ASSETS: &'static [&'static str] = &[ASSET];

    fn new(config: Config, assets: &Assets) -> Result<Self, ConfigError> {
        let folding = Folding { case: config.fold_case, forms: config.fold_forms };
        let mut findings = Findings::new();
        let mut phrases = Vec::new();
        let places = [config.refusal, config.ai_identity, config.no_image, config.boilerplate];
        for (list, (text, at)) in LISTS.iter().zip(places).enumerate() {
            if at != Position::Off {
                let phrase = |line: &str| Phrase { text: folding.phrase(line), list, at, head: HEADS.contains(&line) };
                phrases.extend(lines(text).map(|(_, line)| phrase(line)));
            }
        }
        let mut own = |text: &str, pointer: &str, place: &str| {
            let text = folding.phrase(text);
            findings.require(text.chars().nth(1).is_some(), pointer, || {
                format!("{place}a phrase of fewer than 2 characters would match almost every text; remove it")
            });
            phrases.push(Phrase { text, list: OWN, at: config.phrases_at, head: false });
        };
        for (i, phrase) in config.phrases.iter().enumerate() {
            own(phrase, &format!("/phrases/{i}"), "");
        }
        if assets.bytes(ASSET).is_some() {
            let mut any = false;
            for (number, line) in lines(assets.text(ASSET)?) {
                any = true;
                own(line, "", &format!("the asset `{ASSET}`, line {number}: "));
            }
            findings.require(any, "", || {
                format!("the asset `{ASSET}` has no phrase in it; write one a line, or take it out of the recipe")
            });
        }
        let has_own = phrases.iter().any(|phrase| phrase.list == OWN);
        findings.require(!has_own || config.phrases_at != Position::Off, "/phrases_at", || {
            "phrases are given and `off` ignores them; use text_start, line_start or anywhere".into()
        });
        findings.finish()?;
        let idioms = lines(IDIOMS).map(|(_, line)| folding.phrase(line)).collect();
        let finder = Finder::new(folding, &phrases, idioms).map_err(|e| ConfigError::at("", e))?;
        Ok(Self { finder, no_text: config.no_text })
    }
}

/// Number (from 1) and text of each line that holds a phrase.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

impl Filter for Refusal {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return self.no_text.verdict("no text") };
        self.finder.find(text).map_or(Verdict::Keep, |list| Verdict::drop(REASONS[list]))
    }
}

ovhost_sdk::export_filter!(Refusal);

#[cfg(test)]
mod tests;
