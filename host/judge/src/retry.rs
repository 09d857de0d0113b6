//! When a request is tried again, and after how long.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// How stubbornly an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Most further tries of one request.
    pub most: u32,
    /// Longest wait before the second try; it doubles with each further one.
    pub first: Duration,
    /// Longest wait between two tries that is chosen here.
    pub longest: Duration,
    /// Longest wait that a server may ask for.
    pub longest_asked: Duration,
}

impl Default for Retries {
    /// Six further tries: about a minute of waiting altogether.
    fn default() -> Self {
        Retries {
            most: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            longest_asked: Duration::from_secs(300),
        }
    }
}

impl Retries {
    /// The wait before further try number `again` (from 0), with jitter: from half of it to all of it, so that requests which
    /// failed together do not come back together.
    pub(crate) fn wait(&self, again: u32) -> Duration {
        let whole = self.first.saturating_mul(1u32.checked_shl(again).unwrap_or(u32::MAX)).min(self.longest);
        // The hasher's keys are random; nothing else here needs random numbers.
        let share = f64::from(RandomState::new().hash_one(again) as u32) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + 0.5 * share)
    }
}

/// Whether a status may be another one later.
pub(crate) fn passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 429 | 500..)
}

/// `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(value).ok().map(|at| at.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_with_jitter_below() {
        let retries = Retries::default();
        for (again, whole) in [(0, 1.0), (1, 2.0), (2, 4.0), (4, 16.0), (5, 30.0), (40, 30.0)] {
            let waits: Vec<f64> = (0..100).map(|_| retries.wait(again).as_secs_f64()).collect();
            assert!(waits.iter().all(|w| (whole / 2.0..=whole).contains(w)), "{again}: {waits:?}");
            assert!(waits.iter().any(|w| *w != waits[0]), "no jitter");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("0.5", now), Some(Duration::from_millis(500)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:40:37 GMT", now), Some(Duration::ZERO));
        for no in ["soon", "-3", "", "NaN", "inf"] {
            assert_eq!(retry_after(no, now), None, "{no}");
        }
    }
}
