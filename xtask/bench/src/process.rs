//! Whole processes: what they compute and how much memory they take at most.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What a process took, its threads together.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU seconds, the system's on its behalf included.
    pub seconds: f64,
    /// Most memory at a time, bytes.
    pub peak: u64,
}

/// Runs `ovhost` in a folder. Its output is shown only if it fails.
pub fn ovhost(folder: &Path, args: &[&str]) -> Result<Usage> {
    ovhost_with(folder, args, 0)
}

/// As [`ovhost`], where the process is to end with this exit code.
pub fn ovhost_with(folder: &Path, args: &[&str], code: i32) -> Result<Usage> {
    let program = std::env::current_exe()?.with_file_name("ovhost");
    let output = folder.join("output.txt");
    let file = std::fs::File::create(&output)?;
    let child = Command::new(&program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("{} could not be started", program.display()))?;
    // Not the kernel's own figure: that counts what this process held when it began the other.
    let mut peak = 0;
    let mut status = 0;
    // SAFETY: zero bytes are a valid rusage, a struct of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the process is our child, nobody else waits for it, and both pointers are to live locals that the call writes to.
    let mut wait = || unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, libc::WNOHANG, &raw mut usage) };
    let waited = loop {
        peak = peak.max(held_at_most(child.id()));
        match wait() {
            0 => std::thread::sleep(Duration::from_millis(2)),
            waited => break waited,
        }
    };
    ensure!(waited > 0, "waiting for {}: {}", program.display(), std::io::Error::last_os_error());
    ensure!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == code,
        "ovhost {} failed:\n{}",
        args.join(" "),
        std::fs::read_to_string(&output)?
    );
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Usage { seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime), peak })
}

/// Most bytes that a running process held so far; 0 when it has ended.
fn held_at_most(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
