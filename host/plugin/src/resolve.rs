//! From what a recipe or a flag says to the file of a plugin.
//!
//! ```text
//!  packers/padding_free.wasm (the suffix may be left out) ─► the first of: in the recipe's folder, as given, in
//!                                $OVHOST_PLUGIN_PATH, in the built-in folders; else every place tried and near names
//!  ns:name@1.2.0 ─► folders of packages (`package`)        oci://registry/repository:tag ─► what was pulled (`oci`)
//! ```

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::PluginError;
use crate::oci::{OciReference, OciStore, SCHEME};
use crate::package::{PackageName, package_roots};

/// Where a plugin was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The component's file.
    pub path: PathBuf,
    /// The sha256 that it must have, where the name itself fixes it (`oci://...@sha256:...`).
    pub sha256: Option<String>,
}

/// Finds a plugin's file. `builtin_dirs` are the folders of the first-party plugins.
pub fn resolve(name: &str, recipe_dir: Option<&Path>, builtin_dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    Ok(locate(name, None, recipe_dir, builtin_dirs)?.path)
}

/// Finds a plugin's file. `pin` is the sha256 that is wanted, if it is known: where a name fits several files (versions of a
/// package, a tag that has moved), the one with that hash is meant. Whether the file has it is checked when it is loaded.
pub fn locate(
    name: &str,
    pin: Option<&str>,
    recipe_dir: Option<&Path>,
    builtin_dirs: &[PathBuf],
) -> Result<Located, PluginError> {
    if name.starts_with(SCHEME) {
        let reference = OciReference::parse(name)?;
        let stored = OciStore::user()?.find(&reference, pin)?;
        let fixed = reference.digest.is_some();
        return Ok(Located { path: stored.path, sha256: fixed.then_some(stored.sha256) });
    }
    if let Some(package) = PackageName::parse(name) {
        return Ok(Located { path: package.find(&package_roots(), pin)?, sha256: None });
    }
    let search = std::env::var_os("OVHOST_PLUGIN_PATH");
    let path = resolve_with(name, recipe_dir, search.as_deref(), builtin_dirs)?;
    Ok(Located { path, sha256: None })
}

/// `NAME@sha256:HEX`, as flags pin a plugin: the name and the hash. An `oci://` reference stays whole, its digest is that of
/// the manifest.
pub fn split_pin(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once("@sha256:") {
        Some((name, hex)) if !text.starts_with(SCHEME) => (name, Some(hex)),
        _ => (text, None),
    }
}

fn resolve_with(
    name: &str,
    recipe_dir: Option<&Path>,
    search: Option<&OsStr>,
    builtin_dirs: &[PathBuf],
) -> Result<PathBuf, PluginError> {
    let given = Path::new(name.strip_prefix("file://").unwrap_or(name));
    let here = PathBuf::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    if given.is_relative() {
        // A recipe means its own files: what lies in the folder that a command is started from must not take their place.
        folders.extend(recipe_dir.filter(|dir| *dir != Path::new(".")).map(Path::to_owned));
    }
    folders.push(here.clone());
    if given.is_relative() {
        folders.extend(search.into_iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty()));
        folders.extend_from_slice(builtin_dirs);
    }
    let mut names = vec![given.to_owned()];
    if given.extension() != Some(OsStr::new("wasm")) {
        let mut with = given.as_os_str().to_owned();
        with.push(".wasm");
        names.push(with.into());
    }
    let mut tried = Vec::new();
    for folder in &folders {
        for name in &names {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
    }
    folders.retain(|folder| *folder != here);
    Err(PluginError::NotFound { name: name.to_owned(), near: near(given, &folders), tried })
}

/// Up to four plugins in the folders whose file names are like the wanted one, as a recipe would write them.
fn near(wanted: &Path, folders: &[PathBuf]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let wanted = stem(wanted);
    let mut found = BTreeSet::new();
    for folder in folders {
        let below = list(folder).into_iter().filter(|p| p.is_dir());
        for place in std::iter::once(folder.clone()).chain(below) {
            for file in list(&place).into_iter().filter(|p| p.extension() == Some(OsStr::new("wasm"))) {
                let score = strsim::jaro_winkler(&wanted, &stem(&file));
                let inside = stem(&file).contains(&wanted) || wanted.contains(&stem(&file));
                if score > 0.75 || inside {
                    let shown = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
                    found.insert((u64::MAX - (score * 1e6) as u64, shown));
                }
            }
        }
    }
    let mut names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    names.dedup();
    names.truncate(4);
    names
}

/// What a folder holds; nothing if it cannot be read, since this only serves a hint.
fn list(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().take(1000).filter_map(|e| Some(e.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pins_are_split_off() {
        assert_eq!(split_pin("filters/x.wasm@sha256:ab"), ("filters/x.wasm", Some("ab")));
        assert_eq!(split_pin("lab:x@1.2@sha256:ab"), ("lab:x@1.2", Some("ab")));
        assert_eq!(split_pin("lab:x@1.2"), ("lab:x@1.2", None));
        assert_eq!(split_pin("oci://r/x@sha256:ab"), ("oci://r/x@sha256:ab", None));
    }

    #[test]
    fn a_recipe_s_own_folder_comes_first() {
        // The current folder is the crate's when its tests run.
        let name = "src/resolve.rs";
        assert!(Path::new(name).is_file());
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("src")).unwrap();
        let find = |dir: &Path| resolve_with(name, Some(dir), None, &[]).unwrap();
        assert_eq!(find(root.path()), Path::new(name), "as given, where the recipe's folder has none");
        fs::write(root.path().join(name), "").unwrap();
        assert_eq!(find(root.path()), root.path().join(name));
        for here in [".", ""] {
            assert_eq!(find(Path::new(here)), Path::new(name));
        }
    }

    #[test]
    fn places_are_tried_in_order() {
        let root = tempfile::tempdir().unwrap();
        let at = |p: &str| root.path().join(p);
        for file in
            ["builtin/packers/padding_free.wasm", "search/b.wasm", "builtin/b.wasm", "recipe/c.wasm", "search/c.wasm"]
        {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), "").unwrap();
        }
        let search = std::env::join_paths([at("nowhere"), at("search")]).unwrap();
        let find = |name: &str| resolve_with(name, Some(&at("recipe")), Some(&search), &[at("builtin")]);
        assert_eq!(find("packers/padding_free.wasm").unwrap(), at("builtin/packers/padding_free.wasm"));
        assert_eq!(find("packers/padding_free").unwrap(), at("builtin/packers/padding_free.wasm"));
        assert_eq!(find("b.wasm").unwrap(), at("search/b.wasm"));
        assert_eq!(find("c.wasm").unwrap(), at("recipe/c.wasm"));
        assert_eq!(find(at("builtin/b.wasm").to_str().unwrap()).unwrap(), at("builtin/b.wasm"));

        let error = find("packers/paddingfree.wasm").unwrap_err().to_string();
        assert!(error.contains("Near names: packers/padding_free.wasm"), "{error}");
        for place in ["recipe/packers", "nowhere/packers", "search/packers", "builtin/packers"] {
            assert!(error.contains(place), "{error} lacks {place}");
        }
    }
}
