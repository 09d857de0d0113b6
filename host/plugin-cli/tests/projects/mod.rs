//! What tests of whole projects share: the built `ovhost-plugin`, a cache of its own, the tools that are here.

#![allow(dead_code, reason = "each test program uses a part")]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ovhost_toolchain::tools::{Tool, at_least};
use ovhost_toolchain::{Lang, rust};

/// The binary, with the tools that are here on its `PATH` and compiled components in a folder that goes with this value.
pub struct Program {
    path: OsString,
    cache: tempfile::TempDir,
}

impl Program {
    /// Finds the tools.
    pub fn new() -> Self {
        let tools = Tool::ALL.into_iter().filter_map(|tool| Some(tool.find()?.program.parent()?.to_owned()));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(tools.chain(std::env::split_paths(&path))).unwrap();
        Self { path, cache: tempfile::tempdir().unwrap() }
    }

    /// A run of the binary, as it ended.
    pub fn run(&self, folder: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovhost-plugin"));
        command.args(args).current_dir(folder).env("PATH", &self.path).env("OVHOST_CACHE", self.cache.path());
        // The SDK's packages are on disk, since this workspace was built with the same lock file.
        command.env("CARGO_NET_OFFLINE", "true");
        command.output().unwrap()
    }

    /// A run that must succeed; its standard output.
    pub fn good(&self, folder: &Path, args: &[&str]) -> String {
        let out = self.run(folder, args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "ovhost-plugin {} failed\n{stdout}\n{stderr}", args.join(" "));
        stdout.into_owned()
    }

    /// A run that must fail with code 1; both its outputs.
    pub fn bad(&self, folder: &Path, args: &[&str]) -> String {
        let out = self.run(folder, args);
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(1), "ovhost-plugin {}\n{text}", args.join(" "));
        text
    }
}

/// Says why a test does nothing; not by `println!`, which the test harness keeps to itself where a test passes.
fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    _ = writeln!(std::io::stderr().lock(), "skipped: {test}: {why}");
}

/// Whether projects in `lang` can be built here; says what is missing if not.
pub fn builds(lang: Lang) -> bool {
    let tool =
        |tool: Tool| tool.find().is_none().then(|| format!("{} {} (`{}`)", tool.name(), tool.version(), tool.how()));
    let missing = match lang {
        Lang::Rust => match rust::compiler(Path::new(".")) {
            Ok(Some(_)) => None,
            Ok(None) => Some(rust::manual()),
            Err(error) => Some(format!("{error:#}")),
        },
        Lang::Python => tool(Tool::ComponentizePy),
        Lang::Js => tool(Tool::ComponentizeQjs),
    };
    if let Some(missing) = &missing {
        skipped(&format!("{lang} plugins cannot be built here for lack of {missing}"));
    }
    missing.is_none()
}

/// Whether `program --version` says `wanted` or later; says so if not.
pub fn interpreter(tool: Tool) -> bool {
    let (name, found, wanted) = tool.interpreter();
    let good = found.is_some_and(|(_, version)| at_least(&version, wanted));
    if !good {
        skipped(&format!("there is no {name} {wanted} or later"));
    }
    good
}

/// A folder of this test program's in which cargo may keep what it compiles from run to run.
pub fn target_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
