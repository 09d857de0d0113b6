//! Generation: prompts in, tokens out, many sequences at once.
//!
//! ```text
//!  prompts ─ packed ─► prefill ─► logits of each last token ─► pick (greedy | temperature, top-k, top-p) ─┐
//!                        │ KvCache                              ▲                                          │
//!                        └────────────► decode, one token per sequence ◄── still running ◄── eos, stop, length?
//! ```
//! Prompts are never padded; finished sequences leave the batch. With greedy decoding a prompt's answer does not depend on
//! what else is in the batch, and the cache gives what running the whole sequence again would give.

mod config;
mod generate;
mod sample;

pub use config::GenerationConfig;
pub use generate::{FinishReason, Generation, Generator, Prompt, TokenCallback};

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
        /// Its place in the call.
        index: usize,
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
