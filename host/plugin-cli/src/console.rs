//! What a terminal user meets everywhere, in both binaries: log lines, the interrupt flag, exit codes.

use std::{
    io::IsTerminal,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Exit code of a run that a signal ended after saving its state (128 + SIGINT, as shells count).
pub const INTERRUPTED: u8 = 130;

/// What a signal is answered with where work is done in steps and saved.
pub const AFTER_THIS_STEP: &str = "stopping after this step; once more ends the program without saving";

/// Sends log lines to stderr; `RUST_LOG` wins over the flags.
pub fn init_logging(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (_, 0) => "info",
        (_, 1) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},wasmtime=warn,cranelift=warn,regalloc2=warn")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

/// A flag that SIGINT, SIGTERM and SIGHUP set, with a line that says what happens now. A second signal ends the process at
/// once. Errors: the process has a handler already.
pub fn stop_flag(notice: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if shared.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("{notice}");
    })
    .context("installing the signal handler")?;
    Ok(flag)
}

/// Lets a closed pipe end the process, as other command-line tools do, instead of failing a print.
pub fn end_at_closed_pipe() {
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE, and no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Lets a closed pipe be an error of the print alone: for a command whose files are still to be written.
pub fn outlive_closed_pipe() {
    // SAFETY: SIG_IGN is a valid disposition for SIGPIPE; other threads then see an error where a pipe is closed.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// The exit code of a run that was asked to stop.
pub fn interrupted() -> ExitCode {
    ExitCode::from(INTERRUPTED)
}

/// Says what went wrong, and gives the exit code: 130 where the user wanted the end, which needs no words.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    if error.is::<ovhost_toolchain::process::Interrupted>() {
        return interrupted();
    }
    eprintln!("error: {}", words(error));
    ExitCode::FAILURE
}

/// An error and its causes, one after another in one line; a cause whose words are in the line already is not said twice, as
/// some errors show their cause themselves.
pub fn words(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if out.is_empty() {
            out = cause;
        } else if !out.contains(&cause) {
            out = format!("{out}: {cause}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let path = std::path::PathBuf::from("x");
        let lost = || std::io::Error::from_raw_os_error(2);
        let error = ovhost_plugin::PluginError::Io { path, action: "read", source: lost() };
        let words = words(&anyhow::Error::from(error).context("loading"));
        assert_eq!(words.matches("os error 2").count(), 1, "{words}");
        assert!(words.starts_with("loading: cannot read x: "), "{words}");
        let plain = Err::<(), _>(lost()).context("opening y").unwrap_err();
        assert_eq!(super::words(&plain), format!("opening y: {}", lost()));
    }
}
