//! Builds a project: its folder in; one component with its size, hash and time out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::files::{sha256_hex, write_whole};
use crate::project::{Lang, Project};
use crate::rust::{self, cargo};
use crate::{js, python, tools};

/// The first bytes of a component: the magic number, version 13, layer 1.
const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Where the component goes; none: `dist/NAME.wasm` in the project.
    pub out: Option<PathBuf>,
    /// Rust: with debug assertions and without optimisation.
    pub debug: bool,
    /// Rust: where cargo keeps what it compiles; none: `target/guest` in the project. Projects that share one share a
    /// compiled standard library and SDK, but two of the same name must not.
    pub target_dir: Option<PathBuf>,
    /// Installs what is missing instead of failing.
    pub install: bool,
    /// Without the tools' progress.
    pub quiet: bool,
    /// Looks at what was built (in a file of its own) before it takes its place; none: anything that is a component.
    pub accept: Option<fn(&Project, &Path) -> Result<()>>,
}

/// A component that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its hash, as a recipe pins it.
    pub sha256: String,
    /// How long it took.
    pub took: Duration,
}

/// Builds `project`.
///
/// # Errors
/// A tool is missing, or says that the source is wrong; the message names the next step.
pub fn build(project: &Project, options: &BuildOptions) -> Result<Built> {
    let start = Instant::now();
    let bytes = match project.lang {
        Lang::Rust => rust_component(project, options)?,
        Lang::Python => python::component(project, &tools::obtain(tools::Tool::ComponentizePy, options.install)?)?,
        Lang::Js => js::component(project, &tools::obtain(tools::Tool::ComponentizeQjs, options.install)?)?,
    };
    ensure!(is_component(&bytes), "the {} build of {} gave no component", project.lang, project.root.display());
    if let Some(accept) = options.accept {
        let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
        let trial = scratch.path().join("component.wasm");
        std::fs::write(&trial, &bytes).with_context(|| format!("cannot write {}", trial.display()))?;
        accept(project, &trial)?;
    }
    let path = options.out.clone().unwrap_or_else(|| project.component());
    write_whole(&path, &bytes)?;
    // An equal component stays as it is, and is as new as its sources all the same. Only a wish.
    if path.is_file() {
        let file = std::fs::File::options().append(true).open(&path);
        _ = file.and_then(|file| file.set_modified(std::time::SystemTime::now()));
    }
    Ok(Built { path, bytes: bytes.len() as u64, sha256: sha256_hex(&bytes), took: start.elapsed() })
}

/// Whether `bytes` begin as a component does (a core module does not).
pub fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADER)
}

fn rust_component(project: &Project, options: &BuildOptions) -> Result<Vec<u8>> {
    let root: &Path = &project.root;
    let compiler = if options.install { rust::ensure_compiler(root)? } else { rust::require(root)? };
    if compiler.road == (rust::Road::Debian { build_std: true }) && !options.quiet {
        eprintln!("the first build in a target folder compiles the standard library too: about a minute");
    }
    let target_dir = options.target_dir.clone().unwrap_or_else(|| root.join("target/guest"));
    let built = cargo::build(
        &compiler,
        &cargo::CargoBuild {
            root,
            packages: &[],
            profile: if options.debug { "dev" } else { "release" },
            target_dir: &std::path::absolute(target_dir)?,
            remap: cargo::outside_paths(root)?,
            quiet: options.quiet,
        },
    )?;
    let path = built.first().context("cargo built nothing")?;
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_and_modules_differ_in_their_headers() {
        assert!(is_component(b"\0asm\x0d\0\x01\0rest"));
        assert!(!is_component(b"\0asm\x01\0\0\0rest") && !is_component(b"\0asm"));
    }
}
