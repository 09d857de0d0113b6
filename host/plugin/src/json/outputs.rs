//! What plugins answer, as JSON: the `expect` of golden cases, and what commands print.
//!
//! | kind | form |
//! |---|---|
//! | filter | per row `{"keep": true}`, `{"drop": reason or null}` or `{"error": text}`, with `"set": {column: value}` |
//! | packer | `{"bins": [[id]], "dropped": [id]}` |
//! | prompt | per row `{"conversation": […]}`, `{"segments": […]}` or `{"error": text}` |
//! | metric | per row `{column: value}` (with `"needs_judge": [[role, text]]`) or `{"error": text}`; `{name: {value, count, stderr}}` |

use serde_json::{Map, Number, Value, json};

use super::set;
use crate::{Decisions, Message, MetricValue, Packing, Part, Piece, PromptOutput, Rendered, Scored, Segment};

/// One object per row.
pub fn decisions(decisions: &Decisions) -> Vec<Value> {
    let mut errors = decisions.errors.iter().peekable();
    let row = |(i, keep): (usize, &bool)| {
        let failed = errors.next_if(|(row, _)| *row as usize == i);
        let mut out = match (failed, keep) {
            (Some((_, text)), _) => json!({ "error": text }),
            (None, true) => json!({ "keep": true }),
            (None, false) => json!({ "drop": decisions.reason.get(i).and_then(Option::as_ref) }),
        };
        let added = set(&decisions.add, i);
        if !added.is_empty() {
            out["set"] = added.into();
        }
        out
    };
    decisions.keep.iter().enumerate().map(row).collect()
}

/// The bins and what was given up.
pub fn packing(packing: &Packing) -> Value {
    json!({ "bins": packing.bins.to_vecs(), "dropped": packing.dropped })
}

/// One object per row.
pub fn prompt_items(output: &PromptOutput) -> Vec<Value> {
    let mut errors = output.errors.iter().peekable();
    let row = |(i, item): (usize, &Rendered)| match (errors.next_if(|(row, _)| *row as usize == i), item) {
        (Some((_, text)), _) => json!({ "error": text }),
        (None, Rendered::Conversation(messages)) => {
            json!({ "conversation": messages.iter().map(message).collect::<Vec<_>>() })
        }
        (None, Rendered::Segments(segments)) => json!({ "segments": segments.iter().map(segment).collect::<Vec<_>>() }),
    };
    output.items.iter().enumerate().map(row).collect()
}

fn message(message: &Message) -> Value {
    let part = |part: &Part| match part {
        Part::Text(text) => json!({ "text": text }),
        Part::Image(i) => json!({ "image": i }),
        Part::Video(i) => json!({ "video": i }),
    };
    let parts: Vec<Value> = message.parts.iter().map(part).collect();
    json!({ "role": message.role, "parts": parts, "train": message.train })
}

fn segment(segment: &Segment) -> Value {
    let mut out = match &segment.piece {
        Piece::Text(text) => json!({ "text": text }),
        Piece::Special(name) => json!({ "special": name }),
        Piece::Image(i) => json!({ "image": i }),
        Piece::Video(i) => json!({ "video": i }),
    };
    out["train"] = segment.train.into();
    out
}

/// One object per row of the batch, which has `rows` of them.
pub fn scored(scored: &Scored, rows: u32) -> Vec<Value> {
    let mut errors = scored.errors.iter().peekable();
    let mut requests = scored.needs_judge.iter().peekable();
    let row = |i: u32| {
        let request = requests.next_if(|(row, _)| *row == i);
        if let Some((_, text)) = errors.next_if(|(row, _)| *row == i) {
            return json!({ "error": text });
        }
        let mut out = set(&scored.per_row, i as usize);
        if let Some((_, messages)) = request {
            out.insert("needs_judge".into(), json!(messages));
        }
        Value::Object(out)
    };
    (0..rows).map(row).collect()
}

/// The values by name; NaN (a share of no rows) is null.
pub fn metric_values(values: &[MetricValue]) -> Value {
    let number = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    let one = |v: &MetricValue| {
        let stderr = v.stderr.map_or(Value::Null, number);
        (v.name.clone(), json!({ "value": number(v.value), "count": v.count, "stderr": stderr }))
    };
    Value::Object(values.iter().map(one).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, ColumnData};

    #[test]
    fn filters() {
        let mut score = Column::new("s", ColumnData::F32s(vec![0.1, 0.0, 1.0, 2.0]));
        score.valid = Some(vec![1, 0, 1, 0]);
        let said = Decisions {
            keep: vec![true, false, false, false],
            reason: vec![None, Some("short".into()), None, None],
            add: vec![score],
            errors: vec![(2, "no".into())],
        };
        let want = json!([
            {"keep": true, "set": {"s": 0.1}}, {"drop": "short"}, {"error": "no", "set": {"s": 1.0}}, {"drop": null},
        ]);
        assert_eq!(json!(decisions(&said)), want);
    }

    #[test]
    fn prompts() {
        let parts = vec![Part::Image(0), Part::Text("q".into()), Part::Video(2)];
        let pieces = [Piece::Special("<|im_start|>".into()), Piece::Text("t".into()), Piece::Image(1), Piece::Video(0)];
        let said = PromptOutput {
            items: vec![
                Rendered::Conversation(Vec::new()),
                Rendered::Conversation(vec![Message { role: "user".into(), parts, train: false }]),
                Rendered::Segments(pieces.map(|piece| Segment { piece, train: true }).into()),
            ],
            errors: vec![(0, "no".into())],
        };
        let want = json!([
            {"error": "no"},
            {"conversation": [{"role": "user", "parts": [{"image": 0}, {"text": "q"}, {"video": 2}], "train": false}]},
            {"segments": [{"special": "<|im_start|>", "train": true}, {"text": "t", "train": true},
                          {"image": 1, "train": true}, {"video": 0, "train": true}]},
        ]);
        assert_eq!(json!(prompt_items(&said)), want);
    }

    #[test]
    fn metrics_and_packers() {
        let mut column = Column::new("score/x", ColumnData::F32s(vec![1.0, 0.0, 0.0]));
        column.valid = Some(vec![1, 0, 0]);
        let ask = vec![("user".to_owned(), "good?".to_owned())];
        let said = Scored { per_row: vec![column], errors: vec![(1, "no".into())], needs_judge: vec![(2, ask)] };
        let want = json!([{"score/x": 1.0}, {"error": "no"}, {"needs_judge": [["user", "good?"]]}]);
        assert_eq!(json!(scored(&said, 3)), want);
        let value = |value: f64, count, stderr| MetricValue { name: format!("m{count}"), value, count, stderr };
        let want = json!({"m4": {"value": 0.5, "count": 4, "stderr": 0.25}, "m0": {"value": null, "count": 0, "stderr": null}});
        assert_eq!(metric_values(&[value(0.5, 4, Some(0.25)), value(f64::NAN, 0, None)]), want);
        let bins = Packing { bins: [vec![2, 0], vec![1]].iter().collect(), dropped: vec![3] };
        assert_eq!(packing(&bins), json!({"bins": [[2, 0], [1]], "dropped": [3]}));
    }
}
