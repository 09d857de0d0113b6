//! A new plugin's folder: kind, language and name in; a project that builds, tests and runs at once out.
//!
//! ```text
//!  templates (in the binary) ─┐
//!  the SDK's sources          ├─► files of the project, in memory ─► a folder that appears whole
//!  the contract               ─┘      └► those that are ovhost's own: `doctor --update-sdk` writes them again
//! ```
//! A project holds everything that it needs of ovhost: for Rust the SDK's sources in `vendor/`, for Python and JavaScript a
//! small package of helpers and the contract.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ovhost_toolchain::files::write_whole;
use ovhost_toolchain::project::{self, CASES, MANIFEST};
use ovhost_toolchain::rust::RUST_VERSION;
use ovhost_toolchain::{Kind, Lang};

mod lock;
mod names;

use names::check_new_name;

/// What the binary carries, see `build.rs`.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Version of the SDK and the helpers that this binary carries.
pub const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The crate that Rust plugins depend on.
const SDK: &str = "ovhost-sdk";

/// What to make.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    /// Names the plugin, its package and its component.
    pub name: &'a str,
    /// What it does.
    pub kind: Kind,
    /// What it is written in.
    pub lang: Lang,
    /// Rust: an SDK elsewhere, instead of a copy in `vendor/`.
    pub sdk: Option<&'a Path>,
}

/// The project's files, by their paths in it.
///
/// # Errors
/// The name or the SDK's path is wrong.
pub fn files(spec: &Spec<'_>) -> Result<BTreeMap<String, String>> {
    check_new_name(spec.name, spec.lang)?;
    let sdk = match spec.sdk {
        None => "vendor/ovhost-sdk".to_owned(),
        Some(path) if spec.lang == Lang::Rust => {
            let path = path.canonicalize().with_context(|| format!("--sdk {} is not there", path.display()))?;
            ensure!(
                package_name(&path).as_deref() == Some(SDK) && path.join("src/lib.rs").is_file(),
                "--sdk {} is not the crate {SDK}; give its folder, which is sdk/ in ovhost's source",
                path.display()
            );
            let path = path.to_str().context("the path of the SDK must be UTF-8")?;
            ensure!(
                !path.contains(['"', '\\']),
                "the path of the SDK must hold neither quotes nor backslashes: {path}"
            );
            path.to_owned()
        }
        Some(_) => bail!("--sdk is for Rust; {} projects hold their helpers themselves", spec.lang),
    };
    let fill = |text: &str| {
        let filled = text.replace("{{name}}", spec.name).replace("{{Type}}", &type_name(spec.name));
        let filled = filled
            .replace("{{rust}}", RUST_VERSION)
            .replace("{{kind}}", spec.kind.name())
            .replace("{{crate}}", &spec.name.replace('-', "_"));
        filled.replace("{{sdk}}", &sdk).replace("{{table}}", table(spec.kind)).replace("{{run}}", run_flags(spec.kind))
    };
    let mut out = BTreeMap::new();
    let kind = spec.kind.name();
    let of = |lang: &str, file: &str| template(&format!("{lang}/{file}"));
    let mut put = |path: &str, text: &str| _ = out.insert(path.to_owned(), fill(text));
    put(CASES, template(&format!("cases/{kind}.jsonl"))?);
    put("rows.jsonl", template(&format!("rows/{kind}.jsonl"))?);
    let lang = spec.lang.name();
    put("README.md", of(lang, "README.md")?);
    put(".gitignore", of(lang, "gitignore")?);
    match spec.lang {
        Lang::Rust => {
            put("src/lib.rs", of(lang, &format!("{kind}.rs"))?);
            put("Cargo.toml", of(lang, "Cargo.toml")?);
            put("rustfmt.toml", of(lang, "rustfmt.toml")?);
        }
        Lang::Python => {
            put("app.py", of(lang, &format!("{kind}.py"))?);
            put("test_app.py", of(lang, &format!("test_{kind}.py"))?);
        }
        Lang::Js => {
            put("plugin.js", of(lang, &format!("{kind}.js"))?);
            put("plugin.test.js", of(lang, &format!("test_{kind}.js"))?);
            put("component.js", of(lang, "component.js")?);
            put("package.json", of(lang, "package.json")?);
        }
    }
    let manifest = project::Manifest {
        name: spec.name.to_owned(),
        kind: spec.kind,
        lang: spec.lang,
        world: None,
        main: None,
        path: Vec::new(),
    };
    out.insert(
        MANIFEST.to_owned(),
        format!("# What `ovhost-plugin build` makes of this folder.\n{}", toml::to_string(&manifest)?),
    );
    if spec.lang == Lang::Rust {
        out.insert("Cargo.lock".to_owned(), lock::pruned(embedded("Cargo.lock")?, SDK)?);
    }
    if spec.sdk.is_none() {
        out.extend(owned(spec.lang)?);
    }
    Ok(out)
}

