//! A component of filters that each break one rule. The host's tests load it and check what a user is told, and that
//! the host lives on.
//!
//! It goes around the SDK's runner, which would not let most of this happen. Rows come in with `text`; entries that
//! speak of poison misbehave only at a row whose text holds "poison", so that finding the guilty row can be tested.
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | keeps every row |
//! | `panic` | panics at a poison row |
//! | `loop` | loops at a poison row |
//! | `memory` | allocates until it is refused, at a poison row |
//! | `overflow` | recurses without end, at a poison row |
//! | `row_error` | names poison rows in `errors` |
//! | `call_error` | answers `plugin-error` when there is a poison row |
//! | `wrong_length` | answers one decision too few |
//! | `bad_keep` | says 2 in `keep` |
//! | `bad_reason` | an index that has no reason |
//! | `many_reasons` | 1,000 reasons |
//! | `long_reason` | a reason of 1 MiB |
//! | `huge_output` | adds a column of 96 MiB |
//! | `undeclared_column` | adds a column that is not in `writes` |
//! | `bad_utf8` | adds text that is not UTF-8 |
//! | `bad_offsets` | adds text whose offsets go back |
//! | `bad_valid` | adds a column whose mask is too short |
//! | `error_out_of_range` | an error for a row that does not exist |
//! | `log_flood` | a million log lines of 1 KiB |
//! | `init_panic`, `init_loop` | panics or loops in `init` |
//! | `init_refuses` | a fatal finding at `/threshold` |
//! | `init_no_reason` | fails without a finding |
//! | `init_not_json` | a resolved configuration that is not JSON |

#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::hint::black_box;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::filter::{self, Decisions};
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::{
    self, Asset, ColumnNeed, Description, Entry, StateModel,
};
use ovhost_sdk::bindings::ovhost::plugin::types::{
    Batch, CallCtx, Column, ColumnData, Diagnostic, ErrorKind, PluginError, RaggedU8, RowError,
};

const ENTRIES: &[&str] = &[
    "good",
    "panic",
    "loop",
    "memory",
    "overflow",
    "row_error",
    "call_error",
    "wrong_length",
    "bad_keep",
    "bad_reason",
    "many_reasons",
    "long_reason",
    "huge_output",
    "undeclared_column",
    "bad_utf8",
    "bad_offsets",
    "bad_valid",
    "error_out_of_range",
    "log_flood",
    "init_panic",
    "init_loop",
    "init_refuses",
    "init_no_reason",
    "init_not_json",
];

