//! Metrics: answers and references in, scores per row and mergeable state out, values at the end.
//!
#![doc = include_str!("../docs/metric.md")]

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::ovhost::plugin::metric as wit;
use crate::bindings::ovhost::plugin::types::{Batch, CallCtx, RowError};
use crate::columns::Growing;
use crate::ctx::RowCtx;
use crate::plugin::{ErrorKind, Plugin, PluginError, error};
use crate::rows::{Row, Rows};
use crate::state::{decode, try_encode};

pub use wit::{Info as MetricInfo, Value as MetricValue};

/// Whether a row's score is complete.
#[derive(Clone, Debug, PartialEq)]
pub enum Judge {
    /// The row is scored.
    NotNeeded,
    /// A judge model must answer these messages (role, text) first; then [`Metric::judged`] is called.
    ///
    /// ```
    /// use ovhost_sdk::prelude::*;
    ///
    /// let question = format!("Do {:?} and {:?} mean the same? Say yes or no.", "a cat", "one cat");
    /// let ask = Judge::Ask(vec![("user".into(), question)]);
    /// assert_ne!(ask, Judge::NotNeeded);
    /// ```
    Ask(Vec<(String, String)>),
}

/// Scores answers.
pub trait Metric: Plugin {
    /// Partial sums. Merging must not depend on how rows were split: prefer integer counts.
    type State: Serialize + DeserializeOwned + Default;

    /// The values that [`Metric::finalize`] may give.
    fn outputs(&self) -> Vec<MetricInfo>;

    /// Scores one row into `state`; its own score goes to [`RowCtx::set`].
    ///
    /// # Errors
    /// The row is not what the plugin documents; it counts nowhere.
    fn score(&self, ctx: &mut RowCtx, row: &Row<'_>, state: &mut Self::State) -> Result<Judge, String>;

    /// Scores a row with the judge's answer in the column `judgement`.
    ///
    /// # Errors
    /// The answer cannot be read. The default says that this metric asks no judge.
    fn judged(&self, ctx: &mut RowCtx, row: &Row<'_>, state: &mut Self::State) -> Result<(), String> {
        let _ = (ctx, row, state);
        Err("this metric asks no judge".into())
    }

    /// Adds `other` to `state`.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// The values of everything that was scored.
    fn finalize(&self, state: &Self::State) -> Vec<MetricValue>;
}

/// A metric and its state.
pub(crate) struct Runner<M: Metric> {
    metric: M,
    state: M::State,
}

impl<M: Metric> Runner<M> {
    pub(crate) fn new(metric: M) -> Self {
        Self { metric, state: M::State::default() }
    }

    pub(crate) fn outputs(&self) -> Vec<MetricInfo> {
        self.metric.outputs()
    }

    pub(crate) fn reset(&mut self) {
        self.state = M::State::default();
    }

    pub(crate) fn update(&mut self, call: &CallCtx, batch: &Batch) -> Result<wit::Scored, PluginError> {
        let Self { metric, state } = self;
        each(M::NAME, M::READS, M::WRITES, call, batch, |ctx, row| metric.score(ctx, row, state))
    }

    pub(crate) fn judged(&mut self, call: &CallCtx, batch: &Batch) -> Result<wit::Scored, PluginError> {
        let Self { metric, state } = self;
        let judge = |ctx: &mut RowCtx, row: &Row<'_>| metric.judged(ctx, row, state).map(|()| Judge::NotNeeded);
        each(M::NAME, M::READS, M::WRITES, call, batch, judge)
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>, PluginError> {
        try_encode(M::NAME, &self.state)
    }

    pub(crate) fn merge(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
        let other = decode(M::NAME, bytes)?;
        self.metric.merge(&mut self.state, other);
        Ok(())
    }

    pub(crate) fn finalize(&self) -> Vec<MetricValue> {
        self.metric.finalize(&self.state)
    }
}

fn each(
    name: &str,
    reads: &'static [crate::Need],
    writes: &'static [crate::Write],
    call: &CallCtx,
    batch: &Batch,
    mut score: impl FnMut(&mut RowCtx, &Row<'_>) -> Result<Judge, String>,
) -> Result<wit::Scored, PluginError> {
    let rows = Rows::new(batch, reads).map_err(|e| error(ErrorKind::BadInput, format!("{name}: {e}")))?;
    let internal = |e: String| error(ErrorKind::Internal, format!("{name}: {e}"));
    let mut columns: Vec<Growing> = writes.iter().map(|write| Growing::new(write, batch.rows as usize)).collect();
    let (mut errors, mut needs_judge) = (Vec::new(), Vec::new());
    let mut ctx = RowCtx::new(call, 0, writes);
    for row in rows.iter() {
        match score(&mut ctx, &row) {
            Ok(Judge::NotNeeded) => {}
            Ok(Judge::Ask(messages)) => needs_judge.push(wit::JudgeRequest { row: row.index(), messages }),
            Err(message) => errors.push(RowError { row: row.index(), message }),
        }
        ctx.finish(&mut columns).map_err(internal)?;
    }
    match rows.fault() {
        Some(fault) => Err(internal(fault)),
        None => Ok(wit::Scored { per_row: columns.into_iter().map(Growing::finish).collect(), errors, needs_judge }),
    }
}
