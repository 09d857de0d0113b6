//! A failure of a plugin as one file that repeats it: what was loaded, how it was configured, the call, the guilty rows.
//!
//! ```text
//!  trap or broken answer ──Loaded::keep──► <folder>/<kind>.<name>.<hash>.json (at most 10 a plugin) ──Bundle::read──► replay
//! ```
//! Rows are written as golden cases write them (`rows`, `types`), so that they can be copied into a `cases.jsonl`; a column
//! that JSON would change (invalid rows with values, NaNs with a payload, text that is none) is written in `raw` instead.
//! The component and its assets are named and hashed, not contained.

mod rows;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::contain::Piece;
use crate::error::{PluginError, TrapCause};
use crate::files::write_whole;
use crate::instance::CallError;
use crate::limits::Limits;
use crate::load::{AssetInfo, Loaded};
use crate::packer::PackLimits;
use crate::prompt::Mode;
use crate::scan::Kind;
use crate::{Batch, CallCtx, Column};

pub use rows::{RawColumn, Rows};

/// The format of the files; another number is another format.
const FORMAT: &str = "ovhost-crash/1";
/// Files that one plugin may leave in a folder.
const FILES: usize = 10;
/// Largest file.
const BYTES: usize = 16 << 20;
/// Calls, and bytes of their columns, that a stream remembers since its last saved state.
const JOURNAL: (usize, usize) = (256, 1 << 20);

/// Everything that it takes to make a plugin fail again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// `ovhost-crash/1`.
    pub format: String,
    /// Version of the host that wrote it.
    pub ovhost: String,
    /// Engine, its version and settings.
    pub engine: String,
    /// The component.
    pub component: ComponentRecord,
    /// What it is.
    pub kind: Kind,
    /// Name of this use of it; its seed depends on it.
    pub name: String,
    /// Which entry.
    pub entry: String,
    /// Its configuration as it was given.
    pub config: Value,
    /// The files that it was given.
    pub assets: Vec<AssetInfo>,
    /// What it could use.
    pub limits: Limits,
    /// Seed of the run, before the plugin's name is mixed in.
    pub seed: u64,
    /// What happened.
    pub failure: Failure,
    /// The call that failed.
    pub call: Call,
    /// What the instance had seen before, of plugins with state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// What is not in here and may matter, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Which component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComponentRecord {
    /// Where it was.
    pub path: PathBuf,
    /// Its hash.
    pub sha256: String,
    /// Its own name.
    pub plugin: String,
    /// Its version.
    pub version: String,
}

/// How it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `panic`, `out-of-fuel`, `memory`, `stack-overflow`, `out-of-bounds`, `output-too-large`, `malformed`, `trap`;
    /// `contract` where the answer broke a rule.
    pub class: String,
    /// The error's words.
    pub text: String,
    /// Functions that were running, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backtrace: Vec<String>,
    /// Ordinal in the stream of the guilty row, where bisection found one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// That row's `key` column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// One call of a plugin's function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// The function: `process`, `push`, ...
    pub function: String,
    /// Position in the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<CallCtx>,
    /// Of `render`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// State bytes that `restore` or `merge` was given, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
    /// The guilty row where it is known, else the batch.
    #[serde(flatten)]
    pub batch: Rows,
}

/// What an instance with state had seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Bounds of a packer's stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PackLimits>,
    /// The last saved state, base64; none: it began fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Calls since then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Earlier>,
}

/// A call that went well before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Earlier {
    /// Position in the stream.
    pub ctx: CallCtx,
    /// What it was given.
    #[serde(flatten)]
    pub batch: Rows,
}

/// Where failures of a plugin are kept, and what only they need to know.
pub(crate) struct Crashes {
    folder: PathBuf,
    seed: u64,
    /// One at a time, so that the number of files is right; true once there are enough.
    full: Mutex<bool>,
}

impl Crashes {
    pub(crate) fn new(folder: PathBuf, seed: u64) -> Self {
        Crashes { folder, seed, full: Mutex::default() }
    }
}

/// The call that failed, as the kinds know it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Occasion<'a> {
    pub ctx: Option<&'a CallCtx>,
    pub mode: Option<Mode>,
    pub batch: Option<&'a Batch>,
    /// The guilty row of the batch.
    pub row: Option<u32>,
    pub argument: Option<&'a [u8]>,
    pub journal: Option<&'a Journal>,
    /// State as of the last good call.
    pub state: Option<&'a [u8]>,
    /// State that the instance had and that is not known.
    pub missing: Option<&'static str>,
}

impl<'a> Occasion<'a> {
    pub(crate) fn rows(ctx: &'a CallCtx, batch: &'a Batch, row: Option<u32>) -> Self {
        Occasion { ctx: Some(ctx), batch: Some(batch), row, ..Occasion::default() }
    }
}