thread_local! {
    static ENTRY: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Misbehave;

impl lifecycle::Guest for Misbehave {
    fn describe() -> Description {
        ovhost_sdk::__private::prepare();
        let entry = |name: &&str| Entry {
            name: (*name).into(),
            summary: "Breaks one rule.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            reads: vec![ColumnNeed { name: "text".into(), required: true }],
            writes: vec!["added".into()],
            assets: vec![],
            state: StateModel::Pure,
            prefer_rows: 0,
        };
        Description {
            name: "misbehave".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            license: env!("CARGO_PKG_LICENSE").into(),
            homepage: String::new(),
            entries: ENTRIES.iter().map(entry).collect(),
        }
    }

    fn init(entry: String, _config: String, _assets: Vec<Asset>) -> Result<String, Vec<Diagnostic>> {
        ovhost_sdk::__private::prepare();
        let finding =
            |path: &str, message: &str| vec![Diagnostic { path: path.into(), message: message.into(), fatal: true }];
        match entry.as_str() {
            "init_panic" => panic!("init has had enough"),
            "init_loop" => spin(),
            "init_refuses" => return Err(finding("/threshold", "must be between 0 and 1")),
            "init_no_reason" => return Err(vec![]),
            "init_not_json" => return Ok("{".into()),
            name if !ENTRIES.contains(&name) => return Err(finding("", "no such entry")),
            _ => {}
        }
        ENTRY.set(entry);
        Ok("{}".into())
    }
}

/// Row of the first text that holds "poison".
fn poison(batch: &Batch) -> Option<u32> {
    let text = batch.columns.iter().find(|column| column.name == "text")?;
    let ColumnData::Utf8(text) = &text.data else { return None };
    let has = |pair: &[u32]| text.data[pair[0] as usize..pair[1] as usize].windows(6).any(|w| w == b"poison");
    text.offsets.windows(2).position(has).map(|row| row as u32)
}

fn spin() {
    let mut i = 0u64;
    while black_box(i) < u64::MAX {
        i += 1;
    }
}

fn recurse(depth: u64) -> u64 {
    let page = [depth; 64];
    if black_box(&page)[0] == u64::MAX { 0 } else { recurse(depth + 1) + black_box(&page)[63] }
}

fn added(name: &str, offsets: Vec<u32>, data: Vec<u8>) -> Column {
    Column { name: name.into(), data: ColumnData::Utf8(RaggedU8 { offsets, data }), valid: None }
}

impl filter::Guest for Misbehave {
    fn process(_ctx: CallCtx, batch: Batch) -> Result<Decisions, PluginError> {
        let rows = batch.rows as usize;
        let mut out = Decisions { keep: vec![1; rows], reason: vec![], reasons: vec![], add: vec![], errors: vec![] };
        let poison = poison(&batch);
        let entry = ENTRY.with_borrow(Clone::clone);
        match (entry.as_str(), poison) {
            ("panic", Some(row)) => panic!("row {row} is poison"),
            ("loop", Some(_)) => spin(),
            ("memory", Some(_)) => {
                let mut held: Vec<Vec<u8>> = Vec::new();
                loop {
                    held.push(black_box(vec![1; 1 << 20]));
                }
            }
            ("overflow", Some(_)) => _ = black_box(recurse(0)),
            ("row_error", Some(row)) => out.errors.push(RowError { row, message: "this row is poison".into() }),
            ("call_error", Some(row)) => {
                let message = format!("row {row} is poison");
                return Err(PluginError { kind: ErrorKind::BadInput, message, detail: Some("on purpose".into()) });
            }
            ("wrong_length", _) => _ = out.keep.pop(),
            ("bad_keep", _) => out.keep.fill(2),
            ("bad_reason", _) => {
                out.keep.fill(0);
                out.reason = vec![7; rows];
                out.reasons = vec!["the only reason".into()];
            }
            ("many_reasons", _) => {
                out.keep.fill(0);
                out.reason = vec![0; rows];
                out.reasons = (0..1000).map(|i| format!("reason {i}")).collect();
            }
            ("long_reason", _) => {
                out.keep.fill(0);
                out.reason = vec![0; rows];
                out.reasons = vec!["r".repeat(1 << 20)];
            }
            ("huge_output", _) => {
                // Fresh zeroed memory costs the guest neither fuel nor its memory limit; copying it out is the cost.
                let data = vec![0; 96 << 20];
                let mut offsets = vec![0; rows + 1];
                offsets[rows] = data.len() as u32;
                out.add.push(added("added", offsets, data));
            }
            ("undeclared_column", _) => {
                out.add.push(Column { name: "surprise".into(), data: ColumnData::U8s(vec![0; rows]), valid: None });
            }
            ("bad_utf8", _) => {
                out.add.push(added("added", (0..=rows as u32).collect(), vec![0xff; rows]));
            }
            ("bad_offsets", _) => {
                let mut offsets: Vec<u32> = (0..=rows as u32).rev().collect();
                offsets[rows] = rows as u32;
                out.add.push(added("added", offsets, vec![b'x'; rows]));
            }
            ("bad_valid", _) => {
                let mut column = added("added", vec![0; rows + 1], vec![]);
                column.valid = Some(vec![]);
                out.add.push(column);
            }
            ("error_out_of_range", _) => {
                out.errors.push(RowError { row: batch.rows + 1000, message: "nobody".into() });
            }
            ("log_flood", _) => {
                let line = "y".repeat(1 << 10);
                for _ in 0..1_000_000 {
                    ovhost_sdk::log::info(&line, &[]);
                }
            }
            _ => {}
        }
        Ok(out)
    }
}

ovhost_sdk::__export_filter_world!(Misbehave with_types_in bindings);
