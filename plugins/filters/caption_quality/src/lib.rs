//! `caption_quality`: drops rows whose text is a refusal, a stuck repetition, too short or too long.
//!
//! These are the text rules that the LLaVA-OneVision-1.5 data pipeline applies to captions, each of which can be set or
//! turned off. Text in is the column `text` (everything of the record that is learnt); a verdict per row is out.
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/caption_quality.wasm"
//! config = { min_chars = 20, refusal_prefixes = ["i'm sorry", "as an ai"] }
//! ```
//!
//! | reason | rule |
//! |---|---|
//! | `no text` | the row has no text at all |
//! | `refusal` | the text starts with one of `refusal_prefixes`, whatever the case and the kind of apostrophe |
//! | `repeated word` | one word comes `repeated_words` times or more in a row |
//! | `too short`, `too long` | characters outside `min_chars..=max_chars` |
//!
//! A word is what [`words`] gives: a run of letters, digits and underscores, or in scripts without spaces (Chinese, Thai) a
//! letter; words are compared with their case. A character is a Unicode scalar value, so that a Chinese caption is as long as
//! it looks. Rules are tried in the order of the table.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::{count_chars, fold_case, plain_form, words};

/// Configuration of `caption_quality`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Texts that start with one of these are refusals. Case, kinds of apostrophes, quotes and spaces, and signs before the first
    /// letter or digit do not matter. An empty list turns the rule off.
    pub refusal_prefixes: Vec<String>,
    /// So many equal words in a row drop the text. 0 turns the rule off.
    pub repeated_words: u32,
    /// Fewest characters that are kept. 0 turns the rule off.
    pub min_chars: u32,
    /// Most characters that are kept. 0 turns the rule off.
    pub max_chars: u32,
}

impl Default for Config {
    fn default() -> Self {
        let refusal_prefixes = ["i'm sorry", "i am sorry", "i cannot", "i can't"].map(String::from).to_vec();
        Self { refusal_prefixes, repeated_words: 8, min_chars: 50, max_chars: 3500 }
    }
}

/// The filter.
pub struct CaptionQuality {
    config: Config,
}

impl Plugin for CaptionQuality {
    type Config = Config;
    const NAME: &'static str = "caption_quality";
    const SUMMARY: &'static str = "Drops refusals, stuck repetitions, and texts that are too short or too long.";
    const READS: &'static [Need] = &[Need::utf8("text")];

    fn new(mut config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        for (i, prefix) in config.refusal_prefixes.iter().enumerate() {
            findings.require(folded(prefix).next().is_some(), &format!("/refusal_prefixes/{i}"), || {
                "an empty prefix would drop every text; remove it".into()
            });
        }
        findings.require(config.repeated_words != 1, "/repeated_words", || {
            "1 would drop every text; use 0 (off) or at least 2".into()
        });
        findings.require(config.max_chars == 0 || config.max_chars >= config.min_chars, "/max_chars", || {
            format!("{} is below min_chars = {}; use 0 (no bound) or more", config.max_chars, config.min_chars)
        });
        findings.finish()?;
        for prefix in &mut config.refusal_prefixes {
            *prefix = folded(prefix).collect();
        }
        Ok(Self { config })
    }
}

impl Filter for CaptionQuality {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return Verdict::drop("no text") };
        let config = &self.config;
        if starts_with_any(text, &config.refusal_prefixes) {
            return Verdict::drop("refusal");
        }
        if config.repeated_words > 0 && has_repeat(text, config.repeated_words) {
            return Verdict::drop("repeated word");
        }
        let chars = count_chars(text);
        if chars < config.min_chars as usize {
            return Verdict::drop("too short");
        }
        if config.max_chars > 0 && chars > config.max_chars as usize {
            return Verdict::drop("too long");
        }
        Verdict::Keep
    }
}

/// `text` without case and typographic forms, with single spaces and none at the start.
fn folded(text: &str) -> impl Iterator<Item = char> {
    let mut last = ' ';
    let plain = text.trim().chars().filter_map(plain_form).map(|c| if c == '\n' { ' ' } else { c });
    plain.flat_map(fold_case).filter(move |&c| std::mem::replace(&mut last, c) != ' ' || c != ' ')
}

/// Whether `text` starts with one of `prefixes`, which are folded; signs may come before. Looks no further than they are long.
fn starts_with_any(text: &str, prefixes: &[String]) -> bool {
    let starts = |text: &str| {
        // Most texts begin like no prefix, and with a letter that is folded at once.
        let first = match text.as_bytes().first() {
            Some(byte) if byte.is_ascii_alphabetic() => Some(char::from(byte.to_ascii_lowercase())),
            _ => folded(text).next(),
        };
        first.is_some_and(|first| {
            prefixes.iter().filter(|prefix| prefix.starts_with(first)).any(|prefix| {
                let mut folded = folded(text);
                prefix.chars().all(|want| folded.next() == Some(want))
            })
        })
    };
    // A prefix may itself begin with a sign.
    let behind = text.find(char::is_alphanumeric).unwrap_or(text.len());
    starts(text) || behind > 0 && starts(&text[behind..])
}

