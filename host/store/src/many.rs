//! Many requests at the same time: each is mostly waiting for its answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Requests at the same time, of one caller.
const AT_ONCE: usize = 16;

/// `work` of every item, many at a time; the results are in the order of the items.
pub fn at_once<T: Sync, R: Send + Sync>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, slots) = (AtomicUsize::new(0), items.iter().map(|_| OnceLock::new()).collect::<Vec<_>>());
    let run = || {
        while let Some((item, slot)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((items.get(i)?, slots.get(i)?)))
        {
            // Each slot is set by the one thread that took its number.
            let _ = slot.set(work(item));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// As [`at_once`], of work that may fail: after an error nothing more is begun. The error is the first in the order of the items.
pub fn try_at_once<T: Sync, R: Send + Sync, E: Send + Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let failed = AtomicBool::new(false);
    let done = at_once(items, |item| {
        let one = (!failed.load(Ordering::Relaxed)).then(|| work(item))?;
        failed.fetch_or(one.is_err(), Ordering::Relaxed);
        Some(one)
    });
    // What was not begun any more is missing only where there is an error.
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_work_is_shared() {
        let items: Vec<u64> = (0..100).collect();
        let wait = |n: &u64| {
            std::thread::sleep(std::time::Duration::from_millis(n % 7));
            (n * 2, std::thread::current().id())
        };
        let done = at_once(&items, wait);
        assert!(done.iter().map(|(n, _)| *n).eq((0..100).map(|n| n * 2)));
        let threads: std::collections::HashSet<_> = done.iter().map(|(_, id)| *id).collect();
        assert!(threads.len() > 8 && threads.len() <= AT_ONCE);
        assert!(at_once(&[] as &[u64], wait).is_empty());
        let tried = AtomicUsize::new(0);
        let odd = |n: &u64| {
            tried.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
            if n.is_multiple_of(2) { Ok(*n) } else { Err(*n) }
        };
        assert!(try_at_once(&items, odd).unwrap_err() % 2 == 1 && tried.into_inner() < 50);
        assert_eq!(try_at_once(&items, |n| Ok::<_, ()>(*n)).unwrap(), items);
    }
}
