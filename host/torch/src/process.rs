//! Switches of the whole process or thread.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;

use crate::{TorchError, ffi};

/// While it lives, this thread records nothing for autograd and its tensors can never be trained: a little faster than
/// `no_grad` for small operators. Guards nest; drop them in reverse order.
#[must_use = "inference mode ends when the guard is dropped"]
pub struct InferenceMode {
    guard: *mut c_void,
    /// Bound to the thread that made it: not Send.
    _thread: PhantomData<*mut ()>,
}

impl InferenceMode {
    /// Enters inference mode.
    ///
    /// # Errors
    /// When libtorch refuses, for example out of memory.
    pub fn new() -> Result<Self, TorchError> {
        // SAFETY: no arguments; null means failure.
        let guard = unsafe { ffi::ov_inference_new() };
        if guard.is_null() { Err(ffi::last_error()) } else { Ok(InferenceMode { guard, _thread: PhantomData }) }
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by ov_inference_new on this thread, freed once.
        unsafe { ffi::ov_inference_free(self.guard) }
    }
}

/// Makes operators without a deterministic implementation fail instead of giving results that differ from run to run.
///
/// # Errors
/// What libtorch throws.
pub fn set_deterministic(on: bool) -> Result<(), TorchError> {
    // SAFETY: a plain value.
    ffi::status(unsafe { ffi::ov_set_deterministic(c_int::from(on)) })
}

/// How exactly fp32 matrices are multiplied; fp32 tensors and sums either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// fp32 throughout: for parity tests.
    Highest,
    /// TF32 where the device has it.
    High,
    /// bf16 factors where the device has them (on CPUs: AVX-512 BF16 or AMX), else as above. Pays for wide layers only:
    /// at width 128 the conversions cost more than the products save (1.5 times slower, measured).
    Medium,
}

/// Sets the precision of fp32 matrix products for the process; libtorch starts with [`MatmulPrecision::Highest`].
///
/// # Errors
/// What libtorch throws.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<(), TorchError> {
    let level = match precision {
        MatmulPrecision::Highest => 0,
        MatmulPrecision::High => 1,
        MatmulPrecision::Medium => 2,
    };
    // SAFETY: a plain value within the shim's table.
    ffi::status(unsafe { ffi::ov_set_matmul_precision(level) })
}

/// Version of the libtorch headers that the shim was compiled with, such as `2.11.0`.
pub fn torch_version() -> &'static str {
    // SAFETY: a string literal of the shim, so it lives for ever.
    unsafe { CStr::from_ptr(ffi::ov_torch_version()) }.to_str().unwrap_or("unknown")
}
