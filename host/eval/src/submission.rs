//! Files that a benchmark's server scores: chosen columns of every answer, in the format that the file's ending says.

use anyhow::{Context, Result, bail};
use ovhost_eval_scoring::tags;
use serde_json::{Map, Value};

use crate::answers::Answer;
use crate::task::{ColumnType, Submission, SubmissionColumn};

/// The file's bytes. Questions without an answer have an empty one: servers want every row.
///
/// # Errors
/// A column that the records do not have, or an ending that is no known format.
pub fn make(submission: &Submission, answers: &[&Answer]) -> Result<Vec<u8>> {
    let mut rows = Vec::with_capacity(answers.len());
    for answer in answers {
        let record: Value = serde_json::from_str(answer.record.get())?;
        let mut row = Map::new();
        for column in &submission.columns {
            let value = value(column, submission.strip_reasoning, answer, &record)?;
            row.insert(column.name.clone(), value);
        }
        rows.push(row);
    }
    let names: Vec<&str> = submission.columns.iter().map(|c| c.name.as_str()).collect();
    match submission.file.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => Ok(serde_json::to_vec(&rows)?),
        Some("jsonl") => {
            let mut out = Vec::new();
            for row in &rows {
                serde_json::to_writer(&mut out, row)?;
                out.push(b'\n');
            }
            Ok(out)
        }
        Some("xlsx") => xlsx(&names, &rows).context("making the sheet"),
        _ => bail!("submission.file {:?}: the ending must be json, jsonl or xlsx", submission.file),
    }
}

