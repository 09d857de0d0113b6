//! A component of metrics that each break one rule of the contract, for the host's tests.
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | counts rows |
//! | `panic` | panics at a prediction that holds "poison" |
//! | `wrong_length` | gives one score too few |
//! | `undeclared_value` | `finalize` gives a value that `outputs` does not name |
//! | `missing_value` | `finalize` gives nothing |
//! | `infinite` | `finalize` gives an infinite value |
//! | `bad_state` | refuses its own saved state |
//! | `judge` | asks a judge for every row; a judgement "yes" counts 1 |

#![cfg(target_arch = "wasm32")]

use std::cell::{Cell, RefCell};

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::{
    self, Asset, ColumnNeed, Description, Entry, StateModel,
};
use ovhost_sdk::bindings::exports::ovhost::plugin::metric::{self, Info, JudgeRequest, Scored, Value};
use ovhost_sdk::bindings::ovhost::plugin::types::{
    Batch, CallCtx, Column, ColumnData, Diagnostic, ErrorKind, PluginError, RaggedU8,
};

const ENTRIES: &[&str] =
    &["good", "panic", "wrong_length", "undeclared_value", "missing_value", "infinite", "bad_state", "judge"];

thread_local! {
    static ENTRY: RefCell<String> = const { RefCell::new(String::new()) };
    /// Rows and points.
    static COUNTS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

struct Misbehave;

impl lifecycle::Guest for Misbehave {
    fn describe() -> Description {
        ovhost_sdk::__private::prepare();
        let entry = |name: &&str| Entry {
            name: (*name).into(),
            summary: "Breaks one rule.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            reads: vec![
                ColumnNeed { name: "prediction".into(), required: true },
                ColumnNeed { name: "judgement".into(), required: false },
            ],
            writes: vec!["score/points".into()],
            assets: vec![],
            state: StateModel::Pure,
            prefer_rows: 0,
        };
        Description {
            name: "misbehave_metric".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            license: env!("CARGO_PKG_LICENSE").into(),
            homepage: String::new(),
            entries: ENTRIES.iter().map(entry).collect(),
        }
    }

    fn init(entry: String, _config: String, _assets: Vec<Asset>) -> Result<String, Vec<Diagnostic>> {
        ovhost_sdk::__private::prepare();
        ENTRY.set(entry);
        Ok("{}".into())
    }
}

fn is(name: &str) -> bool {
    ENTRY.with_borrow(|entry| entry == name)
}

/// The text column `name`.
fn text<'a>(batch: &'a Batch, name: &str) -> &'a RaggedU8 {
    match batch.columns.iter().find(|column| column.name == name).map(|column| &column.data) {
        Some(ColumnData::Utf8(text)) => text,
        _ => panic!("there is no column `{name}` of utf8"),
    }
}

fn values(text: &RaggedU8) -> impl Iterator<Item = &[u8]> {
    text.offsets.windows(2).map(|at| &text.data[at[0] as usize..at[1] as usize])
}

/// Counts the rows and gives their scores.
fn count(points: Vec<f32>) -> Scored {
    let (rows, sum) = COUNTS.get();
    COUNTS.set((rows + points.len() as u64, sum + points.iter().map(|&p| p as u64).sum::<u64>()));
    let scores = Column { name: "score/points".into(), data: ColumnData::F32s(points), valid: None };
    Scored { per_row: vec![scores], errors: vec![], needs_judge: vec![] }
}

impl metric::Guest for Misbehave {
    fn outputs() -> Vec<Info> {
        let name = "points".into();
        vec![Info { name, higher_is_better: true, low: Some(0.0), high: Some(1.0), unit: "share".into() }]
    }

    fn reset() {
        COUNTS.set((0, 0));
    }

    fn update(_ctx: CallCtx, batch: Batch) -> Result<Scored, PluginError> {
        if let Some(row) = values(text(&batch, "prediction")).position(|v| v.windows(6).any(|w| w == b"poison"))
            && is("panic")
        {
            panic!("prediction {row} is poison");
        }
        if is("judge") {
            let ask = |row| JudgeRequest { row, messages: vec![("user".into(), "Is it right?".into())] };
            return Ok(Scored { per_row: vec![], errors: vec![], needs_judge: (0..batch.rows).map(ask).collect() });
        }
        let short = usize::from(is("wrong_length"));
        Ok(count(vec![1.0; (batch.rows as usize).saturating_sub(short)]))
    }

    fn judged(_ctx: CallCtx, batch: Batch) -> Result<Scored, PluginError> {
        Ok(count(values(text(&batch, "judgement")).map(|v| f32::from(u8::from(v == b"yes"))).collect()))
    }

    fn save() -> Result<Vec<u8>, PluginError> {
        let (rows, sum) = COUNTS.get();
        Ok([rows.to_le_bytes(), sum.to_le_bytes()].concat())
    }

    fn merge(state: Vec<u8>) -> Result<(), PluginError> {
        let bad = || PluginError { kind: ErrorKind::BadInput, message: "this is not my state".into(), detail: None };
        let (rows, sum) = state.split_first_chunk::<8>().filter(|_| !is("bad_state")).ok_or_else(bad)?;
        let sum: [u8; 8] = sum.try_into().map_err(|_| bad())?;
        let (old_rows, old_sum) = COUNTS.get();
        COUNTS.set((old_rows + u64::from_le_bytes(*rows), old_sum + u64::from_le_bytes(sum)));
        Ok(())
    }

    fn finalize() -> Result<Vec<Value>, PluginError> {
        let (count, sum) = COUNTS.get();
        let value = if is("infinite") { f64::INFINITY } else { sum as f64 / count.max(1) as f64 };
        let name = if is("undeclared_value") { "surprise" } else { "points" }.to_owned();
        let one = Value { name, value, count, stderr: None };
        Ok(if is("missing_value") { vec![] } else { vec![one] })
    }
}

ovhost_sdk::__export_metric_world!(Misbehave with_types_in bindings);
