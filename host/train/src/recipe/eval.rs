//! `[eval]`: what a model is measured by, by `ovhost eval` and in the middle of a run.

use anyhow::{Result, ensure};
use ovhost_data::loader::{DataConfig, OneOrMany};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ema::Export;

/// `[eval]`
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Shards with the questions that the metric plugins score, relative to the recipe.
    pub shards: Vec<String>,
    /// Most tokens of an answer; the model folder's generation_config.json decides if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Questions answered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Steps between two evaluations of a run, which has one after its last step too; 0 evaluates nothing while training.
    pub every: u64,
    /// Which weights an evaluation of a run measures, and with it checkpoint.best. ema: their moving average, as it is if absent
    /// where train.ema_decay is above 0. last: those of the last update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Export>,
    /// Most questions asked in an evaluation of a run, from the first; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Shards whose loss an evaluation of a run measures without learning from them: filtered, rendered and packed as the
    /// training data. Relative to the recipe; what data.train may name.
    pub validation: Vec<String>,
    /// Part of prepared folders and metadatasets that `validation` reads; "train" if absent, as in data.split_part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_part: Option<String>,
    /// Most micro-batches of the held-out loss, from the first; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_batches: Option<u64>,
}

impl EvalConfig {
    /// Whether an evaluation belongs to the state after `step` of `steps`.
    pub fn due(&self, step: u64, steps: u64) -> bool {
        self.every > 0 && step > 0 && (step.is_multiple_of(self.every) || step >= steps)
    }

    /// How the held-out shards are read: as the training data is, once, in the order of the files.
    pub fn validation_data(&self, data: &DataConfig) -> DataConfig {
        DataConfig {
            train: OneOrMany::Many(self.validation.clone()),
            blend: Vec::new(),
            split_part: self.validation_part.clone(),
            shuffle_buffer: 0,
            epochs: Some(1),
            ..data.clone()
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.limit != Some(0), "eval.limit is 0; it must be at least 1, or be left out to ask all questions");
        ensure!(
            self.validation_batches != Some(0),
            "eval.validation_batches is 0; it must be at least 1, or be left out to measure all"
        );
        ensure!(
            self.every == 0 || !self.validation.is_empty() || !self.shards.is_empty(),
            "eval.every is {}, but there is nothing to evaluate: name held-out shards in eval.validation, or questions in \
             eval.shards, with a metric in [[plugins.metric]]",
            self.every
        );
        Ok(())
    }
}
