//! Gives any bytes to the loader as a file, and asks whatever loads to judge two rows.
//!
//! The fuzz target `load` and the bounded test in `host/plugin/tests` both call [`load_bytes`]. It must neither panic nor
//! hang nor end the process, whatever the bytes are; that is all that is asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ovhost_plugin::{
    Batch, CallCtx, Column, ColumnData, Host, HostOptions, Kind, Limits, Mode, PackLimits, Plugin, PluginError,
    PluginSpec,
};

/// How far the bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// They are no component, or none of ours: refused before anything was compiled.
    Scan,
    /// They do not validate, or their types are others.
    Types,
    /// They ran, and what they said of themselves, or `init`, was refused.
    Described,
    /// They loaded, and their answer to two rows was refused.
    Loaded,
    /// They are a plugin that works.
    Works,
}

/// A host is used for so many inputs: it keeps what it compiled, on disk and in memory.
const INPUTS: u32 = 2_000;

#[derive(Clone)]
struct Bench {
    host: Host,
    folder: Arc<tempfile::TempDir>,
    left: u32,
}

static BENCH: Mutex<Option<Bench>> = Mutex::new(None);

/// The loader on a file of these bytes.
pub fn load_bytes(data: &[u8]) -> Reached {
    let Bench { host, folder, left } = bench();
    let path: PathBuf = folder.path().join(format!("{left}.wasm"));
    std::fs::write(&path, data).expect("room for a temporary file");
    let reached = try_file(&host, &path);
    std::fs::remove_file(&path).expect("the file that was just written");
    reached
}

fn try_file(host: &Host, path: &Path) -> Reached {
    let inspection = match host.inspect(path, None) {
        Ok(inspection) => inspection,
        Err(PluginError::NotAComponent { .. } | PluginError::Imports { .. } | PluginError::TooMuchCode { .. }) => {
            return Reached::Scan;
        }
        Err(PluginError::Invalid { .. } | PluginError::Exports { .. } | PluginError::TooLarge { .. }) => {
            return Reached::Types;
        }
        Err(_) => return Reached::Described,
    };
    let mut reached = Reached::Described;
    for entry in inspection.description.entries.into_iter().take(4) {
        let limits = Limits { memory_mib: 32, fuel_base: 5_000_000, fuel_per_row: 0, ..Limits::default() };
        let spec = PluginSpec { entry: Some(entry.name), limits, ..PluginSpec::new(path) };
        if let Ok(plugin) = host.load(&spec) {
            reached = reached.max(if judge(&plugin).is_ok() { Reached::Works } else { Reached::Loaded });
        }
    }
    reached
}

fn bench() -> Bench {
    let mut bench = BENCH.lock().unwrap_or_else(PoisonError::into_inner);
    if bench.as_ref().is_none_or(|bench| bench.left == 0) {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let host = Host::new(HostOptions { cache_dir: Some(folder.path().join("wasm")) }).expect("a host");
        *bench = Some(Bench { host, folder, left: INPUTS });
    }
    let bench = bench.as_mut().expect("just made");
    bench.left -= 1;
    bench.clone()
}

/// Two rows of every column.
fn rows() -> Batch {
    let text = |name: &str| Column::utf8(name, ["some text", ""]);
    let number = |name: &str| Column::new(name, ColumnData::U32s(vec![1, 7]));
    Batch {
        rows: 2,
        columns: vec![
            Column::new("id", ColumnData::S64s(vec![0, 1])),
            text("text"),
            text("key"),
            text("record"),
            text("prediction"),
            text("references"),
            number("length"),
            number("patches"),
            number("num-images"),
        ],
    }
}

fn judge(plugin: &Plugin) -> Result<(), PluginError> {
    let (ctx, rows) = (CallCtx::default(), rows());
    match plugin.kind() {
        Kind::Filter => plugin.filter()?.process(&ctx, &rows).map(|_| ()),
        Kind::Prompt => plugin.prompt()?.render(&ctx, Mode::Train, &rows).map(|_| ()),
        Kind::Packer => {
            let mut packer = plugin.packer()?;
            packer.start(&PackLimits { capacity: 10, max_items_per_bin: 0, max_open_items: 0 })?;
            packer.push(&ctx, &rows)?;
            while packer.flush()?.is_some() {}
            Ok(())
        }
        Kind::Metric => {
            let mut metric = plugin.metric()?;
            metric.update(&ctx, &rows)?;
            metric.finalize().map(|_| ())
        }
    }
}
