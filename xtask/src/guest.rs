//! The plugins of this repository: the crates of `plugins/*/*` in, `target/plugins/<kind>s/<name>.wasm` out.
//!
//! How a crate becomes a component is `ovhost_toolchain`'s business; here is only which crates, and where they go. One cargo
//! call builds all of them into one target folder, which therefore holds one std and one SDK.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ovhost_toolchain::files::publish;
use ovhost_toolchain::rust::{self, cargo};

const TEST_GUESTS: &str = "guests";
const KINDS: [&str; 4] = ["filters", "packers", "prompts", "metrics"];

/// Builds the plugins whose `kinds/name` contains `filter` (all of them without one) and returns their components.
///
/// A filter that starts with `guests` means the ill-behaved guests of `tests/guests`. They are checked in, in
/// `tests/fixtures/guests`, so that tests need no WebAssembly toolchain; run this after changing one.
///
/// Installs what is missing, as [`ensure_wasm_toolchain`] does.
///
/// # Errors
/// No plugin matches, no toolchain, or the build fails.
pub fn build_plugins(root: &Path, filter: Option<&str>) -> Result<Vec<PathBuf>> {
    let guests = filter.is_some_and(|filter| filter.starts_with(TEST_GUESTS));
    build(root, filter, &root.join(if guests { "tests/fixtures" } else { "target/plugins" }))
}

/// Builds the ill-behaved guests of `tests/guests` beside the checked-in ones, which stay as they are. Returns their folder.
///
/// # Errors
/// No toolchain, or the build fails.
pub fn build_test_guests(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/test-guests");
    build(root, Some(TEST_GUESTS), &folder)?;
    Ok(folder.join(TEST_GUESTS))
}

/// Builds the chosen plugins into `KINDs/NAME.wasm` of a folder.
fn build(root: &Path, filter: Option<&str>, folder: &Path) -> Result<Vec<PathBuf>> {
    let plugins = chosen_plugins(root, filter)?;
    let packages: Vec<&str> = plugins.iter().map(|plugin| plugin.package.as_str()).collect();
    let build = cargo::CargoBuild {
        root,
        packages: &packages,
        profile: "plugin",
        target_dir: &root.join("target/guest"),
        remap: vec![(root.canonicalize()?, ".".to_owned())],
        quiet: true,
    };
    let built = cargo::build(&rust::ensure_compiler(root)?, &build)?;
    let mut out = Vec::with_capacity(plugins.len());
    for (plugin, component) in plugins.iter().zip(built) {
        let target = folder.join(&plugin.kind).join(format!("{}.wasm", plugin.name));
        publish(&component, &target)?;
        out.push(target);
    }
    Ok(out)
}

/// Writes `sdk/src/bindings.rs` anew out of `wit/`; needed after each change of the contract.
///
/// # Errors
/// The contract does not parse, or the generator does not build.
pub fn regenerate_bindings(root: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--quiet", "--manifest-path", "sdk/bindgen/Cargo.toml", "--target-dir", "target/bindgen"]);
    let status = cargo.current_dir(root).status().context("cannot run cargo")?;
    ensure!(status.success(), "the generator of the bindings failed ({status}); its message is above");
    Ok(())
}

/// Makes sure that guests can be built: does nothing if they can, else asks rustup for the target, else installs
/// Debian's packages with apt-get (it says so first).
///
/// # Errors
/// Neither way works; the message says what to install.
pub fn ensure_wasm_toolchain() -> Result<()> {
    rust::ensure_compiler(&std::env::current_dir()?).map(drop)
}

struct Plugin {
    kind: String,
    name: String,
    package: String,
}

fn chosen_plugins(root: &Path, filter: Option<&str>) -> Result<Vec<Plugin>> {
    let mut all = Vec::new();
    let (parent, kinds): (_, &[&str]) = match filter {
        Some(filter) if filter.starts_with(TEST_GUESTS) => ("tests", &[TEST_GUESTS]),
        _ => ("plugins", &KINDS),
    };
    for &kind in kinds {
        for folder in crate_folders(&root.join(parent).join(kind))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Plugin { kind: kind.into(), package: package_name(&folder)?, name });
        }
    }
    let label = |plugin: &Plugin| format!("{}/{}", plugin.kind, plugin.name);
    let names: Vec<String> = all.iter().map(label).collect();
    all.retain(|plugin| filter.is_none_or(|part| label(plugin).contains(part)));
    if all.is_empty() {
        let asked = filter.unwrap_or("(all)");
        bail!("no plugin in plugins/ matches `{asked}`; there are: {}", names.join(", "));
    }
    Ok(all)
}

/// Folders in `parent` that hold a crate, sorted. No such parent: none.
fn crate_folders(parent: &Path) -> Result<Vec<PathBuf>> {
    if !parent.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    folders.retain(|path| path.join("Cargo.toml").is_file());
    folders.sort();
    Ok(folders)
}

/// The first `name = "…"` of the crate's manifest.
fn package_name(folder: &Path) -> Result<String> {
    let path = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='));
    let name = quoted.map(|rest| rest.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty());
    name.with_context(|| format!("{} has no `name = \"…\"`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    #[test]
    fn plugins_are_found_by_kind_and_name() {
        assert!(chosen_plugins(&root(), None).unwrap().len() >= 6);
        let chosen = chosen_plugins(&root(), Some("packers/padding")).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!((chosen[0].kind.as_str(), chosen[0].package.as_str()), ("packers", "padding_free"));
        let guests = chosen_plugins(&root(), Some("guests/misbehave")).unwrap();
        assert!(guests.iter().any(|guest| guest.package == "misbehave"));
        let error = chosen_plugins(&root(), Some("nope")).err().unwrap().to_string();
        assert!(error.contains("`nope`") && error.contains("packers/padding_free"), "{error}");
    }
}
