//! The tools that make components of Python and JavaScript: pinned versions in, the one to run out.
//!
//! ```text
//!  on PATH, of the pinned version ──► that one
//!  else <cache>/tools/NAME-VERSION ──► that one          install() puts it there: a virtual environment (pip), or a
//!  else an error that names the next step                folder of node modules (npm)
//! ```
//! The versions are exact: what a component imports, how types cross and how fast it runs differ between them, and the answers
//! that golden cases pin must not change because somebody installed a tool on another day.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::files::cache_dir;
use crate::process::{find_on_path, first_line, run_quietly};
use crate::project::Lang;

/// A file that an installation ends with: a folder without it is an installation that was cut off.
const STAMP: &str = "installed";

/// A tool that this crate runs and can install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Python: a CPython interpreter, the project's modules and the contract in one component.
    ComponentizePy,
    /// JavaScript: the same with QuickJS.
    ComponentizeQjs,
}

/// Where a tool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The program.
    pub program: PathBuf,
    /// Whether it is the one in the cache (else it is on `PATH`).
    pub cached: bool,
}

impl Tool {
    /// Both.
    pub const ALL: [Tool; 2] = [Tool::ComponentizePy, Tool::ComponentizeQjs];

    /// Its name, as a program and as a package.
    pub fn name(self) -> &'static str {
        match self {
            Tool::ComponentizePy => "componentize-py",
            Tool::ComponentizeQjs => "componentize-qjs",
        }
    }

    /// The version that is used.
    pub fn version(self) -> &'static str {
        match self {
            Tool::ComponentizePy => "0.25.1",
            Tool::ComponentizeQjs => "0.4.5",
        }
    }

    /// The language that needs it.
    pub fn lang(self) -> Lang {
        match self {
            Tool::ComponentizePy => Lang::Python,
            Tool::ComponentizeQjs => Lang::Js,
        }
    }

    /// Where [`Tool::install`] puts it; none without a cache folder.
    pub fn folder(self) -> Option<PathBuf> {
        Some(cache_dir()?.join("tools").join(format!("{}-{}", self.name(), self.version())))
    }

    fn program_in(self, folder: &Path) -> PathBuf {
        match self {
            Tool::ComponentizePy => folder.join("bin/componentize-py"),
            Tool::ComponentizeQjs => folder.join("node_modules/.bin/componentize-qjs"),
        }
    }

    /// The version of the program at `path`, if it says one.
    fn version_of(self, path: &Path) -> Option<String> {
        match self {
            Tool::ComponentizePy => Some(first_line(path, &["--version"])?.rsplit(' ').next()?.to_owned()),
            // It has no flag for it; its package has.
            Tool::ComponentizeQjs => {
                let package = path.canonicalize().ok()?.parent()?.parent()?.join("package.json");
                let json: serde_json::Value = serde_json::from_slice(&std::fs::read(package).ok()?).ok()?;
                (json["name"] == self.name()).then(|| json["version"].as_str().map(str::to_owned)).flatten()
            }
        }
    }

    /// The tool in the pinned version, if it is anywhere.
    pub fn find(self) -> Option<Found> {
        let on_path = find_on_path(self.name()).filter(|path| self.version_of(path).as_deref() == Some(self.version()));
        if let Some(program) = on_path {
            return Some(Found { program, cached: false });
        }
        let folder = self.folder().filter(|folder| folder.join(STAMP).is_file())?;
        let program = self.program_in(&folder);
        // An interpreter that was upgraded away leaves a folder whose program does not run.
        let runs = program.is_file() && self.version_of(&program).as_deref() == Some(self.version());
        runs.then_some(Found { program, cached: true })
    }

    /// A program of that name on `PATH` that is not the pinned version, with its version where it says one.
    pub fn other(self) -> Option<(PathBuf, String)> {
        let path = find_on_path(self.name())?;
        let version = self.version_of(&path).unwrap_or_else(|| "unknown".to_owned());
        (version != self.version()).then_some((path, version))
    }

    /// How to get it, as a command.
    pub fn how(self) -> String {
        format!("ovhost-plugin doctor --install --lang {}", self.lang())
    }

    /// The interpreter that it runs in, with its version and what is wanted of it.
    pub fn interpreter(self) -> (&'static str, Option<(PathBuf, String)>, &'static str) {
        let (name, wanted) = match self {
            Tool::ComponentizePy => ("python3", "3.10"),
            Tool::ComponentizeQjs => ("node", "18.0"),
        };
        let found = find_on_path(name).and_then(|path| {
            let line = first_line(&path, &["--version"])?;
            Some((path, line.trim_start_matches("Python ").trim_start_matches('v').to_owned()))
        });
        (name, found, wanted)
    }

    /// Puts the pinned version into the cache folder, from the package index that pip or npm is set up for. Takes its turn where
    /// another process does the same.
    ///
    /// # Errors
    /// There is no interpreter, no network, no space; the message ends with what pip or npm said.
    pub fn install(self) -> Result<Found> {
        let folder = self.folder().context("there is no cache folder: set OVHOST_CACHE or HOME")?;
        let tools = folder.parent().context("the cache folder has a parent")?;
        std::fs::create_dir_all(tools).with_context(|| format!("cannot make the folder {}", tools.display()))?;
        let lock = tools.join(format!(".{}.lock", self.name()));
        let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
        lock.lock().context("cannot lock the folder of tools")?;
        if let Some(found) = self.find() {
            return Ok(found);
        }
        let (name, interpreter, wanted) = self.interpreter();
        let (interpreter, version) = interpreter.with_context(|| {
            format!("{} needs {name} {wanted} or later, and there is none on PATH: install it", self.name())
        })?;
        ensure!(
            at_least(&version, wanted),
            "{} needs {name} {wanted} or later; {} is {version}",
            self.name(),
            interpreter.display()
        );
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let (start, package) = (Instant::now(), format!("{} {}", self.name(), self.version()));
        eprintln!("installing {package} in {}", folder.display());
        let installed = match self {
            Tool::ComponentizePy => self.pip(&interpreter, &folder),
            Tool::ComponentizeQjs => self.npm(&folder),
        };
        if let Err(error) = installed {
            _ = std::fs::remove_dir_all(&folder);
            return Err(error);
        }
        let program = self.program_in(&folder);
        let version = self.version_of(&program);
        ensure!(
            version.as_deref() == Some(self.version()),
            "{} was installed, but {} says version {version:?}; remove that folder and try again",
            package,
            program.display()
        );
        std::fs::write(folder.join(STAMP), self.version())?;
        eprintln!("installed {package} in {:.0} s", start.elapsed().as_secs_f64());
        Ok(Found { program, cached: true })
    }

    fn pip(self, python: &Path, folder: &Path) -> Result<()> {
        let mut venv = Command::new(python);
        venv.args(["-m", "venv"]).arg(folder);
        let done = run_quietly(&mut venv, "making a virtual environment", None)?;
        ensure!(
            done.status.success(),
            "`{} -m venv` failed (on Debian, install python3-venv):\n{}",
            python.display(),
            done.tail()
        );
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]);
        pip.arg(format!("{}=={}", self.name(), self.version()));
        let done = run_quietly(&mut pip, "pip", None)?;
        ensure!(done.status.success(), "pip cannot install {} {}:\n{}", self.name(), self.version(), done.tail());
        Ok(())
    }

    fn npm(self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--save-exact",
            "--loglevel=error",
            "--prefix",
        ]);
        npm.arg(folder).arg(format!("{}@{}", self.name(), self.version()));
        let done = run_quietly(&mut npm, "npm", None)?;
        ensure!(done.status.success(), "npm cannot install {} {}:\n{}", self.name(), self.version(), done.tail());
        Ok(())
    }
}

