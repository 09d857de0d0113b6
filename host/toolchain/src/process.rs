//! Other programs: where they are, and how a long one is run without leaving the user in the dark.

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a silent step says that it is still at work.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How much of a failed program's output goes into the error.
const TAIL_LINES: usize = 30;

/// The first program of that name on `PATH`.
pub fn find_on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// The last lines of both outputs, for an error message.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// The user, or whoever runs this program, wants it to end; its caller gives the exit code 130 and prints nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Whether SIGINT, SIGTERM or SIGHUP came.
static STOP: AtomicBool = AtomicBool::new(false);
/// Programs that [`run_quietly`] waits for at present.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// While a program runs, a signal ends that program first; else it ends this one as it would without a handler. Where the
/// process has a handler of its own, that one decides.
fn heed_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        _ = ctrlc::set_handler(|| {
            if RUNNING.load(Ordering::SeqCst) == 0 || STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
    });
}

/// A program with all that it starts itself: they are ended together, whichever way this value goes.
struct Family {
    child: Child,
    done: bool,
}

impl Family {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        heed_signals();
        RUNNING.fetch_add(1, Ordering::SeqCst);
        // A group of its own: a terminal's Ctrl-C then reaches this program alone, which ends the group.
        let child = command.process_group(0).spawn().inspect_err(|_| _ = RUNNING.fetch_sub(1, Ordering::SeqCst))?;
        Ok(Family { child, done: false })
    }

    fn end(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // SAFETY: killpg takes two numbers and touches no memory. The child was not waited for yet, so its id, which is
            // that of its group, belongs to nobody else.
            unsafe { libc::killpg(group, libc::SIGKILL) };
        }
        _ = self.child.wait();
        self.done = true;
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if !self.done {
            self.end();
        }
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `command` with its output held back, and says on standard error every 15 s that `what` is still at work.
/// With `patience`, a program that takes longer is ended; a signal to this program ends it too.
///
/// # Errors
/// The program cannot be started, or is out of patience; the message says which program. [`Interrupted`] after a signal.
pub fn run_quietly(command: &mut Command, what: &str, patience: Option<Duration>) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut family = Family::start(command).with_context(|| format!("cannot run `{program}`"))?;
    let child = &mut family.child;
    // Read beside the wait: a full pipe would stop the program.
    let out = child.stdout.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
    let err = child.stderr.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let start = Instant::now();
    let mut said = Duration::ZERO;
    let status = loop {
        if let Some(status) = family.child.try_wait()? {
            family.done = true;
            break status;
        }
        if STOP.load(Ordering::SeqCst) {
            family.end();
            return Err(Interrupted.into());
        }
        let elapsed = start.elapsed();
        if let Some(patience) = patience.filter(|&patience| elapsed > patience) {
            family.end();
            anyhow::bail!("`{program}` gave no answer in {} s", patience.as_secs());
        }
        if elapsed >= said + HEARTBEAT {
            said = elapsed;
            eprintln!("  {what}: still at work after {} s", elapsed.as_secs());
        }
        std::thread::sleep(Duration::from_millis(if elapsed < Duration::from_secs(1) { 5 } else { 50 }));
    };
    Ok(Finished { status, stdout: text(out), stderr: text(err) })
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // A broken pipe ends the text early; the exit status says what matters.
    _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// First line of what `program args` prints (either output); none if it cannot be run or fails.
pub fn first_line(program: &std::path::Path, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().ok().filter(|out| out.status.success())?;
    let text = if out.stdout.is_empty() { out.stderr } else { out.stdout };
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_and_statuses_come_back() {
        let mut command = Command::new("sh");
        let done = run_quietly(command.args(["-c", "echo out; echo err >&2; exit 3"]), "a test", None).unwrap();
        assert_eq!((done.status.code(), done.tail()), (Some(3), "out\nerr".to_owned()));
    }

    #[test]
    fn a_program_that_never_answers_is_ended() {
        let mut command = Command::new("sleep");
        let error = run_quietly(command.arg("60"), "a test", Some(Duration::from_millis(100))).unwrap_err();
        assert!(error.to_string().contains("`sleep` gave no answer"), "{error}");
    }

    #[test]
    fn what_a_program_started_ends_with_it() {
        let home = tempfile::tempdir().unwrap();
        let pid = home.path().join("pid");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $! > \"$0\"; wait"]).arg(&pid);
        run_quietly(&mut command, "a test", Some(Duration::from_secs(2))).unwrap_err();
        let pid = std::fs::read_to_string(pid).unwrap();
        // It has its signal, and takes a moment to be gone.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let gone = || stat().is_empty() || stat().contains(") Z ");
        let start = Instant::now();
        while !gone() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(gone(), "it still runs: {}", stat());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run_quietly(&mut Command::new("ovhost-no-such-program"), "a test", None).unwrap_err();
        assert!(error.to_string().contains("ovhost-no-such-program"), "{error}");
    }
}
