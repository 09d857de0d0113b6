//! Finished evaluations: read, compared pair by pair, reported.
//!
//! ```text
//!  OUT/results.json, OUT/samples_<task>.jsonl ─┐          ┌─► compare: differences with errors, a verdict for CI
//!  lmms-eval's *_samples_<task>.jsonl ─────────┴─► read ──┴─► report: one Markdown text and one HTML page
//! ```
//! Samples are streamed: what is kept of each is a few numbers, so that hundreds of thousands need no more than some
//! megabytes. Nothing is written here; the caller decides where texts go.

pub mod compare;
pub mod read;
pub mod report;

pub use compare::{CompareOptions, Comparison, Pairing, Verdict, compare};
pub use read::Evaluation;
pub use report::{Report, ReportOptions, report};