/// The tool in the pinned version; with `install`, gets it where it is missing.
///
/// # Errors
/// It is missing, or cannot be installed; the message names the next step.
pub fn obtain(tool: Tool, install: bool) -> Result<Found> {
    if let Some(found) = tool.find() {
        return Ok(found);
    }
    if install {
        return tool.install();
    }
    let other = tool.other().map(|(path, version)| format!(" ({} is version {version})", path.display()));
    bail!(
        "{} plugins need {} {}, which is neither on PATH{} nor in the cache; run `{}`, or build with --install",
        match tool.lang() {
            Lang::Python => "Python",
            _ => "JavaScript",
        },
        tool.name(),
        tool.version(),
        other.unwrap_or_default(),
        tool.how()
    )
}

/// Whether the version `have` is `want` (major.minor) or later.
pub fn at_least(have: &str, want: &str) -> bool {
    let numbers = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next().flatten().unwrap_or(0)))
    };
    match (numbers(have), numbers(want)) {
        (Some(have), Some(want)) => have >= want,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(at_least("3.11.7", "3.10") && at_least("20.20.2", "18.0") && at_least("4", "3.10"));
        assert!(!at_least("3.9.2", "3.10") && !at_least("", "3.10") && !at_least("x.y", "3.10"));
    }

    #[test]
    fn the_javascript_tool_is_known_by_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("componentize-qjs");
        std::fs::create_dir_all(package.join("bin")).unwrap();
        std::fs::write(package.join("bin/componentize-qjs"), "").unwrap();
        let program = package.join("bin/componentize-qjs");
        let version = |json: &str| {
            std::fs::write(package.join("package.json"), json).unwrap();
            Tool::ComponentizeQjs.version_of(&program)
        };
        assert_eq!(version(r#"{"name":"componentize-qjs","version":"0.4.5"}"#).as_deref(), Some("0.4.5"));
        assert_eq!(version(r#"{"name":"other","version":"0.4.5"}"#), None);
        assert_eq!(version("no JSON"), None);
    }
}
