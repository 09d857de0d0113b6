//! Loss and backward pass of a batch, with or without the layers' activations held in between.
//!
//! ```text
//!  pixels ─► patches ═► tower's blocks ═► features ─► merger ─┐
//!  ids ────► embeddings ──────────────────────────────────────┴─► x ═► decoder's layers ═► norm, head, loss
//! ```
//! A double line is a [`Chain`]: the graph is cut there, and the gradient is handed over by hand.

use ovhost_torch::backward_with;
use tch::Tensor;

use super::model::{LlavaOnevision, pixels};
use super::vision::Patches;
use crate::chain::{Chain, Recompute, RecomputePolicy, gradient, leaf};
use crate::error::Result;
use crate::input::{PackedInput, Targets};
use crate::layers::rows;

impl LlavaOnevision {
    /// The backward pass of the loss sum divided by `divisor`: adds to the gradients of the parameters that want one, and gives
    /// the quotient (fp32 scalar, without a graph). Equal to that of [`LlavaOnevision::loss_sum_of`], with the memory that
    /// `recompute` leaves: see [`Recompute`].
    ///
    /// # Errors
    /// As [`LlavaOnevision::loss_sum`].
    pub fn backward(
        &self,
        input: &PackedInput,
        targets: &Targets,
        divisor: f64,
        recompute: Recompute,
    ) -> Result<Tensor> {
        if recompute.policy == RecomputePolicy::None {
            let loss = self.loss_sum_of(input, targets)?.f_div_scalar(divisor)?;
            loss.f_backward()?;
            return Ok(loss.f_detach()?);
        }
        let ready = self.ready(input)?;
        let mut x_tc = self.language.embed(&ready.ids_t)?;
        let start = match &ready.image_index {
            Some(_) => Some(Start::new(self.vision.patches(pixels(input)?, &input.grid_thw)?)?),
            None => None,
        };
        let mut tower = None;
        if let (Some(start), Some(index)) = (&start, &ready.image_index) {
            let blocks = self.vision.chain_blocks(&start.angles, &start.patches.segments, recompute);
            let (chain, features) = Chain::forward(blocks, &start.patches.x_nw)?;
            let merged = self.merger.forward(&rows(&features, &start.patches.keep)?)?;
            x_tc = x_tc.f_index_copy(0, index, &merged)?;
            tower = Some((chain, features));
        }
        let end = ready.segments.longest();
        let blocks = self.language.blocks(&ready.positions_t, end, &ready.segments, &targets.index_n, recompute)?;
        let (chain, last) = Chain::forward(blocks, &x_tc)?;

        let loss = self.language.finish(&last)?;
        let loss = ovhost_torch::linear_cross_entropy(&loss, self.head(), &targets.target_n, self.loss_chunk())?;
        let loss = loss.f_div_scalar(divisor)?;
        loss.f_backward()?;
        let loss = loss.f_detach()?;
        if !last.requires_grad() {
            return Ok(loss);
        }
        let grad = gradient(&last)?;
        drop(last);
        let Some(grad) = chain.backward(grad)? else { return Ok(loss) };
        backward_with(&[&x_tc], &[&grad])?;
        drop((x_tc, grad));
        if let (Some((chain, features)), Some(start)) = (tower, &start)
            && features.requires_grad()
        {
            let grad = gradient(&features)?;
            drop(features);
            let grad = chain.backward(grad)?;
            start.backward(grad)?;
        }
        Ok(loss)
    }
}

/// What comes before the tower's blocks, and the angles that all of them use.
struct Start {
    patches: Patches,
    /// cos and sin, cut off: the blocks' gradients gather here.
    angles: [Tensor; 2],
}

impl Start {
    fn new(patches: Patches) -> Result<Self> {
        let cut = |angles: &Tensor| leaf(angles, angles.requires_grad());
        let angles = [cut(&patches.angles[0])?, cut(&patches.angles[1])?];
        Ok(Self { patches, angles })
    }

    /// From the gradient of what went into the first block.
    fn backward(&self, first: Option<Tensor>) -> Result<()> {
        let of_angle = |angle: &Tensor| if angle.requires_grad() { gradient(angle).map(Some) } else { Ok(None) };
        let grads = [first, of_angle(&self.angles[0])?, of_angle(&self.angles[1])?];
        let outputs = [&self.patches.x_nw, &self.patches.angles[0], &self.patches.angles[1]];
        let (outputs, grads): (Vec<_>, Vec<_>) =
            outputs.into_iter().zip(&grads).filter_map(|(output, grad)| Some((output, grad.as_ref()?))).unzip();
        if outputs.is_empty() { Ok(()) } else { Ok(backward_with(&outputs, &grads)?) }
    }
}
