//! Python: a project's modules in, a component with a CPython interpreter in it out.
//!
//! The tool imports the project's main module once, at build time, and keeps the interpreter as it is afterwards. So imports
//! belong at the top of modules, and only the project's own folders are searched: what happens to be installed on a machine
//! must not change what a plugin is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run_quietly;
use crate::project::Project;
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
        bail!("{shown} does not build:\n{}", python_error(&done.tail(), folder));
    }
    std::fs::read(&out).with_context(|| format!("componentize-py wrote no component:\n{}", done.tail()))
}

/// The part of the tool's output that is about the project: Python's own message, with the folder in the place of its mount.
fn python_error(output: &str, folder: &Path) -> String {
    let text = output.split_once("AssertionError: ").map_or(output, |(_, after)| after);
    let ends = ["\n\nCaused by:", "\nStack backtrace:"].iter().filter_map(|mark| text.find(mark)).min();
    text[..ends.unwrap_or(text.len())].trim_end().replace("File \"/0/", &format!("File \"{}/", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
