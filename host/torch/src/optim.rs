//! The optimiser's kernels over lists of tensors: one call each, no wait for the device.

use tch::Tensor;

use crate::{TorchError, ffi};

/// What one call of [`fused_adamw_`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct AdamWOptions {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

fn same_length(lists: &[(&str, usize)]) -> Result<(), TorchError> {
    match lists.iter().find(|l| l.1 != lists[0].1) {
        Some(other) => Err(TorchError::new(format!(
            "lists differ in length: {} {} and {} {}",
            lists[0].1, lists[0].0, other.1, other.0
        ))),
        None => Ok(()),
    }
}

/// One AdamW update in place. `steps` are fp32 scalars, one per parameter, that count updates: this call adds one to each
/// first. All tensors of one list have one kind and one device.
///
/// # Errors
/// Lists of different lengths, or what libtorch throws (kinds, devices, shapes).
pub fn fused_adamw_(
    params: &[&Tensor],
    grads: &[&Tensor],
    exp_avgs: &[&Tensor],
    exp_avg_sqs: &[&Tensor],
    steps: &[&Tensor],
    options: AdamWOptions,
) -> Result<(), TorchError> {
    fused_adamw_unless_(params, grads, exp_avgs, exp_avg_sqs, steps, options, None)
}

/// As [`fused_adamw_`], unless the fp32 scalar `left_out` is 1: then nothing changes, the counts included. It is 0 or 1, and
/// lies where the parameters do; the host does not look at it.
///
/// # Errors
/// As [`fused_adamw_`].
pub fn fused_adamw_unless_(
    params: &[&Tensor],
    grads: &[&Tensor],
    exp_avgs: &[&Tensor],
    exp_avg_sqs: &[&Tensor],
    steps: &[&Tensor],
    options: AdamWOptions,
    left_out: Option<&Tensor>,
) -> Result<(), TorchError> {
    same_length(&[
        ("params", params.len()),
        ("grads", grads.len()),
        ("exp_avgs", exp_avgs.len()),
        ("exp_avg_sqs", exp_avg_sqs.len()),
        ("steps", steps.len()),
    ])?;
    if params.is_empty() {
        return Ok(());
    }
    let n = ffi::count(params.len())?;
    let _guard = tch::no_grad_guard();
    let (p, g, m, v, s) =
        (ffi::list(params), ffi::list(grads), ffi::list(exp_avgs), ffi::list(exp_avg_sqs), ffi::list(steps));
    // SAFETY: five arrays of n live tensors, borrowed for the call.
    ffi::status(unsafe {
        ffi::ov_fused_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            n,
            options.lr,
            options.beta1,
            options.beta2,
            options.weight_decay,
            options.eps,
            left_out.map_or(std::ptr::null(), Tensor::as_ptr),
        )
    })
}

/// L2 norm over all values of all tensors, as an fp32 scalar on their device. An empty list has norm zero.
///
/// # Errors
/// What libtorch throws.
pub fn foreach_norm(tensors: &[&Tensor]) -> Result<Tensor, TorchError> {
    if tensors.is_empty() {
        return Ok(Tensor::f_zeros([], (tch::Kind::Float, tch::Device::Cpu))?);
    }
    let _guard = tch::no_grad_guard();
    let list = ffi::list(tensors);
    // SAFETY: an array of n live tensors, borrowed for the call.
    ffi::tensor(unsafe { ffi::ov_global_norm(list.as_ptr(), ffi::count(tensors.len())?) })
}

/// Multiplies every tensor in place by the scalar tensor `by`.
///
/// # Errors
/// What libtorch throws.
pub fn foreach_mul_(tensors: &[&Tensor], by: &Tensor) -> Result<(), TorchError> {
    if tensors.is_empty() {
        return Ok(());
    }
    let _guard = tch::no_grad_guard();
    let list = ffi::list(tensors);
    // SAFETY: an array of n live tensors, borrowed for the call.
    ffi::status(unsafe { ffi::ov_foreach_mul(list.as_ptr(), ffi::count(tensors.len())?, by.as_ptr()) })
}

/// Scales every tensor by `max / (norm + 1e-6)` where that is below one; `norm` from [`foreach_norm`].
///
/// # Errors
/// What libtorch throws.
pub fn foreach_clip_(tensors: &[&Tensor], norm: &Tensor, max: f64) -> Result<(), TorchError> {
    let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(max)?.f_clamp_max(1.0)?;
    foreach_mul_(tensors, &factor)
}

