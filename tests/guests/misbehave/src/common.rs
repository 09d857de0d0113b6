//! What the misbehaving guests share, each of which includes this file: who they are, which entry was chosen, the
//! misdeeds that every kind of plugin can do, and the fingerprint of the sources that they were built from.
//!
//! Misdeeds happen at a row that holds "poison", so that finding the guilty row can be tested:
//!
//! | entry | at a poison row |
//! |---|---|
//! | `panic` | panics |
//! | `abort` | executes `unreachable` without a word |
//! | `loop` | loops without end |
//! | `memory` | allocates until it is refused |
//! | `grow_storm` | asks for one page of memory after the other |
//! | `grow_nothing` | asks for no memory, without end |
//! | `memset_storm` | fills 32 MiB over and over |
//! | `memcpy_storm` | copies 16 MiB over and over |
//! | `overflow` | recurses without end |
//! | `wild_pointer` | reads where it has no memory |
//! | `log_flood` | a million log lines of 1 KiB |
//! | `log_bomb` | log lines of 16 MiB without end |

#![allow(dead_code, reason = "no guest needs all of it")]

use std::cell::RefCell;
use std::hint::black_box;

use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::{ColumnNeed, Description, Entry, StateModel};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, ColumnData, Diagnostic, ErrorKind, PluginError, RaggedU8};

/// The misdeeds of [`misdeed`], which every guest offers as entries.
pub const MISDEEDS: &[&str] = &[
    "panic",
    "abort",
    "loop",
    "memory",
    "grow_storm",
    "grow_nothing",
    "memset_storm",
    "memcpy_storm",
    "overflow",
    "wild_pointer",
    "log_flood",
    "log_bomb",
];

thread_local! {
    static ENTRY: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a guest says of itself.
pub struct About {
    pub name: &'static str,
    /// Its own entries, besides `good` and the shared ones.
    pub entries: &'static [&'static str],
    /// Columns that it reads; true where it cannot do without.
    pub reads: &'static [(&'static str, bool)],
    pub writes: &'static [&'static str],
    pub state: StateModel,
}

impl About {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        ["good"].into_iter().chain(MISDEEDS.iter().copied()).chain(self.entries.iter().copied())
    }

    pub fn describe(&self) -> Description {
        let needs = |&(name, required): &(&str, bool)| ColumnNeed { name: name.into(), required };
        let entry = |name: &str| Entry {
            name: name.into(),
            summary: "Breaks one rule.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            reads: self.reads.iter().map(needs).collect(),
            writes: self.writes.iter().map(|&name| name.into()).collect(),
            assets: vec![],
            state: self.state,
            prefer_rows: 0,
        };
        Description {
            name: self.name.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            license: env!("CARGO_PKG_LICENSE").into(),
            homepage: String::new(),
            entries: self.names().map(entry).collect(),
        }
    }

    /// Remembers the entry, if there is one of that name.
    pub fn choose(&self, entry: String) -> Result<String, Vec<Diagnostic>> {
        if !self.names().any(|name| name == entry) {
            return Err(vec![finding("", "no such entry")]);
        }
        ENTRY.set(entry);
        Ok("{}".into())
    }
}

pub fn finding(path: &str, message: &str) -> Diagnostic {
    Diagnostic { path: path.into(), message: message.into(), fatal: true }
}

/// The entry that `init` was called for.
pub fn entry() -> String {
    ENTRY.with_borrow(Clone::clone)
}

pub fn is(name: &str) -> bool {
    ENTRY.with_borrow(|entry| entry == name)
}

/// The plugin's own refusal of a call.
pub fn refusal(message: &str) -> PluginError {
    PluginError { kind: ErrorKind::BadInput, message: message.into(), detail: Some("on purpose".into()) }
}

/// The text column `name`.
pub fn text<'a>(batch: &'a Batch, name: &str) -> &'a RaggedU8 {
    match batch.columns.iter().find(|column| column.name == name).map(|column| &column.data) {
        Some(ColumnData::Utf8(text)) => text,
        _ => panic!("there is no column `{name}` of utf8"),
    }
}

