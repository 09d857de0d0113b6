//! Where plugins lie and what loads them: the same for every command of both binaries.
//!
//! ```text
//!  what the user wrote ──► a file | a project folder (its dist/) | a name (recipe folder, $OVHOST_PLUGIN_PATH, built in)
//!                     └──► the component, and the golden cases that belong to it
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ovhost_plugin::{Host, HostOptions, Located};

use crate::commands::program;

/// Golden cases lie in a project's folder under this name.
pub const CASES: &str = "cases.jsonl";

/// Folders in which first-party plugins are found: beside the installed binary, and in a source checkout.
pub fn builtin_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(exe) = std::env::current_exe().and_then(std::fs::canonicalize) {
        // target/release/ovhost -> target/plugins; PREFIX/bin/ovhost -> PREFIX/share/ovhost/plugins
        if let Some(up) = exe.parent().and_then(Path::parent) {
            dirs.push(up.join("plugins"));
            dirs.push(up.join("share/ovhost/plugins"));
        }
        if let Some(dir) = exe.parent() {
            dirs.push(dir.join("plugins"));
        }
    }
    dirs
}

/// The plugin host with its cache of compiled components. Errors: the engine cannot run on this machine.
pub fn host() -> Result<Host> {
    Ok(Host::new(HostOptions::default())?)
}

/// The file of a plugin as recipes and flags name it; `dir` is the folder that relative names start from. Errors: every
/// place that was tried, and near names.
pub fn resolve(name: &str, dir: &Path) -> Result<PathBuf> {
    Ok(ovhost_plugin::resolve(name, Some(dir), &builtin_dirs())?)
}

/// As [`resolve`], for a plugin whose sha256 is known (`pin`) or fixed by its name.
pub fn locate(name: &str, pin: Option<&str>, dir: &Path) -> Result<Located> {
    Ok(ovhost_plugin::locate(name, pin, Some(dir), &builtin_dirs())?)
}

/// A plugin as a flag names it, for a function that looks into a recipe's folder first: a flag's path starts in the current
/// folder, so one that is a file there becomes whole.
pub fn from_flag(name: &str) -> Cow<'_, str> {
    let there = [name.to_owned(), format!("{name}.wasm")].into_iter().find(|name| Path::new(name).is_file());
    let whole = there.and_then(|name| std::path::absolute(name).ok()?.into_os_string().into_string().ok());
    whole.map_or(Cow::Borrowed(name), Cow::Owned)
}

/// The component that an author means by a path, a folder or a name, perhaps with `@sha256:…` after it. Errors: there is
/// none, or there are several.
pub fn component(given: &str) -> Result<PathBuf> {
    Ok(located(given)?.path)
}

/// As [`component`], with the sha256 that `@sha256:…` or the name itself fixes.
pub fn located(given: &str) -> Result<Located> {
    let (name, pin) = ovhost_plugin::split_pin(given);
    let path = Path::new(name);
    let mut located = if path.is_dir() {
        Located { path: in_project(path)?, sha256: None }
    } else {
        locate(name, pin, Path::new("."))?
    };
    located.sha256 = pin.map(str::to_owned).or(located.sha256);
    Ok(located)
}

/// The one component in a project's `dist/`; for a folder of this repository's `plugins/KINDs/NAME`, which has none, what
/// `cargo xtask plugins` built of it.
fn in_project(folder: &Path) -> Result<PathBuf> {
    let dist = folder.join("dist");
    let mut built: Vec<PathBuf> = std::fs::read_dir(&dist)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "wasm") && path.is_file())
        .collect();
    built.sort();
    match &built[..] {
        [only] => return Ok(only.clone()),
        [] => {}
        [_, _, ..] => {
            let names: Vec<String> = built.iter().map(|p| p.display().to_string()).collect();
            bail!("{} holds several components; name one of them: {}", dist.display(), names.join(", "));
        }
    }
    let whole = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    if let [name, kinds, "plugins", ..] = parts(&whole)[..] {
        let root = whole.ancestors().nth(3).unwrap_or(Path::new(""));
        let path = root.join("target/plugins").join(kinds).join(format!("{name}.wasm"));
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{} has no component: {} holds no .wasm file. Build it first: {} build {}",
        folder.display(),
        dist.display(),
        program(),
        folder.display()
    )
}

/// The last steps of a path, the very last first.
fn parts(path: &Path) -> Vec<&str> {
    path.iter().rev().map(|step| step.to_str().unwrap_or_default()).collect()
}

/// The golden cases of a project folder, or of a component: beside it, or in the project whose `dist/` it lies in.
pub fn cases(given: &Path) -> Option<PathBuf> {
    let folder = if given.is_dir() { given } else { given.parent()? };
    let above = folder.file_name().filter(|name| *name == "dist").and_then(|_| folder.parent());
    [Some(folder), above].into_iter().flatten().map(|folder| folder.join(CASES)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_project_has_one_component_and_its_cases() {
        let root = tempfile::tempdir().unwrap();
        let at = |p: &str| root.path().join(p);
        let find = |p: &str| component(at(p).to_str().unwrap());
        let touch = |p: &str| {
            fs::create_dir_all(at(p).parent().unwrap()).unwrap();
            fs::write(at(p), "").unwrap();
        };
        fs::create_dir_all(at("mine")).unwrap();
        let error = format!("{:#}", find("mine").unwrap_err());
        assert!(error.contains("mine/dist holds no .wasm file") && error.contains("plugin build"), "{error}");
        touch("mine/dist/a.wasm");
        touch("mine/cases.jsonl");
        assert_eq!(find("mine").unwrap(), at("mine/dist/a.wasm"));
        assert_eq!(cases(&at("mine")), Some(at("mine/cases.jsonl")));
        assert_eq!(cases(&at("mine/dist/a.wasm")), Some(at("mine/cases.jsonl")));
        touch("mine/dist/b.wasm");
        let error = format!("{:#}", find("mine").unwrap_err());
        assert!(error.contains("several components") && error.contains("b.wasm"), "{error}");

        touch("repo/plugins/filters/f/Cargo.toml");
        assert!(find("repo/plugins/filters/f").is_err());
        touch("repo/target/plugins/filters/f.wasm");
        let built = find("repo/plugins/filters/f").unwrap();
        assert!(built.ends_with("repo/target/plugins/filters/f.wasm"), "{}", built.display());
        assert_eq!(cases(&at("repo/plugins/filters/f")), None);
    }
}