/// What a stream has seen since its last saved state: enough to bring it there again.
pub(crate) struct Journal {
    on: bool,
    limits: Option<PackLimits>,
    state: Option<Vec<u8>>,
    calls: Vec<(CallCtx, Batch)>,
    bytes: usize,
    /// Nothing was left out.
    whole: bool,
}

impl Journal {
    /// One that remembers nothing where failures are not kept.
    pub(crate) fn new(loaded: &Loaded) -> Self {
        Journal { on: loaded.crashes.is_some(), limits: None, state: None, calls: Vec::new(), bytes: 0, whole: true }
    }

    /// A stream begins.
    pub(crate) fn started(&mut self, limits: Option<PackLimits>) {
        *self = Journal { on: self.on, limits, state: None, calls: Vec::new(), bytes: 0, whole: true };
    }

    /// A batch was taken.
    pub(crate) fn took(&mut self, loaded: &Loaded, ctx: &CallCtx, batch: &Batch) {
        if !self.on || !self.whole {
            return;
        }
        let batch = narrow(loaded, batch);
        self.bytes += batch.columns.iter().map(|c| c.data.bytes()).sum::<usize>();
        self.calls.push((*ctx, batch));
        if self.calls.len() > JOURNAL.0 || self.bytes > JOURNAL.1 {
            (self.calls, self.state, self.whole) = (Vec::new(), None, false);
        }
    }

    /// The state is known again.
    pub(crate) fn at(&mut self, state: &[u8]) {
        if self.on {
            self.calls.clear();
            (self.state, self.bytes, self.whole) = (Some(state.to_vec()), 0, true);
        }
    }

    fn record(&self) -> Stream {
        let before = self.calls.iter().map(|(ctx, batch)| Earlier { ctx: *ctx, batch: Rows::of(batch) }).collect();
        Stream { limits: self.limits, state: self.state.as_ref().map(|s| STANDARD.encode(s)), before }
    }
}

/// The columns that matter to a plugin: those that it reads, that its kind always gets, and that errors and checks use.
fn narrow(loaded: &Loaded, batch: &Batch) -> Batch {
    let info = &loaded.info;
    let always: &[&str] = match info.kind {
        Kind::Filter => &["key"],
        Kind::Packer => &["id", "length", "key"],
        Kind::Prompt => &["key", "num-images", "num-videos"],
        Kind::Metric => &["key", "prediction", "references", "record", "judgement"],
    };
    let wanted = |c: &&Column| always.contains(&c.name.as_str()) || info.reads.iter().any(|(name, _)| *name == c.name);
    Batch { rows: batch.rows, columns: batch.columns.iter().filter(wanted).cloned().collect() }
}

impl TrapCause {
    /// One word for what happened, as crash files have it.
    pub fn class(&self) -> &'static str {
        match self {
            TrapCause::OutOfFuel { .. } => "out-of-fuel",
            TrapCause::Memory { .. } => "memory",
            TrapCause::StackOverflow { .. } => "stack-overflow",
            TrapCause::OutOfBounds => "out-of-bounds",
            TrapCause::Panic { .. } => "panic",
            TrapCause::OutputTooLarge { .. } => "output-too-large",
            TrapCause::Malformed { .. } => "malformed",
            TrapCause::Other { .. } => "trap",
        }
    }
}

impl Loaded {
    /// Keeps a failure, if a folder for them was given and it is the plugin's fault. What goes wrong here is a line in the
    /// log: the failure itself is what its user has to hear of.
    pub(crate) fn keep(&self, error: &CallError, occasion: &Occasion<'_>) {
        let Some(crashes) = &self.crashes else { return };
        // A plugin that fails on every row must not be slowed down by the files that it no longer leaves.
        if *crashes.full.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        let (function, class, text, backtrace) = match error {
            CallError::Trap(call, stopped) => {
                (*call, stopped.cause.class(), stopped.cause.to_string(), stopped.backtrace.to_vec())
            }
            CallError::Output(call, rule) => (*call, "contract", rule.clone(), Vec::new()),
            CallError::Fatal(_) => return,
        };
        let bundle = self.bundle(crashes, function, class, text, backtrace, occasion);
        let mut full = crashes.full.lock().unwrap_or_else(PoisonError::into_inner);
        match store(&crashes.folder, bundle, &mut full) {
            Ok(Some(path)) => tracing::warn!(
                "plugin {}: its failure in {function} is kept; repeat it with `ovhost plugin replay {}`",
                self.info.name,
                path.display()
            ),
            Ok(None) => {}
            Err(why) => tracing::warn!("the failure of plugin {} could not be kept: {why}", self.info.name),
        }
    }

