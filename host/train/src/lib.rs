//! Training: the recipe, the step, the schedule, checkpoints and the run's records.
//!
//! ```text
//!  recipe.toml ─► Recipe ─┐
//!                         ├─► Trainer ──► step: micro-batches ─► loss sum ─► gradients ─► clip ─► AdamW
//!  Loader (ovhost-data) ──┘      │
//!                                ├─► run folder: run.json, metrics.jsonl, rejects.jsonl, guards.jsonl
//!                                ├─► every N steps: evaluators, checkpoints/best
//!                                └─► checkpoints/step-N (whole or not at all) ─► --resume, bit for bit on CPU
//! ```

pub mod checkpoint;
pub mod ema;
pub mod evaluation;
pub mod export;
pub mod guard;
pub mod late;
pub mod lora;
pub mod moments;
pub mod optimizer;
pub mod plan;
pub mod recipe;
mod record;
pub mod report;
pub mod run_folder;
pub mod saver;
pub mod schedule;
mod step;
pub mod tensorboard;
pub mod trainer;

pub use evaluation::{Evaluator, HeldOut};
pub use recipe::{PluginUse, Recipe};
pub use record::StepRecord;
pub use trainer::{TrainOptions, TrainSummary, train};
