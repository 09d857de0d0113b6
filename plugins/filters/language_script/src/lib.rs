//! `language_script`: keeps rows whose text is written in the scripts that a run wants, and says which script that is.
//!
//! ```text
//!  text ──► count.rs: letters by script, words that mix scripts ──► rules ──► verdict
//!                                                               └──► columns `script`, `script-share`
//! ```
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/language_script.wasm"
//! config = { allowed = ["Latin", "Chinese"], min_allowed = 0.95 }
//! ```
//!
//! A script is not a language (Latin is English and French), but it is exact, needs no model, and tells the languages of
//! most mixtures apart. Scripts are Unicode's (UAX #24), written by name or by ISO 15924 code, whatever the case: `Latin` or
//! `Latn`, `Han`, `Cyrillic`. Three names stand for what a language is written in: `Chinese` (Han, Bopomofo), `Japanese`
//! (Han, Hiragana, Katakana), `Korean` (Hangul, Han).
//!
//! | reason | rule |
//! |---|---|
//! | `no text` | the row has no text at all, and `no_text` is `drop` |
//! | `no letters` | no letter of any script, and `no_letters` is `drop` |
//! | `script not allowed` | letters of the `allowed` scripts ÷ letters is below `min_allowed` |
//! | `forbidden script` | letters of the `forbidden` scripts that are not `allowed` ÷ letters is above `max_forbidden` |
//! | `too many scripts` | more than `max_scripts` scripts have `script_floor` of the letters or more each |
//! | `mixed words` | words with letters of scripts that look alike ÷ words is above `max_mixed_words` |
//!
//! Letters of no script (Common, such as `ª`) are not counted. Mixed words are the mark of look-alike letters ("pаypal" with
//! a Cyrillic а): of Latin, Cyrillic, Greek, Armenian, Cherokee and Coptic, two in one word. Other scripts stand beside these in
//! plain writing ("iPhone手机", "iPhone은", "الـPDF"), and so do Greek letters and Latin ones, in units and formulae ("kΩ").
//! Letters of scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) are not counted as words.
//!
//! Columns: `script`, the name of the script that most letters have (of equal ones the first in the text; Unicode's name,
//! such as `Latin`), and with `add_share` also `script-share`, its share of the letters. Rows without letters have no value.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::Missing;
use unicode_script::Script;

mod count;

use count::Counts;

/// Configuration of `language_script`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Scripts that are wanted. Empty: all.
    pub allowed: Vec<String>,
    /// Fewest letters of `allowed` scripts, as a share of the letters.
    pub min_allowed: f64,
    /// Scripts that are not wanted. One that is `allowed` too ("Japanese" and "Korean" share Han) is allowed.
    pub forbidden: Vec<String>,
    /// Most letters of `forbidden` scripts, as a share of the letters.
    pub max_forbidden: f64,
    /// Most scripts of `script_floor` of the letters or more each. 0 turns the rule off.
    pub max_scripts: u32,
    /// Share of the letters from which on a script counts for `max_scripts`.
    pub script_floor: f64,
    /// Most words with letters of several scripts that look alike, as a share of the words. 1 turns the rule off.
    pub max_mixed_words: f64,
    /// Whether the column `script-share` is filled.
    pub add_share: bool,
    /// What becomes of a row whose text has no letter: `drop`, `keep` or `error`.
    pub no_letters: Missing,
    /// What becomes of a row without text: `drop`, `keep` or `error`.
    pub no_text: Missing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            min_allowed: 0.9,
            forbidden: Vec::new(),
            max_forbidden: 0.0,
            max_scripts: 0,
            script_floor: 0.05,
            max_mixed_words: 0.2,
            add_share: false,
            no_letters: Missing::Keep,
            no_text: Missing::Drop,
        }
    }
}

/// The filter.
pub struct LanguageScript {
    config: Config,
    allowed: Scripts,
    forbidden: Scripts,
    /// Kept for its room alone.
    counts: Counts,
}

impl Plugin for LanguageScript {
    type Config = Config;
    const NAME: &'static str = "language_script";
    const SUMMARY: &'static str = "Keeps texts of wanted Unicode scripts, drops mixed ones, and names the main script.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const WRITES: &'static [Write] = &[Write::utf8("script"), Write::f32s("script-share")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let shares = [
            ("min_allowed", config.min_allowed),
            ("max_forbidden", config.max_forbidden),
            ("script_floor", config.script_floor),
            ("max_mixed_words", config.max_mixed_words),
        ];
        for (name, value) in shares {
            findings.require((0.0..=1.0).contains(&value), &format!("/{name}"), || {
                format!("{value} is no share; use 0 to 1")
            });
        }
        let allowed = Scripts::parse(&config.allowed, "allowed", &mut findings);
        let mut forbidden = Scripts::parse(&config.forbidden, "forbidden", &mut findings);
        for (i, name) in config.forbidden.iter().enumerate() {
            let both = scripts(name).is_some_and(|names| names.iter().all(|script| allowed.has(*script)));
            findings.require(!both, &format!("/forbidden/{i}"), || format!("{name} is in `allowed` too; take one out"));
        }
        // "Japanese" and "Korean" share Han: what is allowed by one name is not forbidden by another.
        forbidden.remove(&allowed);
        let default = Config::default();
        let idle = [
            ("min_allowed", config.min_allowed != default.min_allowed && config.allowed.is_empty(), "allowed = []"),
            (
                "max_forbidden",
                config.max_forbidden != default.max_forbidden && config.forbidden.is_empty(),
                "forbidden = []",
            ),
            ("script_floor", config.script_floor != default.script_floor && config.max_scripts == 0, "max_scripts = 0"),
        ];
        for (name, idle, why) in idle {
            // What is no share at all has its own finding.
            let known = shares.iter().any(|(other, value)| *other == name && !(0.0..=1.0).contains(value));
            findings.require(known || !idle, &format!("/{name}"), || {
                format!("it does nothing with {why}; set that, or take this out")
            });
        }
        findings.finish()?;
        Ok(Self { config, allowed, forbidden, counts: Counts::default() })
    }
}

