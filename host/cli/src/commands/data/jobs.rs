//! What the commands share that work in jobs: threads, the bound on rejects, and how they end.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ovhost_data::rejects::RejectBudget;
use ovhost_prep::{PrepError, Summary, WORDS};

use crate::console;

/// Exit code where nothing more can be done until other parts have finished a pass: a script runs the command again then.
pub const WAITING: u8 = 3;

/// The number of threads that `--workers` means: 0 is one for each core.
pub fn workers(given: usize) -> usize {
    match given {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// The bound that `--max-reject-rate` and `--max-rejects` set.
pub fn budget(max_rate: f64, max_count: Option<u64>) -> Result<RejectBudget> {
    ensure!((0.0..=1.0).contains(&max_rate), "--max-reject-rate is {max_rate}; allowed: 0 to 1");
    Ok(RejectBudget { max_rate, max_count, words: WORDS })
}

/// Says that a signal ended the command, and gives its exit code.
pub fn stopped() -> ExitCode {
    eprintln!("{}", PrepError::Stopped);
    console::interrupted()
}

/// Says how much of a step is done whose other parts go on.
pub fn unfinished(summary: &Summary) {
    println!(
        "{} of {} shards are done ({} now); the step is finished when the other parts are",
        summary.before + summary.done,
        summary.jobs,
        summary.done
    );
}
