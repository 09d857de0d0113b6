//! What a step did → its line of `metrics.jsonl`.

use std::time::Instant;

use ovhost_model::{Flops, Work};
use serde::Serialize;

use crate::step::{Stepped, Update};
use crate::trainer::Run;

/// One line of metrics.jsonl.
#[derive(Debug, Serialize)]
pub struct StepRecord {
    /// Update, from 1.
    pub step: u64,
    /// Mean cross-entropy over the update's learnt tokens, in nats.
    pub loss: f64,
    /// Rate of the base group.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Real tokens of the update.
    pub tokens: u64,
    /// Tokens that the loss covers.
    pub learnt_tokens: u64,
    /// Images of the update.
    pub images: u64,
    /// Samples of the update.
    pub samples: u64,
    /// Real tokens divided by the packs' capacity.
    pub fill: f64,
    /// Real tokens a second.
    pub tokens_per_s: f64,
    /// Share of the step spent waiting for data.
    pub data_wait: f64,
    /// Images a second.
    pub images_per_s: f64,
    /// Operations that the update needs, in 10¹², by the lengths of its samples and images; see [`ovhost_model::Flops`].
    pub tflop: f64,
    /// Those operations a second, as a share of `run.peak_tflops`: model FLOPs utilisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// The same with what is computed again: hardware FLOPs utilisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hfu: Option<f64>,
    /// Most memory that the process has held, in bytes.
    pub peak_memory: u64,
    /// True where a guard left the update out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

impl StepRecord {
    /// The numbers that TensorBoard shows, by tag.
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        let mut scalars = vec![
            ("train/loss", self.loss),
            ("train/lr", self.lr),
            ("train/grad_norm", self.grad_norm),
            ("data/fill", self.fill),
            ("data/wait", self.data_wait),
            ("data/tokens", self.tokens as f64),
            ("data/images", self.images as f64),
            ("speed/tokens_per_s", self.tokens_per_s),
            ("speed/images_per_s", self.images_per_s),
            ("memory/peak_gib", self.peak_memory as f64 / (1u64 << 30) as f64),
        ];
        scalars.extend(self.mfu.map(|mfu| ("speed/mfu", mfu)));
        scalars.extend(self.hfu.map(|hfu| ("speed/hfu", hfu)));
        scalars
    }
}

impl Run<'_> {
    /// The line of the step that was just made, which began at `started`.
    pub(crate) fn record(&mut self, update: &Update, stepped: &Stepped, lr: f64, started: Instant) -> StepRecord {
        let tokens: u64 = update.micros.iter().map(|m| m.input_ids.len() as u64).sum();
        let capacity: u64 = update.micros.iter().map(|m| m.capacity).sum();
        self.state.tokens += tokens;
        let seconds = started.elapsed().as_secs_f64();
        let train = &self.options.recipe.train;
        let (mut trained, recompute, adapted) = (train.trained(), train.recompute(), self.optimizer.adapted());
        trained.retain(|module| !adapted.contains(module));
        let mut flops = Flops::default();
        for (micro, targets) in update.micros.iter().zip(&update.targets) {
            let work = Work { cu_seqlens: &micro.cu_seqlens, grid_thw: &micro.grid_thw, learnt: targets.count() };
            flops += self.model.config().flops_adapted(work, &trained, adapted, recompute);
        }
        let peak = self.options.recipe.run.peak_tflops * 1e12;
        let share = |flops: f64| (peak > 0.0).then(|| flops / seconds / peak);
        let images: u64 = update.micros.iter().map(|m| m.grid_thw.len() as u64).sum();
        StepRecord {
            step: update.step,
            loss: stepped.loss,
            lr,
            grad_norm: stepped.norm,
            tokens,
            learnt_tokens: update.learnt(),
            images,
            samples: update.micros.iter().map(|m| m.keys.len() as u64).sum(),
            fill: tokens as f64 / capacity.max(1) as f64,
            tokens_per_s: tokens as f64 / seconds,
            data_wait: update.wait_s / seconds,
            images_per_s: images as f64 / seconds,
            tflop: flops.model / 1e12,
            mfu: share(flops.model),
            hfu: share(flops.hardware),
            peak_memory: peak_memory(),
            skipped: stepped.skipped,
        }
    }
}

/// Most memory that this process has held, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
