//! Builds of small projects by the real tools; those of a language whose tool is missing here say so and are skipped.

use std::io::Write as _;
use std::path::Path;

use ovhost_toolchain::tools::Tool;
use ovhost_toolchain::{BuildOptions, Project, build, rust};

/// The smallest project of a crate that is no plugin: for messages, not for components.
fn crate_in(folder: &Path, lib: &str) -> Project {
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let cargo = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n[lib]\n";
    std::fs::write(folder.join("Cargo.toml"), format!("{cargo}{lib}")).unwrap();
    std::fs::write(folder.join("ovhost-plugin.toml"), "name = 'small'\nkind = 'filter'\nlang = 'rust'\n").unwrap();
    Project::open(folder).unwrap()
}

/// Says why a test does nothing; not by `println!`, which the test harness keeps to itself where a test passes.
fn skipped(why: &str) {
    _ = writeln!(std::io::stderr().lock(), "skipped: {why}");
}

/// Whether Rust guests can be built here; says so if not.
fn rust_is_here(folder: &Path) -> bool {
    let here = rust::compiler(folder).is_ok_and(|found| found.is_some());
    if !here {
        skipped(&format!("Rust's standard library for {} is not installed", rust::TARGET));
    }
    here
}

fn options() -> BuildOptions {
    // One target folder for all tests here: where the standard library is built from source, once.
    let target_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests"));
    BuildOptions { target_dir, quiet: true, ..BuildOptions::default() }
}

#[test]
fn a_crate_that_makes_no_component_is_told_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    if !rust_is_here(dir.path()) {
        return;
    }
    let project = crate_in(dir.path(), "");
    std::fs::write(dir.path().join("src/lib.rs"), "").unwrap();
    let error = format!("{:#}", build(&project, &options()).unwrap_err());
    assert!(error.contains("crate-type = [\"cdylib\", \"rlib\"]"), "{error}");

    std::fs::write(dir.path().join("src/lib.rs"), "this is no Rust").unwrap();
    let error = format!("{:#}", build(&project, &options()).unwrap_err());
    assert!(error.contains("the plugin does not build") && error.contains("above"), "{error}");
    assert!(!project.component().exists());
}

#[test]
fn without_its_tool_a_language_names_the_next_step() {
    // A search path and a cache without any tool, so that the message is tested whatever is installed here.
    let dir = tempfile::tempdir().unwrap();
    for (lang, main, tool) in
        [("python", "app.py", Tool::ComponentizePy), ("js", "component.js", Tool::ComponentizeQjs)]
    {
        let folder = dir.path().join(lang);
        std::fs::create_dir_all(folder.join("wit")).unwrap();
        std::fs::write(folder.join("wit/plugin.wit"), "package ovhost:plugin@0.1.0;\n").unwrap();
        std::fs::write(folder.join(main), "").unwrap();
        let manifest = format!("name = 'x'\nkind = 'filter'\nlang = '{lang}'\n");
        std::fs::write(folder.join("ovhost-plugin.toml"), manifest).unwrap();
        let project = Project::open(&folder).unwrap();
        if tool.find().is_some() {
            skipped(&format!("{} is installed here, so its absence cannot be seen", tool.name()));
            continue;
        }
        let error = format!("{:#}", build(&project, &BuildOptions::default()).unwrap_err());
        let pinned = format!("{} {}", tool.name(), tool.version());
        assert!(error.contains(&pinned) && error.contains(&tool.how()) && error.contains("--install"), "{error}");
    }
}

#[test]
fn a_python_module_that_cannot_be_imported_is_shown_with_its_line() {
    let Some(_) = Tool::ComponentizePy.find() else {
        skipped(&format!("componentize-py {} is not installed", Tool::ComponentizePy.version()));
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/plugin.wit");
    std::fs::create_dir(dir.path().join("wit")).unwrap();
    std::fs::copy(wit, dir.path().join("wit/plugin.wit")).unwrap();
    std::fs::write(dir.path().join("ovhost-plugin.toml"), "name = 'x'\nkind = 'filter'\nlang = 'python'\n").unwrap();
    std::fs::write(dir.path().join("app.py"), "\nimport ovhost_no_such_module\n").unwrap();
    let error = format!("{:#}", build(&Project::open(dir.path()).unwrap(), &BuildOptions::default()).unwrap_err());
    let place = format!("File \"{}/app.py\", line 2", dir.path().display());
    assert!(error.contains(&place) && error.contains("No module named 'ovhost_no_such_module'"), "{error}");
    assert!(!error.contains("Stack backtrace"), "{error}");
    assert!(error.contains("pip install --target vendor ovhost_no_such_module"), "{error}");
}

#[test]
fn a_python_module_that_exports_nothing_is_shown_with_the_line_to_write() {
    let Some(_) = Tool::ComponentizePy.find() else {
        println!("skipped: componentize-py {} is not installed", Tool::ComponentizePy.version());
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/plugin.wit");
    std::fs::create_dir(dir.path().join("wit")).unwrap();
    std::fs::copy(wit, dir.path().join("wit/plugin.wit")).unwrap();
    std::fs::write(dir.path().join("ovhost-plugin.toml"), "name = 'x'\nkind = 'metric'\nlang = 'python'\n").unwrap();
    std::fs::write(dir.path().join("app.py"), "").unwrap();
    let error = format!("{:#}", build(&Project::open(dir.path()).unwrap(), &BuildOptions::default()).unwrap_err());
    assert!(error.ends_with("    Lifecycle, Metric = ovhost.export(MyPlugin)"), "{error}");
}

#[test]
fn a_javascript_module_that_cannot_be_read_is_shown_with_its_line() {
    let Some(_) = Tool::ComponentizeQjs.find() else {
        skipped(&format!("componentize-qjs {} is not installed", Tool::ComponentizeQjs.version()));
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/plugin.wit");
    std::fs::create_dir(dir.path().join("wit")).unwrap();
    std::fs::copy(wit, dir.path().join("wit/plugin.wit")).unwrap();
    std::fs::write(dir.path().join("ovhost-plugin.toml"), "name = 'x'\nkind = 'filter'\nlang = 'js'\n").unwrap();
    std::fs::write(dir.path().join("component.js"), "\nconst broken = ;\n").unwrap();
    let error = format!("{:#}", build(&Project::open(dir.path()).unwrap(), &BuildOptions::default()).unwrap_err());
    assert!(error.contains("component.js does not build") && error.contains("/component.js:2:"), "{error}");
}
