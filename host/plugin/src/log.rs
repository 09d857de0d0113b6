//! The one import that plugins have. Lines go to `tracing` with the plugin's name; a plugin cannot flood the host.
//!
//! ```text
//!  guest log(level, message, fields) ──► caps: 4 KiB a line, 64 lines a call ──► PluginLog: 200 lines a second,
//!                                     │                                               1 MiB a run ──► tracing event
//!                                     ├► last error-level line of the call, kept for the trap's message
//!                                     └► all bytes of the call over limits.output_mib: trap
//! ```
//! Fuel counts the guest's instructions and not what the host does for it, so without the last rule a plugin could keep
//! the host busy for hours by handing it the same few megabytes again and again.

mod budget;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use crate::bindings::ovhost::plugin::log::{Host, Level};
use crate::error::{clip, turns};
use crate::limits::Limiter;

pub(crate) use budget::PluginLog;

const LINE_BYTES: usize = 4 << 10;
const LINES_PER_CALL: u32 = 64;
/// What a line, and a field of it, counts besides its text.
const OVERHEAD: usize = 64;

/// What a store holds for its guest.
pub(crate) struct StoreData {
    pub limiter: Limiter,
    pub log: LogSink,
}

/// Where a guest's lines end up.
pub(crate) struct LogSink {
    plugin: Arc<PluginLog>,
    lines: u32,
    suppressed: u64,
    last_error: Option<String>,
    /// Bytes that the running call may still hand over.
    allowance: usize,
}

/// A call logged more than it may return; travels out of the guest as the cause of its trap.
#[derive(Debug)]
pub(crate) struct LoggedTooMuch;

impl std::fmt::Display for LoggedTooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too much was logged in one call")
    }
}

impl std::error::Error for LoggedTooMuch {}

impl LogSink {
    pub(crate) fn new(plugin: Arc<PluginLog>) -> Self {
        LogSink { plugin, lines: 0, suppressed: 0, last_error: None, allowance: 0 }
    }

    /// A call begins: the allowances of lines and `bytes` are new and no error has been seen.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.lines = 0;
        self.last_error = None;
        self.allowance = bytes;
    }

    /// A call ended: says, now and then, how many lines were not shown.
    pub(crate) fn end(&mut self) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0
            && let Some(lines) = self.plugin.suppress(suppressed, Instant::now())
        {
            self.plugin.tell(lines);
        }
    }

    /// The last error-level line of this call.
    pub(crate) fn take_error(&mut self) -> Option<String> {
        self.last_error.take()
    }
}

/// A line as one string: bounded, control characters shown, so that a plugin cannot forge lines of the host's log.
fn line(message: &str, fields: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut put = |text: &str| {
        for c in clip(text, LINE_BYTES).chars() {
            if out.len() >= LINE_BYTES {
                return;
            }
            match c {
                // What follows cannot look like a line of its own.
                '\n' => out.push_str("\n    "),
                '\t' => out.push(c),
                c if c.is_control() || turns(c) => {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{}", c.escape_default());
                }
                c => out.push(c),
            }
        }
    };
    put(message);
    for (name, value) in fields.iter().take(32) {
        put(" ");
        put(name);
        put("=");
        put(value);
    }
    out
}

impl Host for StoreData {
    fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let sink = &mut self.log;
        let bytes = fields.iter().map(|(name, value)| OVERHEAD + name.len() + value.len()).sum::<usize>();
        match sink.allowance.checked_sub(OVERHEAD + message.len() + bytes) {
            Some(left) => sink.allowance = left,
            None => return Err(wasmtime::Error::new(LoggedTooMuch)),
        }
        if matches!(level, Level::Error) {
            // Kept even when the line itself is over a cap: it explains the trap that may follow.
            sink.last_error = Some(line(&message, &fields));
        }
        if sink.lines >= LINES_PER_CALL {
            sink.suppressed += 1;
            return Ok(());
        }
        let text = line(&message, &fields);
        if !sink.plugin.admit(text.len(), Instant::now()) {
            sink.suppressed += 1;
            return Ok(());
        }
        sink.lines += 1;
        let plugin = sink.plugin.name();
        match level {
            Level::Trace => tracing::trace!(target: "plugin", plugin, "{text}"),
            Level::Debug => tracing::debug!(target: "plugin", plugin, "{text}"),
            Level::Info => tracing::info!(target: "plugin", plugin, "{text}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, "{text}"),
            Level::Error => tracing::error!(target: "plugin", plugin, "{text}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_safe() {
        let long = line(&"é".repeat(10_000), &[("k".into(), "v".into())]);
        assert!(long.len() <= LINE_BYTES + 4);
        assert_eq!(line("a\u{1b}[31m", &[("k".into(), "v".into())]), "a\\u{1b}[31m k=v");
        assert_eq!(line("a\nERROR b", &[]), "a\n    ERROR b");
        assert_eq!(line("a\u{202e}b", &[("\u{2066}k".into(), "v".into())]), "a\\u{202e}b \\u{2066}k=v");
    }

    #[test]
    fn fields_are_cut_by_number_and_length() {
        let field = |name: String, value: &str| (name, value.to_owned());
        let many: Vec<_> = (0..100).map(|i| field(format!("f{i}"), "v")).collect();
        let cut = line("m", &many);
        assert!(cut.ends_with(" f31=v") && !cut.contains("f32"), "{cut}");
        let long: Vec<_> = (0..32).map(|i| field(format!("f{i}"), &"v".repeat(1000))).collect();
        let cut = line("m", &long);
        assert!((LINE_BYTES..=LINE_BYTES + 4).contains(&cut.len()), "{}", cut.len());
    }

    #[test]
    fn caps_suppress_but_keep_the_last_error() {
        let mut data = StoreData { limiter: Limiter::new(1), log: LogSink::new(PluginLog::new("p")) };
        data.log.begin(1000 * (OVERHEAD + 8));
        for i in 0..1000 {
            data.log(Level::Error, format!("line {i}"), vec![]).unwrap();
        }
        assert_eq!(data.log.lines, LINES_PER_CALL);
        assert_eq!(data.log.suppressed, 1000 - u64::from(LINES_PER_CALL));
        assert_eq!(data.log.take_error().as_deref(), Some("line 999"));
        let stopped = (0..1000).find_map(|_| data.log(Level::Info, "12345678".into(), vec![]).err()).unwrap();
        assert!(stopped.is::<LoggedTooMuch>());
        data.log.begin(OVERHEAD);
        data.log(Level::Info, String::new(), vec![]).unwrap();
        data.log(Level::Info, String::new(), vec![]).unwrap_err();
    }
}
