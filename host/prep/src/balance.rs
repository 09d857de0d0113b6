//! `balance`: thins out what a data set has too much of, in two passes that are one resumable command.
//!
//! ```text
//!  by concepts  shards ─ count.rs ─► OUT/.ovhost/count/counts.state ─ filter.rs with the sampling plugin ─► OUT/*.tar
//!                                                    OUT/*.tar ─ count.rs ─► .ovhost/recount ─► balance.json, concepts.tsv
//!  by sources   shards ─ stats.rs ─► samples of each source ─ sources.rs: chances ─ filter.rs ─► OUT/*.tar, balance.json
//! ```
//! Every pass is jobs over shards on any number of threads and machines; a part that comes to a pass before the others have
//! finished the one before it says so, and is started again later.

mod count;
mod counts;
mod sources;

use std::path::{Path, PathBuf};

use ovhost_plugin::{OnTrap, Plugin};
use serde_json::{Value, json};

pub use counts::Counts;
pub use sources::{SourceRule, SourceSettings, balance_sources};

use crate::error::{AFRESH, PrepError};
use crate::files::{apart, get_json, put, put_json};
use crate::filter::{FilterSettings, filter};
use crate::jobs::{RunOptions, Summary};
use count::Count;

/// A pass that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// What is there is counted.
    Counting,
    /// Samples are drawn.
    Sampling,
    /// What was kept is counted.
    Recounting,
}

impl Pass {
    /// In a word, for a progress bar.
    pub fn words(self) -> &'static str {
        match self {
            Pass::Counting => "counting",
            Pass::Sampling => "sampling",
            Pass::Recounting => "counting what was kept",
        }
    }
}

/// How far a run came.
#[derive(Debug, Clone, PartialEq)]
pub enum Balanced {
    /// This part of a pass is done, others are not: the next pass cannot begin.
    Waiting(Pass, Summary),
    /// All is done; the summary is of sampling, the value what `balance.json` holds.
    Done(Summary, Value),
}

/// Loads the sampling plugin, given the file of counts.
pub type LoadSampler<'a> = dyn Fn(&Path) -> Result<Plugin, PrepError> + Sync + 'a;

/// Balancing by concepts.
pub struct ConceptSettings<'a> {
    /// Shards, in order.
    pub inputs: Vec<PathBuf>,
    /// The counting entry, configured.
    pub count: Plugin,
    /// Makes the sampling entry.
    pub sample: &'a LoadSampler<'a>,
    /// Names of the concepts, by number; of those without one the number is shown.
    pub names: Vec<String>,
    /// Concepts in more samples than this count as frequent in the report.
    pub frequent: Option<u64>,
    /// What a plugin's failure on a row does.
    pub on_trap: OnTrap,
    /// Seed of the draws.
    pub seed: u64,
    /// Pictures whose header promises more pixels are rejected.
    pub max_pixels: u64,
    /// Energon split of the result.
    pub split: String,
}

/// File of the summed counts, in the folder of a counting step.
const COUNTS: &str = "counts.state";

/// Concepts that the report lists.
const LISTED: usize = 100;

/// Balances shards by the concepts of a counting and a sampling plugin.
///
/// # Errors
/// See [`crate::jobs::run`]; plugins that do not fit together.
pub fn balance_concepts(
    settings: &ConceptSettings<'_>,
    options: &RunOptions<'_>,
    begins: &dyn Fn(Pass),
) -> Result<Balanced, PrepError> {
    apart(&settings.inputs, &options.out)?;
    begins(Pass::Counting);
    let before = Count::new("count", settings, settings.inputs.clone())?;
    let summary = before.run(options)?;
    if !summary.finished {
        return Ok(Balanced::Waiting(Pass::Counting, summary));
    }
    begins(Pass::Sampling);
    let sampler = (settings.sample)(&before.file(&options.out))?;
    let drawn = filter(&settings.filter(vec![sampler]), options)?;
    if !drawn.finished {
        return Ok(Balanced::Waiting(Pass::Sampling, drawn));
    }
    begins(Pass::Recounting);
    let after = Count::new("recount", settings, shards_of(&options.out)?)?;
    let summary = after.run(options)?;
    if !summary.finished {
        return Ok(Balanced::Waiting(Pass::Recounting, summary));
    }
    let report = settings.report(&options.out, &before, &after, &drawn)?;
    Ok(Balanced::Done(drawn, report))
}

