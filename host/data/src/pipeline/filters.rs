//! Rows through a chain of filters: each sees what the one before it kept, and the columns that it added.
//!
//! ```text
//!  Vec<Row> ─► filter 1 ─► … ─► filter n ─► Vec<Row> kept
//!                 └──────────────┴──► Dropped, one for every other row
//! ```
//! Rows reach a filter in runs of consecutive ordinals: `first_row + i` is then right for every row, whatever was
//! dropped before, and a plugin that mixes it with its seed judges a row alike in every cut.

use ovhost_plugin::{Batch, CallCtx, Column, PluginError};

use super::{CHUNK, FilterStage};
use crate::DataError;
use crate::columns::{self, Compute, RowView};
use crate::record::{Record, Reject};

/// A record on its way through the stages.
pub struct Row {
    /// Its number in the caller's list.
    pub at: usize,
    /// Its ordinal in the stream.
    pub ordinal: u64,
    /// The sample.
    pub record: Record,
    /// What filters added to it, as columns of one row.
    pub added: Vec<Column>,
}

/// Why a row did not come through.
#[derive(Debug)]
pub enum Dropped {
    /// A filter dropped it.
    Filtered(Reject),
    /// A filter could not judge it.
    Reject(Reject),
}

/// What belongs to the stream rather than to a row.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Which data-parallel stream.
    pub rank: u32,
    /// What computed columns need.
    pub compute: Compute<'a>,
}

impl Stream<'_> {
    /// Place of a run of rows.
    pub(super) fn ctx(&self, run: &[Row]) -> CallCtx {
        let first_row = run.first().map_or(0, |r| r.ordinal);
        CallCtx { run_seed: self.seed, shard: self.rank, batch_index: first_row / CHUNK, first_row }
    }

    /// The columns `wanted` of a run of rows.
    pub(super) fn batch(&self, run: &[Row], wanted: &[String]) -> Batch {
        let views: Vec<RowView<'_>> =
            run.iter().map(|r| RowView { ordinal: r.ordinal, record: &r.record, added: &r.added }).collect();
        columns::build(&views, wanted, self.compute)
    }
}

/// Filters in order, each with the columns that it reads.
pub struct FilterChain {
    filters: Vec<(Box<dyn FilterStage>, Vec<String>)>,
}

impl FilterChain {
    /// A chain of `filters`.
    pub fn new(filters: Vec<Box<dyn FilterStage>>) -> Self {
        let filters = filters.into_iter().map(|filter| {
            let reads = filter.reads();
            (filter, reads)
        });
        FilterChain { filters: filters.collect() }
    }

    /// The filters, for their state and counters.
    pub fn stages(&mut self) -> impl Iterator<Item = &mut Box<dyn FilterStage>> {
        self.filters.iter_mut().map(|(filter, _)| filter)
    }

    /// Columns that they read.
    pub fn reads(&self) -> impl Iterator<Item = &String> {
        self.filters.iter().flat_map(|(_, reads)| reads)
    }

    /// Judges `rows` (ascending ordinals). Kept rows come back in order; every other goes to `drop` with its `at`.
    ///
    /// # Errors
    /// A filter that fails as a whole.
    pub fn run(
        &mut self,
        mut rows: Vec<Row>,
        stream: &Stream<'_>,
        mut drop: impl FnMut(usize, Dropped),
    ) -> Result<Vec<Row>, DataError> {
        for (filter, wanted) in &mut self.filters {
            let mut kept = Vec::with_capacity(rows.len());
            for mut run in runs(rows) {
                let judged = filter.process(&stream.ctx(&run), &stream.batch(&run, wanted));
                let decisions = judged.map_err(|e| with_key(e, &run))?;
                let added = Batch { rows: run.len() as u32, columns: decisions.add };
                if !added.columns.is_empty() {
                    for (i, row) in run.iter_mut().enumerate() {
                        row.added.extend(added.slice(i as u32, i as u32 + 1).columns);
                    }
                }
                for (i, row) in run.into_iter().enumerate() {
                    let error = decisions.errors.iter().find(|(r, _)| *r as usize == i);
                    if let Some((_, message)) = error {
                        let reason = format!("{}: {message}", filter.name());
                        drop(row.at, Dropped::Reject(reject(&row.record, "filter-error", reason)));
                    } else if decisions.keep.get(i).copied().unwrap_or(false) {
                        kept.push(row);
                    } else {
                        let reason = decisions.reason.get(i).cloned().flatten();
                        let reason = reason.unwrap_or_else(|| "no reason given".into());
                        let reason = format!("{}: {reason}", filter.name());
                        drop(row.at, Dropped::Filtered(reject(&row.record, "filter", reason)));
                    }
                }
            }
            rows = kept;
        }
        Ok(rows)
    }
}

/// A reject of `record`.
pub(super) fn reject(record: &Record, stage: &'static str, reason: String) -> Reject {
    Reject { key: record.key.clone(), shard: record.shard.clone(), stage, reason }
}

/// Names the row that set a trap off by its key: an ordinal of a shuffled stream tells a user nothing. Plugins see the
/// `key` column only where they read it.
pub(super) fn with_key(mut error: DataError, run: &[Row]) -> DataError {
    if let DataError::Plugin(PluginError::Trap { row: Some(ordinal), key: key @ None, .. }) = &mut error {
        *key = run.iter().find(|row| row.ordinal == *ordinal).map(|row| row.record.key.clone());
    }
    error
}

/// Cuts rows into runs of consecutive ordinals.
pub(super) fn runs(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut out: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match out.last_mut() {
            Some(run) if run.last().is_some_and(|r| r.ordinal.checked_add(1) == Some(row.ordinal)) => run.push(row),
            _ => out.push(vec![row]),
        }
    }
    out
}
