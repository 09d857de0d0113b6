//! Hands out parameters by name while a model is put together: from a checkpoint, or drawn at random.
//!
//! `at("q_proj").tensor("weight", …)` makes model code read like the checkpoint's names.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::layers::{LayerNorm, Linear, Place, RmsNorm};

/// The part of the model that a parameter belongs to: what recipes freeze and give learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// The RICE vision tower.
    Vision,
    /// The MLP between tower and decoder.
    Merger,
    /// The decoder, embeddings and head included.
    Language,
}

/// One parameter, as the trainer sees it.
#[derive(Debug)]
pub struct Param {
    /// Hugging Face name in the long style, such as `model.visual.blocks.0.norm1.weight`.
    pub name: String,
    /// The model's own tensor: what changes it changes the model.
    pub tensor: Tensor,
    /// The part of the model.
    pub module: Module,
    /// Whether it is part of an adapter and not of the model itself.
    pub adapter: bool,
}

impl Param {
    /// The same tensor under the same name.
    pub(crate) fn share(&self) -> Self {
        let Param { name, tensor, module, adapter } = self;
        Param { name: name.clone(), tensor: tensor.shallow_clone(), module: *module, adapter: *adapter }
    }
}

/// Draws with libtorch's generator, which belongs to the process: two models drawn at once would mix their numbers.
pub(crate) fn seeded<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    static DRAWING: Mutex<()> = Mutex::new(());
    let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    draw()
}

/// How a parameter is drawn when there is no checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    Normal(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    Ones,
    Zeros,
}

pub(crate) enum Source {
    Random,
    Files(Checkpoint),
    /// Files whose names and shapes are checked: every tensor is one number, seen many times.
    Headers(Checkpoint),
    /// Names and shapes alone: every tensor is one number, seen many times.
    Names,
}

pub(crate) struct Shared {
    pub(crate) source: Source,
    pub(crate) params: Vec<Param>,
    pub(crate) device: Device,
    pub(crate) kind: Kind,
    /// Standard deviation of every matrix.
    pub(crate) std: f64,
}

pub(crate) struct Builder<'a> {
    shared: &'a RefCell<Shared>,
    prefix: String,
    module: Module,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(shared: &'a RefCell<Shared>, prefix: &str, module: Module) -> Self {
        Builder { shared, prefix: prefix.to_owned(), module }
    }

    /// The builder of a submodule.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Builder<'a> {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Builder { shared: self.shared, prefix, module: self.module }
    }

    /// The same place, with parameters of another part of the model.
    pub(crate) fn of(mut self, module: Module) -> Self {
        self.module = module;
        self
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let mut shared = self.shared.borrow_mut();
        let name = if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) };
        let (device, kind) = (shared.device, shared.kind);
        let tensor = match &mut shared.source {
            Source::Files(checkpoint) => checkpoint.take(&name, shape)?.f_to_device(device)?.f_to_kind(kind)?,
            Source::Headers(checkpoint) => {
                checkpoint.expect(&name, shape)?;
                Tensor::f_zeros([1], (kind, device))?.f_expand(shape, false)?
            }
            Source::Names => Tensor::f_zeros([1], (kind, device))?.f_expand(shape, false)?,
            // Drawn on the CPU in fp32, so that a seed means the same weights on every device and in every precision.
            Source::Random => {
                let options = (Kind::Float, Device::Cpu);
                let drawn = match init {
                    Init::Normal(std) => Tensor::f_randn(shape, options)?.f_mul_scalar(std)?,
                    Init::Uniform(bound) => Tensor::f_zeros(shape, options)?.f_uniform_(-bound, bound)?,
                    Init::Ones => Tensor::f_ones(shape, options)?,
                    Init::Zeros => Tensor::f_zeros(shape, options)?,
                };
                drawn.f_to_device(device)?.f_to_kind(kind)?
            }
        };
        shared.params.push(Param { name, tensor: tensor.shallow_clone(), module: self.module, adapter: false });
        Ok(tensor)
    }

    /// `weight [out, in]` and, where asked, `bias [out]`.
    pub(crate) fn linear(&self, name: &str, input: i64, output: i64, bias: bool) -> Result<Linear> {
        let at = self.at(name);
        let std = self.shared.borrow().std;
        Ok(Linear {
            weight: at.tensor("weight", &[output, input], Init::Normal(std))?,
            bias: if bias { Some(at.tensor("bias", &[output], Init::Zeros)?) } else { None },
            adapter: None,
            place: Place { name: at.prefix, module: at.module },
        })
    }

    pub(crate) fn layer_norm(&self, name: &str, width: i64, eps: f64) -> Result<LayerNorm> {
        let at = self.at(name);
        Ok(LayerNorm {
            weight: at.tensor("weight", &[width], Init::Ones)?,
            bias: at.tensor("bias", &[width], Init::Zeros)?,
            eps,
        })
    }

    pub(crate) fn rms_norm(&self, name: &str, width: i64, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: self.at(name).tensor("weight", &[width], Init::Ones)?, eps })
    }
}
