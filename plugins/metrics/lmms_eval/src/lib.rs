//! `lmms_eval`: the metrics of the tasks that LLaVA-OneVision-1.5 reports, one entry a task.
//!
//! ```text
//!  prediction ──► filter, tags, strip ──► read (by profile) ──► compare with the record ──► score, what was read
//!                                           └─ unreadable: a judge, or unread ──► rows of the state ──► values
//! ```
//!
//! Rules are in the crate `ovhost-eval-scoring`, proven by vectors; here they meet records, judges and groups. The state
//! keeps every row, so that neither the split nor the order of merging changes a digit.

mod entry;
mod rows;
mod setup;
mod tasks;

pub use entry::{Entry, Outcome, Step, Task};
pub use setup::{Config, Profile, Setup};
pub use tasks::*;

ovhost_sdk::export_metric!(
    Entry<Ai2d>,
    Entry<ChartQa>,
    Entry<CharXivDescriptive>,
    Entry<CharXivReasoning>,
    Entry<DocVqa>,
    Entry<MathVista>,
    Entry<MmBench>,
    Entry<Mme>,
    Entry<MmeRealWorld>,
    Entry<Mmmu>,
    Entry<MmmuPro>,
    Entry<MmStar>,
    Entry<ScienceQa>,
    Entry<VStar>,
);

#[cfg(test)]
mod tests;
