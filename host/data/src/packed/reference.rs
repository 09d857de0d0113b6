//! The reference's packed layout: `ps_%08d.img{i}.jpg` and `{"prompts": [..], "captions": [..], "images": [..]}`.
//!
//! ```text
//!  Record (one picture, one question, one answer) ─ turn ─► {question, answer} ─► prompts[i], captions[i], img{i}.jpg
//!                                                                           └◄─ read ─┘
//! ```
//! It holds a picture, a question and an answer for each sample and nothing else: no further turns, no text alone, no
//! fingerprint. Readers tell the kind of a picture by its content, so its bytes stay as they are whatever its name says.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::read::{Pack, SubSample, picture};
use crate::columns::ASSISTANT_ROLES;
use crate::record::{Record, RecordOptions, Reject, kind_of};
use crate::shards::RawSample;

/// Where a picture stands in a text.
const PLACE: &str = "<image>";

/// Whether a sample's JSON is such a pack's: lists of captions and of images, and of prompts if there are any.
pub(super) fn is_pack(fields: &Value) -> bool {
    let list = |name: &str| fields.get(name).is_some_and(Value::is_array);
    list("captions") && list("images") && fields.get("prompts").is_none_or(|p| p.is_array() || p.is_null())
}

/// The key of pack `number`.
pub fn key(number: u64) -> String {
    format!("ps_{number:08}")
}

/// The JSON of a pack of records that [`turn`] made.
pub fn pack_json(records: &[Record]) -> Value {
    let of = |name: &str| -> Vec<Value> {
        records.iter().map(|r| r.fields.get(name).cloned().unwrap_or_default()).collect()
    };
    let images: Vec<String> = records.iter().map(|r| format!("{}/{}", r.shard, r.key)).collect();
    json!({ "prompts": of("question"), "captions": of("answer"), "images": images })
}

/// The samples of a pack.
pub(super) fn read(raw: RawSample, fields: &Value, place: String, shard: &str, options: &RecordOptions) -> Pack {
    let list = |name: &str| fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (prompts, captions) = (list("prompts"), list("captions"));
    let key = raw.key;
    let mut members: HashMap<String, Vec<u8>> = raw.parts.into_iter().collect();
    let count = list("images").len().max(captions.len());
    let mut record = |i: usize| -> Result<Record, String> {
        let text = |name: &str, value: Option<&Value>| match value {
            Some(Value::String(text)) => Ok(text.clone()),
            other => {
                let seen = other.map_or("missing", kind_of);
                Err(format!(
                    "{name}[{i}] is {seen}; this layout has one text for each picture (one question, one answer)"
                ))
            }
        };
        let answer = text("captions", captions.get(i))?;
        let question = match prompts.get(i) {
            None | Some(Value::Null) if prompts.is_empty() => String::new(),
            other => text("prompts", other)?,
        };
        let name = [format!("img{i}.jpg"), format!("img{i:03}.jpg")].into_iter().find(|n| members.contains_key(n));
        let media = vec![picture(&name.unwrap_or(format!("img{i}.jpg")), &mut members, options)?];
        let fields = Map::from_iter([
            ("question".to_owned(), Value::String(question)),
            ("answer".to_owned(), Value::String(answer)),
        ]);
        Ok(Record { key: format!("{key}-{i}"), shard: shard.to_owned(), index: i as u64, fields, media, ignored: 0 })
    };
    let samples = (0..count).map(|i| SubSample {
        row: None,
        record: record(i).map_err(|reason| Reject {
            key: format!("{key}-{i}"),
            shard: shard.to_owned(),
            stage: "read",
            reason,
        }),
    });
    Pack { head: None, samples: samples.collect(), place }
}

/// A record as this layout can hold it: fields `question` (with the picture's place) and `answer`, one picture.
///
/// # Errors
/// What the record has more or less than that.
pub fn turn(record: Record) -> Result<Record, String> {
    let no = |what: String| {
        format!("the reference's layout holds one picture, one question and one answer a sample: {what}")
    };
    if record.media.len() != 1 {
        return Err(no(format!("this one has {} pictures", record.media.len())));
    }
    let (question, answer) = question_and_answer(&record.fields).map_err(no)?;
    let places = question.matches(PLACE).count();
    let question = match places {
        0 => format!("{PLACE}{question}"),
        1 => question,
        n => return Err(no(format!("its question says {PLACE} {n} times"))),
    };
    let fields = [("question".to_owned(), Value::String(question)), ("answer".to_owned(), Value::String(answer))];
    Ok(Record { fields: Map::from_iter(fields), ..record })
}

fn question_and_answer(fields: &Map<String, Value>) -> Result<(String, String), String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    for (list, role, content) in [("conversations", "from", "value"), ("messages", "role", "content")] {
        let Some(turns) = fields.get(list).and_then(Value::as_array) else { continue };
        let [asked, answered] = turns.as_slice() else { return Err(format!("{list} has {} turns", turns.len())) };
        let is_answer = |turn: &Value| text(turn.get(role)).is_some_and(|r| ASSISTANT_ROLES.contains(&r.as_str()));
        if is_answer(asked) || !is_answer(answered) || text(asked.get(role)).is_some_and(|r| r == "system") {
            return Err(format!("the turns of {list} are not a user's and an assistant's"));
        }
        let plain =
            |turn: &Value| text(turn.get(content)).ok_or_else(|| format!("{list} has turns that are not plain text"));
        return Ok((plain(asked)?, plain(answered)?));
    }
    let pairs = fields.get("qa").and_then(Value::as_array);
    let one = match pairs.map(Vec::as_slice) {
        Some([Value::Object(pair)]) => Some(pair),
        Some(pairs) => return Err(format!("qa has {} pairs", pairs.len())),
        None => None,
    };
    let pair = one.unwrap_or(fields);
    if let Some(question) = text(pair.get("question")) {
        let answer = text(pair.get("answer")).or_else(|| crate::columns::answers(pair).into_iter().next());
        return answer.map(|answer| (question, answer)).ok_or_else(|| "it has no answer".into());
    }
    for name in ["caption", "text"] {
        if let Some(caption) = text(fields.get(name)) {
            return Ok((String::new(), caption));
        }
    }
    Err("it has no conversation, question or caption".into())
}