fn value(column: &SubmissionColumn, strip: bool, answer: &Answer, record: &Value) -> Result<Value> {
    let found = match column.from.as_str() {
        "prediction" if strip => {
            Value::String(tags::strip_reasoning(&answer.prediction, tags::DEFAULT_PAIRS).into_owned())
        }
        "prediction" => Value::String(answer.prediction.clone()),
        "key" => Value::String(answer.key.clone()),
        other => {
            let Some(field) = other.strip_prefix("record.") else {
                bail!(
                    "submission column {:?}: from = {other:?} is not known; prediction, key and record.FIELD are",
                    column.name
                );
            };
            match record.get(field).filter(|v| !v.is_null()).cloned().or_else(|| column.default.clone()) {
                Some(value) => value,
                // The record of a sample that could not be read is null; a field may be null, too.
                None if answer.error.is_some() || record.get(field).is_some() => Value::Null,
                None => bail!("submission column {:?}: sample {} has no field {field:?}", column.name, answer.key),
            }
        }
    };
    Ok(match (column.r#type, found) {
        (ColumnType::Integer, Value::String(text)) => {
            let number: i64 = text.trim().parse().with_context(|| {
                format!("submission column {:?}: {text:?} of sample {} is no whole number", column.name, answer.key)
            })?;
            number.into()
        }
        (ColumnType::Text, value @ (Value::Number(_) | Value::Bool(_))) => Value::String(value.to_string()),
        (_, value) => value,
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Most characters of a cell, as the format has it.
const CELL: usize = 32_767;

fn xlsx(names: &[&str], rows: &[Map<String, Value>]) -> Result<Vec<u8>> {
    let mut book = rust_xlsxwriter::Workbook::new();
    // The time of making is in the file unless it is said: equal answers must give equal bytes.
    let never = rust_xlsxwriter::ExcelDateTime::from_ymd(2000, 1, 1)?;
    book.set_properties(&rust_xlsxwriter::DocProperties::new().set_creation_datetime(&never));
    let sheet = book.add_worksheet();
    for (column, name) in names.iter().enumerate() {
        sheet.write_string(0, u16::try_from(column)?, *name)?;
    }
    for (at, row) in rows.iter().enumerate() {
        let line = u32::try_from(at + 1)?;
        for (column, value) in row.values().enumerate() {
            let column = u16::try_from(column)?;
            match value {
                Value::Null => {}
                Value::Number(number) => {
                    sheet.write_number(line, column, number.as_f64().unwrap_or(f64::NAN))?;
                }
                Value::Bool(value) => {
                    sheet.write_boolean(line, column, *value)?;
                }
                other => {
                    let cell: String = text(other).chars().take(CELL).collect();
                    sheet.write_string(line, column, cell)?;
                }
            }
        }
    }
    Ok(book.save_to_buffer()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::tests::answer;

    fn submission(file: &str) -> Submission {
        let column = |name: &str, from: &str| SubmissionColumn {
            name: name.into(),
            from: from.into(),
            r#type: ColumnType::AsIs,
            default: None,
        };
        Submission {
            file: file.into(),
            columns: vec![column("questionId", "record.id"), column("answer", "prediction")],
            strip_reasoning: true,
        }
    }

    fn answers() -> Vec<Answer> {
        let record = |id: u64| serde_json::value::RawValue::from_string(format!("{{\"id\": {id}}}")).unwrap();
        vec![
            Answer { record: record(7), ..answer(0, "a, \"b\"", "") },
            Answer { record: record(9), ..answer(1, "", "") },
        ]
    }

    #[test]
    fn every_format_holds_every_answer() {
        let answers = answers();
        let rows: Vec<&Answer> = answers.iter().collect();
        let of = |file: &str| String::from_utf8(make(&submission(file), &rows).unwrap()).unwrap();
        assert_eq!(of("a.json"), r#"[{"questionId":7,"answer":"a, \"b\""},{"questionId":9,"answer":""}]"#);
        assert_eq!(of("a.jsonl").lines().count(), 2);
        let sheet = make(&submission("a.xlsx"), &rows).unwrap();
        assert_eq!(&sheet[..2], b"PK");
        assert_eq!(make(&submission("a.xlsx"), &rows).unwrap(), sheet, "equal answers give equal bytes");
        assert!(make(&submission("a.pdf"), &rows).is_err());
    }

    #[test]
    fn what_was_thought_aloud_is_left_out_unless_it_is_wanted() {
        let answers = [Answer { prediction: "<think>a or b</think> b".into(), ..answers().remove(0) }];
        let rows: Vec<&Answer> = answers.iter().collect();
        let mut wanted = submission("a.json");
        assert_eq!(make(&wanted, &rows).unwrap(), br#"[{"questionId":7,"answer":"b"}]"#);
        wanted.strip_reasoning = false;
        assert_eq!(make(&wanted, &rows).unwrap(), br#"[{"questionId":7,"answer":"<think>a or b</think> b"}]"#);
    }

    #[test]
    fn types_and_defaults() {
        let mut wanted = submission("a.json");
        wanted.columns[0].r#type = ColumnType::Integer;
        wanted.columns[1] =
            SubmissionColumn { from: "record.e".into(), default: Some("nan".into()), ..wanted.columns[1].clone() };
        let record = |text: &str| serde_json::value::RawValue::from_string(text.into()).unwrap();
        let answers = [
            Answer { record: record(r#"{"id": "7", "e": null}"#), ..answer(0, "x", "") },
            Answer { record: record(r#"{"id": 8}"#), ..answer(1, "y", "") },
        ];
        let rows: Vec<&Answer> = answers.iter().collect();
        let text = String::from_utf8(make(&wanted, &rows).unwrap()).unwrap();
        assert_eq!(text, r#"[{"questionId":7,"answer":"nan"},{"questionId":8,"answer":"nan"}]"#);
    }

    #[test]
    fn a_field_that_no_record_has_is_named() {
        let mut wrong = submission("a.json");
        wrong.columns[0].from = "record.question_id".into();
        let answers = answers();
        let error = make(&wrong, &[&answers[0]]).unwrap_err().to_string();
        assert!(error.contains("question_id") && error.contains("k0"), "{error}");
    }
}
