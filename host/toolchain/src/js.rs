//! JavaScript: a project's modules in, a component with a QuickJS interpreter in it out.
//!
//! As with Python, the modules run once at build time, and the interpreter is kept as it is afterwards. The synchronous runtime
//! is used, since the contract has no asynchronous function.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run_quietly;
use crate::project::Project;
use crate::tools::Found;

/// The main module, unless the manifest names one.
pub const MAIN: &str = "component.js";

/// The component of a project, as bytes.
///
/// # Errors
/// The source is wrong: the message is the interpreter's own.
pub fn component(project: &Project, tool: &Found) -> Result<Vec<u8>> {
    let (wit, main) = (project.wit()?, project.main(MAIN)?);
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let out = scratch.path().join("component.wasm");
    let mut command = Command::new(&tool.program);
    command.arg("--wit").arg(&wit).args(["--world", project.world()?]);
    command.arg("--js").arg(&main).arg("--module-root").arg(&project.root);
    command.args(["--sync", "--stub-wasi", "--output"]).arg(&out);
    command.env_remove("RUST_BACKTRACE");
    let shown = main.strip_prefix(&project.root).unwrap_or(&main).display().to_string();
    eprintln!("componentize-qjs: {shown} and a JavaScript interpreter become one component (2 s of CPU)");
    let done = run_quietly(&mut command, "componentize-qjs", None)?;
    if !done.status.success() {
        bail!("{shown} does not build:\n{}", script_error(&done.tail()));
    }
    std::fs::read(&out).with_context(|| format!("componentize-qjs wrote no component:\n{}", done.tail()))
}

/// The part of the tool's output that is about the project.
fn script_error(output: &str) -> String {
    let at = output.find("Failed to evaluate user JavaScript module: ").or_else(|| output.find("Error: "));
    output[at.unwrap_or(0)..].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_interpreters_own() {
        let output = "componentize-qjs\n  WIT:    wit\n  JS:     bad.js\nStubbing WASI imports...\nError: : Failed to evaluate user \
                      JavaScript module: Failed to declare JavaScript module: Error: unexpected token\n    at /bad.js:1:11\n";
        let error = script_error(output);
        assert!(error.starts_with("Failed to evaluate") && error.ends_with("at /bad.js:1:11"), "{error}");
        assert_eq!(script_error("odd"), "odd");
    }
}
