//! What a folder is: its `ovhost-plugin.toml`, else its `Cargo.toml`, in; name, kind, language and places out.
//!
//! ```toml
//! # ovhost-plugin.toml
//! name = "word_variety"      # the component's file is dist/word_variety.wasm
//! kind = "filter"            # filter, packer, prompt, metric
//! lang = "python"            # rust, python, js
//! # world = "filter-plugin"  # of wit/plugin.wit; the kind's own unless said
//! # main = "app.py"          # python, js: the file that exports the plugin
//! # path = ["vendor"]        # python: further folders to import from
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The file that says what a plugin's folder is.
pub const MANIFEST: &str = "ovhost-plugin.toml";
/// The golden cases beside it.
pub const CASES: &str = "cases.jsonl";
/// Longest name of a plugin.
const NAME_CHARS: usize = 64;

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Keeps or drops rows.
    Filter,
    /// Groups samples into bins.
    Packer,
    /// Turns a row into what the model reads.
    Prompt,
    /// Scores answers.
    Metric,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Filter, Kind::Packer, Kind::Prompt, Kind::Metric];

    /// Its name, which is that of its interface in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Filter => "filter",
            Kind::Packer => "packer",
            Kind::Prompt => "prompt",
            Kind::Metric => "metric",
        }
    }

    /// All worlds of the contract for it.
    pub fn worlds(self) -> &'static [&'static str] {
        match self {
            Kind::Filter => &["filter-plugin", "stateful-filter-plugin"],
            Kind::Packer => &["packer-plugin"],
            Kind::Prompt => &["prompt-plugin"],
            Kind::Metric => &["metric-plugin"],
        }
    }

    /// Its world in the contract, unless something else is said.
    pub fn world(self) -> &'static str {
        match self {
            Kind::Filter => "filter-plugin",
            Kind::Packer => "packer-plugin",
            Kind::Prompt => "prompt-plugin",
            Kind::Metric => "metric-plugin",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// Rust, with `ovhost-sdk`.
    Rust,
    /// Python, with componentize-py.
    Python,
    /// JavaScript, with componentize-qjs.
    Js,
}

impl Lang {
    /// All of them.
    pub const ALL: [Lang; 3] = [Lang::Rust, Lang::Python, Lang::Js];

    /// Its name in manifests and flags.
    pub fn name(self) -> &'static str {
        match self {
            Lang::Rust => "rust",
            Lang::Python => "python",
            Lang::Js => "js",
        }
    }
}

impl fmt::Display for Lang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The contents of `ovhost-plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Names the component's file.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What it is written in.
    pub lang: Lang,
    /// The contract's world that it implements; none: its kind's own.
    #[serde(default)]
    pub world: Option<String>,
    /// Python and JavaScript: the file that exports the plugin; none: `app.py`, `component.js`.
    #[serde(default)]
    pub main: Option<String>,
    /// Python: folders beside the project's own in which modules are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
}

/// A plugin's source folder.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder.
    pub root: PathBuf,
    /// Names the component's file.
    pub name: String,
    /// What it is written in.
    pub lang: Lang,
    /// What `ovhost-plugin.toml` says; none for a crate without one.
    pub manifest: Option<Manifest>,
}

impl Project {
    /// Reads what the folder `root` is.
    ///
    /// # Errors
    /// It is no plugin's folder, or its manifest is wrong; the message says what is allowed and the next step.
    pub fn open(root: &Path) -> Result<Self> {
        ensure!(root.is_dir(), "{} is no folder; give the folder of a plugin's source", root.display());
        if let Some(manifest) = read_manifest(root)? {
            return Ok(Self {
                root: root.to_owned(),
                name: manifest.name.clone(),
                lang: manifest.lang,
                manifest: Some(manifest),
            });
        }
        if let Some(name) = sdk_crate(root)? {
            return Ok(Self { root: root.to_owned(), name, lang: Lang::Rust, manifest: None });
        }
        let hint = ["app.py", "pyproject.toml", "package.json", "Cargo.toml"]
            .into_iter()
            .find(|file| root.join(file).is_file())
            .map_or_else(String::new, |file| format!("; {file} alone does not say what it is"));
        bail!(
            "{} holds no {MANIFEST} and no crate that depends on ovhost-sdk{hint}. `ovhost-plugin new` makes a project; for code \
             that you have, write an {MANIFEST} of three lines: name = \"…\", kind = \"filter\" (packer, prompt, metric), \
             lang = \"rust\" (python, js)",
            root.display()
        );
    }

    /// Where its component goes unless somebody says otherwise.
    pub fn component(&self) -> PathBuf {
        self.root.join("dist").join(format!("{}.wasm", self.name))
    }

    /// Its golden cases, whether or not they are there.
    pub fn cases(&self) -> PathBuf {
        self.root.join(CASES)
    }

    /// The contract's world, which Python and JavaScript projects are built for.
    ///
    /// # Errors
    /// It has no manifest.
    pub fn world(&self) -> Result<&str> {
        let manifest = self.manifest.as_ref();
        let manifest = manifest.with_context(|| format!("{} has no {MANIFEST}", self.root.display()))?;
        Ok(manifest.world.as_deref().unwrap_or(manifest.kind.world()))
    }

    /// The project's copy of the contract.
    ///
    /// # Errors
    /// It is missing.
    pub fn wit(&self) -> Result<PathBuf> {
        let wit = self.root.join("wit");
        ensure!(
            wit.join("plugin.wit").is_file(),
            "{} is missing: it is the contract that the component is built for; `ovhost-plugin doctor --update-sdk {}` writes it",
            wit.join("plugin.wit").display(),
            self.root.display()
        );
        Ok(wit)
    }

    /// The file that exports the plugin, of a Python or JavaScript project.
    ///
    /// # Errors
    /// It is missing.
    pub fn main(&self, default: &str) -> Result<PathBuf> {
        let main = self.manifest.as_ref().and_then(|manifest| manifest.main.as_deref()).unwrap_or(default);
        let path = self.root.join(main);
        ensure!(
            path.is_file(),
            "{} is missing: it exports the plugin. Write it, or say `main = \"…\"` in {MANIFEST}",
            path.display()
        );
        Ok(path)
    }
}