fn pairs(
    to: &[&Tensor],
    from: &[&Tensor],
    call: unsafe extern "C" fn(ffi::List, ffi::List, std::ffi::c_int) -> std::ffi::c_int,
) -> Result<(), TorchError> {
    same_length(&[("targets", to.len()), ("sources", from.len())])?;
    if to.is_empty() {
        return Ok(());
    }
    let _guard = tch::no_grad_guard();
    let (to, from) = (ffi::list(to), ffi::list(from));
    // SAFETY: `call` is one of the shim's functions over two arrays of n live tensors, borrowed for the call.
    ffi::status(unsafe { call(to.as_ptr(), from.as_ptr(), ffi::count(to.len())?) })
}

/// `to[i] = from[i]`, converting kinds (fp32 masters to bf16 weights).
///
/// # Errors
/// Lists of different lengths, or what libtorch throws.
pub fn foreach_copy_(to: &[&Tensor], from: &[&Tensor]) -> Result<(), TorchError> {
    pairs(to, from, ffi::ov_foreach_copy)
}

/// `to[i] += from[i]`.
///
/// # Errors
/// Lists of different lengths, or what libtorch throws.
pub fn foreach_add_(to: &[&Tensor], from: &[&Tensor]) -> Result<(), TorchError> {
    pairs(to, from, ffi::ov_foreach_add)
}

/// `to[i] += (from[i] - to[i]) * by`: a moving average. All tensors have one kind and one device.
///
/// # Errors
/// Lists of different lengths, or what libtorch throws.
pub fn foreach_lerp_(to: &[&Tensor], from: &[&Tensor], by: f64) -> Result<(), TorchError> {
    same_length(&[("targets", to.len()), ("sources", from.len())])?;
    if to.is_empty() {
        return Ok(());
    }
    let _guard = tch::no_grad_guard();
    let (to, from) = (ffi::list(to), ffi::list(from));
    // SAFETY: two arrays of n live tensors, borrowed for the call.
    ffi::status(unsafe { ffi::ov_foreach_lerp(to.as_ptr(), from.as_ptr(), ffi::count(to.len())?, by) })
}

/// Rounds the fp32 tensors `from` into the bf16 tensors `to`, each value up or down by a chance that makes its mean the value
/// ("stochastic rounding"). The chance is drawn from the tensor's number in `seeds` alone: the same call gives the same bits on
/// one kind of device.
///
/// # Errors
/// Lists of different lengths, or tensors of other kinds or shapes.
pub fn round_bf16_(to: &[&Tensor], from: &[&Tensor], seeds: &[u64]) -> Result<(), TorchError> {
    same_length(&[("targets", to.len()), ("sources", from.len()), ("seeds", seeds.len())])?;
    let _guard = tch::no_grad_guard();
    let (to, from) = (ffi::list(to), ffi::list(from));
    // SAFETY: two arrays of n live tensors and one of n numbers, borrowed for the call; kinds and shapes are checked there.
    ffi::status(unsafe { ffi::ov_round_bf16(to.as_ptr(), from.as_ptr(), seeds.as_ptr(), ffi::count(to.len())?) })
}

/// Sets every tensor to zero.
///
/// # Errors
/// What libtorch throws.
pub fn foreach_zero_(tensors: &[&Tensor]) -> Result<(), TorchError> {
    if tensors.is_empty() {
        return Ok(());
    }
    let _guard = tch::no_grad_guard();
    let list = ffi::list(tensors);
    // SAFETY: an array of n live tensors, borrowed for the call.
    ffi::status(unsafe { ffi::ov_foreach_zero(list.as_ptr(), ffi::count(tensors.len())?) })
}

/// Drops the gradients (not: sets them to zero), so that the next backward pass writes instead of adds.
///
/// # Errors
/// What libtorch throws.
pub fn clear_grads(params: &[&Tensor]) -> Result<(), TorchError> {
    let list = ffi::list(params);
    // SAFETY: an array of n live tensors, borrowed for the call.
    ffi::status(unsafe { ffi::ov_clear_grads(list.as_ptr(), ffi::count(params.len())?) })
}