/// A set of scripts.
struct Scripts {
    has: [bool; 256],
    any: bool,
}

impl Scripts {
    /// The scripts of `names`; what is none becomes a finding.
    fn parse(names: &[String], key: &str, findings: &mut Findings) -> Self {
        let mut set = Self { has: [false; 256], any: !names.is_empty() };
        for (i, name) in names.iter().enumerate() {
            let found = scripts(name);
            findings.require(found.is_some(), &format!("/{key}/{i}"), || {
                format!(
                    "{name:?} is no script; use Unicode's name or ISO 15924's code, such as Latin (Latn), Han (Hani), \
                     Cyrillic, Arabic, Devanagari, or one of Chinese, Japanese, Korean"
                )
            });
            for script in found.iter().flatten() {
                set.has[*script as usize] = true;
            }
        }
        set
    }

    /// Takes the scripts of `others` out.
    fn remove(&mut self, others: &Self) {
        self.has.iter_mut().zip(others.has).for_each(|(has, other)| *has &= !other);
    }

    fn has(&self, script: Script) -> bool {
        self.has[script as usize]
    }
}

/// The scripts that a name stands for; None if it is no name.
fn scripts(name: &str) -> Option<Vec<Script>> {
    use Script::{Bopomofo, Han, Hangul, Hiragana, Katakana};
    // Unicode writes "Old_Italic" and "Latn": a capital at the start of each part.
    let mut start = true;
    let name: String = name
        .trim()
        .chars()
        .map(|c| {
            let c = if c == ' ' || c == '-' { '_' } else { c };
            let written = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            start = c == '_';
            written
        })
        .collect();
    Some(match name.as_str() {
        "Chinese" | "Hans" | "Hant" | "Hanb" => vec![Han, Bopomofo],
        "Japanese" | "Jpan" => vec![Han, Hiragana, Katakana],
        "Korean" | "Kore" => vec![Hangul, Han],
        // Not scripts to ask for: what no script claims.
        "Common" | "Zyyy" | "Inherited" | "Zinh" | "Unknown" | "Zzzz" => return None,
        name => vec![Script::from_full_name(name).or_else(|| Script::from_short_name(name))?],
    })
}

impl Filter for LanguageScript {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return self.config.no_text.verdict("no text") };
        self.counts.read(text, self.config.max_mixed_words < 1.0);
        let letters = self.counts.letters();
        let Some((main, most)) = self.counts.main() else { return self.config.no_letters.verdict("no letters") };
        ctx.set("script", main.full_name());
        if self.config.add_share {
            ctx.set("script-share", (f64::from(most) / f64::from(letters)) as f32);
        }
        self.broken_rule(letters).map_or(Verdict::Keep, Verdict::drop)
    }
}

impl LanguageScript {
    /// The first rule that the counted text breaks.
    fn broken_rule(&self, letters: u32) -> Option<&'static str> {
        let config = &self.config;
        let share_of = |set: &Scripts| {
            let of_set = self.counts.by_script().filter(|(script, _)| set.has(*script));
            f64::from(of_set.map(|(_, count)| count).sum::<u32>()) / f64::from(letters)
        };
        if self.allowed.any && share_of(&self.allowed) < config.min_allowed {
            return Some("script not allowed");
        }
        if self.forbidden.any && share_of(&self.forbidden) > config.max_forbidden {
            return Some("forbidden script");
        }
        if config.max_scripts > 0 {
            let floor = config.script_floor * f64::from(letters);
            let scripts = self.counts.by_script().filter(|(_, count)| f64::from(*count) >= floor).count();
            if scripts > config.max_scripts as usize {
                return Some("too many scripts");
            }
        }
        let mixed = f64::from(self.counts.mixed_words) > config.max_mixed_words * f64::from(self.counts.words);
        (config.max_mixed_words < 1.0 && mixed).then_some("mixed words")
    }
}

ovhost_sdk::export_filter!(LanguageScript);

#[cfg(test)]
mod tests;
