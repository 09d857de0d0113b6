//! A component of filters that each break one rule. The host's tests load it and check what a user is told, and that
//! the host lives on.
//!
//! It goes around the SDK's runner, which would not let most of this happen. Rows come in with `text`. Besides the
//! misdeeds that all guests share (`common.rs`):
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | keeps every row |
//! | `row_error` | names poison rows in `errors` |
//! | `call_error` | answers `plugin-error` when there is a poison row |
//! | `escapes` | the same, with a terminal's escape codes in the words |
//! | `wrong_length`, `too_long` | answers one decision too few, a million too many |
//! | `bad_keep` | says 2 in `keep` |
//! | `bad_reason` | an index that has no reason |
//! | `short_reason` | one index too few |
//! | `many_reasons` | 1,000 reasons |
//! | `long_reason` | a reason of 1 MiB |
//! | `new_reasons` | 200 reasons that were never heard before |
//! | `escaped_reason` | a reason with a terminal's escape codes |
//! | `huge_output` | adds a column of 96 MiB |
//! | `undeclared_column` | adds a column that is not in `writes` |
//! | `same_column` | adds the same column twice |
//! | `bad_utf8` | adds text that is not UTF-8 |
//! | `bad_offsets` | adds text whose offsets go back |
//! | `far_offsets` | adds text whose offsets lie past the data |
//! | `cut_characters` | adds text whose offsets cut a character |
//! | `bad_valid` | adds a column whose mask is too short |
//! | `error_out_of_range` | an error for a row that does not exist |
//! | `same_error` | two errors for one row |
//! | `long_error` | an error of 1 MiB for a row |
//! | `log_fields` | a log line of 100,000 fields |
//! | `log_lies` | logs an error, and traps without a word at a poison row in a later call |
//! | `counts_calls` | judges by how often it was called |
//! | `uninitialised` | adds bytes that it never wrote, of memory that earlier calls used |
//! | `leaks` | keeps 4 MiB of every call |
//! | `nan` | adds NaNs: out of arithmetic (`added`) and with a payload of its own making (`added64`) |
//! | `init_panic`, `init_loop`, `init_memory`, `init_overflow` | panics, loops, ... in `init` |
//! | `init_refuses` | a fatal finding at `/threshold` |
//! | `init_no_reason` | fails without a finding |
//! | `init_many_reasons` | fails with 100,000 findings |
//! | `init_not_json`, `init_array`, `init_deep`, `init_huge` | a resolved configuration that is none |

#![cfg(target_arch = "wasm32")]

mod common;

use std::cell::Cell;
use std::hint::black_box;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::filter::{self, Decisions};
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::StateModel;
use ovhost_sdk::bindings::ovhost::plugin::types::{
    Batch, CallCtx, Column, ColumnData, Diagnostic, PluginError, RaggedU8, RowError,
};

use common::{About, finding};

const ABOUT: About = About {
    name: "misbehave",
    entries: &[
        "row_error",
        "call_error",
        "escapes",
        "wrong_length",
        "too_long",
        "bad_keep",
        "bad_reason",
        "short_reason",
        "many_reasons",
        "long_reason",
        "new_reasons",
        "escaped_reason",
        "huge_output",
        "undeclared_column",
        "same_column",
        "bad_utf8",
        "bad_offsets",
        "far_offsets",
        "cut_characters",
        "bad_valid",
        "error_out_of_range",
        "same_error",
        "long_error",
        "log_fields",
        "log_lies",
        "counts_calls",
        "uninitialised",
        "leaks",
        "nan",
        "init_panic",
        "init_loop",
        "init_memory",
        "init_overflow",
        "init_refuses",
        "init_no_reason",
        "init_many_reasons",
        "init_not_json",
        "init_array",
        "init_deep",
        "init_huge",
    ],
    reads: &[("text", true)],
    writes: &["added", "added64"],
    state: StateModel::Pure,
};

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Misbehave;

