//! Scores rows with a metric, judged ones too.

use anyhow::Result;
use ovhost_plugin::{Batch, CallCtx, MetricInstance, json};
use serde_json::Value;

/// Scores the rows of a batch: one object a row. Rows that ask for a judge and have a value in the column `judgement` are
/// judged with it; what comes of that is their `judged`.
pub fn score(metric: &mut MetricInstance, ctx: &CallCtx, batch: &Batch) -> Result<Vec<Value>> {
    let scored = metric.update(ctx, batch)?;
    let mut rows = json::scored(&scored, batch.rows);
    let Some(judgement) = batch.column("judgement") else { return Ok(rows) };
    for (row, _) in &scored.needs_judge {
        if judgement.is_valid(*row as usize) {
            let at = CallCtx { first_row: ctx.first_row + u64::from(*row), ..*ctx };
            let judged = metric.judged(&at, &batch.slice(*row, row + 1))?;
            rows[*row as usize]["judged"] = json::scored(&judged, 1).remove(0);
        }
    }
    Ok(rows)
}
