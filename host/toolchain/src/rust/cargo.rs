//! One cargo call that compiles Rust guests: packages in, the components' files out.
//!
//! All packages of a call share one target folder, which therefore holds one standard library and one SDK.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{Compiler, DEBIAN_STD_SOURCE, Road, TARGET};
use crate::build::is_component;

/// What to build.
#[derive(Debug)]
pub struct CargoBuild<'a> {
    /// The workspace or crate.
    pub root: &'a Path,
    /// Packages of the workspace; none: the crate in `root`.
    pub packages: &'a [&'a str],
    /// Cargo profile.
    pub profile: &'a str,
    /// Where cargo keeps what it compiles.
    pub target_dir: &'a Path,
    /// Folders that must not be seen in the components, and what to call them there.
    pub remap: Vec<(PathBuf, String)>,
    /// Without cargo's progress.
    pub quiet: bool,
}

/// Builds and gives the components' files, in the order of the packages.
///
/// # Errors
/// The build fails (the compiler's messages are on standard error), or makes no component.
pub fn build(compiler: &Compiler, build: &CargoBuild<'_>) -> Result<Vec<PathBuf>> {
    let mut cargo = command(compiler, build)?;
    cargo.args(["build", "--lib", "--message-format", "json-render-diagnostics"]);
    cargo.args(["--profile", build.profile, "--target", TARGET, "--target-dir"]).arg(build.target_dir);
    if build.quiet {
        cargo.arg("--quiet");
    }
    for package in build.packages {
        cargo.args(["--package", package]);
    }
    let out = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let out = out.and_then(|child| child.wait_with_output()).with_context(|| format!("cannot run {cargo:?}"))?;
    let what = if build.packages.is_empty() { "the plugin does" } else { "the plugins do" };
    ensure!(out.status.success(), "{what} not build ({}); the compiler's messages are above", out.status);
    let artifacts = artifacts(&String::from_utf8_lossy(&out.stdout));
    let find = |package: Option<&str>| -> Result<PathBuf> {
        let manifest = build.root.join("Cargo.toml").canonicalize()?;
        let ours = |artifact: &&Artifact| match package {
            Some(package) => artifact.package() == package,
            None => artifact.manifest_path == manifest,
        };
        let shown = package.map_or_else(|| manifest.display().to_string(), |package| format!("the crate {package}"));
        let Some(path) = artifacts.iter().find(ours).and_then(Artifact::wasm) else {
            bail!("{shown} makes no .wasm: its Cargo.toml must say `[lib] crate-type = [\"cdylib\", \"rlib\"]`");
        };
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            is_component(&bytes),
            "{} is no component: does the crate call one of ovhost_sdk's export macros?",
            path.display()
        );
        Ok(path)
    };
    if build.packages.is_empty() {
        return Ok(vec![find(None)?]);
    }
    build.packages.iter().map(|package| find(Some(package))).collect()
}

/// A line of cargo's JSON output about something that it has built, or found built.
#[derive(Debug, Deserialize)]
struct Artifact {
    package_id: String,
    manifest_path: PathBuf,
    filenames: Vec<PathBuf>,
}

impl Artifact {
    /// Name of the package: `path+file:///a/b#name@0.1.0`, or `path+file:///a/name#0.1.0`.
    fn package(&self) -> &str {
        let (before, after) = self.package_id.rsplit_once('#').unwrap_or(("", &self.package_id));
        match after.split_once('@') {
            Some((name, _)) => name,
            None => before.rsplit('/').next().unwrap_or(after),
        }
    }

    fn wasm(&self) -> Option<PathBuf> {
        self.filenames.iter().find(|file| file.extension().is_some_and(|end| end == "wasm")).cloned()
    }
}