/// The files of a project that are ovhost's own, by their paths in it; the same in every project of the language.
///
/// # Errors
/// The binary lacks a file: a defect of its build.
pub fn owned(lang: Lang) -> Result<BTreeMap<String, String>> {
    let below = |from: &'static str, to: &'static str| {
        let inside =
            move |&(name, text): &(&str, &str)| Some((format!("{to}{}", name.strip_prefix(from)?), text.to_owned()));
        EMBEDDED.iter().filter_map(inside)
    };
    let mut out: BTreeMap<String, String> = match lang {
        Lang::Rust => {
            let mut crate_files: BTreeMap<String, String> = below("sdk/src/", "vendor/ovhost-sdk/src/").collect();
            // Its modules' documentation includes them.
            crate_files.extend(below("sdk/docs/", "vendor/ovhost-sdk/docs/"));
            let cargo = template("rust/sdk/Cargo.toml")?.replace("{{version}}", SDK_VERSION);
            crate_files.insert("vendor/ovhost-sdk/Cargo.toml".to_owned(), cargo);
            // `cargo fmt --all` goes into path dependencies: with the style that the sources have, it changes nothing.
            let style = template("rust/rustfmt.toml")?.to_owned();
            crate_files.insert("vendor/ovhost-sdk/rustfmt.toml".to_owned(), style);
            crate_files
        }
        Lang::Python => below("templates/python/ovhost/", "ovhost/").collect(),
        Lang::Js => below("templates/js/ovhost/", "ovhost/").collect(),
    };
    let wit = if lang == Lang::Rust { "vendor/ovhost-sdk/wit/plugin.wit" } else { "wit/plugin.wit" };
    out.insert(wit.to_owned(), embedded("wit/plugin.wit")?.to_owned());
    Ok(out)
}

/// Writes a project into the new folder `dir`: under another name first, so that it appears whole or not at all.
///
/// # Errors
/// The name is wrong, the folder is there already, or cannot be written.
pub fn create(dir: &Path, spec: &Spec<'_>) -> Result<()> {
    let files = files(spec)?;
    let taken = dir.symlink_metadata().is_ok();
    ensure!(!taken, "{} is there already; choose another name, or another folder with --path", dir.display());
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
    let part = tempfile::Builder::new().prefix(".ovhost-plugin-new-").tempdir_in(parent);
    let part = part.with_context(|| format!("cannot write in {}", parent.display()))?;
    // The temporary folder is this user's alone; the project is to be as other folders are.
    let project = part.path().join("project");
    for (path, text) in &files {
        write_whole(&project.join(path), text.as_bytes())?;
    }
    std::fs::rename(&project, dir).with_context(|| format!("cannot write {}", dir.display()))
}

/// `min_words` or `min-words` as a type: `MinWords`.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
    };
    name.split(['_', '-']).map(capital).collect()
}

/// The name of the crate in a folder, if there is one.
fn package_name(folder: &Path) -> Option<String> {
    let cargo: toml::Table = toml::from_str(&std::fs::read_to_string(folder.join("Cargo.toml")).ok()?).ok()?;
    Some(cargo.get("package")?.get("name")?.as_str()?.to_owned())
}

/// The recipe's table that names a plugin of the kind: one prompt and one packer, any number of the others.
fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Filter => "[[plugins.filter]]",
        Kind::Packer => "[plugins.packer]",
        Kind::Prompt => "[plugins.prompt]",
        Kind::Metric => "[[plugins.metric]]",
    }
}

/// What `ovhost-plugin run` needs besides rows.
fn run_flags(kind: Kind) -> &'static str {
    if kind == Kind::Packer { " --capacity 1000" } else { "" }
}

fn embedded(name: &str) -> Result<&'static str> {
    let found = EMBEDDED.binary_search_by(|(known, _)| known.cmp(&name)).ok();
    found.map(|i| EMBEDDED[i].1).with_context(|| format!("this binary was built without {name}"))
}

