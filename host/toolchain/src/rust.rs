//! Rust guests: who compiles them, and what to do where nobody can.
//!
//! ```text
//!  rustup's std for wasm32-unknown-unknown there ──► plain cargo
//!  else Debian's rustc-web with that std         ──► Debian's cargo
//!  else Debian's rustc-web and rust-web-src      ──► Debian's cargo builds std from source (once per target folder)
//! ```
//! In all cases rustup's own `wasm-component-ld` links, so that cargo writes components. [`cargo::build`] runs the compiler
//! that [`compiler`] finds.

pub mod cargo;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{find_on_path, run_quietly};

/// What guests are compiled for: a target without WASI, so that a component imports the contract alone.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// The oldest Rust that builds a plugin; the `rust-version` of a new project.
pub const RUST_VERSION: &str = "1.88";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_STD_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";
/// Asking rustup for the target is worth this long; without a way to its server it would retry for minutes.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(120);

/// Who compiles guests.
#[derive(Debug)]
pub struct Compiler {
    /// Holds `wasm-component-ld` and `rust-lld`.
    pub linker_dir: PathBuf,
    /// Whose cargo it is.
    pub road: Road,
}

/// Whose cargo and standard library are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Rustup's, or whichever `cargo` comes first.
    Rustup,
    /// Debian's; `build_std` where its standard library comes as source.
    Debian {
        /// The standard library is built first, once per target folder.
        build_std: bool,
    },
}

impl Road {
    /// In words, for `doctor`.
    pub fn words(self) -> &'static str {
        match self {
            Road::Rustup => "standard library of this toolchain",
            Road::Debian { build_std: false } => "Debian's rustc-web with its standard library",
            Road::Debian { build_std: true } => "Debian's rustc-web, standard library built from rust-web-src",
        }
    }
}

/// The compiler that is there for a project in `root`, if any.
///
/// # Errors
/// There is no Rust at all, or one without the linker; the message says what to install.
pub fn compiler(root: &Path) -> Result<Option<Compiler>> {
    let sysroot = PathBuf::from(rustc(root, &["--print", "sysroot"])?);
    let version = rustc(root, &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let linker_dir = sysroot.join("lib/rustlib").join(host).join("bin");
    ensure!(
        linker_dir.join("wasm-component-ld").is_file() && linker_dir.join("rust-lld").is_file(),
        "{} has no wasm-component-ld and rust-lld, which link plugins: install Rust with rustup (https://rustup.rs)",
        linker_dir.display()
    );
    let found = |road| Ok(Some(Compiler { linker_dir, road }));
    if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return found(Road::Rustup);
    }
    if !Path::new("/usr/bin/rustc").is_file() || !Path::new("/usr/bin/cargo").is_file() {
        return Ok(None);
    }
    if Path::new("/usr/lib/rustlib").join(TARGET).join("lib").is_dir() {
        return found(Road::Debian { build_std: false });
    }
    if Path::new(DEBIAN_STD_SOURCE).is_dir() { found(Road::Debian { build_std: true }) } else { Ok(None) }
}

/// Output of rustup's (or whichever comes first) `rustc`, as a project in `root` sees it.
///
/// # Errors
/// It cannot be run, or fails.
pub fn rustc(root: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("rustc").args(args).current_dir(root).output();
    let out = out.context("cannot run `rustc`: install Rust with rustup (https://rustup.rs)")?;
    ensure!(out.status.success(), "`rustc {}` failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// What to do by hand where there is no [`compiler`].
pub fn manual() -> String {
    format!("run `rustup target add {TARGET}`, or as root `apt-get install {}`", DEBIAN_PACKAGES.join(" "))
}

/// The compiler for a project in `root`.
///
/// # Errors
/// There is none; the message says what to install.
pub fn require(root: &Path) -> Result<Compiler> {
    let found = compiler(root)?;
    found.with_context(|| format!("there is no Rust standard library for {TARGET}, which plugins need; {}", manual()))
}

/// The compiler for a project in `root`; where there is none, asks rustup for the target, else installs Debian's packages
/// with apt-get (it says so first).
///
/// # Errors
/// Neither way works; the message says what to install.
pub fn ensure_compiler(root: &Path) -> Result<Compiler> {
    if let Some(compiler) = compiler(root)? {
        return Ok(compiler);
    }
    let why = match rustup_target_add(root) {
        Ok(()) => match compiler(root)? {
            Some(compiler) => return Ok(compiler),
            None => "rustup says that it is installed, but rustc does not find it".to_owned(),
        },
        Err(e) => e.to_string(),
    };
    let (packages, manual) = (DEBIAN_PACKAGES.join(" "), manual());
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    if !is_root || find_on_path("apt-get").is_none() {
        bail!("no Rust standard library for {TARGET}, which plugins need (rustup: {why}); {manual}, and try again");
    }
    eprintln!("rustup cannot give the target {TARGET} ({why})");
    eprintln!("installing Debian's packages instead: apt-get install {packages}");
    let apt = |args: &[&str]| -> Result<()> {
        let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "`apt-get {}` failed ({status}); {manual}, and try again", args.join(" "));
        Ok(())
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(DEBIAN_PACKAGES);
    apt(&install)?;
    compiler(root)?.with_context(|| format!("{packages} are installed, but {DEBIAN_STD_SOURCE} is missing; {manual}"))
}

/// Asks rustup for the target, quietly. `Err` is one line.
fn rustup_target_add(root: &Path) -> Result<()> {
    if find_on_path("rustup").is_none() {
        bail!("rustup is not installed");
    }
    eprintln!("asking rustup for the target {TARGET}");
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(root).env("RUSTUP_MAX_RETRIES", "1");
    let done = run_quietly(&mut command, "rustup", Some(RUSTUP_PATIENCE))?;
    if done.status.success() {
        return Ok(());
    }
    let line =
        done.stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it failed without an error");
    bail!("{}", line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_compiler_the_message_says_what_to_install() {
        let manual = manual();
        assert!(manual.contains("rustup target add wasm32-unknown-unknown") && manual.contains("rust-web-src"));
    }

    #[test]
    fn rustc_answers_and_its_failures_are_shown() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(rustc(here, &["--version"]).unwrap().starts_with("rustc "));
        assert!(rustc(here, &["--no-such-flag"]).unwrap_err().to_string().contains("no-such-flag"));
    }
}
