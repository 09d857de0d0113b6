//! Samples in, token batches out. Knows no torch.
//!
//! ```text
//!  tar shards ─► record ─► filter* ─► prompt ─► tokenise + image size ─► packer ─► decode + resize + patchify ─► MicroBatch
//!  (shards)    (record)    └────────────── pipeline ──────────────┘     └──────────────── loader ────────────────┘
//!                                                (chat, image)
//! ```
//! * [`blend`]: what a recipe names as training data: sources and their shares.
//! * [`shards`], [`record`]: WebDataset tars in and out, records.
//! * [`image`]: picture headers, decoding, the Qwen2-VL resize and patch layout.
//! * [`chat`], [`tokenizer_train`]: conversations to token ids with labels; training a small tokenizer.
//! * [`columns`], [`pipeline`]: the columns that plugins see; one sample from record to tokens.
//! * [`loader`]: order, worker threads, packing, exact restart; [`loader::EvalReader`] for evaluation and inference.
//! * [`packed`]: shards whose samples are packs, made offline.
//! * [`rejects`]: counters, and the bound on rejects that ends a run.

pub mod blend;
pub mod chat;
pub mod columns;
pub mod image;
pub mod loader;
pub mod packed;
pub mod pipeline;
pub mod record;
pub mod rejects;
pub mod shards;
pub mod tokenizer_train;

pub use chat::{ChatTokenizer, Encoded};
pub use image::ImageProcessor;
pub use loader::{DataConfig, EvalReader, EvalSample, Loader, LoaderParts, LoaderState, MicroBatch};
pub use record::{Record, Reject};

/// What ends a data pipeline. A single bad sample does not: it is a [`Reject`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A plugin failed as a whole.
    #[error(transparent)]
    Plugin(#[from] ovhost_plugin::PluginError),
    /// Shards as files.
    #[error(transparent)]
    Shard(#[from] shards::ShardError),
    /// An object store failed while samples were read from it.
    #[error("{0}")]
    Source(String),
    /// The tokenizer folder.
    #[error(transparent)]
    Chat(#[from] chat::ChatError),
    /// A key of the recipe's `[data]` section, or plugins that do not fit together.
    #[error("{0}")]
    Config(String),
    /// The saved position does not belong to this data or recipe.
    #[error("cannot resume: {0}")]
    Resume(String),
    /// More samples were rejected than the recipe allows, or none was left.
    #[error("{0}")]
    Rejects(String),
    /// A data thread ended unexpectedly: a defect of the program.
    #[error("a data thread failed: {0}")]
    Worker(String),
}