fn read_manifest(root: &Path) -> Result<Option<Manifest>> {
    let path = root.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let manifest: Manifest = toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))?;
    check_name(&manifest.name).with_context(|| format!("{}: `name` is wrong", path.display()))?;
    let worlds = manifest.kind.worlds();
    ensure!(
        manifest.world.as_deref().is_none_or(|world| worlds.contains(&world)),
        "{}: world = \"{}\" is no world of a {} in the contract; allowed: {}",
        path.display(),
        manifest.world.as_deref().unwrap_or_default(),
        manifest.kind,
        worlds.join(", ")
    );
    for inside in manifest.main.iter().chain(&manifest.path) {
        ensure!(
            Path::new(inside).components().all(|part| matches!(part, std::path::Component::Normal(_))),
            "{}: `{inside}` leaves the project; give a path inside of it",
            path.display()
        );
    }
    Ok(Some(manifest))
}

/// The package name of the crate in `root`, if it is one that depends on the SDK.
fn sdk_crate(root: &Path) -> Result<Option<String>> {
    let path = root.join("Cargo.toml");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let cargo: toml::Table = toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let name = cargo.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let sdk = cargo.get("dependencies").and_then(|all| all.get("ovhost-sdk"));
    Ok(name.filter(|_| sdk.is_some()).map(str::to_owned))
}

/// Whether `name` can name a plugin: lower-case words of ASCII letters and digits, joined by single `_` or `-`.
///
/// # Errors
/// It cannot; the message says what is allowed.
pub fn check_name(name: &str) -> Result<()> {
    let word = |word: &str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    ensure!(
        name.len() <= NAME_CHARS
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.split(['_', '-']).all(word),
        "`{name}` cannot name a plugin: lower-case letters and digits in words joined by `_` or `-`, a letter first, at most \
         {NAME_CHARS} characters, such as min_words"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(files: &[(&str, &str)]) -> Result<Project> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Project::open(dir.path())
    }

    fn refused(files: &[(&str, &str)]) -> String {
        format!("{:#}", open(files).unwrap_err())
    }

    #[test]
    fn manifests_say_what_a_folder_is() {
        let project = open(&[(MANIFEST, "name = 'a-b'\nkind = 'metric'\nlang = 'js'\n")]).unwrap();
        assert_eq!((project.lang, project.world().unwrap()), (Lang::Js, "metric-plugin"));
        assert!(project.component().ends_with("dist/a-b.wasm"));
        let stateful = "name = 'x'\nkind = 'filter'\nlang = 'python'\nworld = 'stateful-filter-plugin'";
        assert_eq!(open(&[(MANIFEST, stateful)]).unwrap().world().unwrap(), "stateful-filter-plugin");
    }

    #[test]
    fn a_crate_with_the_sdk_needs_no_manifest() {
        let cargo = "[package]\nname = 'words'\n[dependencies]\novhost-sdk = '0.1'\n";
        let project = open(&[("Cargo.toml", cargo)]).unwrap();
        assert_eq!((project.name.as_str(), project.lang), ("words", Lang::Rust));
        let other = refused(&[("Cargo.toml", "[package]\nname = 'words'\n")]);
        assert!(other.contains("Cargo.toml alone") && other.contains("ovhost-plugin new"), "{other}");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        assert!(refused(&[("app.py", "")]).contains("app.py alone does not say"));
        let kind = refused(&[(MANIFEST, "name = 'x'\nkind = 'sieve'\nlang = 'js'")]);
        assert!(kind.contains("sieve") && kind.contains("`filter`") && kind.contains("`metric`"), "{kind}");
        let key = refused(&[(MANIFEST, "name = 'x'\nkind = 'filter'\nlang = 'js'\nentry = 'a'")]);
        assert!(key.contains("entry") && key.contains("`main`"), "{key}");
        let name = refused(&[(MANIFEST, "name = '../x'\nkind = 'filter'\nlang = 'js'")]);
        assert!(name.contains("`../x` cannot name a plugin"), "{name}");
        let world = refused(&[(MANIFEST, "name = 'x'\nkind = 'packer'\nlang = 'rust'\nworld = 'filter-plugin'")]);
        assert!(world.contains("no world of a packer") && world.contains("allowed: packer-plugin"), "{world}");
        let main = refused(&[(MANIFEST, "name = 'x'\nkind = 'filter'\nlang = 'js'\nmain = '../a.js'")]);
        assert!(main.contains("leaves the project"), "{main}");
    }

    #[test]
    fn names_are_lower_case_words() {
        for good in ["a", "min_words", "min-words2", "x9"] {
            check_name(good).unwrap();
        }
        for bad in ["", "A", "9a", "a__b", "_a", "a_", "a b", "a.b", "ä", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
