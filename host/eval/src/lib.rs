//! Evaluation: questions out of shards, answers by the model, scores by metric plugins.
//!
//! ```text
//!  shards ─► EvalReader (prompt plugin) ─► Generator ─► answers.jsonl (appended, fsynced: a killed run goes on)
//!                                                           └─► metric plugins ─► samples.jsonl, results.json
//! ```
//! Scores are computed from the saved answers alone, so they are the same whether the run was broken off or not.

pub mod answers;
pub mod runner;
pub mod score;

pub use answers::Answer;
pub use runner::{EvalOptions, evaluate};
pub use score::Results;
