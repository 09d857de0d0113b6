//! How much all instances of a plugin may log together: so many lines a second, so many bytes in a run.
//!
//! In: the size of a line and the time. Out: whether it is shown, and now and then how many were not. The time is the
//! host's and no answer to the guest depends on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LINES_PER_SECOND: u32 = 200;
const BYTES_PER_RUN: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// The log of one use of a plugin, shared by its instances.
#[derive(Debug)]
pub(crate) struct PluginLog {
    name: Arc<str>,
    spent: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    /// When the second began that `lines` were shown in.
    since: Option<Instant>,
    lines: u32,
    bytes: usize,
    suppressed: u64,
    /// When it was last said how many.
    told: Option<Instant>,
}

impl PluginLog {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(PluginLog { name: name.into(), spent: Mutex::default() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line of so many bytes may be shown now; it then counts.
    pub(super) fn admit(&self, bytes: usize, now: Instant) -> bool {
        let mut spent = self.spent();
        if spent.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            (spent.since, spent.lines) = (Some(now), 0);
        }
        let good = spent.lines < LINES_PER_SECOND && spent.bytes + bytes <= BYTES_PER_RUN;
        if good {
            spent.lines += 1;
            spent.bytes += bytes;
        }
        good
    }

    /// Counts lines that were not shown. The number to tell the user, at most once a second: a line about every batch
    /// would be a flood of its own.
    pub(super) fn suppress(&self, lines: u64, now: Instant) -> Option<u64> {
        let mut spent = self.spent();
        spent.suppressed += lines;
        if spent.told.is_some_and(|told| now.saturating_duration_since(told) < SECOND) {
            return None;
        }
        spent.told = Some(now);
        Some(std::mem::take(&mut spent.suppressed))
    }

    pub(super) fn tell(&self, lines: u64) {
        tracing::warn!(
            target: "plugin",
            plugin = &*self.name,
            "{lines} log lines suppressed (shown are {LINES_PER_SECOND} a second and {} MiB in all)",
            BYTES_PER_RUN >> 20
        );
    }
}

impl Drop for PluginLog {
    fn drop(&mut self) {
        let rest = self.spent().suppressed;
        if rest > 0 {
            self.tell(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_run_so_many_bytes() {
        let log = PluginLog::new("p");
        let start = Instant::now();
        let shown = |at: Duration, bytes: usize| (0..1000).filter(|_| log.admit(bytes, start + at)).count();
        assert_eq!(shown(Duration::ZERO, 1), LINES_PER_SECOND as usize);
        assert_eq!(shown(Duration::from_millis(999), 1), 0);
        assert_eq!(shown(Duration::from_millis(1000), 1), LINES_PER_SECOND as usize);
        let rest = BYTES_PER_RUN - 2 * LINES_PER_SECOND as usize;
        assert_eq!(shown(Duration::from_secs(2), rest / 3), 3);
        assert_eq!(shown(Duration::from_secs(3), rest / 3), 0, "the run's bytes do not come back");
    }

    #[test]
    fn suppression_is_told_once_a_second_and_nothing_is_forgotten() {
        let log = PluginLog::new("p");
        let start = Instant::now();
        assert_eq!(log.suppress(5, start), Some(5));
        assert_eq!(log.suppress(7, start + Duration::from_millis(10)), None);
        assert_eq!(log.suppress(1, start + Duration::from_millis(900)), None);
        assert_eq!(log.suppress(2, start + SECOND), Some(10));
        assert_eq!(log.suppress(3, start + SECOND), None);
        assert_eq!(log.spent().suppressed, 3, "said when the plugin goes");
    }
}
