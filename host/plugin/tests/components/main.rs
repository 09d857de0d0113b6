//! Real components in the real host: the first-party plugins, and guests that misbehave on purpose.
//!
//! `cargo xtask plugins` builds the first to `target/plugins` (or `$OVHOST_PLUGINS_DIR`); the second are checked in.

mod crashes;
mod determinism;
mod first_party;
mod forge;
#[path = "../../../../tests/fuzz/src/frame.rs"]
mod frame;
mod fresh;
mod frozen;
mod hostile_describe;
mod hostile_values;
#[path = "../../../../tests/fuzz/src/load.rs"]
mod load_any;
mod loader;
mod loading;
mod misbehave;
mod misbehave_more;
#[path = "../../../../tests/fuzz/src/mutate.rs"]
mod mutate;
mod random_modules;
mod streaming;
mod trusting;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Host, HostOptions, Plugin, PluginError, PluginSpec, Ragged};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("host/plugin is two folders deep")
}

/// Where the first-party plugins are.
fn plugins_dir() -> PathBuf {
    std::env::var_os("OVHOST_PLUGINS_DIR").map_or_else(|| workspace().join("target/plugins"), PathBuf::from)
}

/// A first-party plugin, such as `filters/image_geometry`.
fn first_party(name: &str) -> PathBuf {
    let path = plugins_dir().join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run cargo xtask plugins", path.display());
    path
}

/// A guest that misbehaves.
fn guest(name: &str) -> PathBuf {
    // Those in the repository, or made from source just now (`cargo xtask test` does both).
    let folder =
        std::env::var_os("OVHOST_TEST_GUESTS").map_or_else(|| workspace().join("tests/fixtures/guests"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run cargo xtask plugins", path.display());
    path
}

/// A guest built against 0.1.0, kept as it was.
fn frozen(name: &str) -> PathBuf {
    workspace().join(format!("tests/fixtures/guests/v0.1.0/{name}.wasm"))
}

/// One host for all tests, with a cache of its own: every component is compiled once.
fn host() -> &'static Host {
    static HOST: OnceLock<(Host, tempfile::TempDir)> = OnceLock::new();
    let (host, _) = HOST.get_or_init(|| {
        let cache = tempfile::tempdir().unwrap();
        let options = HostOptions { cache_dir: Some(cache.path().join("wasm")) };
        (Host::new(options).unwrap(), cache)
    });
    host
}

fn spec(path: PathBuf, entry: &str) -> PluginSpec {
    PluginSpec { entry: Some(entry.into()), ..PluginSpec::new(path) }
}

fn load(path: PathBuf, entry: &str) -> Plugin {
    host().load(&spec(path, entry)).unwrap()
}

/// A context whose first row is 1000.
fn ctx() -> CallCtx {
    CallCtx { run_seed: 7, shard: 0, batch_index: 3, first_row: 1000 }
}

/// Rows with `text` and `key` ("k0", "k1", ...).
fn texts(rows: &[&str]) -> Batch {
    let keys: Vec<String> = (0..rows.len()).map(|i| format!("k{i}")).collect();
    Batch { rows: rows.len() as u32, columns: vec![Column::utf8("text", rows), Column::utf8("key", keys)] }
}

/// Samples for a packer.
fn samples(items: &[(i64, u32)]) -> Batch {
    let column = |name: &str, data| Column::new(name, data);
    Batch {
        rows: items.len() as u32,
        columns: vec![
            column("id", ColumnData::S64s(items.iter().map(|i| i.0).collect())),
            column("length", ColumnData::U32s(items.iter().map(|i| i.1).collect())),
            column("patches", ColumnData::U32s(vec![0; items.len()])),
        ],
    }
}

/// Answers for a metric.
fn answers(predictions: &[&str]) -> Batch {
    let n = predictions.len();
    Batch {
        rows: n as u32,
        columns: vec![
            Column::utf8("prediction", predictions),
            Column::utf8("references", vec![r#"["yes"]"#; n]),
            Column::utf8("record", vec!["{}"; n]),
            Column::utf8("key", (0..n).map(|i| format!("k{i}"))),
        ],
    }
}

fn lists(name: &str, rows: &[&[u32]]) -> Column {
    Column::new(name, ColumnData::U32Lists(Ragged::from_rows(rows)))
}

/// The error's text; it must hold every one of `parts`.
fn assert_says(error: &PluginError, parts: &[&str]) {
    let text = error.to_string();
    println!("{text}\n");
    for part in parts {
        assert!(text.contains(part), "the error\n{text}\nlacks {part:?}");
    }
}
