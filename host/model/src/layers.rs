//! The three layers that everything is made of. Letters: T tokens, C channels.

use tch::Tensor;

use crate::builder::Module;
use crate::error::Result;
use crate::lora::Adapter;

/// Where a layer is.
#[derive(Debug)]
pub(crate) struct Place {
    /// Name of its weight without `.weight`, in the long style.
    pub(crate) name: String,
    pub(crate) module: Module,
}

#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) adapter: Option<Adapter>,
    pub(crate) place: Place,
}

impl Linear {
    pub(crate) fn forward(&self, x_tc: &Tensor) -> Result<Tensor> {
        let y_tc = x_tc.f_linear(&self.weight, self.bias.as_ref())?;
        match &self.adapter {
            Some(adapter) => adapter.add(&y_tc, x_tc),
            None => Ok(y_tc),
        }
    }

    /// Whether anything of it wants a gradient.
    pub(crate) fn trains(&self) -> bool {
        let adapter = self.adapter.iter().flat_map(Adapter::tensors);
        [&self.weight].into_iter().chain(&self.bias).chain(adapter).any(Tensor::requires_grad)
    }
}

#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) eps: f64,
}

impl LayerNorm {
    pub(crate) fn forward(&self, x_tc: &Tensor) -> Result<Tensor> {
        let width = self.weight.size();
        Ok(x_tc.f_layer_norm(width.as_slice(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Tensor,
    pub(crate) eps: f64,
}

impl RmsNorm {
    pub(crate) fn forward(&self, x_tc: &Tensor) -> Result<Tensor> {
        Ok(ovhost_torch::rms_norm(x_tc, &self.weight, self.eps)?)
    }
}

/// Rows of a table by index, with a backward pass that is quick and deterministic on every device (index_select's is not).
pub(crate) fn rows(table_nc: &Tensor, index_t: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_embedding(table_nc, index_t, -1, false, false)?)
}
