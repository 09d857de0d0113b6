//! Balance by the concepts nearest to a row's embedding: count in one pass, sample in the next.

use ovhost_sdk::prelude::*;

use crate::counts::{Counts, Subject};
use crate::table::Table;

/// Configuration of `embedding_count`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct CountConfig {
    /// How many concepts a row has: the ones nearest to its embedding by cosine.
    pub top_k: u32,
}

impl Default for CountConfig {
    fn default() -> Self {
        Self { top_k: 5 }
    }
}

/// How a row's concepts make its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Combine {
    /// The mean of 1 ÷ count.
    #[default]
    Mean,
    /// The sum of 1 ÷ count.
    Sum,
    /// The largest 1 ÷ count: that of the rarest concept.
    Max,
}

/// Configuration of `embedding_sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct SampleConfig {
    /// As in the counting pass.
    pub top_k: u32,
    /// How a row's concepts make its weight.
    pub combine: Combine,
    /// Rows to keep of all that were counted, about; `scale` then follows from the counts. 0: `scale` is given.
    pub target_rows: u64,
    /// A row is kept with the probability weight × scale, at most 1. 0: from `target_rows`.
    pub scale: f64,
    /// Whether rows without an embedding are kept.
    pub keep_unmatched: bool,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { top_k: 5, combine: Combine::Mean, target_rows: 0, scale: 0.0, keep_unmatched: false }
    }
}

fn table(top_k: u32, assets: &Assets) -> Result<Table, ConfigError> {
    let bytes = assets.required("concepts")?;
    Table::parse(bytes, top_k as usize)
}

fn subject(table: &Table) -> Subject {
    Subject { kind: 1, identity: table.identity(), concepts: table.len() }
}

fn require_top_k(findings: &mut Findings, top_k: u32) {
    findings.require((1..=1000).contains(&top_k), "/top_k", || format!("{top_k} is not in 1 to 1000"));
}

/// The first pass: keeps every row and counts its nearest concepts.
pub struct EmbeddingCount {
    table: Table,
    counts: Counts,
    found: Vec<u32>,
}

impl Plugin for EmbeddingCount {
    type Config = CountConfig;
    const NAME: &'static str = "embedding_count";
    const SUMMARY: &'static str = "Counts to how many embeddings each concept is among the nearest; keeps every row.";
    const READS: &'static [Need] = &[Need::new("embedding", ovhost_sdk::ColumnType::F32List)];
    const WRITES: &'static [Write] = &[];
    const ASSETS: &'static [&'static str] = &["concepts"];

    fn new(config: CountConfig, assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        require_top_k(&mut findings, config.top_k);
        findings.finish()?;
        let table = table(config.top_k, assets)?;
        let counts = Counts::new(subject(&table));
        Ok(Self { table, counts, found: Vec::new() })
    }
}

impl Filter for EmbeddingCount {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        self.found.clear();
        if let Some(vector) = row.f32_list("embedding")
            && let Err(message) = self.table.find(vector, &mut self.found)
        {
            return Verdict::Error(message);
        }
        self.counts.add(&self.found);
        Verdict::Keep
    }
}

impl StatefulFilter for EmbeddingCount {
    fn save(&self) -> Vec<u8> {
        self.counts.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.counts = Counts::read(state, subject(&self.table)).map_err(crate::refused)?;
        Ok(())
    }
}

/// The count c from which a concept is thinned out so that `rows` rows are left: Σ min(countₑ, c) = rows × `per_row`, where
/// `per_row` is the concepts of a row. None if that is all rows there are.
pub fn level(counts: &[u64], rows: u64, per_row: usize) -> Option<f64> {
    let mut counts: Vec<u64> = counts.iter().copied().filter(|&count| count > 0).collect();
    counts.sort_unstable();
    let goal = rows as f64 * per_row as f64;
    let mut below = 0.0;
    for (at, &count) in counts.iter().enumerate() {
        let above = (counts.len() - at) as f64;
        if below + above * count as f64 >= goal {
            return Some((goal - below) / above);
        }
        below += count as f64;
    }
    None
}

/// The second pass: keeps a row with a probability that falls with the counts of its concepts.
pub struct EmbeddingSample {
    config: SampleConfig,
    table: Table,
    scale: f64,
    /// 1 ÷ count, per concept.
    inverse: Vec<f64>,
    found: Vec<u32>,
}

impl Plugin for EmbeddingSample {
    type Config = SampleConfig;
    const NAME: &'static str = "embedding_sample";
    const SUMMARY: &'static str = "Thins out rows whose nearest concepts are frequent, by inverse frequency.";
    const READS: &'static [Need] = &[Need::new("embedding", ovhost_sdk::ColumnType::F32List)];
    const ASSETS: &'static [&'static str] = &["concepts", "counts"];

    fn new(config: SampleConfig, assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        require_top_k(&mut findings, config.top_k);
        findings.require(config.scale >= 0.0 && config.scale.is_finite(), "/scale", || {
            format!("{} is no factor; use more than 0", config.scale)
        });
        findings.require((config.scale > 0.0) != (config.target_rows > 0), "/target_rows", || {
            format!("target_rows = {} and scale = {}: give one of the two", config.target_rows, config.scale)
        });
        findings.finish()?;
        let table = table(config.top_k, assets)?;
        let counts = crate::counts_asset(assets, subject(&table))?;
        let scale = if config.target_rows == 0 {
            config.scale
        } else {
            let per_row = table.nearest();
            // With c rows each, a row's concepts make a weight of 1/c (their sum: per_row/c).
            let share = if config.combine == Combine::Sum { per_row as f64 } else { 1.0 };
            level(&counts.each, config.target_rows, per_row).map_or(f64::INFINITY, |level| level / share)
        };
        // A concept that was never counted is at least as rare as one that was counted once.
        let inverse = counts.each.iter().map(|&count| 1.0 / count.max(1) as f64).collect();
        Ok(Self { config, table, scale, inverse, found: Vec::new() })
    }
}

impl EmbeddingSample {
    /// The weight of the concepts in `found`, of which there is at least one.
    fn weight(&self) -> f64 {
        let inverse = self.found.iter().map(|&concept| self.inverse[concept as usize]);
        match self.config.combine {
            Combine::Sum => inverse.sum(),
            Combine::Mean => inverse.sum::<f64>() / self.found.len() as f64,
            Combine::Max => inverse.fold(0.0, f64::max),
        }
    }
}

impl Filter for EmbeddingSample {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        let Some(vector) = row.f32_list("embedding") else {
            return if self.config.keep_unmatched { Verdict::Keep } else { Verdict::drop("no embedding") };
        };
        if let Err(message) = self.table.find(vector, &mut self.found) {
            return Verdict::Error(message);
        }
        if ctx.rng().unit() < self.weight() * self.scale { Verdict::Keep } else { Verdict::drop("frequent concepts") }
    }
}
