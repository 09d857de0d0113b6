//! Low-rank adapters (LoRA; Hu et al., 2021): a frozen weight `W [out, in]` acts as `W + scale · B A`.
//!
//! ```text
//!  x_tc ─┬────────────────────────── W ───────────────────► + ─► y
//!        └─► dropout ─► A [rank, in] ─► scale ─► B [out, rank] ─┘
//! ```
//! `B` starts as zero, so that an adapter changes nothing before the first update. What dropout drops follows from a seed and
//! the adapter's place alone: a layer that is computed again drops the same values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::{Device, Kind, Tensor};

use crate::builder::{Module, Param};
use crate::error::Result;

/// How large adapters are and how they act.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraOptions {
    /// Rank of `B A`, from 1.
    pub rank: i64,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability with which a value that goes into `A` is dropped, from 0 to below 1.
    pub dropout: f64,
    /// The scale is `alpha / √rank` (Kalajdzievski, 2023) instead of `alpha / rank`.
    pub rslora: bool,
}

impl LoraOptions {
    /// What `B A` is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The adapter of one layer.
#[derive(Debug)]
pub(crate) struct Adapter {
    a_rc: Tensor,
    b_or: Tensor,
    options: LoraOptions,
    /// Its place among all adapters.
    index: u64,
    /// What dropout is drawn from; 0 while nothing is dropped.
    seed: Arc<AtomicU64>,
}

impl Adapter {
    /// `y_to` of the layer alone, and what the adapter adds for its input `x_tc`.
    pub(crate) fn add(&self, y_to: &Tensor, x_tc: &Tensor) -> Result<Tensor> {
        let seed = self.seed.load(Ordering::Relaxed);
        let low_tr = if seed == 0 || self.options.dropout == 0.0 {
            x_tc.f_linear(&self.a_rc, None::<Tensor>)?
        } else {
            let mask = ovhost_torch::dropout_mask(x_tc, self.options.dropout, mix(seed, self.index))?;
            x_tc.f_mul(&mask)?.f_linear(&self.a_rc, None::<Tensor>)?
        };
        let added = low_tr.f_mul_scalar(self.options.scale())?.f_linear(&self.b_or, None::<Tensor>)?;
        Ok(y_to.f_add(&added)?)
    }

    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.a_rc, &self.b_or]
    }
}

/// One number out of two, each bit of which hangs on all of theirs (the finaliser of SplitMix64).
fn mix(seed: u64, index: u64) -> u64 {
    let mut x = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// While it lives, the adapters drop values as [`LoraOptions::dropout`] says.
#[must_use = "dropout ends when this is dropped"]
pub struct Dropout {
    seed: Arc<AtomicU64>,
}

impl Drop for Dropout {
    fn drop(&mut self) {
        self.seed.store(0, Ordering::Relaxed);
    }
}

/// All adapters of a model.
#[derive(Debug)]
pub(crate) struct Adapters {
    pub(crate) options: LoraOptions,
    /// Names of the layers, without `.weight`.
    pub(crate) targets: Vec<String>,
    /// `A` and `B` of each target in turn.
    pub(crate) params: Vec<Param>,
    /// Norm of every parameter of the model when it got its adapters, fp32 `[parameters]`: what a checkpoint is held to.
    pub(crate) norms: Tensor,
    /// Names of the model's own parameters that were read from a checkpoint, and so are not those of the base.
    pub(crate) read: Vec<String>,
    seed: Arc<AtomicU64>,
}

impl Adapters {
    pub(crate) fn new(options: LoraOptions, norms: Tensor) -> Self {
        let seed = Arc::new(AtomicU64::new(0));
        Self { options, targets: Vec::new(), params: Vec::new(), norms, read: Vec::new(), seed }
    }

    /// A new adapter, drawn with libtorch's generator: `A` uniform in ±1/√in, `B` zero.
    pub(crate) fn draw(&mut self, name: &str, module: Module, weight: &Tensor) -> Result<Adapter> {
        let (output, input) = (weight.size()[0], weight.size()[1]);
        let bound = (input as f64).powf(-0.5);
        let (rank, host) = (self.options.rank, (Kind::Float, Device::Cpu));
        let place = |t: Tensor| t.f_to_device(weight.device())?.f_to_kind(weight.kind());
        let a_rc = place(Tensor::f_zeros([rank, input], host)?.f_uniform_(-bound, bound)?)?;
        let b_or = place(Tensor::f_zeros([output, rank], host)?)?;
        for (part, tensor) in [("lora_A", &a_rc), ("lora_B", &b_or)] {
            let name = format!("{name}.{part}.weight");
            self.params.push(Param { name, tensor: tensor.shallow_clone(), module, adapter: true });
        }
        let index = self.targets.len() as u64;
        self.targets.push(name.to_owned());
        Ok(Adapter { a_rc, b_or, options: self.options, index, seed: Arc::clone(&self.seed) })
    }

    /// See [`Dropout`].
    pub(crate) fn dropout(&self, from: &[u64]) -> Dropout {
        let seed = from.iter().fold(0, |seed, &number| mix(seed, number));
        // 0 means none.
        self.seed.store(seed.max(1), Ordering::Relaxed);
        Dropout { seed: Arc::clone(&self.seed) }
    }

    /// The parameter `name` with its adapter, where it has one, in its own kind; the sum is made in fp32.
    pub(crate) fn merged(&self, name: &str, tensor: &Tensor) -> Result<Tensor> {
        let target = name.strip_suffix(".weight").and_then(|name| self.targets.iter().position(|t| t == name));
        let Some(pair) = target.and_then(|at| self.params.get(2 * at..2 * at + 2)) else {
            return Ok(tensor.shallow_clone());
        };
        let _guard = tch::no_grad_guard();
        let (a_rc, b_or) = (pair[0].tensor.f_to_kind(Kind::Float)?, pair[1].tensor.f_to_kind(Kind::Float)?);
        let delta = b_or.f_matmul(&a_rc)?.f_mul_scalar(self.options.scale())?;
        Ok(tensor.f_to_kind(Kind::Float)?.f_add(&delta)?.f_to_kind(tensor.kind())?)
    }
}
