//! LLaVA-OneVision-1.5 on libtorch: configuration, weights in and out, the packed forward pass, the loss, cached decoding,
//! and a check against exact expected values.
//!
//! ```text
//!  folder (config.json, *.safetensors) ─► ModelConfig ─► LlavaOnevision ─► hidden ─► logits | loss_sum
//!                                                            ▲                └ prefill / decode with KvCache
//!            PackedInput: ids, positions, cu_seqlens, pixel rows, grids ──────┘
//! ```
//! `merge` makes a model folder of a vision tower and a language model. One folder per model family (`llava_onevision1_5/`: config, vision, merger, language, model, weights); what families
//! share (layers, builder, safetensors, cache) lies beside it. Tensors of a batch are concatenated samples: nothing is padded.

mod builder;
mod cache;
mod chain;
mod checkpoint;
mod error;
pub mod gguf;
mod input;
mod layers;
pub mod llava_onevision1_5;
mod lora;
mod save;
pub mod verify;

pub use builder::{Module, Param};
pub use cache::KvCache;
pub use chain::{Recompute, RecomputePolicy};
pub use checkpoint::Checkpoint;
pub use error::ModelError;
pub use input::{PackedInput, Targets};
pub use llava_onevision1_5::{
    Activations, Flops, LlavaOnevision, LoadOptions, ModelConfig, Preset, Snapshot, Storage, TextConfig, VisionConfig,
    VisionEps, Work, default_loss_chunk, host_copy, save_folder,
};
pub use lora::{Dropout, LoraOptions};
pub use verify::{VerifyReport, VerifyWay, verify, verify_in};