fn template(name: &str) -> Result<&'static str> {
    embedded(&format!("templates/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, kind: Kind, lang: Lang) -> Spec<'_> {
        Spec { name, kind, lang, sdk: None }
    }

    #[test]
    fn every_kind_in_every_language_is_a_whole_project() {
        for lang in Lang::ALL {
            for kind in Kind::ALL {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("deep/er/my_plugin");
                create(&root, &spec("my_plugin", kind, lang)).unwrap();
                let project = ovhost_toolchain::Project::open(&root).unwrap();
                assert_eq!((project.name.as_str(), project.lang), ("my_plugin", lang));
                assert_eq!(project.world().unwrap(), kind.world());
                for (path, text) in files(&spec("my_plugin", kind, lang)).unwrap() {
                    assert!(!text.contains("{{"), "{kind} in {lang}: {path} has a place that is not filled in");
                    assert_eq!(std::fs::read_to_string(root.join(&path)).unwrap(), text, "{path}");
                }
                crate::golden::Cases::read(&project.cases()).unwrap();
                let siblings = std::fs::read_dir(root.parent().unwrap()).unwrap().count();
                assert_eq!(siblings, 1, "something temporary stayed beside the project");
            }
        }
    }

    #[test]
    fn what_is_there_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mine");
        std::fs::create_dir(&root).unwrap();
        let error = create(&root, &spec("mine", Kind::Filter, Lang::Rust)).unwrap_err().to_string();
        assert!(error.contains("is there already") && error.contains("--path"), "{error}");
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn the_sdks_tour_shows_what_is_made() {
        let tour = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/README.md")).unwrap();
        let shown = tour.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let made = files(&spec("word_variety", Kind::Filter, Lang::Rust)).unwrap();
        for line in shown.lines() {
            assert!(
                made["src/lib.rs"].lines().any(|made| made == line),
                "sdk/README.md shows a line that `new` does not write: {line}"
            );
        }
    }

    #[test]
    fn cargo_fmt_finds_nothing_to_do_whatever_the_name() {
        if std::process::Command::new("rustfmt").arg("--version").output().is_err() {
            println!("skipped: there is no rustfmt");
            return;
        }
        let style = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rustfmt.toml")).unwrap();
        let (short, long) = ("a".to_owned(), "m".repeat(64));
        check_new_name(&long, Lang::Rust).unwrap();
        for (name, kind) in [&short, &long].into_iter().flat_map(|name| Kind::ALL.map(|kind| (name, kind))) {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("project");
            create(&root, &spec(name, kind, Lang::Rust)).unwrap();
            // The SDK's sources are formatted in this style, so the copy is too.
            assert_eq!(std::fs::read_to_string(root.join("vendor/ovhost-sdk/rustfmt.toml")).unwrap(), style);
            let rustfmt = |files: &[&str]| {
                let mut command = std::process::Command::new("rustfmt");
                command.args(["--check", "--edition", "2024"]).args(files).current_dir(&root);
                let out = command.output().unwrap();
                let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
                assert!(out.status.success(), "{kind} of the name {name}: {text}");
            };
            rustfmt(&["src/lib.rs"]);
            if kind == Kind::Filter {
                rustfmt(&["vendor/ovhost-sdk/src/lib.rs"]);
            }
        }
    }

    #[test]
    fn a_project_depends_on_the_sdk_alone() {
        for kind in Kind::ALL {
            let made = files(&spec("mine", kind, Lang::Rust)).unwrap();
            let manifest: toml::Table = toml::from_str(&made["Cargo.toml"]).unwrap();
            let names: Vec<&String> = manifest["dependencies"].as_table().unwrap().keys().collect();
            assert_eq!(names, ["ovhost-sdk"], "{kind}");
            assert!(manifest.get("dev-dependencies").is_none());
            // A member of the workspace would be formatted and tested with the project.
            assert_eq!(manifest["workspace"]["exclude"], toml::Value::try_from(["vendor"]).unwrap());
        }
    }

    #[test]
    fn another_sdk_takes_the_place_of_the_copy() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk");
        let with = Spec { sdk: Some(&sdk), ..spec("mine", Kind::Filter, Lang::Rust) };
        let made = files(&with).unwrap();
        assert!(made["Cargo.toml"].contains(&sdk.canonicalize().unwrap().display().to_string()));
        assert!(made.keys().all(|path| !path.starts_with("vendor/")));
        let other = Path::new(env!("CARGO_MANIFEST_DIR"));
        let error = files(&Spec { sdk: Some(other), ..with }).unwrap_err().to_string();
        assert!(error.contains("is not the crate ovhost-sdk"), "{error}");
        let wrong = Spec { lang: Lang::Js, ..with };
        assert!(files(&wrong).unwrap_err().to_string().contains("--sdk is for Rust"));
    }

    #[test]
    fn the_copied_sdk_depends_on_what_the_sdk_depends_on() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read =
            |path: &str| -> toml::Table { toml::from_str(&std::fs::read_to_string(root.join(path)).unwrap()).unwrap() };
        let (workspace, sdk) = (read("Cargo.toml"), read("sdk/Cargo.toml"));
        let copy: toml::Table = toml::from_str(&owned(Lang::Rust).unwrap()["vendor/ovhost-sdk/Cargo.toml"]).unwrap();
        let wanted: toml::Table = sdk["dependencies"]
            .as_table()
            .unwrap()
            .keys()
            .map(|name| (name.clone(), workspace["workspace"]["dependencies"][name].clone()))
            .collect();
        let plain = |value: &toml::Value| match value {
            toml::Value::String(version) => {
                toml::Value::Table([("version".to_owned(), version.as_str().into())].into_iter().collect())
            }
            other => other.clone(),
        };
        for (name, value) in &wanted {
            let found =
                copy["dependencies"].get(name).unwrap_or_else(|| panic!("{name} is missing in templates/rust/sdk"));
            assert_eq!(plain(found)["version"], plain(value)["version"], "{name}");
        }
        assert_eq!(copy["dependencies"].as_table().unwrap().len(), wanted.len());
        assert_eq!(copy["package"]["version"].as_str(), workspace["workspace"]["package"]["version"].as_str());
    }
}
