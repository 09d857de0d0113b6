//! Other programs: where they are, and how a long one is run without leaving the user in the dark.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
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

/// Runs `command` with its output held back, and says on standard error every 15 s that `what` is still at work.
/// With `patience`, a program that takes longer is ended.
///
/// # Errors
/// The program cannot be started, or is out of patience; the message says which program.
pub fn run_quietly(command: &mut Command, what: &str, patience: Option<Duration>) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`"))?;
    // Read beside the wait: a full pipe would stop the program.
    let out = child.stdout.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
    let err = child.stderr.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let start = Instant::now();
    let mut said = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let elapsed = start.elapsed();
        if let Some(patience) = patience.filter(|&patience| elapsed > patience) {
            child.kill()?;
            child.wait()?;
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
    fn a_missing_program_is_named() {
        let error = run_quietly(&mut Command::new("ovhost-no-such-program"), "a test", None).unwrap_err();
        assert!(error.to_string().contains("ovhost-no-such-program"), "{error}");
    }
}
