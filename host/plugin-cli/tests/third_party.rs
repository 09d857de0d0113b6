//! The plugins of `examples/plugins`, and the metric of `examples/eval_task`, as their authors would build and test them: with the
//! binary, outside of the workspace.

mod projects;

use std::path::{Path, PathBuf};

use ovhost_plugin_cli::scaffold;
use ovhost_toolchain::{Lang, Project};
use projects::{Program, builds, target_dir};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/plugins").join(name).canonicalize().unwrap()
}

/// Builds an example into another folder, so that a checkout keeps no component of it, and runs its golden cases.
fn build_and_test(name: &str, more: &[&str]) {
    let (program, out) = (Program::new(), tempfile::tempdir().unwrap());
    let project = Project::open(&example(name)).unwrap();
    let component = out.path().join(format!("{}.wasm", project.name));
    let component = component.to_str().unwrap();
    program.good(&project.root, &[&["build", "--out", component], more].concat());
    let cases = project.cases();
    let said = program.good(&project.root, &["test", component, "--cases", cases.to_str().unwrap()]);
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    let all = std::fs::read_to_string(&cases).unwrap().lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(passed, all, "{said}");
    let seen = program.good(&project.root, &["inspect", component]);
    let kind = if name.ends_with("_filter") { "filter" } else { "metric" };
    assert!(seen.contains(&format!("entry {}", project.name)) && seen.contains(kind), "{seen}");
}

#[test]
fn the_rust_filter() {
    if builds(Lang::Rust) {
        let guests = target_dir("example-guests");
        build_and_test("rust_filter", &["--target-dir", guests.to_str().unwrap()]);
    }
}

#[test]
fn the_metric_of_a_task_of_ones_own() {
    if builds(Lang::Rust) {
        let guests = target_dir("example-guests");
        build_and_test("../eval_task", &["--target-dir", guests.to_str().unwrap()]);
    }
}

#[test]
fn the_python_filter() {
    if builds(Lang::Python) {
        build_and_test("python_filter", &[]);
    }
}

#[test]
fn the_javascript_filter() {
    if builds(Lang::Js) {
        build_and_test("js_filter", &[]);
    }
}

#[test]
fn the_examples_hold_the_present_helpers_and_contract() {
    for (name, lang) in [("python_filter", Lang::Python), ("js_filter", Lang::Js)] {
        let root = example(name);
        for (path, text) in scaffold::owned(lang).unwrap() {
            let there = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert!(
                there == text,
                "examples/plugins/{name}/{path} is not the present one; run\n  ovhost-plugin doctor --update-sdk examples/plugins/{name}"
            );
        }
    }
}
