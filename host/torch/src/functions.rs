//! Differentiable operators that libtorch does not have as one node. Letters: T tokens, H heads, D head width, C channels, V vocabulary.

use tch::{Kind, Tensor};

use crate::{TorchError, ffi};

fn check(ok: bool, message: impl FnOnce() -> String) -> Result<(), TorchError> {
    if ok { Ok(()) } else { Err(TorchError::new(message())) }
}

/// Rotates `x_thd` by per-token angles: dimension i pairs with i + D/2. `cos_td` and `sin_td` are fp32 `[T, D/2]`; the result
/// has the kind of `x_thd`, the arithmetic is fp32. Differentiable in all three.
///
/// # Errors
/// Shapes that do not fit, or what libtorch throws.
pub fn rope(x_thd: &Tensor, cos_td: &Tensor, sin_td: &Tensor) -> Result<Tensor, TorchError> {
    let (x, c, s) = (x_thd.size(), cos_td.size(), sin_td.size());
    check(x.len() == 3 && x[2] % 2 == 0 && c == [x[0], x[2] / 2] && s == c, || {
        format!("rope: x {x:?} wants cos and sin [T, D/2], got {c:?} and {s:?}")
    })?;
    check(x_thd.kind() == Kind::Double || (cos_td.kind() == Kind::Float && sin_td.kind() == Kind::Float), || {
        format!("rope: cos and sin must be fp32, got {:?}", cos_td.kind())
    })?;
    // SAFETY: three live tensors, borrowed; shapes and kinds checked above, as the CPU kernel reads raw memory.
    ffi::tensor(unsafe { ffi::ov_rope(x_thd.as_ptr(), cos_td.as_ptr(), sin_td.as_ptr()) })
}

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension, statistics in fp32.
///
/// # Errors
/// A weight that is not as wide as the last dimension, or what libtorch throws.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    let (size, width) = (x.size(), weight.size());
    check(width.len() == 1 && size.last() == width.first(), || {
        format!("rms_norm: weight {width:?} does not fit the last dimension of {size:?}")
    })?;
    // SAFETY: two live tensors, borrowed; shapes checked above, as the CPU kernel reads raw memory.
    ffi::tensor(unsafe { ffi::ov_rms_norm(x.as_ptr(), weight.as_ptr(), eps) })
}

/// `silu(gate) * up`, keeping only the two inputs for the backward pass.
///
/// # Errors
/// What libtorch throws.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: two live tensors, borrowed.
    ffi::tensor(unsafe { ffi::ov_silu_mul(gate.as_ptr(), up.as_ptr()) })
}

/// What dropout multiplies `like` by: zero with probability `p`, otherwise `1 / (1 - p)`. Drawn from `seed` alone, so that a
/// layer that is computed again drops the same values, and a run that goes on those of an unbroken one. The same seed gives
/// other values on another kind of device.
///
/// # Errors
/// A probability outside 0 to 1 (1 excluded), or what libtorch throws.
pub fn dropout_mask(like: &Tensor, p: f64, seed: u64) -> Result<Tensor, TorchError> {
    check((0.0..1.0).contains(&p), || format!("dropout_mask: p is {p}; it must be at least 0 and below 1"))?;
    let _guard = tch::no_grad_guard();
    // SAFETY: a live tensor, borrowed, and plain values.
    ffi::tensor(unsafe { ffi::ov_dropout_mask(like.as_ptr(), p, seed) })
}

/// Sum over tokens of the cross-entropy of `hidden_tc @ weight_vc^T` against `targets_t` (i64, all within V): an fp32 scalar.
/// Logits exist for `chunk` tokens at a time; the gradients are computed in the forward pass.
///
/// # Errors
/// Shapes that do not fit, a chunk below one, or what libtorch throws (a target outside the vocabulary included).
pub fn linear_cross_entropy(
    hidden_tc: &Tensor,
    weight_vc: &Tensor,
    targets_t: &Tensor,
    chunk: i64,
) -> Result<Tensor, TorchError> {
    let (h, w, t) = (hidden_tc.size(), weight_vc.size(), targets_t.size());
    check(h.len() == 2 && w.len() == 2 && h[1] == w[1] && t == [h[0]] && chunk > 0, || {
        format!("linear_cross_entropy: hidden {h:?}, weight {w:?}, targets {t:?}, chunk {chunk} do not fit")
    })?;
    // SAFETY: three live tensors, borrowed.
    ffi::tensor(unsafe {
        ffi::ov_linear_cross_entropy(hidden_tc.as_ptr(), weight_vc.as_ptr(), targets_t.as_ptr(), chunk)
    })
}

/// Backward pass from `outputs` with the given gradients, which accumulate into the leaves' `grad`.
///
/// # Errors
/// Lists of different lengths, or what libtorch throws.
pub fn backward_with(outputs: &[&Tensor], grads: &[&Tensor]) -> Result<(), TorchError> {
    check(outputs.len() == grads.len(), || format!("{} outputs but {} gradients", outputs.len(), grads.len()))?;
    let (o, g) = (ffi::list(outputs), ffi::list(grads));
    // SAFETY: two arrays of n live tensors, borrowed for the call.
    ffi::status(unsafe { ffi::ov_backward(o.as_ptr(), g.as_ptr(), ffi::count(o.len())?) })
}