common::lifecycle!(Misbehave, ABOUT, init, ["lib.rs", "common.rs", "../Cargo.toml"]);

fn init(entry: String) -> Result<String, Vec<Diagnostic>> {
    let name = entry.strip_prefix("init_").unwrap_or_default().to_owned();
    let resolved = ABOUT.choose(entry)?;
    match name.as_str() {
        "panic" => panic!("init has had enough"),
        "refuses" => Err(vec![finding("/threshold", "must be between 0 and 1")]),
        "no_reason" => Err(vec![]),
        "many_reasons" => Err((0..100_000).map(|i| finding("/threshold", &format!("reason {i}"))).collect()),
        "not_json" => Ok("{".into()),
        "array" => Ok("[1]".into()),
        "deep" => Ok(format!("{{\"a\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000))),
        "huge" => Ok(format!("{{\"a\":\"{}\"}}", "b".repeat(2 << 20))),
        "loop" | "memory" | "overflow" => {
            ABOUT.choose(name)?;
            common::misdeed(0);
            Ok(resolved)
        }
        _ => Ok(resolved),
    }
}

fn column(name: &str, data: ColumnData) -> Column {
    Column { name: name.into(), data, valid: None }
}

fn texts(offsets: Vec<u32>, data: Vec<u8>) -> Column {
    column("added", ColumnData::Utf8(RaggedU8 { offsets, data }))
}

/// Bytes that nobody wrote in this call, and a note for the next call's.
fn uninitialised(length: usize, call: usize) -> Vec<u8> {
    let stale = |length| {
        let mut bytes = Vec::<u8>::with_capacity(length);
        // SAFETY: there is none, which is the point; in a sandbox it shows whatever the guest's own heap holds.
        #[allow(clippy::uninit_vec, reason = "reading uninitialised memory is this entry's misdeed")]
        unsafe {
            bytes.set_len(length);
        }
        black_box(bytes)
    };
    let seen = stale(length).clone();
    black_box(stale(length)).fill(call as u8 + 1);
    seen
}

/// NaNs out of arithmetic, whose bits IEEE 754 leaves open.
fn nans() -> [f32; 6] {
    let (zero, infinity) = (black_box(0.0_f32), black_box(f32::INFINITY));
    let payload = black_box(f32::from_bits(0x7fa1_2345));
    [zero / zero, infinity - infinity, (-infinity).sqrt(), zero * infinity, payload + 1.0, payload.sqrt()]
}

impl filter::Guest for Misbehave {
    fn process(_ctx: CallCtx, batch: Batch) -> Result<Decisions, PluginError> {
        let rows = batch.rows as usize;
        let mut out = Decisions { keep: vec![1; rows], reason: vec![], reasons: vec![], add: vec![], errors: vec![] };
        let text = common::text(&batch, "text");
        let poison = common::poison(text);
        if let Some(row) = poison {
            common::misdeed(row);
        }
        let call = CALLS.replace(CALLS.get() + 1);
        let because = |out: &mut Decisions, reasons: Vec<String>| {
            out.keep.fill(0);
            out.reason = vec![0; rows];
            out.reasons = reasons;
        };
        match (common::entry().as_str(), poison) {
            ("row_error", Some(row)) => out.errors.push(RowError { row, message: "this row is poison".into() }),
            ("call_error", Some(row)) => return Err(common::refusal(&format!("row {row} is poison"))),
            ("escapes", Some(_)) => return Err(common::refusal("\u{1b}[2J\u{1b}[31mall is well\u{7}\r\u{9b}")),
            ("wrong_length", _) => _ = out.keep.pop(),
            ("too_long", _) => out.keep = vec![1; rows + 1_000_000],
            ("bad_keep", _) => out.keep.fill(2),
            ("bad_reason", _) => {
                because(&mut out, vec!["the only reason".into()]);
                out.reason.fill(7);
            }
            ("short_reason", _) => {
                because(&mut out, vec!["the only reason".into()]);
                out.reason.pop();
            }
            ("many_reasons", _) => because(&mut out, (0..1000).map(|i| format!("reason {i}")).collect()),
            ("long_reason", _) => because(&mut out, vec!["r".repeat(1 << 20)]),
            ("new_reasons", _) => {
                because(&mut out, (0..200).map(|i| format!("reason {call}.{i}")).collect());
                out.reason.iter_mut().enumerate().for_each(|(row, reason)| *reason = row as u16 % 200);
            }
            ("escaped_reason", _) => because(&mut out, vec!["too \u{1b}[31mred".into()]),
            ("huge_output", _) => {
                // Fresh zeroed memory costs the guest neither fuel nor its memory limit; copying it out is the cost.
                let data = vec![0; 96 << 20];
                let mut offsets = vec![0; rows + 1];
                offsets[rows] = data.len() as u32;
                out.add.push(texts(offsets, data));
            }
            ("undeclared_column", _) => out.add.push(column("surprise", ColumnData::U8s(vec![0; rows]))),
            ("same_column", _) => {
                out.add.push(column("added", ColumnData::U8s(vec![0; rows])));
                out.add.push(column("added", ColumnData::U32s(vec![0; rows])));
            }
            ("bad_utf8", _) => out.add.push(texts((0..=rows as u32).collect(), vec![0xff; rows])),
            ("bad_offsets", _) => {
                let mut offsets: Vec<u32> = (0..=rows as u32).rev().collect();
                offsets[rows] = rows as u32;
                out.add.push(texts(offsets, vec![b'x'; rows]));
            }
            ("far_offsets", _) => {
                let mut offsets = vec![0; rows + 1];
                offsets[rows] = u32::MAX;
                out.add.push(texts(offsets, vec![b'x'; rows]));
            }
            ("cut_characters", _) => {
                let mut offsets: Vec<u32> = (0..=rows as u32).collect();
                offsets[rows] = 2 * rows as u32;
                out.add.push(texts(offsets, "é".repeat(rows).into_bytes()));
            }
            ("bad_valid", _) => {
                let mut column = texts(vec![0; rows + 1], vec![]);
                column.valid = Some(vec![]);
                out.add.push(column);
            }
            ("error_out_of_range", _) => {
                out.errors.push(RowError { row: batch.rows + 1000, message: "nobody".into() });
            }
            ("same_error", _) => {
                out.errors = ["once", "twice"].map(|message| RowError { row: 0, message: message.into() }).into();
            }
            ("long_error", Some(row)) => out.errors.push(RowError { row, message: "e".repeat(1 << 20) }),
            ("log_fields", _) => {
                let fields: Vec<(&str, &str)> = vec![("name", "value"); 100_000];
                ovhost_sdk::log::info("fields", &fields);
            }
            ("log_lies", None) => ovhost_sdk::log::error("this is not why", &[]),
            ("log_lies", Some(_)) => core::arch::wasm32::unreachable(),
            ("counts_calls", _) => {
                for (row, keep) in out.keep.iter_mut().enumerate() {
                    *keep = ((call + row) % 2) as u8;
                }
            }
            ("uninitialised", _) => {
                let data = uninitialised(rows * 64, call);
                let offsets = (0..=rows as u32).map(|row| row * 64).collect();
                out.add.push(column("added", ColumnData::Bytes(RaggedU8 { offsets, data })));
            }
            ("leaks", _) => std::mem::forget(black_box(vec![1_u8; 4 << 20])),
            ("nan", _) => {
                let nans = nans();
                let own = f64::from_bits(0xfff4_dead_beef_0001);
                let cycle = (0..rows).map(|row| nans[row % nans.len()]).collect();
                out.add.push(column("added", ColumnData::F32s(cycle)));
                out.add.push(column("added64", ColumnData::F64s(vec![own; rows])));
            }
            _ => {}
        }
        Ok(out)
    }
}

ovhost_sdk::__export_filter_world!(Misbehave with_types_in bindings);
