//! Where plugins lie and what loads them: the same for every command of both binaries.
//!
//! ```text
//!  what the user wrote ──► a file | a project folder (its dist/) | a name (recipe folder, $OVHOST_PLUGIN_PATH, built in)
//!                     └──► the component, and the golden cases that belong to it
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use ovhost_plugin::{Host, HostOptions, Located, Plugin, PluginError, PluginSpec};
use ovhost_toolchain::Project;
use ovhost_toolchain::project::{MANIFEST, Manifest};

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
    // An installed program in a checkout: what `cargo xtask plugins` builds there.
    dirs.push(PathBuf::from("target/plugins"));
    dirs
}

/// The plugin host with its cache of compiled components. Errors: the engine cannot run on this machine.
pub fn host() -> Result<Host> {
    Ok(Host::new(HostOptions::default())?)
}

/// Loads a plugin for a command. Errors: as those of the host, with flags where its words are a recipe's.
pub fn load(spec: &PluginSpec) -> Result<Plugin> {
    host()?.load(spec).map_err(|error| match &error {
        PluginError::Config { diagnostics, .. }
            if diagnostics.iter().any(|d| d.message.contains("under `assets` in the recipe")) =>
        {
            anyhow!("{error}\nA command takes it with --asset NAME=FILE")
        }
        _ => error.into(),
    })
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
    if let Some(root) = project(path, &located.path).filter(|root| Project::open(root).is_ok())
        && let Some(source) = newer_source(&root, &located.path)
    {
        let shown = if root.as_os_str().is_empty() { Path::new(".") } else { &root };
        tracing::warn!(
            "{} is newer than {}, which is used as it is; `{} build {}` renews it",
            source.display(),
            located.path.display(),
            program(),
            shown.display()
        );
    }
    Ok(located)
}

/// The project's folder of a component that was given as that folder, or that lies in a folder's `dist/`.
pub fn project(given: &Path, component: &Path) -> Option<PathBuf> {
    let dist = component.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "dist"))?;
    let root = if given.is_dir() { given } else { dist.parent()? };
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    [MANIFEST, "Cargo.toml"].iter().any(|file| root.join(file).is_file()).then(|| root.to_owned())
}

/// Whether a component is what its project's manifest says: its kind and its world. Errors: it is not, with both.
pub fn as_its_manifest(manifest: &Manifest, component: &Path) -> Result<()> {
    // What is no plugin at all has its own message, which `check` and every use of it give.
    let Ok(surface) = ovhost_plugin::surface(component) else { return Ok(()) };
    let (said, is) = (manifest.kind.name(), surface.kind.to_string());
    ensure!(said == is, "{MANIFEST} says kind = \"{said}\", and what was built is a {is}: change the one or the other");
    let stateful = "stateful-filter-plugin";
    match manifest.world.as_deref() {
        Some(world) if world == stateful && !surface.filter_state => {
            bail!("{MANIFEST} says world = \"{world}\", and what was built saves no state: change the one or the other")
        }
        Some(world) if world != stateful && surface.filter_state => bail!(
            "{MANIFEST} says world = \"{world}\", and what was built saves state: the world of such filters is {stateful}"
        ),
        _ => Ok(()),
    }
}

/// A file that a project's component is built of and that was changed after it, if there is one.
fn newer_source(root: &Path, component: &Path) -> Option<PathBuf> {
    let built = component.metadata().and_then(|meta| meta.modified()).ok()?;
    let newer = |path: &Path| path.metadata().and_then(|meta| meta.modified()).is_ok_and(|time| time > built);
    sources(root, 0).into_iter().find(|path| newer(path))
}

/// Files below a project's folder that a component is built of. Tests are not.
fn sources(folder: &Path, depth: u32) -> Vec<PathBuf> {
    const DEEPEST: u32 = 8;
    const NOT: [&str; 6] = ["target", "dist", "node_modules", "tests", "venv", "__pycache__"];
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < DEEPEST && !name.starts_with('.') && !NOT.contains(&name.as_ref()) {
                out.extend(sources(&path, depth + 1));
            }
            continue;
        }
        let test = name.starts_with("test_") || name.contains(".test.");
        let code =
            path.extension().is_some_and(|end| ["rs", "py", "js", "mjs", "wit"].iter().any(|known| end == *known));
        if (code && !test) || [MANIFEST, "Cargo.toml", "Cargo.lock"].contains(&name.as_ref()) {
            out.push(path);
        }
    }
    out
}

/// The component in a project's `dist/`: that of the project's name, else the only one; for a folder of this repository's `plugins/KINDs/NAME`, which has none, what
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
    let project = Project::open(folder).ok();
    if let Some(named) = project.as_ref().map(Project::component).filter(|path| built.contains(path)) {
        return Ok(named);
    }
    match &built[..] {
        [only] => {
            if let Some(project) = &project {
                tracing::warn!(
                    "{} is used, as the project's own {} is not built; `{} build {}` builds it",
                    only.display(),
                    project.component().display(),
                    program(),
                    folder.display()
                );
            }
            return Ok(only.clone());
        }
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
    fn sources_that_changed_after_the_build_are_found() {
        use std::time::{Duration, SystemTime};
        let root = tempfile::tempdir().unwrap();
        let at = |p: &str| root.path().join(p);
        let now = SystemTime::now();
        let touch = |p: &str, after: i64| {
            fs::create_dir_all(at(p).parent().unwrap()).unwrap();
            let file = fs::File::create(at(p)).unwrap();
            let apart = Duration::from_secs(after.unsigned_abs());
            file.set_modified(if after < 0 { now - apart } else { now + apart }).unwrap();
        };
        let newer = || newer_source(root.path(), &at("dist/a.wasm"));
        touch("dist/a.wasm", 0);
        for old in ["src/lib.rs", "Cargo.toml", "ovhost/rows.py"] {
            touch(old, -9);
        }
        for other in
            ["target/x.rs", "test_app.py", "plugin.test.js", "tests/all.rs", ".git/a.py", "README.md", "dist/b.js"]
        {
            touch(other, 9);
        }
        assert_eq!(newer(), None);
        for source in ["src/deep/er.rs", "app.py", "plugin.js", "Cargo.toml", "ovhost-plugin.toml"] {
            touch(source, 9);
            assert_eq!(newer(), Some(at(source)));
            touch(source, -9);
        }
    }

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

        // The project's own name decides among several, whatever older ones are left.
        fs::write(at("mine/ovhost-plugin.toml"), "name = 'b'\nkind = 'filter'\nlang = 'js'\n").unwrap();
        assert_eq!(find("mine").unwrap(), at("mine/dist/b.wasm"));

        touch("repo/plugins/filters/f/Cargo.toml");
        assert!(find("repo/plugins/filters/f").is_err());
        touch("repo/target/plugins/filters/f.wasm");
        let built = find("repo/plugins/filters/f").unwrap();
        assert!(built.ends_with("repo/target/plugins/filters/f.wasm"), "{}", built.display());
        assert_eq!(cases(&at("repo/plugins/filters/f")), None);
    }
}
