//! A moving average of the weights: after each update `ema += (1 - decay) · (weight - ema)`, in fp32 beside the masters.
//!
//! ```text
//!  masters ─► update ─► ema ─┬─► evaluations (by `eval.weights`)
//!                            ├─► optimizer.safetensors of a checkpoint, as ema.NAME
//!                            └─► model-ema/ (or model/, by `train.export`) at the end
//! ```
//! The average begins with the weights that the run begins with. It covers what is trained: of a module with adapters, the
//! adapters.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tracing::warn;

use crate::optimizer::AdamW;

/// Which weights: what `model/` of a finished run holds, what an evaluation measures, what is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// The weights after the last update. Of a finished run the moving average, where there is one, is then written to model-ema/.
    #[default]
    Last,
    /// The moving average alone.
    Ema,
}

/// The average of every trained parameter.
pub struct Ema {
    decay: f64,
    /// In the order of the optimiser, fp32.
    averages: Vec<(String, Tensor)>,
}

impl Ema {
    /// The average at the start: the weights as they are.
    pub fn new(optimizer: &AdamW, decay: f64) -> Self {
        let copy = |(name, master): (&str, &Tensor)| (name.to_owned(), master.detach().to_kind(Kind::Float).copy());
        Self { decay, averages: optimizer.masters().map(copy).collect() }
    }

    /// To be called after each update; nothing moves where `left_out` (fp32 scalar) is 1.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn update(&mut self, optimizer: &AdamW, left_out: Option<&Tensor>) -> Result<()> {
        let masters: Vec<Tensor> = optimizer.masters().map(|(_, master)| master.detach()).collect();
        let averages: Vec<&Tensor> = self.averages.iter().map(|(_, average)| average).collect();
        if let Some(left_out) = left_out {
            let _guard = tch::no_grad_guard();
            let by = left_out.f_neg()?.f_add_scalar(1.0)?.f_mul_scalar(1.0 - self.decay)?;
            for (average, master) in averages.iter().zip(&masters) {
                let _ = average.shallow_clone().f_lerp_tensor_(master, &by)?;
            }
            return Ok(());
        }
        ovhost_torch::foreach_lerp_(&averages, &masters.iter().collect::<Vec<_>>(), 1.0 - self.decay)
            .context("the moving average of the weights")
    }

    /// What a checkpoint keeps: `ema.NAME`.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.averages.iter().map(|(name, average)| (format!("ema.{name}"), average.shallow_clone()))
    }

    /// Takes what [`Ema::state`] gave out of `saved`. Where a run was begun without an average, it begins here.
    ///
    /// # Errors
    /// Names a tensor that is missing or of another shape.
    pub fn load_state(&mut self, saved: &mut HashMap<String, Tensor>) -> Result<()> {
        if !saved.keys().any(|key| key.starts_with("ema.")) {
            warn!("the checkpoint has no moving average: it begins with the checkpoint's weights");
            return Ok(());
        }
        for (name, average) in &mut self.averages {
            let from =
                saved.remove(&format!("ema.{name}")).with_context(|| format!("the checkpoint lacks ema.{name}"))?;
            let (found, wanted) = (from.size(), average.size());
            ensure!(found == wanted, "ema.{name} has shape {found:?}, the model needs {wanted:?}");
            average.f_copy_(&from)?;
        }
        Ok(())
    }

    /// Exchanges the model's weights and the average; a second call puts both back, bit for bit.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn exchange(&mut self, optimizer: &mut AdamW) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for ((_, average), (_, master)) in self.averages.iter_mut().zip(optimizer.masters()) {
            let other = master.copy();
            master.detach().f_copy_(average)?;
            average.f_copy_(&other)?;
        }
        optimizer.write_params()
    }
}
