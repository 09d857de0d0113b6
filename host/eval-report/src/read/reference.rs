//! The per-sample score in a field of a samples file: a number, or one of the objects that lmms-eval's tasks keep there.

use ovhost_eval_scoring::tasks::{mmerealworld, mmmu};
use serde_json::{Map, Value};

/// The score that a value holds:
///
/// * a number, or true and false as 1 and 0;
/// * `score` (V*, MMStar, MME) or `true_false` (MathVista) of an object;
/// * of MMMU's object, which keeps what was read (`parsed_pred`) beside the `answer`, what the reference's aggregation makes
///   of it; of MME-RealWorld's (`pred_answer`) too.
///
/// None for anything else: MMBench and CharXiv score questions together, after their samples are written.
pub fn score(value: &Value) -> Option<f64> {
    match value {
        Value::Object(fields) => of_object(fields),
        other => plain(other),
    }
}

fn plain(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        other => other.as_f64().filter(|score| score.is_finite()),
    }
}

fn of_object(fields: &Map<String, Value>) -> Option<f64> {
    if let Some(score) = fields.get("score").or_else(|| fields.get("true_false")).and_then(plain) {
        return Some(score);
    }
    let answer = fields.get("answer")?;
    let right = if let Some(read) = fields.get("parsed_pred") {
        let is_right = |one: &Value| mmmu_is_right(fields, answer, one);
        match read {
            Value::Array(several) => several.iter().any(is_right),
            one => is_right(one),
        }
    } else {
        mmerealworld::is_right(fields.get("pred_answer")?.as_str()?, answer.as_str()?)
    };
    Some(f64::from(u8::from(right)))
}

/// One answer as MMMU's aggregation counts it: a letter exactly; an open one by its candidates, or, in versions that kept the
/// first of them as a text, by that text's characters.
fn mmmu_is_right(fields: &Map<String, Value>, answer: &Value, read: &Value) -> bool {
    let golds = mmmu::golds(answer);
    if fields.get("question_type").and_then(Value::as_str) != Some("open") {
        return read.as_str().is_some_and(|read| golds.iter().any(|gold| gold == read));
    }
    let golds = golds.iter().map(String::as_str);
    match read {
        Value::Array(candidates) => {
            let candidates: Vec<mmmu::Value> = candidates.iter().filter_map(candidate).collect();
            mmmu::open_is_right(golds, &candidates)
        }
        kept => kept.as_str().is_some_and(|kept| mmmu::open_is_right_by_characters(golds, kept)),
    }
}

fn candidate(value: &Value) -> Option<mmmu::Value> {
    value.as_str().map(|text| mmmu::Value::Text(text.into())).or_else(|| value.as_f64().map(mmmu::Value::Number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_of_the_tasks_objects() {
        for (value, expected) in [
            (json!(0.5), Some(0.5)),
            (json!(true), Some(1.0)),
            (json!({"question_id": 1, "category": "x", "score": 1.0}), Some(1.0)),
            (json!({"extraction": "3", "answer": "3", "true_false": false}), Some(0.0)),
            (json!({"question_type": "multiple-choice", "answer": "B", "parsed_pred": ["B"]}), Some(1.0)),
            (json!({"subject": "Art", "answer": "B", "parsed_pred": "A"}), Some(0.0)),
            (json!({"question_type": "open", "answer": "8", "parsed_pred": [[8.0, "about 8"]]}), Some(1.0)),
            // The first candidate alone, taken apart into characters.
            (json!({"question_type": "open", "answer": "eight", "parsed_pred": ["eight"]}), Some(0.0)),
            (json!({"pred_answer": "b", "answer": "B"}), Some(1.0)),
            (json!({"pred_answer": "", "answer": "B"}), Some(0.0)),
            (json!({"index": 3, "prediction": "A", "answer": "A"}), None),
            (json!({"questionId": 3, "answer": "A"}), None),
            (json!("1.0"), None),
            (json!(null), None),
        ] {
            assert_eq!(score(&value), expected, "{value}");
        }
    }
}
