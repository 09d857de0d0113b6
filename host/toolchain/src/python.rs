//! Python: a project's modules in, a component with a CPython interpreter in it out.
//!
//! The tool imports the project's main module once, at build time, and keeps the interpreter as it is afterwards. So imports
//! belong at the top of modules, and only the project's own folders are searched: what happens to be installed on a machine
//! must not change what a plugin is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run_quietly;
use crate::project::{MANIFEST, Project};
use crate::tools::Found;

/// The main module, unless the manifest names one.
pub const MAIN: &str = "app.py";

/// The component of a project, as bytes.
///
/// # Errors
/// The source is wrong: the message is Python's own, with the project's paths.
pub fn component(project: &Project, tool: &Found) -> Result<Vec<u8>> {
    let (wit, main) = (project.wit()?, project.main(MAIN)?);
    let module = main.file_stem().and_then(|stem| stem.to_str()).context("the main module has a name")?;
    let folder = main.parent().unwrap_or(&project.root);
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let out = scratch.path().join("component.wasm");
    // Its packages would be importable too: an environment that has none.
    let no_packages = scratch.path().join("venv/lib/python3/site-packages");
    std::fs::create_dir_all(&no_packages)?;
    let mut command = Command::new(&tool.program);
    command.arg("--wit-path").arg(&wit).args(["--world", project.world()?, "componentize", "--stub-wasi"]);
    command.arg("--python-path").arg(folder);
    let more = project.manifest.iter().flat_map(|manifest| &manifest.path);
    for path in std::iter::once(project.root.clone()).chain(more.map(|path| project.root.join(path))) {
        if path != folder {
            command.arg("--python-path").arg(path);
        }
    }
    command.arg(module).arg("--output").arg(&out);
    command.env("VIRTUAL_ENV", scratch.path().join("venv"));
    for name in ["PYTHONPATH", "PYTHONHOME", "RUST_BACKTRACE"] {
        command.env_remove(name);
    }
    let shown = main.strip_prefix(&project.root).unwrap_or(&main).display().to_string();
    eprintln!("componentize-py: {shown} and a Python interpreter become one component (10 s of CPU)");
    let done = run_quietly(&mut command, "componentize-py", None)?;
    if !done.status.success() {
        let error = python_error(&done.tail(), folder);
        let hint = hint(&error, project).map_or_else(String::new, |hint| format!("\n{hint}"));
        bail!("{shown} does not build:\n{error}{hint}");
    }
    std::fs::read(&out).with_context(|| format!("componentize-py wrote no component:\n{}", done.tail()))
}

/// The part of the tool's output that is about the project: Python's own message, with the folder in the place of its mount.
fn python_error(output: &str, folder: &Path) -> String {
    let text = output.split_once("AssertionError: ").map_or(output, |(_, after)| after);
    let ends = ["\n\nCaused by:", "\nStack backtrace:"].iter().filter_map(|mark| text.find(mark)).min();
    text[..ends.unwrap_or(text.len())].trim_end().replace("File \"/0/", &format!("File \"{}/", folder.display()))
}

/// What to do about an error that has one usual cause.
fn hint(error: &str, project: &Project) -> Option<String> {
    let last = error.lines().rev().find(|line| !line.trim().is_empty())?.trim();
    let quoted = |text: &str| Some(text.split_once('\'')?.1.split('\'').next().unwrap_or_default().to_owned());
    if let Some(rest) = last.strip_prefix("ModuleNotFoundError: ") {
        let module = quoted(rest)?;
        let package = module.split('.').next().unwrap_or_default();
        let more = project.manifest.as_ref().map(|manifest| manifest.path.as_slice()).unwrap_or_default();
        let looked = std::iter::once("the project's own folder".to_owned()).chain(more.iter().cloned());
        let looked: Vec<String> = looked.collect();
        let folder = more.first().map_or("vendor", String::as_str);
        let manifest =
            if more.is_empty() { format!(", and `path = [\"{folder}\"]` in {MANIFEST}") } else { String::new() };
        return Some(format!(
            "modules are looked for in {} alone, not among what is installed. A package of pure Python: `pip install --target \
             {folder} {package}`{manifest}; its name may be another than the module's. Compiled ones do not work",
            looked.join(", ")
        ));
    }
    // What `ovhost.export` gives, in its order.
    let kind = project.manifest.as_ref()?.kind.name();
    let mut exports = vec!["Lifecycle".to_owned(), kind[..1].to_uppercase() + &kind[1..]];
    if project.world().is_ok_and(|world| world == "stateful-filter-plugin") {
        exports.push("FilterState".to_owned());
    }
    let missing = last.strip_prefix("AttributeError: module ")?.split_once(" has no attribute ")?.1;
    let missing = quoted(missing).filter(|missing| exports.contains(missing))?;
    Some(format!(
        "`{missing}` is what a component exports. Import `ovhost` and end the file with a line for your class:\n    {} = \
         ovhost.export(MyPlugin)",
        exports.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(manifest: &str) -> Project {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MANIFEST), format!("name = 'x'\nlang = 'python'\n{manifest}")).unwrap();
        Project::open(dir.path()).unwrap()
    }

    #[test]
    fn a_missing_module_has_a_hint_that_fits_the_manifest() {
        let error = "File \"/p/app.py\", line 1, in <module>\nModuleNotFoundError: No module named 'yaml.nodes'";
        let said = hint(error, &project("kind = 'filter'")).unwrap();
        assert!(said.contains("in the project's own folder alone") && said.contains("--target vendor yaml`"), "{said}");
        assert!(said.contains("and `path = [\"vendor\"]` in ovhost-plugin.toml"), "{said}");
        let said = hint(error, &project("kind = 'filter'\npath = ['third', 'own']")).unwrap();
        assert!(said.contains("own folder, third, own alone") && said.contains("--target third yaml`; its"), "{said}");
    }

    #[test]
    fn a_main_module_that_exports_nothing_has_the_line_to_write() {
        let error = "AttributeError: module 'app' has no attribute 'Lifecycle'";
        let said = hint(error, &project("kind = 'packer'")).unwrap();
        assert!(said.ends_with("    Lifecycle, Packer = ovhost.export(MyPlugin)"), "{said}");
        let stateful = project("kind = 'filter'\nworld = 'stateful-filter-plugin'");
        let said = hint(&error.replace("Lifecycle", "FilterState"), &stateful).unwrap();
        assert!(said.ends_with("    Lifecycle, Filter, FilterState = ovhost.export(MyPlugin)"), "{said}");
        assert_eq!(hint(&error.replace("Lifecycle", "words"), &stateful), None);
        assert_eq!(hint("SyntaxError: invalid syntax", &stateful), None);
        assert_eq!(hint("", &stateful), None);
    }

    #[test]
    fn errors_are_pythons_own_with_the_projects_paths() {
        let output = "Traceback (most recent call last):\n  File \"/x/bin/componentize-py\", line 8, in <module>\n\
                      AssertionError: Traceback (most recent call last):\n  File \"/0/app.py\", line 1, in <module>\n    \
                      import numpy\nModuleNotFoundError: No module named 'numpy'\n\n\nCaused by:\n    x\n\nStack backtrace:\n 0: y";
        let error = python_error(output, Path::new("/home/me/mine"));
        assert!(error.contains("File \"/home/me/mine/app.py\", line 1"), "{error}");
        assert!(error.ends_with("No module named 'numpy'"), "{error}");
        assert_eq!(python_error("something else", Path::new("/p")), "something else");
    }
}
