//! `cargo xtask bench`: builds what is measured, then runs the benchmark program (`xtask/bench`).

use std::path::Path;

use anyhow::Result;

use crate::{cargo, setup_all};

/// Runs the named benchmarks, or all.
pub fn bench(root: &Path, names: &[String]) -> Result<()> {
    setup_all(root)?;
    let mut args = vec!["run", "--release", "--package", "ovhost-bench", "--"];
    args.extend(names.iter().map(String::as_str));
    cargo(root, &args)
}
