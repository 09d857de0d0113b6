//! `{{name}}`: drops texts of few words, and texts that say the same words again and again.
//!
//! Every text that has words gets the column `word-variety`: its distinct words by all its words, 0 to 1.

use std::collections::BTreeSet;

use ovhost_sdk::prelude::*;

/// What a recipe may say under `config`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Fewest words that are kept.
    pub min_words: u32,
    /// Smallest share of distinct words that is kept, 0 to 1.
    pub min_variety: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_words: 3, min_variety: 0.5 }
    }
}

/// The plugin.
pub struct {{Type}} {
    config: Config,
}

impl Plugin for {{Type}} {
    type Config = Config;
    const NAME: &'static str = "{{name}}";
    const SUMMARY: &'static str = "Drops texts of few words, and texts that repeat their words.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const WRITES: &'static [Write] = &[Write::f32s("word-variety")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let share = (0.0..=1.0).contains(&config.min_variety);
        findings.require(share, "/min_variety", || "must be from 0 to 1".into());
        findings.finish()?;
        Ok(Self { config })
    }
}

impl Filter for {{Type}} {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
        let text = row.str("text").unwrap_or_default().to_lowercase();
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return Verdict::drop("no text");
        }
        let distinct = words.iter().collect::<BTreeSet<_>>().len();
        let variety = distinct as f64 / words.len() as f64;
        ctx.set("word-variety", variety as f32);
        if words.len() < self.config.min_words as usize {
            return Verdict::drop("too few words");
        }
        if variety < self.config.min_variety {
            return Verdict::drop("repetitive");
        }
        Verdict::Keep
    }
}

ovhost_sdk::export_filter!({{Type}});

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    type Tested = {{Type}};

    #[test]
    fn rows_are_kept_and_dropped() {
        let mut plugin = testing::filter::<Tested>(json!({})).unwrap();
        let rows =
            json!([{ "text": "a red square" }, { "text": "red" }, { "text": "red red red red" }, { "text": null }]);
        let outcome = plugin.run(rows);
        assert_eq!(outcome.kept(), [true, false, false, false]);
        assert_eq!(outcome.reasons(), [None, Some("too few words"), Some("repetitive"), Some("no text")]);
        assert_eq!(outcome.column("word-variety")[2], json!(0.25));
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let error = testing::filter::<Tested>(json!({ "min_variety": 2.0 })).err().unwrap();
        assert_eq!(error.findings[0].path, "/min_variety");
    }
}
