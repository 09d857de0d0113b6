//! `[checkpoint]`: when a run is saved, and what of it stays.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EvalConfig;

/// `[checkpoint]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 writes one only at the end or when interrupted.
    pub every: u64,
    /// Newest checkpoints that stay on disk.
    pub keep: usize,
    /// Write them while training goes on, from a copy of the trained weights and the optimiser's state in the host's memory
    /// (12 bytes for each trained value in fp32, 14 in bf16). false: training waits for the disk, and needs no such memory; as it
    /// does in any case with train.lora, whose checkpoints are small.
    pub asynchronous: bool,
    /// Which evaluation's checkpoint stays beside them: { metric = "loss", mode = "min" }. checkpoints/best leads to it. A run
    /// is saved whenever it does better than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<BestConfig>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: 500, keep: 2, asynchronous: true, best: None }
    }
}

/// `checkpoint.best`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestConfig {
    /// "loss", the loss of eval.validation, or a value that a metric plugin gives.
    pub metric: String,
    /// max: the largest value is the best; min: the smallest.
    pub mode: Mode,
}

/// Which of two values is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The smaller.
    Min,
    /// The larger.
    Max,
}

impl Mode {
    /// Whether `new` is better than `old`. What is not a number is never better.
    pub fn better(self, new: f64, old: f64) -> bool {
        match self {
            Mode::Min => new < old,
            Mode::Max => new > old,
        }
    }
}

impl CheckpointConfig {
    pub(super) fn check(&self, eval: &EvalConfig) -> Result<()> {
        ensure!(self.keep > 0, "checkpoint.keep is 0; the newest checkpoint must stay");
        let Some(best) = &self.best else { return Ok(()) };
        let what = format!("checkpoint.best.metric is {:?}", best.metric);
        ensure!(eval.every > 0, "{what}, but eval.every is 0: nothing is evaluated; set it to some steps");
        if best.metric == crate::evaluation::LOSS {
            ensure!(
                !eval.validation.is_empty(),
                "{what}, but eval.validation names no held-out shards to measure it on"
            );
        } else {
            ensure!(
                !eval.shards.is_empty(),
                "{what}, which a metric plugin must give, but eval.shards names no questions for it (\"loss\" is the loss of \
                 eval.validation)"
            );
        }
        Ok(())
    }
}
