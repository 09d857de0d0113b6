//! The documentation shows how things are used: every public module of the SDK has an example, and the written pages are in it.

use std::path::Path;

/// Modules that nobody writes against by themselves: generated, and inside of the export macros.
const WITHOUT: [&str; 2] = ["bindings", "export"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Whether a module's documentation has a block of Rust that is compiled.
fn has_example(source: &str) -> bool {
    let lines = source.lines().map(str::trim);
    let fences =
        lines.filter_map(|line| line.strip_prefix("///").or(line.strip_prefix("//!"))?.trim().strip_prefix("```"));
    // Every second fence ends a block.
    fences.step_by(2).any(str::is_empty)
}

#[test]
fn every_public_module_has_an_example() {
    let root = read("src/lib.rs");
    let modules = root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules: Vec<&str> = modules.filter(|name| !WITHOUT.contains(name)).collect();
    assert!(modules.len() >= 15, "{modules:?}");
    let bare: Vec<_> = modules.iter().filter(|name| !has_example(&read(&format!("src/{name}.rs")))).collect();
    assert!(bare.is_empty(), "these modules of sdk/src show no example that compiles: {bare:?}");
}

#[test]
fn the_kinds_pages_are_in_the_documentation() {
    for kind in ["filter", "packer", "prompt", "metric"] {
        let page = format!("#![doc = include_str!(\"../docs/{kind}.md\")]");
        assert!(read(&format!("src/{kind}.rs")).contains(&page), "sdk/src/{kind}.rs lacks {page}");
        assert!(read(&format!("docs/{kind}.md")).contains("```rust\n"), "docs/{kind}.md has no program");
    }
    // They are packaged with the crate only while its manifest leaves nothing out.
    let manifest = read("Cargo.toml");
    assert!(!manifest.lines().any(|line| line.starts_with("include") || line.starts_with("exclude")), "{manifest}");
}
