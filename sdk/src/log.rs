//! Log lines: to the host in a component, to standard error in a native test. Also the panic hook.
//!
//! A component that panics traps, and a trap has no text. The hook sends the panic's message through the log import
//! before that happens; the host shows it with the error.

use std::sync::Once;

pub use crate::bindings::ovhost::plugin::log::Level;

/// Writes one line. `fields` are key-value pairs shown after the message.
///
/// ```
/// use ovhost_sdk::log::{self, Level};
///
/// log::info("read the list", &[("words", "1200")]);
/// log::log(Level::Trace, "a step", &[]);
/// ```
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(target_arch = "wasm32")]
    {
        let owned: Vec<(String, String)> = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        crate::bindings::ovhost::plugin::log::log(level, message, &owned);
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let fields: String = fields.iter().map(|(k, v)| format!(" {k}={v}")).collect();
        eprintln!("{level:?}: {message}{fields}");
    }
}

/// A line for somebody who looks for a defect.
pub fn debug(message: &str, fields: &[(&str, &str)]) {
    log(Level::Debug, message, fields);
}

/// A line that belongs in every run's log.
pub fn info(message: &str, fields: &[(&str, &str)]) {
    log(Level::Info, message, fields);
}

/// A line that the user should act on.
pub fn warn(message: &str, fields: &[(&str, &str)]) {
    log(Level::Warn, message, fields);
}

/// A line that explains a failure.
pub fn error(message: &str, fields: &[(&str, &str)]) {
    log(Level::Error, message, fields);
}

/// Makes panics log `panicked at FILE:LINE:COL: MESSAGE`. The export macros call it; natively it is not called, so
/// that tests keep the standard hook.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "components only"))]
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| log(Level::Error, &panic_line(info), &[]))));
}

fn panic_line(info: &std::panic::PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("(a payload that is no text)");
    match info.location() {
        Some(at) => format!("panicked at {}:{}:{}: {text}", at.file(), at.line(), at.column()),
        None => format!("panicked: {text}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_line_has_place_and_message() {
        use std::sync::Mutex;
        static SEEN: Mutex<String> = Mutex::new(String::new());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|info| *SEEN.lock().unwrap() = super::panic_line(info)));
        let caught = std::panic::catch_unwind(|| panic!("row {} is odd", 7));
        std::panic::set_hook(before);
        assert!(caught.is_err());
        let line = SEEN.lock().unwrap().clone();
        assert!(line.contains("log.rs:") && line.ends_with(": row 7 is odd"), "{line}");
    }
}
