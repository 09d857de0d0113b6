//! The shim's C functions and the three ways in which they report: a tensor, a status, a pointer.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::TorchError;

pub(crate) type T = *const C_tensor;
pub(crate) type List = *const *const C_tensor;

// SAFETY: these are the definitions in cpp/; each catches every C++ exception, so none unwinds into Rust.
unsafe extern "C" {
    pub(crate) fn ov_take_error() -> *mut c_char;
    pub(crate) fn ov_torch_version() -> *const c_char;
    pub(crate) fn ov_inference_new() -> *mut c_void;
    pub(crate) fn ov_inference_free(guard: *mut c_void);
    pub(crate) fn ov_set_deterministic(on: c_int) -> c_int;
    pub(crate) fn ov_set_matmul_precision(level: c_int) -> c_int;
    pub(crate) fn ov_flash_varlen(
        q: T,
        k: T,
        v: T,
        cu_q: T,
        cu_k: T,
        max_q: i64,
        max_k: i64,
        causal: c_int,
        scale: f64,
    ) -> *mut C_tensor;
    pub(crate) fn ov_attention_cpu(
        q: T,
        k: T,
        v: T,
        groups: *const i64,
        n: c_int,
        causal: c_int,
        scale: f64,
    ) -> *mut C_tensor;
    pub(crate) fn ov_rope(x: T, cos: T, sin: T) -> *mut C_tensor;
    pub(crate) fn ov_rms_norm(x: T, weight: T, eps: f64) -> *mut C_tensor;
    pub(crate) fn ov_silu_mul(gate: T, up: T) -> *mut C_tensor;
    pub(crate) fn ov_linear_cross_entropy(hidden: T, weight: T, targets: T, chunk: i64) -> *mut C_tensor;
    pub(crate) fn ov_backward(outputs: List, grads: List, n: c_int) -> c_int;
    pub(crate) fn ov_fused_adamw(
        params: List,
        grads: List,
        m: List,
        v: List,
        steps: List,
        n: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        left_out: T,
    ) -> c_int;
    pub(crate) fn ov_late_new(values: T) -> *mut c_void;
    pub(crate) fn ov_late_wait(late: *mut c_void) -> *mut C_tensor;
    pub(crate) fn ov_late_free(late: *mut c_void);
    pub(crate) fn ov_global_norm(tensors: List, n: c_int) -> *mut C_tensor;
    pub(crate) fn ov_foreach_mul(tensors: List, n: c_int, by: T) -> c_int;
    pub(crate) fn ov_foreach_copy(to: List, from: List, n: c_int) -> c_int;
    pub(crate) fn ov_foreach_add(to: List, from: List, n: c_int) -> c_int;
    pub(crate) fn ov_foreach_lerp(to: List, from: List, n: c_int, by: f64) -> c_int;
    pub(crate) fn ov_round_bf16(to: List, from: List, seeds: *const u64, n: c_int) -> c_int;
    pub(crate) fn ov_dropout_mask(like: T, p: f64, seed: u64) -> *mut C_tensor;
    pub(crate) fn ov_foreach_zero(tensors: List, n: c_int) -> c_int;
    pub(crate) fn ov_memory_peak(device: c_int) -> i64;
    pub(crate) fn ov_reset_memory_peak(device: c_int) -> c_int;
    pub(crate) fn ov_clear_grads(tensors: List, n: c_int) -> c_int;
}

/// The message that the last failed call of this thread left.
pub(crate) fn last_error() -> TorchError {
    // SAFETY: the shim returns null or a strdup'ed string that becomes ours.
    unsafe {
        let text = ov_take_error();
        if text.is_null() {
            return TorchError::new("unknown error");
        }
        let error = TorchError::new(CStr::from_ptr(text).to_string_lossy());
        libc::free(text.cast());
        error
    }
}

pub(crate) fn tensor(p: *mut C_tensor) -> Result<Tensor, TorchError> {
    if p.is_null() {
        return Err(last_error());
    }
    // SAFETY: the shim made it by `new at::Tensor` and gave it to us; tch deletes it on drop.
    Ok(unsafe { Tensor::from_ptr(p) })
}

pub(crate) fn status(code: c_int) -> Result<(), TorchError> {
    if code == 0 { Ok(()) } else { Err(last_error()) }
}

/// The tensors' pointers; valid while the tensors live.
pub(crate) fn list(tensors: &[&Tensor]) -> Vec<T> {
    tensors.iter().map(|t| t.as_ptr()).collect()
}

/// A list's length as C wants it.
pub(crate) fn count(n: usize) -> Result<c_int, TorchError> {
    c_int::try_from(n).map_err(|_| TorchError::new(format!("{n} values are too many for one call")))
}