fn artifacts(output: &str) -> Vec<Artifact> {
    #[derive(Deserialize)]
    struct Reason {
        reason: String,
    }
    let about =
        |line: &str| serde_json::from_str::<Reason>(line).is_ok_and(|about| about.reason == "compiler-artifact");
    output.lines().filter(|line| about(line)).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A cargo command for guests, free of what an outer cargo or the user's shell set for the host.
fn command(compiler: &Compiler, build: &CargoBuild<'_>) -> Result<Command> {
    let mut command = match compiler.road {
        Road::Rustup => Command::new("cargo"),
        Road::Debian { build_std } => {
            let mut command = Command::new("/usr/bin/cargo");
            command.env("RUSTC", "/usr/bin/rustc");
            if build_std {
                command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
            }
            command
        }
    };
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"] {
        command.env_remove(name);
    }
    // An outer cargo's own; the inner one would take them for its configuration.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    if matches!(compiler.road, Road::Debian { .. }) {
        // The outer cargo's: they would lead Debian's programs to rustup's libraries.
        for name in ["CARGO", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTDOC"] {
            command.env_remove(name);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(compiler.linker_dir.clone()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs)?);
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-component-ld");
    let mut flags = OsString::from("-Ctarget-feature=+simd128");
    flags.push("\x1f");
    flags.push(remaps(&build.remap));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command.current_dir(build.root);
    Ok(command)
}

/// Flags that keep this machine's folders out of the components: they reach panic messages, and a pinned hash must not
/// depend on where somebody's checkout is. Separated as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn remaps(more: &[(PathBuf, String)]) -> OsString {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut flags = OsString::new();
    let mut remap = |from: &Path, to: &str| {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    for (from, to) in more {
        remap(from, to);
    }
    if let Some(home) = home {
        remap(&home.join("registry/src"), "crates");
    }
    remap(Path::new(DEBIAN_STD_SOURCE), "std");
    flags
}

/// Where a crate's path dependencies lie outside of it, with the names to call them by. Those inside need nothing: cargo names
/// them relative to the workspace.
///
/// # Errors
/// The manifest cannot be read.
pub fn outside_paths(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let path = root.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: toml::Table = toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let inside = root.canonicalize()?;
    let mut out = Vec::new();
    for (name, dependency) in manifest.get("dependencies").and_then(toml::Value::as_table).into_iter().flatten() {
        let Some(folder) = dependency.get("path").and_then(toml::Value::as_str) else { continue };
        // A path that leads nowhere is cargo's to report.
        let Ok(folder) = root.join(folder).canonicalize() else { continue };
        if !folder.starts_with(&inside) {
            out.push((folder, name.clone()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_found_by_package_whatever_the_form_of_its_id() {
        let line = |id: &str, file: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/w/Cargo.toml","filenames":["/t/{file}"]}}"#
            )
        };
        let output = [
            line("path+file:///w/plugins/refusal#0.1.0", "refusal.wasm"),
            line("path+file:///w/plugins/other#min-words@0.1.0", "min_words.wasm"),
            line("registry+https://example.org/index#serde@1.0.0", "libserde.rlib"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "no JSON".to_owned(),
        ]
        .join("\n");
        let found = artifacts(&output);
        let names: Vec<&str> = found.iter().map(Artifact::package).collect();
        assert_eq!(names, ["refusal", "min-words", "serde"]);
        assert_eq!(found[1].wasm().unwrap(), Path::new("/t/min_words.wasm"));
        assert!(found[2].wasm().is_none());
    }

    #[test]
    fn paths_outside_of_a_crate_are_renamed_and_those_inside_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (sdk, project) = (dir.path().join("sdk"), dir.path().join("project"));
        std::fs::create_dir_all(project.join("vendor/inner")).unwrap();
        std::fs::create_dir_all(&sdk).unwrap();
        let manifest = "[dependencies]\nserde = '1'\nouter = { path = '../sdk' }\ninner = { path = 'vendor/inner' }\n";
        std::fs::write(project.join("Cargo.toml"), manifest).unwrap();
        let found = outside_paths(&project).unwrap();
        assert_eq!(found, [(sdk.canonicalize().unwrap(), "outer".to_owned())]);
    }
}