/// The shards that the sampling pass wrote, by its manifest.
fn shards_of(out: &Path) -> Result<Vec<PathBuf>, PrepError> {
    let path = out.join("manifest.json");
    let manifest: Value = get_json(&path)?.ok_or_else(|| PrepError::Record {
        path: path.display().to_string(),
        why: "it is missing".into(),
        next: AFRESH,
    })?;
    let files = manifest["jobs"].as_array().into_iter().flatten().filter_map(|job| job["files"].as_array()).flatten();
    Ok(files.filter_map(|file| Some(out.join(file["name"].as_str()?))).collect())
}

impl ConceptSettings<'_> {
    fn filter(&self, filters: Vec<Plugin>) -> FilterSettings {
        FilterSettings {
            inputs: self.inputs.clone(),
            filters,
            draw: None,
            on_trap: self.on_trap,
            seed: self.seed,
            chat: None,
            max_pixels: self.max_pixels,
            split: self.split.clone(),
            dry: false,
            save_state: None,
        }
    }

    fn name(&self, concept: usize) -> String {
        self.names.get(concept).cloned().unwrap_or_else(|| concept.to_string())
    }

    /// `concepts.tsv` and `balance.json`.
    fn report(&self, out: &Path, before: &Count<'_>, after: &Count<'_>, drawn: &Summary) -> Result<Value, PrepError> {
        let (before, after) = (Counts::read(&before.file(out))?, Counts::read(&after.file(out))?);
        let mut order: Vec<usize> = (0..before.each.len()).collect();
        order.sort_by(|a, b| before.each[*b].cmp(&before.each[*a]).then(a.cmp(b)));
        let kept = |i: usize| after.each.get(i).copied().unwrap_or(0);
        let mut table = String::from("concept\tbefore\tafter\n");
        for &i in order.iter().filter(|i| before.each[**i] > 0) {
            // A name is one line of a list; what a table cannot hold in it becomes a space.
            let name = self.name(i).replace(['\t', '\n', '\r'], " ");
            table.push_str(&format!("{name}\t{}\t{}\n", before.each[i], kept(i)));
        }
        put(&out.join("concepts.tsv"), table.as_bytes())?;
        let listed: Vec<Value> = order
            .iter()
            .filter(|i| before.each[**i] > 0)
            .take(LISTED)
            .map(|&i| json!({ "concept": self.name(i), "before": before.each[i], "after": kept(i) }))
            .collect();
        let parts = self.frequent.map(|t| {
            let part = |frequent: bool| {
                let of = |i: &&usize| before.each[**i] > 0 && (before.each[**i] > t) == frequent;
                let sum = |count: &dyn Fn(usize) -> u64| order.iter().filter(of).map(|i| count(*i)).sum::<u64>();
                json!({
                    "concepts": order.iter().filter(of).count(), "before": sum(&|i| before.each[i]), "after": sum(&kept),
                })
            };
            json!({ "above": t, "frequent": part(true), "rare": part(false) })
        });
        let report = json!({
            "ovhost_balance": 1, "ovhost": env!("CARGO_PKG_VERSION"), "by": "concepts",
            "count": crate::plugin_record(&self.count), "seed": self.seed, "concepts": before.each.len(),
            "before": before.summary(), "after": after.summary(), "frequency": parts,
            "filtered": drawn.counts.filtered, "rejected": drawn.counts.rejected, "most_frequent": listed,
        });
        put_json(&out.join("balance.json"), &report)?;
        Ok(report)
    }
}
