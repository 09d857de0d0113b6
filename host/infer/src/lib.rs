//! Generation: prompts in, tokens out, many sequences at once.
//!
//! ```text
//!  prompts ─ as rows get free ─┐
//!                              ▼
//!          ┌─► one pass: prompts that join, packed · one token of each running sequence ─► logits of each last token
//!          │               │ KvCache                                                          │
//!          └─ still running ◄── eos, stop, length? ◄── pick (greedy | temperature, top-k, top-p) ◄┘
//!                              └─► answer
//! ```
//! Prompts are never padded. A finished sequence leaves at once and the next prompt takes its place, so that the batch stays
//! full while there are prompts. An answer does not depend on what else is in the batch (each sequence draws from its own
//! random numbers; sums differ in their last bits with the number of rows, as they do in every library of matrix products),
//! and the cache gives what running the whole sequence again would give.

mod config;
mod generate;
mod sample;
mod stream;

pub use config::GenerationConfig;
pub use generate::{FinishReason, Generation, Generator, Prompt, TokenCallback};
pub use stream::{Request, Served};

/// Why a generation cannot be configured or run.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// `generation_config.json`, or settings that do not make sense.
    #[error("{file}: {key}: {reason}")]
    Config {
        /// The file, or `generation settings`.
        file: String,
        /// The key.
        key: String,
        /// Value seen, values allowed.
        reason: String,
    },
    /// A prompt that cannot be run.
    #[error("prompt {index}: {reason}")]
    Prompt {
        /// Its place in the call, or its id in a stream.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// Token ids that the decoder refused (only asked where there are stop strings).
    #[error("decoding for stop strings: {0}")]
    Decode(String),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ovhost_model::ModelError),
}

impl From<tch::TchError> for InferError {
    fn from(error: tch::TchError) -> Self {
        InferError::Model(error.into())
    }
}

impl From<ovhost_torch::TorchError> for InferError {
    fn from(error: ovhost_torch::TorchError) -> Self {
        InferError::Model(error.into())
    }
}

type Result<T> = std::result::Result<T, InferError>;
