//! `cargo xtask bench`: builds what is measured, then runs the benchmark program (`xtask/bench`).

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{ovhost, setup_all};

/// Runs the named benchmarks, or all.
pub fn bench(root: &Path, names: &[String]) -> Result<()> {
    setup_all(root)?;
    // The program that the workspace build made: `cargo run --package` would choose other features and compile anew.
    let program = ovhost(root).with_file_name("ovhost-bench");
    let status = Command::new(&program).args(names).current_dir(root).status();
    let status = status.with_context(|| format!("{} could not be started", program.display()))?;
    ensure!(status.success(), "the benchmarks failed ({status})");
    Ok(())
}
