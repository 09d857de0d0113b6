//! Evaluation: questions of tasks, answers by the model, scores by metric plugins.
//!
//! ```text
//!  task files ─► data sets ─► EvalReader (prompt plugin) ─► model ─► answers.jsonl (appended: a killed run goes on)
//!  (task.rs,      (source.rs)              (runner.rs: one pass over all tasks)      │
//!   select.rs)                                                                       │
//!                                                   metric plugins, judge ◄───┘ (score.rs)
//!                       results.json, samples_TASK.jsonl, submissions/ ◄──┘ (results.rs, submission.rs)
//! ```
//! Scores are computed from the saved answers alone, so they are the same whether the run was broken off or not.

pub mod answers;
pub mod model;
pub mod results;
pub mod runner;
pub mod score;
pub mod select;
pub mod session;
pub mod source;
pub mod submission;
pub mod task;

pub use answers::{Answer, AnswerFile, Answers};
pub use model::Served;
pub use results::{Results, TaskResults};
pub use runner::{Asking, Common, Model, Question, ask};
pub use score::{Judges, Scores, score};
pub use select::{Selection, select};
pub use session::Subject;
pub use source::TaskSource;
pub use task::Task;
