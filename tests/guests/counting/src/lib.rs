//! Filters that remember rows, for the host's tests of streams, and one beside them that does not.
//!
//! | entry | what it does |
//! |---|---|
//! | `counting` | keeps the first `most` rows of each text and adds `nth`, the row's place among its equals |
//! | `frequent` | no state: keeps the rows whose text is in `counting`'s state (asset `counts`) `least` times or more |
//! | `letters` | no state: keeps rows with letters and a sane picture, adds `letters`; a row's cost is measured with it |
//!
//! `counting` panics at the text "poison" and answers the whole call with an error at "refuse", each after it has
//! counted the rows before.

use std::collections::BTreeMap;

use ovhost_sdk::prelude::*;

/// How often each text was seen.
type Counts = BTreeMap<String, u32>;

/// Configuration of `counting`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct CountingConfig {
    /// Rows of one text that are kept.
    pub most: u32,
}

impl Default for CountingConfig {
    fn default() -> Self {
        Self { most: 1 }
    }
}

/// The filter with state.
pub struct Counting {
    config: CountingConfig,
    counts: Counts,
}

impl Plugin for Counting {
    type Config = CountingConfig;
    const NAME: &'static str = "counting";
    const SUMMARY: &'static str = "Keeps the first rows of each text.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const WRITES: &'static [Write] = &[Write::u32s("nth")];

    fn new(config: CountingConfig, _: &Assets) -> Result<Self, ConfigError> {
        Ok(Self { config, counts: Counts::new() })
    }
}

impl Filter for Counting {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
        let text = row.str("text").unwrap_or_default();
        match text {
            "poison" => panic!("this row is poison"),
            // Reading what is not declared fails the call.
            "refuse" => _ = row.str("key"),
            _ => {}
        }
        let count = self.counts.entry(text.to_owned()).or_default();
        *count += 1;
        ctx.set("nth", *count);
        if *count <= self.config.most { Verdict::Keep } else { Verdict::drop("seen before") }
    }
}

impl StatefulFilter for Counting {
    fn save(&self) -> Vec<u8> {
        state::encode(Self::NAME, &self.counts)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
        self.counts = state::decode(Self::NAME, bytes)?;
        Ok(())
    }
}

/// Configuration of `frequent`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct FrequentConfig {
    /// Fewest occurrences of a text that is kept.
    pub least: u32,
}

impl Default for FrequentConfig {
    fn default() -> Self {
        Self { least: 2 }
    }
}

/// The second pass.
pub struct Frequent {
    config: FrequentConfig,
    counts: Counts,
}

impl Plugin for Frequent {
    type Config = FrequentConfig;
    const NAME: &'static str = "frequent";
    const SUMMARY: &'static str = "Keeps rows whose text the first pass saw often.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const ASSETS: &'static [&'static str] = &["counts"];

    fn new(config: FrequentConfig, assets: &Assets) -> Result<Self, ConfigError> {
        let bytes = assets.bytes("counts").ok_or_else(|| ConfigError::at("", "the asset `counts` is missing"))?;
        let counts = state::decode(Counting::NAME, bytes).map_err(|e| ConfigError::at("", e.message))?;
        Ok(Self { config, counts })
    }
}

impl Filter for Frequent {
    fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
        let count = self.counts.get(row.str("text").unwrap_or_default()).copied().unwrap_or(0);
        if count >= self.config.least { Verdict::Keep } else { Verdict::drop("rare") }
    }
}

/// Light work on text and numbers: about what a call's own cost is.
pub struct Letters;

impl Plugin for Letters {
    type Config = ();
    const NAME: &'static str = "letters";
    const SUMMARY: &'static str = "Keeps rows with enough letters and a sane picture.";
    const READS: &'static [Need] = &[Need::utf8("text"), Need::u32s("width"), Need::u32s("height")];
    const WRITES: &'static [Write] = &[Write::f32s("letters")];

    fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

impl Filter for Letters {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
        let text = row.str("text").unwrap_or_default();
        let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
        ctx.set("letters", letters as f32 / text.len().max(1) as f32);
        let (width, height) = (row.u32("width").unwrap_or(0), row.u32("height").unwrap_or(0));
        if 2 * letters < text.len() {
            Verdict::drop("few letters")
        } else if width > 3 * height || height > 3 * width {
            Verdict::drop("odd shape")
        } else {
            Verdict::Keep
        }
    }
}

ovhost_sdk::export_stateful_filter!(Counting; Frequent, Letters);
