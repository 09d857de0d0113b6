//! Training: the recipe, the step, the schedule, checkpoints and the run's records.
//!
//! ```text
//!  recipe.toml ─► Recipe ─┐
//!                         ├─► Trainer ──► step: micro-batches ─► loss sum ─► gradients ─► clip ─► AdamW
//!  Loader (ovhost-data) ──┘      │
//!                                ├─► run folder: run.json, metrics.jsonl, rejects.jsonl
//!                                └─► checkpoints/step-N (whole or not at all) ─► --resume, bit for bit on CPU
//! ```

pub mod checkpoint;
pub mod optimizer;
pub mod recipe;
pub mod run_folder;
pub mod schedule;
pub mod trainer;

pub use recipe::{PluginUse, Recipe};
pub use trainer::{TrainOptions, TrainSummary, train};