/// The rows of a text column.
pub fn values(text: &RaggedU8) -> impl Iterator<Item = &[u8]> {
    text.offsets.windows(2).map(|at| &text.data[at[0] as usize..at[1] as usize])
}

/// The first row whose text holds "poison".
pub fn poison(text: &RaggedU8) -> Option<u32> {
    values(text).position(|value| value.windows(6).any(|w| w == b"poison")).map(|row| row as u32)
}

/// Does what the entry is named for, if that is one of [`MISDEEDS`].
pub fn misdeed(row: u32) {
    match entry().as_str() {
        "panic" => panic!("row {row} is poison"),
        "abort" => core::arch::wasm32::unreachable(),
        "loop" => spin(),
        "memory" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(black_box(vec![1; 1 << 20]));
            }
        }
        "grow_storm" => while core::arch::wasm32::memory_grow(0, 1) != usize::MAX {},
        "grow_nothing" => while core::arch::wasm32::memory_grow(0, black_box(0)) != usize::MAX {},
        "memset_storm" => {
            let mut page = vec![0_u8; 32 << 20];
            for byte in 0..u8::MAX {
                black_box(&mut page).fill(black_box(byte));
            }
            spin();
        }
        "memcpy_storm" => {
            let mut page = vec![1_u8; 32 << 20];
            for _ in 0..u8::MAX {
                black_box(&mut page).copy_within(black_box(0)..16 << 20, 16 << 20);
            }
            spin();
        }
        "overflow" => _ = black_box(recurse(0)),
        "wild_pointer" => {
            // SAFETY: there is none, which is the point: the address is past what a memory of 256 MiB can hold.
            black_box(unsafe { (black_box(0xfff0_0000_usize) as *const u8).read_volatile() });
        }
        "log_flood" => {
            let line = "y".repeat(1 << 10);
            for _ in 0..1_000_000 {
                ovhost_sdk::log::info(&line, &[]);
            }
        }
        "log_bomb" => {
            let line = "z".repeat(16 << 20);
            loop {
                ovhost_sdk::log::info(&line, &[]);
            }
        }
        _ => {}
    }
}

pub fn spin() {
    let mut i = 0u64;
    while black_box(i) < u64::MAX {
        i += 1;
    }
}

fn recurse(depth: u64) -> u64 {
    let page = [depth; 64];
    if black_box(&page)[0] == u64::MAX { 0 } else { recurse(depth + 1) + black_box(&page)[63] }
}

/// The words before a fingerprint in a component.
const MARK: &[u8; 21] = b"ovhost guest sources ";

/// [`MARK`] and the FNV-1a hash (64 bit, 16 hexadecimal digits) of the files one after the other. A test holds the
/// checked-in component to its sources by it.
pub const fn fingerprint(files: &[&[u8]]) -> [u8; 37] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut file = 0;
    while file < files.len() {
        let mut at = 0;
        while at < files[file].len() {
            hash = (hash ^ files[file][at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        file += 1;
    }
    let mut out = [0; 37];
    let mut at = 0;
    while at < 37 {
        out[at] = if at < 21 { MARK[at] } else { b"0123456789abcdef"[(hash >> (4 * (36 - at))) as usize & 15] };
        at += 1;
    }
    out
}

/// Implements `lifecycle` for a guest by its [`About`] and a function from an entry's name to the answer of `init`, and
/// leaves the fingerprint in the component.
macro_rules! lifecycle {
    ($guest:ty, $about:expr, $init:expr, [$($source:literal),+]) => {
        impl ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::Guest for $guest {
            fn describe() -> ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::Description {
                ovhost_sdk::__private::prepare();
                $about.describe()
            }

            fn init(
                entry: String,
                _config: String,
                _assets: Vec<ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::Asset>,
            ) -> Result<String, Vec<ovhost_sdk::bindings::ovhost::plugin::types::Diagnostic>> {
                ovhost_sdk::__private::prepare();
                $init(entry)
            }
        }

        // A custom section: the linker keeps it, and the program cannot reach it.
        #[used]
        #[unsafe(link_section = "ovhost-sources")]
        static SOURCES: [u8; 37] = common::fingerprint(&[$(include_bytes!($source)),+]);
    };
}
pub(crate) use lifecycle;