/// Whether some word comes `times` times or more in a row.
fn has_repeat(text: &str, times: u32) -> bool {
    let (mut last, mut run) = ("", 0);
    for word in words(text) {
        run = if word == last { run + 1 } else { 1 };
        last = word;
        if run >= times {
            return true;
        }
    }
    false
}

ovhost_sdk::export_filter!(CaptionQuality);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    const GOOD: &str = "A brown dog runs over a wet meadow while two children watch from a bench.";

    fn reason(config: Json, text: Json) -> Option<String> {
        let outcome = testing::filter::<CaptionQuality>(config).unwrap().run(json!([{ "text": text }]));
        outcome.reasons()[0].map(String::from)
    }

    fn default_reason(text: &str) -> Option<String> {
        reason(json!({}), json!(text))
    }

    #[test]
    fn good_captions_stay() {
        assert_eq!(default_reason(GOOD), None);
        assert_eq!(default_reason(&"今日は天気がとても良いので公園で犬と散歩をしました。".repeat(2)), None);
    }

    #[test]
    fn refusals_go_whatever_the_case() {
        for start in ["I'm sorry, but", "I AM SORRY that", "i cannot see", "I can't tell"] {
            assert_eq!(default_reason(&format!("{start} {GOOD}")).as_deref(), Some("refusal"), "{start}");
        }
        assert_eq!(default_reason(&format!("{GOOD} I cannot say more.")), None);
        assert_eq!(reason(json!({ "refusal_prefixes": [] }), json!(format!("I cannot {GOOD}"))), None);
        for start in ["I’m sorry", " I'm sorry", "\"I'm sorry", "“I’m  SORRY", "\n- I\u{A0}cannot"] {
            assert_eq!(default_reason(&format!("{start} {GOOD}")).as_deref(), Some("refusal"), "{start}");
        }
        let greek = reason(json!({ "refusal_prefixes": ["ΛΥΠΆΜΑΙ ΚΎΡΙΟΣ"] }), json!(format!("Λυπάμαι κύριος {GOOD}")));
        assert_eq!(greek.as_deref(), Some("refusal"));
        assert_eq!(
            reason(json!({ "refusal_prefixes": ["[image"] }), json!("[Image] of a dog")).as_deref(),
            Some("refusal")
        );
        let turkish = reason(json!({ "refusal_prefixes": ["ÜZGÜNÜM"] }), json!(format!("Üzgünüm, {GOOD}")));
        assert_eq!(turkish.as_deref(), Some("refusal"));
    }

    #[test]
    fn eight_equal_words_in_a_row_go_and_seven_stay() {
        let text = |n: usize| format!("{GOOD} {}", "very, ".repeat(n));
        assert_eq!(default_reason(&text(7)), None);
        assert_eq!(default_reason(&text(8)).as_deref(), Some("repeated word"));
        assert_eq!(reason(json!({ "repeated_words": 0 }), json!(text(8))), None);
        assert_eq!(reason(json!({ "repeated_words": 3 }), json!(text(3))).as_deref(), Some("repeated word"));
        // Scripts without spaces are counted by letters.
        assert_eq!(default_reason(&"猫".repeat(60)).as_deref(), Some("repeated word"));
        assert_eq!(default_reason(&"แมวกิน".repeat(12)), None);
        // Case counts, and other words between break the run.
        assert_eq!(default_reason(&format!("{GOOD} {}", "Very very ".repeat(8))), None);
        assert_eq!(default_reason(&format!("{GOOD} {}", "é_1 ".repeat(8))).as_deref(), Some("repeated word"));
    }

    #[test]
    fn bounds_count_characters_and_are_inclusive() {
        // Pairs of letters, so that the repetition rule stays out of it.
        let text = |n: usize| "äö".chars().cycle().take(n).collect::<String>();
        assert_eq!(default_reason(&text(49)).as_deref(), Some("too short"));
        assert_eq!(default_reason(&text(50)), None);
        assert_eq!(default_reason(&text(3500)), None);
        assert_eq!(default_reason(&text(3501)).as_deref(), Some("too long"));
        assert_eq!(reason(json!({ "min_chars": 0, "max_chars": 0 }), json!("")), None);
        assert_eq!(reason(json!({ "max_chars": 0 }), json!(text(9000))), None);
        assert_eq!(reason(json!({}), Json::Null).as_deref(), Some("no text"));
    }

    #[test]
    fn senseless_configurations_are_refused_with_their_place() {
        let bad = json!({ "refusal_prefixes": ["no", " \u{AD}"], "repeated_words": 1, "min_chars": 9, "max_chars": 8 });
        let error = testing::filter::<CaptionQuality>(bad).err().unwrap();
        let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["/refusal_prefixes/1", "/repeated_words", "/max_chars"]);
        let error = testing::filter::<CaptionQuality>(json!({ "min_char": 3 })).err().unwrap();
        assert_eq!(error.findings[0].path, "/min_char");
        assert!(error.findings[0].message.contains("min_chars"));
    }
}
