//! AdamW's moments in fp32 or bf16.
//!
//! ```text
//!  bf16 moments ─► fp32, some tensors at a time ─► fused AdamW on fp32 masters ─► rounded by chance ─► bf16 moments
//! ```
//! The update itself is that of fp32: only what is kept between updates is shorter. It is rounded by chance ("stochastic
//! rounding") because a moment moves by little: with β₂ = 0.999 the second one shrinks by a thousandth an update at most, and
//! the neighbours of a bf16 number are 1/256 away, so that rounding to the nearest would leave it where it is for ever, and
//! with it a step size of long ago. Rounded by chance it is right on average, and the error, at most 1/256 of a value that is
//! itself an average of noisy gradients, does not add up. What is drawn follows from the number of the update and of the
//! tensor: a run repeats and goes on bit for bit.

use ovhost_torch::{AdamWOptions, TorchError, fused_adamw_unless_, round_bf16_};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What AdamW's moments are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// 32-bit floats: 8 bytes a parameter.
    #[default]
    Fp32,
    /// bfloat16, rounded by chance: 4 bytes a parameter.
    Bf16,
}

impl Moments {
    /// Kind of the tensors.
    pub fn kind(self) -> Kind {
        match self {
            Moments::Fp32 => Kind::Float,
            Moments::Bf16 => Kind::BFloat16,
        }
    }
}

/// Values whose moments are in fp32 at once: 256 MiB of them.
const VALUES: usize = 1 << 25;

/// Parameters of one group, all lists in one order.
pub(crate) struct Lists<'a> {
    pub(crate) masters: &'a [&'a Tensor],
    pub(crate) grads: &'a [&'a Tensor],
    pub(crate) exp_avgs: &'a [&'a Tensor],
    pub(crate) exp_avg_sqs: &'a [&'a Tensor],
    pub(crate) steps: &'a [&'a Tensor],
}

impl Lists<'_> {
    /// One update, unless `left_out` (fp32 scalar) is 1. `update` is its number and `first` that of the first tensor among all.
    pub(crate) fn update(
        &self,
        options: AdamWOptions,
        left_out: Option<&Tensor>,
        moments: Moments,
        update: u64,
        first: u64,
    ) -> Result<(), TorchError> {
        let Lists { masters, grads, exp_avgs, exp_avg_sqs, steps } = *self;
        if moments == Moments::Fp32 {
            return fused_adamw_unless_(masters, grads, exp_avgs, exp_avg_sqs, steps, options, left_out);
        }
        let mut at = 0;
        while at < masters.len() {
            let (mut end, mut values) = (at + 1, masters[at].numel());
            while end < masters.len() && values + masters[end].numel() <= VALUES {
                values += masters[end].numel();
                end += 1;
            }
            let wide = |list: &[&Tensor]| list.iter().map(|t| t.f_to_kind(Kind::Float)).collect::<Result<Vec<_>, _>>();
            let (m, v) = (wide(&exp_avgs[at..end])?, wide(&exp_avg_sqs[at..end])?);
            let (m, v) = (m.iter().collect::<Vec<_>>(), v.iter().collect::<Vec<_>>());
            fused_adamw_unless_(&masters[at..end], &grads[at..end], &m, &v, &steps[at..end], options, left_out)?;
            let seeds =
                |which: u64| (at..end).map(|i| (update << 24) + ((first + i as u64) << 1) + which).collect::<Vec<_>>();
            round_bf16_(&exp_avgs[at..end], &m, &seeds(0))?;
            round_bf16_(&exp_avg_sqs[at..end], &v, &seeds(1))?;
            at = end;
        }
        Ok(())
    }
}
