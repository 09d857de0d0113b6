//! Balance by the entries that a text contains: count in one pass, sample in the next.

use ovhost_sdk::Rng;
use ovhost_sdk::prelude::*;

use crate::counts::{Counts, Subject};
use crate::split::{Match, Rules};
use crate::vocabulary::Vocabulary;

/// Configuration of `substring_count`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct CountConfig {
    /// Where entries match: `words` between two spaces, as MetaCLIP has it; `anywhere` for scripts without spaces.
    #[serde(rename = "match")]
    pub place: Match,
    /// `A` equals `a`. MetaCLIP's entries are matched with their case.
    pub ignore_case: bool,
    /// Adds the column `concepts`: the numbers of the entries in the text, from 0.
    pub add_concepts: bool,
}

/// Configuration of `substring_sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct SampleConfig {
    /// As in the counting pass.
    #[serde(rename = "match")]
    pub place: Match,
    /// As in the counting pass.
    pub ignore_case: bool,
    /// An entry in more rows than this keeps so many of them in the mean; one in fewer keeps all.
    pub t: u64,
    /// Whether rows that contain no entry are kept.
    pub keep_unmatched: bool,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { place: Match::Words, ignore_case: false, t: 20_000, keep_unmatched: false }
    }
}

fn subject(vocabulary: &Vocabulary) -> Subject {
    Subject { kind: 0, identity: vocabulary.identity(), concepts: vocabulary.len() }
}

/// The first pass: keeps every row and counts its entries.
pub struct SubstringCount {
    config: CountConfig,
    vocabulary: Vocabulary,
    counts: Counts,
    found: Vec<u32>,
}

impl Plugin for SubstringCount {
    type Config = CountConfig;
    const NAME: &'static str = "substring_count";
    const SUMMARY: &'static str = "Counts in how many texts each entry of a word list is; keeps every row.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const WRITES: &'static [Write] = &[Write::u32_lists("concepts")];
    const ASSETS: &'static [&'static str] = &["concepts"];

    fn new(config: CountConfig, assets: &Assets) -> Result<Self, ConfigError> {
        let rules = Rules { place: config.place, ignore_case: config.ignore_case };
        let vocabulary = Vocabulary::parse(assets.text("concepts")?, rules)?;
        let counts = Counts::new(subject(&vocabulary));
        Ok(Self { config, vocabulary, counts, found: Vec::new() })
    }
}

impl Filter for SubstringCount {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        self.vocabulary.find(row.str("text").unwrap_or_default(), &mut self.found);
        self.counts.add(&self.found);
        if self.config.add_concepts {
            ctx.set("concepts", self.found.as_slice());
        }
        Verdict::Keep
    }
}

impl StatefulFilter for SubstringCount {
    fn save(&self) -> Vec<u8> {
        self.counts.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.counts = Counts::read(state, subject(&self.vocabulary)).map_err(crate::refused)?;
        Ok(())
    }
}

/// The second pass: keeps a row if one of its entries lets it pass.
pub struct SubstringSample {
    config: SampleConfig,
    vocabulary: Vocabulary,
    /// Per entry.
    chances: Vec<f64>,
    found: Vec<u32>,
}

impl Plugin for SubstringSample {
    type Config = SampleConfig;
    const NAME: &'static str = "substring_sample";
    const SUMMARY: &'static str = "Thins out texts whose entries are all frequent, as MetaCLIP does.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const ASSETS: &'static [&'static str] = &["concepts", "counts"];

    fn new(config: SampleConfig, assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.t > 0, "/t", || "must be at least 1 (0 would drop every row)".into());
        findings.finish()?;
        let rules = Rules { place: config.place, ignore_case: config.ignore_case };
        let vocabulary = Vocabulary::parse(assets.text("concepts")?, rules)?;
        let counts = crate::counts_asset(assets, subject(&vocabulary))?;
        let chances = counts.each.iter().map(|&count| config.t as f64 / count.max(config.t) as f64).collect();
        Ok(Self { config, vocabulary, chances, found: Vec::new() })
    }
}

impl Filter for SubstringSample {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        self.vocabulary.find(row.str("text").unwrap_or_default(), &mut self.found);
        if self.found.is_empty() {
            return if self.config.keep_unmatched { Verdict::Keep } else { Verdict::drop("no concept") };
        }
        // A throw per row and entry, by the run's seed, the row's place and the entry: the same in any batch.
        let row_key = ctx.rng().next_u64();
        let passes = |&entry: &u32| {
            let entry_key = Rng::new(u64::from(entry)).next_u64();
            Rng::new(row_key ^ entry_key).unit() < self.chances[entry as usize]
        };
        if self.found.iter().any(passes) { Verdict::Keep } else { Verdict::drop("frequent concepts") }
    }
}
