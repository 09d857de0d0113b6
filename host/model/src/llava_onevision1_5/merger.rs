//! Merger: each square of neighbouring patches becomes one token of the decoder's width.

use tch::Tensor;

use super::config::ModelConfig;
use crate::builder::Builder;
use crate::error::Result;
use crate::layers::{LayerNorm, Linear};

pub(crate) struct Merger {
    ln_q: LayerNorm,
    mlp_0: Linear,
    mlp_2: Linear,
    joined: i64,
}

impl Merger {
    pub(crate) fn new(config: &ModelConfig, at: &Builder<'_>) -> Result<Self> {
        let v = &config.vision;
        let joined = v.hidden_size * v.spatial_merge_size * v.spatial_merge_size;
        Ok(Merger {
            ln_q: at.layer_norm("ln_q", v.hidden_size, v.eps.merger)?,
            mlp_0: at.linear("mlp.0", joined, joined, true)?,
            mlp_2: at.linear("mlp.2", joined, config.text.hidden_size, true)?,
            joined,
        })
    }

    /// Every layer that can have an adapter.
    pub(crate) fn linears(&mut self) -> [&mut Linear; 2] {
        [&mut self.mlp_0, &mut self.mlp_2]
    }

    /// Features `[P, W]`, squares contiguous, to tokens `[P / merge², C]`.
    pub(crate) fn forward(&self, x_pw: &Tensor) -> Result<Tensor> {
        let x = self.ln_q.forward(x_pw)?.f_view([-1, self.joined])?;
        self.mlp_2.forward(&self.mlp_0.forward(&x)?.f_gelu("none")?)
    }
}
