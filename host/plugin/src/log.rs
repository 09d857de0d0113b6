//! The one import that plugins have. Lines go to `tracing` with the plugin's name; a plugin cannot flood the host.
//!
//! ```text
//!  guest log(level, message, fields) ──► caps: 4 KiB a line, 64 lines a call, 1 MiB an instance ──► tracing event
//!                                     └► last error-level line of the call, kept for the trap's message
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use crate::bindings::ovhost::plugin::log::{Host, Level};
use crate::error::clip;
use crate::limits::Limiter;

const LINE_BYTES: usize = 4 << 10;
const LINES_PER_CALL: u32 = 64;
const BYTES_PER_INSTANCE: usize = 1 << 20;

/// What a store holds for its guest.
pub(crate) struct StoreData {
    pub limiter: Limiter,
    pub log: LogSink,
}

/// Where a guest's lines end up.
pub(crate) struct LogSink {
    plugin: Arc<str>,
    lines: u32,
    bytes: usize,
    suppressed: u64,
    last_error: Option<String>,
}

impl LogSink {
    pub(crate) fn new(plugin: Arc<str>) -> Self {
        LogSink { plugin, lines: 0, bytes: 0, suppressed: 0, last_error: None }
    }

    /// A call begins: the allowance of lines is new and no error has been seen.
    pub(crate) fn begin(&mut self) {
        self.lines = 0;
        self.last_error = None;
    }

    /// A call ended: says how many lines were not shown.
    pub(crate) fn end(&mut self) {
        if self.suppressed > 0 {
            tracing::warn!(target: "plugin", plugin = &*self.plugin, "{} log lines suppressed", self.suppressed);
            self.suppressed = 0;
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
                '\n' | '\t' => out.push(c),
                c if c.is_control() => {
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
    fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) {
        let sink = &mut self.log;
        if matches!(level, Level::Error) {
            // Kept even when the line itself is over a cap: it explains the trap that may follow.
            sink.last_error = Some(line(&message, &fields));
        }
        if sink.lines >= LINES_PER_CALL || sink.bytes >= BYTES_PER_INSTANCE {
            sink.suppressed += 1;
            return;
        }
        let text = line(&message, &fields);
        sink.lines += 1;
        sink.bytes += text.len();
        let plugin = &*sink.plugin;
        match level {
            Level::Trace => tracing::trace!(target: "plugin", plugin, "{text}"),
            Level::Debug => tracing::debug!(target: "plugin", plugin, "{text}"),
            Level::Info => tracing::info!(target: "plugin", plugin, "{text}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, "{text}"),
            Level::Error => tracing::error!(target: "plugin", plugin, "{text}"),
        }
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
    }

    #[test]
    fn caps_suppress_but_keep_the_last_error() {
        let mut data = StoreData { limiter: Limiter::new(1), log: LogSink::new("p".into()) };
        data.log.begin();
        for i in 0..1000 {
            data.log(Level::Error, format!("line {i}"), vec![]);
        }
        assert_eq!(data.log.lines, LINES_PER_CALL);
        assert_eq!(data.log.suppressed, 1000 - u64::from(LINES_PER_CALL));
        assert_eq!(data.log.take_error().as_deref(), Some("line 999"));
    }
}
