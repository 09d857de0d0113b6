//! The commands of plugin authors as they are used: the built program, real components, what it prints and writes.
//!
//! `cargo xtask plugins` builds the first-party plugins to `target/plugins` (or `$OVHOST_PLUGINS_DIR`); the guests are
//! checked in.

mod bench;
mod check;
mod golden;
mod inspect;
mod run;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("host/plugin-cli is two folders deep")
}

/// The built first-party plugins.
fn plugins() -> PathBuf {
    let dir = std::env::var_os("OVHOST_PLUGINS_DIR").map_or_else(|| root().join("target/plugins"), PathBuf::from);
    assert!(dir.join("packers/sequential.wasm").is_file(), "{} has no plugins: run cargo xtask plugins", dir.display());
    dir
}

/// A guest that is there for tests.
fn guest(name: &str) -> String {
    let path = root().join(format!("tests/fixtures/guests/{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run cargo xtask plugins", path.display());
    path.display().to_string()
}

/// Compiled components of all tests, so that each is compiled once.
fn cache() -> &'static Path {
    static CACHE: OnceLock<tempfile::TempDir> = OnceLock::new();
    CACHE.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// A folder in which the program is run.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Lab(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovhost-plugin"));
        command.args(args).current_dir(self.0.path()).env("OVHOST_CACHE", cache()).env_remove("RUST_LOG");
        command.env("OVHOST_PLUGIN_PATH", plugins());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

/// What a run of the program gave.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The exit code is 1 and the error has all of these.
    fn fails(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, 1, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "the error lacks {part:?}:\n{}", self.err);
        }
        self
    }

    fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "standard output lacks {part:?}:\n{}", self.out);
        }
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}:\n{}", self.out))
    }
}
