//! Peers written in Python: a script runs as its own process, and does one round of its work whenever it is asked, so that
//! rounds of ours and of theirs lie side by side in time.
//!
//! ```text
//!  "go\n" ─► script ─► one line of JSON
//! ```

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// `$OVHOST_PYTHON`, an interpreter that has the peers' packages; else `python3`.
pub fn interpreter() -> OsString {
    std::env::var_os("OVHOST_PYTHON").unwrap_or_else(|| "python3".into())
}

/// Whether the interpreter has these modules. Where it has not, says so, and how to get them: `pip` names them for pip.
pub fn has(modules: &[&str], pip: &str) -> bool {
    let code = format!("import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in {modules:?}))");
    let python = interpreter();
    let found = Command::new(&python).args(["-c", &code]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !found {
        println!(
            "peer skipped: {} lacks one of {}; `pip install {pip}` and name that Python in OVHOST_PYTHON",
            python.display(),
            modules.join(", ")
        );
    }
    found
}

/// A script that waits to be asked.
pub struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `script`, on one thread as far as libraries can be told.
    pub fn start(script: &str, args: &[&std::ffi::OsStr]) -> Result<Peer> {
        let mut command = Command::new(interpreter());
        command
            .args(["-c", script])
            .args(args)
            .envs(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"].map(|name| (name, "1")))
            .env("TOKENIZERS_PARALLELISM", "false");
        Peer::of(command)
    }

    /// Any program that answers lines so.
    pub fn of(mut command: Command) -> Result<Peer> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} could not be started", command.get_program().display()))?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the peer has no pipes");
        };
        Ok(Peer { child, ask, answers: BufReader::new(answers) })
    }

    /// One round.
    pub fn go<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.ask.write_all(b"go\n").context("the peer ended early; its own words are above")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the peer answered {line:?}; its own words are above"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself, and nothing depends on how it ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
