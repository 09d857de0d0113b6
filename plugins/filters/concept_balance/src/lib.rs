//! `concept_balance`: thins out what a data set has too much of, in two passes over it.
//!
//! ```text
//!  pass 1   rows ─► concepts of each ─► counts ─► saved state, a file      substring_count   embedding_count
//!  pass 2   rows + that file ─► probability per row ─► keep or drop         substring_sample  embedding_sample
//! ```
//!
//! | entries | a row's concepts | kept when |
//! |---|---|---|
//! | `substring_*` | entries of a word list that its text contains (Xu et al., "Demystifying CLIP Data", 2023) | one of its concepts passes, each with p = min(1, t ÷ count) |
//! | `embedding_*` | the `top_k` nearest of a table of vectors to its `embedding` (An et al., "LLaVA-OneVision-1.5", 2025, section 3.1) | with p = min(1, scale × mean, sum or largest of 1 ÷ count) |
//!
//! What is drawn depends on the run's seed and the row's place in the stream (and the entry), so batches do not show. The
//! counts' format is in `counts`: files of several shards are put end to end to add them.

use ovhost_sdk::prelude::*;

pub mod counts;
mod embedding;
mod split;
mod substring;
mod table;
mod vocabulary;

pub use embedding::{EmbeddingCount, EmbeddingSample};
pub use substring::{SubstringCount, SubstringSample};

use counts::{Counts, Subject};

/// The counts of the first pass.
fn counts_asset(assets: &Assets, subject: Subject) -> Result<Counts, ConfigError> {
    let bytes = assets.required("counts")?;
    Counts::read(bytes, subject).map_err(|e| ConfigError::at("", format!("the asset `counts`: {e}")))
}

/// A state that does not fit.
fn refused(why: String) -> PluginError {
    PluginError {
        kind: ovhost_sdk::ErrorKind::BadInput,
        message: format!("the saved counts do not fit: {why}"),
        detail: None,
    }
}

ovhost_sdk::export_stateful_filter!(SubstringCount, EmbeddingCount; SubstringSample, EmbeddingSample);

#[cfg(test)]
mod tests;
