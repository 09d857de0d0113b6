//! A component of metrics that each break one rule of the contract, for the host's tests. Besides the misdeeds that all
//! guests share (`common.rs` of `misbehave`), which happen at a prediction that holds "poison":
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | counts rows |
//! | `wrong_length` | gives one score too few |
//! | `undeclared_value`, `missing_value`, `same_value` | `finalize` gives values that `outputs` does not name, or not all, or one twice |
//! | `infinite`, `not_a_number` | `finalize` gives such a value |
//! | `above_its_range`, `below_its_range` | `finalize` gives a value outside of what `outputs` says |
//! | `negative_stderr`, `infinite_stderr`, `nan_stderr` | `finalize` gives such a standard error |
//! | `no_outputs`, `many_outputs`, `same_outputs`, `long_output`, `empty_range` | `outputs` gives none, 1,000, two of one name, a name of 1 MiB, a lowest value above the highest |
//! | `outputs_change` | `outputs` gives another name with each call |
//! | `finalize_loop`, `save_panic`, `merge_panic` | loops or panics there |
//! | `huge_state` | a saved state of 96 MiB |
//! | `bad_state` | refuses its own saved state |
//! | `judge` | asks a judge for every row; a judgement "yes" counts 1 |
//! | `judge_out_of_range`, `judge_twice`, `judge_nothing` | asks about a row that does not exist, one row twice, without a message |

#![cfg(target_arch = "wasm32")]

#[path = "../../misbehave/src/common.rs"]
mod common;

use std::cell::Cell;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::StateModel;
use ovhost_sdk::bindings::exports::ovhost::plugin::metric::{self, Info, JudgeRequest, Scored, Value};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, CallCtx, Column, ColumnData, PluginError};

use common::{About, is, refusal, text, values};

const ABOUT: About = About {
    name: "misbehave_metric",
    entries: &[
        "wrong_length",
        "undeclared_value",
        "missing_value",
        "same_value",
        "infinite",
        "not_a_number",
        "above_its_range",
        "below_its_range",
        "negative_stderr",
        "infinite_stderr",
        "nan_stderr",
        "no_outputs",
        "many_outputs",
        "same_outputs",
        "long_output",
        "empty_range",
        "outputs_change",
        "finalize_loop",
        "save_panic",
        "merge_panic",
        "huge_state",
        "bad_state",
        "judge",
        "judge_out_of_range",
        "judge_twice",
        "judge_nothing",
    ],
    reads: &[("prediction", true), ("judgement", false)],
    writes: &["score/points"],
    state: StateModel::Pure,
};

thread_local! {
    /// Rows and points.
    static COUNTS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Misbehave;

common::lifecycle!(
    Misbehave,
    ABOUT,
    |entry| ABOUT.choose(entry),
    ["lib.rs", "../../misbehave/src/common.rs", "../Cargo.toml"]
);

/// Counts the rows and gives their scores.
fn count(points: Vec<f32>) -> Scored {
    let (rows, sum) = COUNTS.get();
    COUNTS.set((rows + points.len() as u64, sum + points.iter().map(|&p| p as u64).sum::<u64>()));
    let scores = Column { name: "score/points".into(), data: ColumnData::F32s(points), valid: None };
    Scored { per_row: vec![scores], errors: vec![], needs_judge: vec![] }
}

fn info(name: impl Into<String>) -> Info {
    Info { name: name.into(), higher_is_better: true, low: Some(0.0), high: Some(1.0), unit: "share".into() }
}

impl metric::Guest for Misbehave {
    fn outputs() -> Vec<Info> {
        let asked = ASKED.replace(ASKED.get() + 1);
        match common::entry().as_str() {
            "no_outputs" => vec![],
            "many_outputs" => (0..1000).map(|i| info(format!("points{i}"))).collect(),
            "same_outputs" => vec![info("points"), info("points")],
            "long_output" => vec![info("p".repeat(1 << 20))],
            "empty_range" => vec![Info { low: Some(2.0), ..info("points") }],
            "outputs_change" => vec![info(format!("points{asked}"))],
            _ => vec![info("points")],
        }
    }

    fn reset() {
        COUNTS.set((0, 0));
    }

    fn update(_ctx: CallCtx, batch: Batch) -> Result<Scored, PluginError> {
        if let Some(row) = common::poison(text(&batch, "prediction")) {
            common::misdeed(row);
        }
        let ask = |row, words: &[&str]| {
            let messages = words.iter().map(|&word| ("user".into(), word.into())).collect();
            JudgeRequest { row, messages }
        };
        let needs_judge: Vec<JudgeRequest> = match common::entry().as_str() {
            "judge" => (0..batch.rows).map(|row| ask(row, &["Is it right?"])).collect(),
            "judge_out_of_range" => vec![ask(batch.rows, &["Is it right?"])],
            "judge_twice" => vec![ask(0, &["Is it right?"]), ask(0, &["Is it wrong?"])],
            "judge_nothing" => vec![ask(0, &[])],
            _ => {
                let short = usize::from(is("wrong_length"));
                return Ok(count(vec![1.0; (batch.rows as usize).saturating_sub(short)]));
            }
        };
        Ok(Scored { per_row: vec![], errors: vec![], needs_judge })
    }

    fn judged(_ctx: CallCtx, batch: Batch) -> Result<Scored, PluginError> {
        Ok(count(values(text(&batch, "judgement")).map(|v| f32::from(u8::from(v == b"yes"))).collect()))
    }

    fn save() -> Result<Vec<u8>, PluginError> {
        match common::entry().as_str() {
            "save_panic" => panic!("nothing to save"),
            "huge_state" => return Ok(vec![0; 96 << 20]),
            _ => {}
        }
        let (rows, sum) = COUNTS.get();
        Ok([rows.to_le_bytes(), sum.to_le_bytes()].concat())
    }

    fn merge(state: Vec<u8>) -> Result<(), PluginError> {
        assert!(!is("merge_panic"), "nothing to merge");
        let bad = || refusal("this is not my state");
        let (rows, sum) = state.split_first_chunk::<8>().filter(|_| !is("bad_state")).ok_or_else(bad)?;
        let sum: [u8; 8] = sum.try_into().map_err(|_| bad())?;
        let (old_rows, old_sum) = COUNTS.get();
        COUNTS.set((old_rows + u64::from_le_bytes(*rows), old_sum + u64::from_le_bytes(sum)));
        Ok(())
    }

    fn finalize() -> Result<Vec<Value>, PluginError> {
        let (count, sum) = COUNTS.get();
        let good = Value { name: "points".into(), value: sum as f64 / count.max(1) as f64, count, stderr: None };
        Ok(vec![match common::entry().as_str() {
            "undeclared_value" => Value { name: "surprise".into(), ..good },
            "missing_value" => return Ok(vec![]),
            "same_value" => return Ok(vec![good.clone(), good]),
            "infinite" => Value { value: f64::INFINITY, ..good },
            "not_a_number" => Value { value: f64::NAN, ..good },
            "above_its_range" => Value { value: 100.0, ..good },
            "below_its_range" => Value { value: -0.5, ..good },
            "negative_stderr" => Value { stderr: Some(-0.25), ..good },
            "infinite_stderr" => Value { stderr: Some(f64::INFINITY), ..good },
            "nan_stderr" => Value { stderr: Some(f64::NAN), ..good },
            "finalize_loop" => {
                common::spin();
                good
            }
            _ => good,
        }])
    }
}

ovhost_sdk::__export_metric_world!(Misbehave with_types_in bindings);
