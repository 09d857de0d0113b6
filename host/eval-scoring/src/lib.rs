//! How answers are read and scored: the rules of the evaluation tasks as pure functions.
//!
//! ```text
//!  record ──► prompts ──► model ──► answer ──► filters, tags ──► tasks (read, compare) ──► stats
//!                                                 └ judge: what to ask, what its reply says
//! ```
//!
//! Plugins (metrics and prompts of the tasks) and the host call the same functions, so that a score is the same wherever it
//! is made. The rules are those of lmms-eval at commit 75571cfe, re-implemented; `tests/vectors.rs` proves it with what the
//! original functions answer. Where a rule is known to be wrong there is a mended one beside it ([`read`], and functions
//! that say so); which is used is a metric's profile.

pub mod distance;
pub mod exact;
pub mod filters;
pub mod framework;
pub mod judge;
pub mod mcq;
pub mod profile;
pub mod prompts;
pub mod python;
pub mod read;
pub mod stats;
pub mod tags;
pub mod tasks;
pub mod texts;
