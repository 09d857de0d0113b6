//! A plugin needs `ovhost-sdk` and nothing that the SDK has already: so do all plugins of this repository.

use std::path::{Path, PathBuf};

/// What the SDK exports for plugins: `ovhost_sdk::serde` and so on.
const EXPORTED: [&str; 3] = ["schemars", "serde", "serde_json"];

/// The names under `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[dependencies]").skip(1);
    let names = lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    names.filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty()).collect()
}

/// Manifests of the crates right below `folder`.
fn manifests_in(folder: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().path().join("Cargo.toml")).filter(|path| path.is_file()).collect()
}

#[test]
fn plugins_take_from_the_sdk_what_it_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all: Vec<PathBuf> = ["filters", "packers", "prompts", "metrics"]
        .iter()
        .flat_map(|kind| manifests_in(root.join("plugins").join(kind)))
        .collect();
    assert!(all.len() >= 15, "{all:?}");
    all.extend(manifests_in(root.join("examples/plugins")));
    all.extend(["examples/eval_task/Cargo.toml", "tests/guests/counting/Cargo.toml"].map(|path| root.join(path)));
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let names = dependencies(&text);
        assert!(names.contains(&"ovhost-sdk"), "{}: {names:?}", path.display());
        let twice: Vec<_> = names.iter().filter(|name| EXPORTED.contains(name)).collect();
        assert!(twice.is_empty(), "{} names {twice:?}; use ovhost_sdk::serde and its like", path.display());
    }
}

#[test]
fn the_names_of_a_manifest_are_read() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# c\nserde = \"1\"\na.workspace = true\n\n[dev-dependencies]\nb = \"1\"";
    assert_eq!(dependencies(manifest), ["serde", "a"]);
}
