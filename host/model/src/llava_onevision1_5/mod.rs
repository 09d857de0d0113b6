//! LLaVA-OneVision-1.5: RICE ViT, MLP merger, Qwen3-like decoder.
//!
//! ```text
//!  pixel rows ─► vision (class token per image) ─► merger (2×2 patches → 1 token) ─┐
//!  token ids ─► embeddings ────────────────────── image tokens replaced by ◄───────┘ ─► decoder ─► head
//! ```

mod adapters;
mod backward;
mod config;
mod flops;
mod language;
mod memory;
pub mod merge;
mod merger;
mod model;
mod presets;
mod snapshot;
mod vision;
mod weights;

pub use config::{ModelConfig, TextConfig, VisionConfig, VisionEps};
pub use flops::{Flops, Work};
pub use memory::{Activations, Storage};
pub use model::{LlavaOnevision, LoadOptions, default_loss_chunk};
pub use presets::Preset;
pub use snapshot::{Snapshot, host_copy};
pub use weights::save_folder;
