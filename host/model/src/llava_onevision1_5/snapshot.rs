//! A model's weights as they are at one moment, in the host's memory: to be written while training changes the model.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::model::LlavaOnevision;
use super::weights;
use crate::builder::Param;
use crate::error::Result;

/// Weights that no later step changes.
pub struct Snapshot {
    config: ModelConfig,
    kind: Kind,
    params: Vec<Param>,
}

/// `tensor`'s values in the host's memory, in `spare` where that fits.
///
/// # Errors
/// What libtorch throws, for example out of memory.
pub fn host_copy(tensor: &Tensor, spare: Option<Tensor>) -> Result<Tensor> {
    // Never its own memory, which a spare may share.
    let apart = |s: &Tensor| s.data_ptr() != tensor.data_ptr();
    let fits = |s: &Tensor| s.kind() == tensor.kind() && s.size() == tensor.size() && apart(s);
    let mut copy = match spare.filter(fits) {
        Some(spare) => spare,
        None => Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?,
    };
    tch::no_grad(|| copy.f_copy_(&tensor.f_detach()?))?;
    Ok(copy)
}

impl LlavaOnevision {
    /// The weights of now, without adapters. Trained ones (those that want gradients) are copied, into the memory of `spare`, a former snapshot of
    /// this model, where there is one; frozen ones never change and are shared.
    ///
    /// # Errors
    /// What libtorch throws, for example out of memory.
    pub fn snapshot(&self, spare: Option<Snapshot>) -> Result<Snapshot> {
        let mut old = spare.map(|s| s.params).unwrap_or_default().into_iter();
        let mut params = Vec::new();
        for mut param in self.parameters() {
            let spare = old.next().filter(|p| p.name == param.name).map(|p| p.tensor);
            if param.tensor.requires_grad() {
                param.tensor = host_copy(&param.tensor, spare)?;
            }
            params.push(param);
        }
        Ok(Snapshot { config: self.config().clone(), kind: self.kind(), params })
    }
}

impl Snapshot {
    /// As [`LlavaOnevision::save_folder`].
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save_folder(&self, dir: impl AsRef<Path>, source: impl AsRef<Path>) -> Result<()> {
        let params = self.params.iter().map(|p| (p.name.as_str(), p.tensor.shallow_clone()));
        weights::save_params(&self.config, self.kind, params, None, dir.as_ref(), Some(source.as_ref()))
    }
}
