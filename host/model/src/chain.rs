//! A chain of blocks that is run forward and then, block by block, backward: the host's own layer loop.
//!
//! ```text
//!  forward    x ─► leaf ─► block 0 ─► leaf ─► block 1 ─► leaf ─► …        each on an input cut off from the one before
//!  backward                             … ◄─ block 1 ◄─ gradient of its output
//!             kept: its graph is there        computed again: its input is, and the graph is made anew
//! ```
//! So nothing but one tensor per block stays of what is computed again, and a block's memory is free when its backward pass
//! is done. The arithmetic is that of one graph over all blocks.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{ModelError, Result};

/// What the backward pass computes again instead of holding it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recompute {
    /// Which parts.
    pub policy: RecomputePolicy,
    /// Of so many layers one, the first, is computed again; the others are held. 1: every layer.
    pub every: u32,
}

/// Parts of a layer that are computed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputePolicy {
    /// Nothing: fastest, most memory.
    #[default]
    None,
    /// The MLP half of a layer, which is most of its memory and none of its attention.
    Selective,
    /// All of a layer: only its input stays.
    Full,
}

impl Recompute {
    /// Nothing is computed again.
    pub const NONE: Self = Self { policy: RecomputePolicy::None, every: 1 };

    pub(crate) fn chosen(self, layer: usize) -> bool {
        layer.is_multiple_of(self.every.max(1) as usize)
    }
}

/// A function of one tensor. It must give the same result when called again.
type Run<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// A part of a chain.
pub(crate) struct Block<'a> {
    run: Box<Run<'a>>,
    /// Whether it is computed again for its backward pass.
    again: bool,
    /// Whether it uses something else than its input that wants a gradient.
    trains: bool,
}

/// The blocks of layer `layer`, whose halves are `first` and `second`: one block, or under a selective policy two.
pub(crate) fn halves<'a>(
    layer: usize,
    recompute: Recompute,
    trains: [bool; 2],
    first: impl Fn(&Tensor) -> Result<Tensor> + 'a,
    second: impl Fn(&Tensor) -> Result<Tensor> + 'a,
) -> Vec<Block<'a>> {
    let again = recompute.chosen(layer);
    if again && recompute.policy == RecomputePolicy::Selective {
        return vec![
            Block { run: Box::new(first), again: false, trains: trains[0] },
            Block { run: Box::new(second), again: true, trains: trains[1] },
        ];
    }
    vec![Block {
        run: Box::new(move |x| second(&first(x)?)),
        again: again && recompute.policy == RecomputePolicy::Full,
        trains: trains[0] || trains[1],
    }]
}

/// A block that ran, and what its backward pass needs.
struct Ran<'a> {
    block: Block<'a>,
    /// A leaf, which gathers the gradient where one is wanted further up.
    input: Tensor,
    /// With its graph, unless it is computed again.
    output: Option<Tensor>,
}

/// Blocks that ran.
pub(crate) struct Chain<'a> {
    ran: Vec<Ran<'a>>,
}

/// `x` cut off from what made it, as a leaf that gathers a gradient where `grad`.
pub(crate) fn leaf(x: &Tensor, grad: bool) -> Result<Tensor> {
    Ok(x.f_detach()?.f_set_requires_grad(grad)?)
}

impl<'a> Chain<'a> {
    /// Runs `blocks` on `x`. The result is a leaf that wants a gradient if `x` or a block does. Blocks before the first that
    /// does hold nothing.
    pub(crate) fn forward(blocks: Vec<Block<'a>>, x: &Tensor) -> Result<(Self, Tensor)> {
        let mut wanted = x.requires_grad();
        let mut x = leaf(x, wanted)?;
        let mut ran = Vec::new();
        for block in blocks {
            let grad = wanted || block.trains;
            let held = grad && !block.again;
            let output = if held { (block.run)(&x) } else { tch::no_grad(|| (block.run)(&x)) }?;
            let next = leaf(&output, grad)?;
            if grad {
                let output = held.then_some(output);
                ran.push(Ran { block, input: x, output });
            }
            (x, wanted) = (next, grad);
        }
        Ok((Self { ran }, x))
    }

    /// The backward pass from the gradient of the result, which adds to the parameters' gradients. Gives the gradient of the
    /// chain's input, where that wants one.
    pub(crate) fn backward(self, grad: Tensor) -> Result<Option<Tensor>> {
        let mut grad = grad;
        for Ran { block, input, output } in self.ran.into_iter().rev() {
            let output = match output {
                Some(output) => output,
                None => (block.run)(&input)?,
            };
            ovhost_torch::backward_with(&[&output], &[&grad])?;
            if !input.requires_grad() {
                return Ok(None);
            }
            grad = gradient(&input)?;
        }
        Ok(Some(grad))
    }
}

/// What a leaf gathered.
pub(crate) fn gradient(leaf: &Tensor) -> Result<Tensor> {
    let grad = leaf.f_grad()?;
    if grad.defined() { Ok(grad) } else { Err(ModelError::Input("a block does not depend on its input".into())) }
}
