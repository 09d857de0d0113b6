//! Which of a plugin's functions were running when it was stopped.
//!
//! In: wasmtime's error. Out: names, innermost first, demangled, without the machinery of a panic. Names come from the component's
//! name section; debug information, and with it line numbers, is not read (a panic's text has its own).

use wasmtime::WasmBacktrace;

use crate::error::{TrapCause, clip};

/// Functions that are kept of a backtrace, and those that an error shows.
const KEPT: usize = 16;
const SHOWN: usize = 4;

/// Functions of a plugin that were running, innermost first; a slice of names. (In a box, since errors that carry it are
/// passed up through every call.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frames(Option<Box<Names>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Names(Vec<String>);

impl From<Vec<String>> for Frames {
    fn from(names: Vec<String>) -> Self {
        Frames((!names.is_empty()).then(|| Box::new(Names(names))))
    }
}

impl std::ops::Deref for Frames {
    type Target = [String];

    fn deref(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |names| &names.0)
    }
}

/// Why a call ended early, and where.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub cause: TrapCause,
    pub backtrace: Frames,
}

impl From<TrapCause> for Stopped {
    fn from(cause: TrapCause) -> Self {
        Stopped { cause, backtrace: Frames::default() }
    }
}

/// The functions in an error's backtrace.
pub(crate) fn frames(error: &wasmtime::Error) -> Frames {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Frames::default() };
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .map(|frame| match frame.func_name() {
            // The alternate form leaves out the hash at a name's end.
            Some(name) => clip(&format!("{:#}", rustc_demangle::demangle(name)), 200).to_owned(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    without_machinery(names).into()
}

/// Drops what every panic has on top, if something is left below it.
fn without_machinery(names: Vec<String>) -> Vec<String> {
    let machinery = |name: &String| {
        ["panic", "rust_begin_unwind", "abort", "unwrap_failed", "expect_failed", "handle_alloc_error", "rust_oom"]
            .iter()
            .any(|part| name.contains(part))
            || name.starts_with("std::")
            || name.starts_with("core::ops::function")
    };
    let first = names.iter().position(|n| !machinery(n)).unwrap_or(0);
    names.into_iter().skip(first).take(KEPT).collect()
}

/// The end of an error's message: ` [in a, from b, from c]`, or nothing.
pub(crate) fn words(backtrace: &[String]) -> String {
    if backtrace.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = backtrace.iter().take(SHOWN).map(|name| clip(name, 120)).collect();
    let more = if backtrace.len() > SHOWN { ", ..." } else { "" };
    format!(" [in {}{more}]", shown.join(", from "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn the_plugin_s_own_function_comes_first() {
        let whole =
            ["__rustc::rust_panic", "std::panicking::panic_with_hook", "core::panicking::panic_fmt", "lab::judge", "f"];
        assert_eq!(without_machinery(names(&whole)), names(&["lab::judge", "f"]));
        assert_eq!(without_machinery(names(&["abort"])), names(&["abort"]), "better than nothing");
        assert_eq!(words(&names(&["a", "b"])), " [in a, from b]");
        assert_eq!(words(&names(&["a", "b", "c", "d", "e"])), " [in a, from b, from c, from d, ...]");
        assert_eq!(words(&[]), "");
    }

    #[test]
    fn frames_are_named_and_demangled() {
        let engine = wasmtime::Engine::default();
        let text = r#"(module
            (func $_ZN3lab5judge17h0123456789abcdefE unreachable)
            (func (export "run") call $_ZN3lab5judge17h0123456789abcdefE))"#;
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, ()).unwrap_err();
        assert_eq!(*frames(&error), names(&["lab::judge", "function 1"])[..]);
    }
}
