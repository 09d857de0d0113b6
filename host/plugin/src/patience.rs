//! Compilation with an end: a bound on its time and on the memory that it takes.
//!
//! In: work that cannot be stopped from outside. Out: what it answers, or which bound was reached. A word says after some
//! seconds what is being waited for.
//!
//! A thread cannot be ended by another, so one whose work is given up is left behind: it goes on until it is done or the process
//! ends. Every command ends on such an error, and with it the thread; a program that goes on keeps a busy core (all cores, while
//! the compiler works in parallel) until then, and perhaps runs out of memory. [`crate::work`] refuses before what is known to
//! be that slow.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Environment variables of the bounds, and the bounds without them.
const SECONDS: (&str, u64) = ("OVHOST_COMPILE_MAX_SECONDS", 300);
const MIB: (&str, u64) = ("OVHOST_COMPILE_MAX_MIB", 8192);
/// When a word is said.
const NOTICE: Duration = Duration::from_secs(3);
/// How often memory is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Stack of the thread: as much as a main thread has.
const STACK: usize = 8 << 20;

/// How long is waited, and for how much memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    time: Duration,
    /// Most bytes by which the process may grow meanwhile. Known on Linux only.
    growth: u64,
    notice: Duration,
}

/// A bound that was reached.
#[derive(Debug)]
pub(crate) struct GaveUp {
    /// In words.
    pub why: String,
    /// The environment variable that sets it.
    pub variable: &'static str,
}

impl Patience {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        let set = |(name, default)| number(name, std::env::var(name).ok().as_deref(), default);
        Patience { time: Duration::from_secs(set(SECONDS)), growth: set(MIB).saturating_mul(1 << 20), notice: NOTICE }
    }

    /// Does the work on a thread and waits for it; `say` is called when that takes a while. A panic of the work is this
    /// function's too.
    pub(crate) fn wait<T: Send + 'static>(
        self,
        say: impl FnOnce(),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GaveUp> {
        let (done, finished) = channel::<()>();
        let before = resident();
        let start = Instant::now();
        let thread = thread::Builder::new().name("compile".into()).stack_size(STACK).spawn(move || {
            // Dropped at the end, of whatever kind.
            let _done = done;
            work()
        });
        let thread = thread
            .map_err(|e| GaveUp { why: format!("no thread could be made: {e}"), variable: "the limit of threads" })?;
        let mut say = Some(say);
        while finished.recv_timeout(GLANCE) != Err(RecvTimeoutError::Disconnected) {
            let took = start.elapsed();
            if took >= self.time {
                let why = format!("it takes longer than {} s", self.time.as_secs_f64());
                return Err(GaveUp { why, variable: SECONDS.0 });
            }
            let grown = resident().zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
            if grown > self.growth {
                let why = format!(
                    "after {} s the program has grown by {} MiB, over the {} MiB that compiling may take",
                    took.as_secs(),
                    grown >> 20,
                    self.growth >> 20
                );
                return Err(GaveUp { why, variable: MIB.0 });
            }
            if took >= self.notice
                && let Some(say) = say.take()
            {
                say();
            }
        }
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    }
}

/// A bound out of the environment.
fn number(name: &str, set: Option<&str>, default: u64) -> u64 {
    match set.map(str::trim).filter(|set| !set.is_empty()) {
        None => default,
        Some(set) => set.parse().unwrap_or_else(|_| {
            tracing::warn!("{name} is \"{set}\", not a whole number; {default} is used");
            default
        }),
    }
}

/// Bytes of the process that are in memory; none where the system does not say.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf takes a number, touches no memory of ours, and answers -1 where it does not know.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Patience =
        Patience { time: Duration::from_secs(60), growth: u64::MAX, notice: Duration::from_secs(60) };

    #[test]
    fn the_answer_comes_back_and_so_does_a_panic() {
        assert_eq!(PATIENT.wait(|| (), || 7).unwrap(), 7);
        let panic = std::panic::catch_unwind(|| PATIENT.wait(|| (), || -> () { panic!("within") }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"within"));
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let start = Instant::now();
        let patience = Patience { time: Duration::from_millis(300), ..PATIENT };
        let gave_up = patience.wait(|| (), || thread::sleep(Duration::from_secs(30))).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(
            (gave_up.why.as_str(), gave_up.variable),
            ("it takes longer than 0.3 s", "OVHOST_COMPILE_MAX_SECONDS")
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_takes_too_much_memory_is_given_up() {
        let patience = Patience { growth: 64 << 20, ..PATIENT };
        let (hold, held) = channel::<()>();
        let gave_up = patience.wait(
            || (),
            move || {
                let taken = vec![1_u8; 512 << 20];
                // Until the test is over.
                let _ = held.recv_timeout(Duration::from_secs(30));
                taken.len()
            },
        );
        let gave_up = gave_up.unwrap_err();
        drop(hold);
        assert_eq!(gave_up.variable, "OVHOST_COMPILE_MAX_MIB");
        assert!(gave_up.why.contains("over the 64 MiB"), "{}", gave_up.why);
    }

    #[test]
    fn a_word_is_said_once_and_only_of_what_takes_a_while() {
        let count = |patience: Patience, work: Duration| {
            let mut said = 0;
            patience.wait(|| said += 1, move || thread::sleep(work)).unwrap();
            said
        };
        let early = Patience { notice: Duration::from_millis(150), ..PATIENT };
        assert_eq!(count(early, Duration::from_secs(1)), 1);
        assert_eq!(count(PATIENT, Duration::from_millis(300)), 0);
    }

    #[test]
    fn bounds_are_read_from_the_environment() {
        assert_eq!(number("X", None, 5), 5);
        assert_eq!(number("X", Some(" "), 5), 5);
        assert_eq!(number("X", Some(" 10 "), 5), 10);
        assert_eq!(number("X", Some("ten"), 5), 5);
    }
}
