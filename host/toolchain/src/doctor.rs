//! What a machine has of what plugins take: languages in, one line per tool with its cure out.

use std::path::Path;

use anyhow::Context;

use crate::files::cache_dir;
use crate::process::{find_on_path, first_line};
use crate::project::Lang;
use crate::rust;
use crate::tools::{Tool, at_least};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub name: String,
    /// The language that needs it; none: all do.
    pub lang: Option<Lang>,
    /// What was found; none: nothing.
    pub found: Option<String>,
    /// What is wanted.
    pub wanted: String,
    /// Whether the one is the other.
    pub good: bool,
    /// What to do where it is not.
    pub cure: String,
}

/// Looks at everything that `langs` take, as a project in `root` sees it.
pub fn checks(root: &Path, langs: &[Lang]) -> Vec<Check> {
    let mut all = vec![cache()];
    for &lang in langs {
        match lang {
            Lang::Rust => all.extend(rust_checks(root)),
            Lang::Python => all.extend(tool_checks(Tool::ComponentizePy)),
            Lang::Js => all.extend(tool_checks(Tool::ComponentizeQjs)),
        }
    }
    all
}

/// Whether the cache folder, which holds compiled components and tools, can be written to.
fn cache() -> Check {
    let name = "cache folder".to_owned();
    let wanted = "can be written to".to_owned();
    let cure = "set OVHOST_CACHE to a folder of yours on a disk with space".to_owned();
    let Some(folder) = cache_dir() else {
        return Check { name, lang: None, found: None, wanted, good: false, cure };
    };
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&probe, b"x"));
    _ = std::fs::remove_file(&probe);
    let found = match &written {
        Ok(()) => {
            let (files, bytes) = compiled(&folder);
            format!("{}, {files} compiled components of {} MB", folder.display(), bytes.div_ceil(1_000_000))
        }
        Err(why) => format!("{}: {why}", folder.display()),
    };
    Check { name, lang: None, found: Some(found), wanted, good: written.is_ok(), cure }
}

/// Number and bytes of the compiled components in the cache folder.
fn compiled(cache: &Path) -> (usize, u64) {
    let inside = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().collect::<Vec<_>>();
    let engines = inside(&cache.join("wasm"));
    let sizes =
        engines.iter().flat_map(|engine| inside(&engine.path())).filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

/// Removes the compiled components, which the host makes again when it next loads them. Gives their number and bytes.
///
/// # Errors
/// There is no cache folder, or it cannot be written.
pub fn clean() -> anyhow::Result<(usize, u64)> {
    let cache = cache_dir().context("there is no cache folder: set OVHOST_CACHE or HOME")?;
    let removed = compiled(&cache);
    let folder = cache.join("wasm");
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(removed),
    }
}

fn rust_checks(root: &Path) -> Vec<Check> {
    let lang = Some(Lang::Rust);
    let program = |name: &str| {
        let found = find_on_path(name).and_then(|path| first_line(&path, &["--version"]));
        let there = found.is_some();
        Check {
            name: name.to_owned(),
            lang,
            good: found.as_deref().is_some_and(new_enough),
            found,
            wanted: format!("{} or later", rust::RUST_VERSION),
            cure: if there { "rustup update" } else { "install Rust with rustup (https://rustup.rs)" }.to_owned(),
        }
    };
    let (found, cure) = match rust::compiler(root) {
        Ok(Some(compiler)) => (Some(compiler.road.words().to_owned()), rust::manual()),
        Ok(None) => (None, rust::manual()),
        Err(why) => (None, format!("{why:#}")),
    };
    let target = Check {
        name: rust::TARGET.to_owned(),
        lang,
        good: found.is_some(),
        found,
        wanted: "a standard library, and wasm-component-ld".to_owned(),
        cure,
    };
    vec![program("rustc"), program("cargo"), target]
}

/// Whether `rustc 1.95.0 (…)` or `cargo 1.95.0 (…)` can build plugins.
fn new_enough(line: &str) -> bool {
    line.split(' ').nth(1).is_some_and(|version| at_least(version, rust::RUST_VERSION))
}

fn tool_checks(tool: Tool) -> Vec<Check> {
    let lang = Some(tool.lang());
    let (name, interpreter, wanted) = tool.interpreter();
    let good = interpreter.as_ref().is_some_and(|(_, version)| at_least(version, wanted));
    let interpreter = Check {
        name: name.to_owned(),
        lang,
        found: interpreter.map(|(path, version)| format!("{version} at {}", path.display())),
        wanted: format!("{wanted} or later"),
        good,
        cure: format!("install {name}"),
    };
    let found = tool.find();
    let shown = match (&found, tool.other()) {
        (Some(found), _) => Some(format!("{} at {}", tool.version(), found.program.display())),
        (None, Some((path, version))) => Some(format!("{version} at {}", path.display())),
        (None, None) => None,
    };
    let component = Check {
        name: tool.name().to_owned(),
        lang,
        found: shown,
        wanted: format!("exactly {}", tool.version()),
        good: found.is_some(),
        cure: tool.how(),
    };
    vec![interpreter, component]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_compiler_is_not_good() {
        assert!(new_enough("rustc 1.95.0 (abc 2026-01-01)") && new_enough("cargo 1.88.0"));
        assert!(new_enough("rustc 2.0.0-nightly (abc 2026-01-01)"));
        assert!(!new_enough("rustc 1.87.0 (abc 2025-05-01)") && !new_enough("rustc 1.9.0") && !new_enough("rustc"));
    }

    #[test]
    fn every_language_has_its_checks_and_every_check_a_cure() {
        let all = checks(Path::new(env!("CARGO_MANIFEST_DIR")), &Lang::ALL);
        let names: Vec<&str> = all.iter().map(|check| check.name.as_str()).collect();
        for name in
            ["cache folder", "rustc", "cargo", rust::TARGET, "python3", "componentize-py", "node", "componentize-qjs"]
        {
            assert!(names.contains(&name), "{name} is not looked at");
        }
        assert!(all.iter().all(|check| !check.cure.is_empty() && !check.wanted.is_empty()));
        // These tests were built by cargo.
        assert!(all.iter().any(|check| check.name == "rustc" && check.good));
    }
}
