//! What [`tch`] lacks, over a small C++ shim: the only C++ of the project.
//!
//! ```text
//!  tensors ─► attention (varlen) · rope · rms_norm · silu_mul · linear_cross_entropy ─► tensors, differentiable
//!  parameters, gradients ─► foreach_norm ─► foreach_clip_ ─► fused_adamw_ ─► parameters updated in place
//!  process ─► load_cuda (first call in main) · set_deterministic · InferenceMode
//! ```
//!
//! Every function returns a [`TorchError`] where libtorch throws; no C++ exception crosses into Rust.
//!
//! # Linking
//! The binary needs only `libtorch_cpu.so` and `libc10.so`, found through a run path. Every crate that links a binary or
//! tests against this one has `torch-sys` as a direct build- or ordinary dependency and this `build.rs`:
//!
//! ```ignore
//! fn main() {
//!     println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/libtorch/torch/lib");
//!     if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
//!         println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
//!     }
//! }
//! ```

mod attention;
mod cuda;
mod error;
mod ffi;
mod functions;
mod late;
mod optim;
mod process;

pub use attention::{Segments, attention, varlen_attention};
pub use cuda::{load_cuda, memory_peak, reset_memory_peak, torch_lib_dir, upload};
pub use error::TorchError;
pub use functions::{backward_with, dropout_mask, linear_cross_entropy, rms_norm, rope, silu_mul};
pub use late::LateValues;
pub use optim::{
    AdamWOptions, clear_grads, foreach_add_, foreach_clip_, foreach_copy_, foreach_lerp_, foreach_mul_, foreach_norm,
    foreach_zero_, fused_adamw_, fused_adamw_unless_, round_bf16_,
};
pub use process::{InferenceMode, MatmulPrecision, set_deterministic, set_matmul_precision, torch_version};