    fn bundle(
        &self,
        crashes: &Crashes,
        function: &str,
        class: &str,
        text: String,
        backtrace: Vec<String>,
        occasion: &Occasion<'_>,
    ) -> Bundle {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let batch = occasion.batch.map(|b| narrow(self, b));
        let key = batch.as_ref().zip(occasion.row).and_then(|(b, row)| b.key(row));
        let ctx = occasion.ctx.copied();
        let row = occasion.row.map(u64::from);
        // A row alone sees the same "time" and randomness as it did in its batch.
        let (batch, ctx) = match (batch, occasion.row) {
            (Some(batch), Some(row)) => {
                let alone = batch.slice(row, row + 1);
                (Some(alone), ctx.map(|c| CallCtx { first_row: c.first_row + u64::from(row), ..c }))
            }
            (batch, _) => (batch, ctx),
        };
        let stream = match (occasion.journal, occasion.state) {
            (Some(journal), _) => Some(journal.record()),
            (None, Some(state)) => Some(Stream { state: Some(STANDARD.encode(state)), ..Stream::default() }),
            (None, None) => None,
        };
        let missing = match occasion.journal {
            Some(journal) if !journal.whole => {
                Some("what the plugin saw since its state was last saved was too much to keep")
            }
            _ => occasion.missing,
        };
        let info = &self.info;
        Bundle {
            format: FORMAT.to_owned(),
            ovhost: env!("CARGO_PKG_VERSION").to_owned(),
            engine: info.engine.clone(),
            component: ComponentRecord {
                path: whole(&info.path),
                sha256: info.sha256.clone(),
                plugin: info.plugin_name.clone(),
                version: info.version.clone(),
            },
            kind: info.kind,
            name: info.name.clone(),
            entry: info.entry.clone(),
            config: serde_json::from_str(&self.config).unwrap_or_default(),
            assets: info.assets.iter().map(|a| AssetInfo { path: whole(&a.path), ..a.clone() }).collect(),
            limits: self.limits.clone(),
            seed: crashes.seed,
            failure: Failure {
                class: class.to_owned(),
                text,
                backtrace,
                row: occasion.ctx.zip(row).map(|(c, row)| c.first_row + row),
                key,
            },
            call: Call {
                function: function.to_owned(),
                ctx,
                mode: occasion.mode,
                argument: occasion.argument.map(|a| STANDARD.encode(a)),
                batch: batch.as_ref().map(Rows::of).unwrap_or_default(),
            },
            stream,
            missing: missing.map(str::to_owned),
        }
    }
}

/// Keeps the failures of single rows, out of a batch of which the rest went well.
pub(crate) fn keep_pieces<R>(loaded: &Loaded, pieces: &[Piece<R>], batch: &Occasion<'_>) {
    for piece in pieces {
        if let Err(error) = &piece.answer {
            loaded.keep(error, &Occasion { row: Some(piece.lo), ..*batch });
        }
    }
}

/// Writes a bundle under a name that its content gives; none where it is there already or the plugin has left enough (`full`
/// then says so).
fn store(folder: &Path, mut bundle: Bundle, full: &mut bool) -> Result<Option<PathBuf>, String> {
    let words = |e: serde_json::Error| e.to_string();
    let mut text = serde_json::to_vec_pretty(&bundle).map_err(words)?;
    if text.len() > BYTES {
        bundle.call.batch = Rows::default();
        bundle.stream = None;
        bundle.missing =
            Some(format!("the rows: with them this file would have {} bytes, {BYTES} are allowed", text.len()));
        text = serde_json::to_vec_pretty(&bundle).map_err(words)?;
    }
    // The same row fails again in the next epoch, at another place of the stream: that is one failure.
    (bundle.call.ctx, bundle.failure.row) = (None, None);
    let content = hex(&Sha256::digest(serde_json::to_vec(&bundle).map_err(words)?));
    let safe: String =
        bundle.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).take(64).collect();
    let prefix = format!("{}.{safe}.", bundle.kind);
    let path = folder.join(format!("{prefix}{}.json", &content[..12]));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let there = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).count();
    *full = there >= FILES;
    if *full || path.exists() {
        return Ok(None);
    }
    write_whole(&path, &text).map_err(|e| e.to_string())?;
    Ok(Some(path))
}

impl Bundle {
    /// Reads a file that a run left. Errors: it cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Bundle, PluginError> {
        let bytes =
            std::fs::read(path).map_err(|source| PluginError::Io { path: path.to_owned(), action: "read", source })?;
        let wrong = |why: String| PluginError::BadBundle { path: path.to_owned(), why };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("it is not JSON: {e}")))?;
        match value.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(wrong(format!("its format is {other:?}, this host reads {FORMAT}"))),
            None => return Err(wrong(format!("it does not say \"format\": \"{FORMAT}\""))),
        }
        serde_json::from_value(value).map_err(|e| wrong(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Bundle::read(&path).unwrap_err().to_string()
        };
        assert!(read("{").contains("not JSON"));
        assert!(read("{}").contains("does not say"));
        assert!(read(r#"{"format": "ovhost-crash/9"}"#).contains("this host reads ovhost-crash/1"));
        assert!(read(r#"{"format": "ovhost-crash/1"}"#).contains("missing field"));
    }
}
