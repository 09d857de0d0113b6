//! Records as the named columns that plugins read: rows in, a batch with only the wanted columns out.
//!
//! A column is made when somebody asks for it. Columns that an earlier filter added travel with their row as one-row
//! columns and are put end to end again here.

use std::collections::HashMap;

use ovhost_plugin::json::SAMPLE_COLUMNS;
use ovhost_plugin::{Batch, Column, ColumnData, Ragged};
use serde_json::{Map, Value};

use crate::chat::ChatTokenizer;
use crate::pipeline::Row;
use crate::record::Record;

/// Columns that the host offers for every record. A column is made only for plugins that read it: `phash` (8 bytes a picture)
/// decodes the pictures, `text-tokens` tokenises the text, `embedding` is the record's own field of that name.
pub const STANDARD: [&str; 15] = SAMPLE_COLUMNS;

/// Of these, the ones that cost more than a look into the record.
pub const COSTLY: [&str; 2] = ["phash", "text-tokens"];

/// Of these, the ones that need more of a picture than its header.
pub const PIXELS: [&str; 1] = ["phash"];

/// What columns that are computed need beside the records.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// For `text-tokens`, which is not there without.
    pub chat: Option<&'a ChatTokenizer>,
    /// For `phash`: pictures over so many pixels are not decoded.
    pub max_pixels: u64,
}

/// One row: its place in the stream, the record, and what filters added (one-row columns).
pub struct RowView<'a> {
    /// Ordinal in the stream.
    pub ordinal: u64,
    /// The sample.
    pub record: &'a Record,
    /// Columns of one row each.
    pub added: &'a [Column],
}

/// Makes a costly column now, so that whoever reads it later, on another thread, finds it made.
pub fn precompute(rows: &mut [Row], name: &str, compute: Compute<'_>) {
    let views: Vec<RowView<'_>> =
        rows.iter().map(|r| RowView { ordinal: r.ordinal, record: &r.record, added: &[] }).collect();
    let Some(column) = standard(&views, name, compute) else { return };
    let batch = Batch { rows: rows.len() as u32, columns: vec![column] };
    for (i, row) in rows.iter_mut().enumerate() {
        row.added.extend(batch.slice(i as u32, i as u32 + 1).columns);
    }
}

/// The columns `wanted` of `rows`. A name that is neither standard nor added by a filter is left out.
pub fn build<'a>(rows: &[RowView<'a>], wanted: &[String], compute: Compute<'_>) -> Batch {
    let made = |name: &String| COSTLY.contains(&name.as_str()).then(|| join(rows, name)).flatten();
    let columns = wanted
        .iter()
        .filter_map(|name| made(name).or_else(|| standard(rows, name, compute)).or_else(|| join(rows, name)));
    let columns = columns.collect();
    Batch { rows: rows.len() as u32, columns }
}

fn standard(rows: &[RowView<'_>], name: &str, compute: Compute<'_>) -> Option<Column> {
    let media = |f: fn(&crate::record::Media) -> u32| {
        rows.iter().map(|r| r.record.media.iter().map(f).collect::<Vec<u32>>()).collect::<Vec<_>>()
    };
    let first = |lists: Vec<Vec<u32>>| {
        let valid = lists.iter().any(Vec::is_empty).then(|| lists.iter().map(|l| u8::from(!l.is_empty())).collect());
        let data = ColumnData::U32s(lists.iter().map(|l| l.first().copied().unwrap_or(0)).collect());
        Column { name: name.to_string(), data, valid }
    };
    let text = |values: Vec<String>| Column::utf8(name, values);
    let column = match name {
        "id" => Column::new(name, ColumnData::S64s(rows.iter().map(|r| r.ordinal as i64).collect())),
        "index" => Column::new(name, ColumnData::S64s(rows.iter().map(|r| r.record.index as i64).collect())),
        "key" => Column::utf8(name, rows.iter().map(|r| r.record.key.as_str())),
        "source" => Column::utf8(name, rows.iter().map(|r| r.record.shard.as_str())),
        "record" => text(rows.iter().map(|r| record_json(r.record)).collect()),
        "text" => {
            let texts: Vec<Vec<String>> = rows.iter().map(|r| answers(&r.record.fields)).collect();
            let valid: Vec<u8> = texts.iter().map(|t| u8::from(!t.is_empty())).collect();
            let column = text(texts.iter().map(|t| t.join("\n")).collect());
            Column { valid: valid.contains(&0).then_some(valid), ..column }
        }
        "num-images" => Column::new(name, ColumnData::U32s(rows.iter().map(|r| r.record.media.len() as u32).collect())),
        "width" => first(media(|m| m.width)),
        "height" => first(media(|m| m.height)),
        "widths" => Column::new(name, ColumnData::U32Lists(Ragged::from_rows(media(|m| m.width)))),
        "heights" => Column::new(name, ColumnData::U32Lists(Ragged::from_rows(media(|m| m.height)))),
        "image-bytes" => {
            let sum = |r: &RowView<'_>| r.record.media.iter().map(|m| m.size).sum::<u64>();
            let sums = rows.iter().map(|r| u32::try_from(sum(r)).unwrap_or(u32::MAX));
            Column::new(name, ColumnData::U32s(sums.collect()))
        }
        "phash" => {
            let hashes: Vec<Option<Vec<u8>>> = rows.iter().map(|r| hashes(r.record, compute.max_pixels)).collect();
            let valid: Vec<u8> = hashes.iter().map(|h| u8::from(h.is_some())).collect();
            let data = ColumnData::Bytes(Ragged::from_rows(hashes.iter().map(|h| h.as_deref().unwrap_or_default())));
            Column { name: name.to_string(), data, valid: valid.contains(&0).then_some(valid) }
        }
        "text-tokens" => {
            let chat = compute.chat?;
            let count = |r: &RowView<'_>| {
                // A text that cannot be tokenised is the encoder's to reject, with its reason.
                let tokens = |text: &String| chat.encode_text(text).map_or(0, |ids| ids.len());
                u32::try_from(answers(&r.record.fields).iter().map(tokens).sum::<usize>()).unwrap_or(u32::MAX)
            };
            Column::new(name, ColumnData::U32s(rows.iter().map(count).collect()))
        }
        "embedding" => {
            let lists: Vec<Option<Vec<f32>>> = rows.iter().map(|r| numbers(r.record.fields.get(name))).collect();
            let valid: Vec<u8> = lists.iter().map(|l| u8::from(l.is_some())).collect();
            let data = ColumnData::F32Lists(Ragged::from_rows(lists.iter().map(|l| l.as_deref().unwrap_or_default())));
            Column { name: name.to_string(), data, valid: valid.contains(&0).then_some(valid) }
        }
        _ => return None,
    };
    Some(column)
}

/// A list of numbers, all of them.
fn numbers(value: Option<&Value>) -> Option<Vec<f32>> {
    value?.as_array()?.iter().map(|n| n.as_f64().map(|n| n as f32)).collect()
}

/// Perceptual hashes of a record's pictures, 8 bytes each, most significant first. None where a picture cannot be decoded:
/// the record is rejected for it, with the reason, when its pack is made.
fn hashes(record: &Record, max_pixels: u64) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(record.media.len() * 8);
    for media in &record.media {
        let picture = crate::image::decode_rgb(&media.bytes, max_pixels).ok()?;
        out.extend_from_slice(&crate::image::phash::phash(&picture).to_be_bytes());
    }
    Some(out)
}

/// Rows' own one-row columns of that name, put end to end. A row without one, or with another type, has no value.
fn join(rows: &[RowView<'_>], name: &str) -> Option<Column> {
    let cells: Vec<Option<&Column>> = rows.iter().map(|r| r.added.iter().rev().find(|c| c.name == name)).collect();
    let model = cells.iter().flatten().next()?;
    let same = |c: &Column| c.data.type_name() == model.data.type_name();
    let valid: Vec<u8> = cells.iter().map(|c| u8::from(c.is_some_and(|c| same(c) && c.is_valid(0)))).collect();
    macro_rules! flat {
        ($case:ident) => {
            ColumnData::$case(
                cells
                    .iter()
                    .map(|c| match c.map(|c| &c.data) {
                        Some(ColumnData::$case(v)) => v.first().copied().unwrap_or_default(),
                        _ => Default::default(),
                    })
                    .collect(),
            )
        };
    }
    macro_rules! ragged {
        ($case:ident) => {
            ColumnData::$case(Ragged::from_rows(cells.iter().map(|c| match c.map(|c| &c.data) {
                Some(ColumnData::$case(v)) if v.len() == 1 => v.row(0),
                _ => &[],
            })))
        };
    }
    let data = match &model.data {
        ColumnData::U8s(_) => flat!(U8s),
        ColumnData::U32s(_) => flat!(U32s),
        ColumnData::S64s(_) => flat!(S64s),
        ColumnData::F32s(_) => flat!(F32s),
        ColumnData::F64s(_) => flat!(F64s),
        ColumnData::Utf8(_) => ragged!(Utf8),
        ColumnData::Bytes(_) => ragged!(Bytes),
        ColumnData::U32Lists(_) => ragged!(U32Lists),
        ColumnData::F32Lists(_) => ragged!(F32Lists),
    };
    let valid = valid.contains(&0).then_some(valid);
    Some(Column { name: name.to_string(), data, valid })
}

/// The record's fields as one JSON object.
pub fn record_json(record: &Record) -> String {
    // A map of strings to JSON values always serialises.
    serde_json::to_string(&record.fields).unwrap_or_default()
}

/// Roles of turns that are the model's, as data sets spell them. The prompt `conversation` knows the same names.
pub const ASSISTANT_ROLES: [&str; 6] = ["assistant", "gpt", "chatgpt", "model", "bot", "chatbot"];

/// Text that a record would teach, by the shapes that the prompt `conversation` knows, in its order: the assistant's
/// turns, the answers of `qa`, the answer, the caption, plain text. Of several answers by different people it is the most
/// frequent one. Empty where there is none.
pub fn answers(fields: &Map<String, Value>) -> Vec<String> {
    if let Some(turns) = turns(fields) {
        return turns.iter().filter_map(assistant_text).collect();
    }
    if let Some(pairs) = pairs(fields) {
        return pairs.iter().filter_map(Value::as_object).filter_map(learnt_answer).collect();
    }
    if let Some(answer) = learnt_answer(fields) {
        return vec![answer];
    }
    first(fields, &["caption", "captions", "text"]).unwrap_or_default()
}

/// Correct answers for scoring what the prompt asks: the record's references; of `qa` those of its first pair; the
/// answers; the conversation's last turn, if it is the assistant's; the caption; plain text.
pub fn references(fields: &Map<String, Value>) -> Vec<String> {
    const ANSWERS: [&str; 3] = ["references", "answers", "answer"];
    let turns = turns(fields);
    let asked = pairs(fields).filter(|_| turns.is_none()).and_then(|pairs| pairs.first()?.as_object());
    first(fields, &["references"])
        .or_else(|| asked.and_then(|pair| first(pair, &ANSWERS)))
        .or_else(|| first(fields, &ANSWERS))
        .or_else(|| turns?.last().and_then(assistant_text).map(|text| vec![text]))
        .or_else(|| first(fields, &["captions", "caption", "text"]))
        .unwrap_or_default()
}

/// The turns of a conversation in either of its spellings.
fn turns(fields: &Map<String, Value>) -> Option<&Vec<Value>> {
    ["conversations", "messages"].iter().find_map(|name| fields.get(*name)?.as_array())
}

/// Several questions about one picture, each with its answer.
fn pairs(fields: &Map<String, Value>) -> Option<&Vec<Value>> {
    fields.get("qa")?.as_array()
}

/// The answer, or the most frequent of the answers (the earliest of several).
fn learnt_answer(fields: &Map<String, Value>) -> Option<String> {
    let one = strings(fields.get("answer")).into_iter().next();
    one.or_else(|| {
        let all = strings(fields.get("answers"));
        let mut votes: HashMap<&str, usize> = HashMap::new();
        all.iter().for_each(|answer| *votes.entry(answer).or_default() += 1);
        // `max_by_key` takes the last of equals.
        all.iter().rev().max_by_key(|answer| votes[answer.as_str()]).cloned()
    })
}

/// The texts of the first of `names` that has any.
fn first(fields: &Map<String, Value>, names: &[&str]) -> Option<Vec<String>> {
    names.iter().map(|name| strings(fields.get(*name))).find(|texts| !texts.is_empty())
}

fn assistant_text(turn: &Value) -> Option<String> {
    let role = turn.get("role").or_else(|| turn.get("from"))?.as_str()?;
    if !ASSISTANT_ROLES.contains(&role) {
        return None;
    }
    match turn.get("content").or_else(|| turn.get("value"))? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|p| p.get("text").and_then(Value::as_str)).collect()),
        _ => None,
    }
}

/// A string, a number, a list of them, or a list of `{"answer": …}` (VQA v2).
fn strings(value: Option<&Value>) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Object(map) => map.get("answer").and_then(Value::as_str).map(str::to_string),
        _ => None,
    };
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::Media;

    fn record(fields: Value, sizes: &[(u32, u32)]) -> Record {
        let Value::Object(fields) = fields else { unreachable!("tests give objects") };
        let media = sizes.iter().map(|(w, h)| Media {
            name: "png".into(),
            bytes: vec![0; 5].into(),
            size: 5,
            width: *w,
            height: *h,
        });
        Record { key: "k".into(), shard: "s.tar".into(), index: 7, fields, media: media.collect(), ignored: 0 }
    }

    #[test]
    fn only_what_is_asked_for() {
        let records = [
            record(json!({"caption": "c"}), &[(4, 6), (8, 2)]),
            record(json!({"qa": [{"question": "q", "answer": "x"}, {"question": "r", "answer": 3}]}), &[]),
        ];
        let score = [Column::new("score", ColumnData::F32s(vec![0.5]))];
        let rows: Vec<RowView> = records
            .iter()
            .enumerate()
            .map(|(i, record)| RowView { ordinal: 10 + i as u64, record, added: if i == 0 { &score } else { &[] } })
            .collect();
        let wanted: Vec<String> =
            ["id", "width", "heights", "text", "score", "image-bytes", "nobody"].map(String::from).into();
        let chat = crate::chat::tests::chat();
        let compute = Compute { chat: Some(&chat), max_pixels: 1 << 20 };
        let batch = build(&rows, &wanted, compute);
        assert_eq!(batch.names(), wanted[..6]);
        assert_eq!(batch.column("id").unwrap().data, ColumnData::S64s(vec![10, 11]));
        let width = batch.column("width").unwrap();
        assert_eq!((&width.data, &width.valid), (&ColumnData::U32s(vec![4, 0]), &Some(vec![1, 0])));
        let ColumnData::U32Lists(heights) = &batch.column("heights").unwrap().data else { panic!() };
        assert_eq!((heights.row(0), heights.row(1)), (&[6, 2][..], &[][..]));
        let ColumnData::Utf8(text) = &batch.column("text").unwrap().data else { panic!() };
        assert_eq!((text.str(0), text.str(1)), (Some("c"), Some("x\n3")));
        assert_eq!(batch.column("text").unwrap().valid, None);
        let score = batch.column("score").unwrap();
        assert_eq!((&score.data, &score.valid), (&ColumnData::F32s(vec![0.5, 0.0]), &Some(vec![1, 0])));
        assert_eq!(batch.column("image-bytes").unwrap().data, ColumnData::U32s(vec![10, 0]));
        // Every standard name has a column, so the list never promises more than there is.
        let all = build(&rows, &STANDARD.map(String::from), compute);
        assert_eq!(all.names(), STANDARD);
    }

    #[test]
    fn computed_columns() {
        let chat = crate::chat::tests::chat();
        let compute = Compute { chat: Some(&chat), max_pixels: 1 << 20 };
        let mut png = std::io::Cursor::new(Vec::new());
        let picture =
            image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let bytes: std::sync::Arc<[u8]> = png.into_inner().into();
        let mut good = record(json!({"answer": "a red square", "embedding": [0.5, 2]}), &[(40, 30), (40, 30)]);
        good.media.iter_mut().for_each(|m| m.bytes = bytes.clone());
        let corrupt = record(json!({"answer": "no", "embedding": [1, "x"]}), &[(4, 4)]);
        let rows = [&good, &corrupt].map(|record| RowView { ordinal: 0, record, added: &[] });
        let batch = build(&rows, &["phash", "text-tokens", "embedding"].map(String::from), compute);
        let phash = batch.column("phash").unwrap();
        let ColumnData::Bytes(hashes) = &phash.data else { panic!() };
        let rgb = crate::image::RgbPicture { width: 40, height: 30, data: picture.into_raw() };
        let hash = crate::image::phash::phash(&rgb).to_be_bytes();
        assert_eq!((hashes.row(0), hashes.row(1)), ([hash, hash].as_flattened(), &[][..]));
        assert_eq!(phash.valid, Some(vec![1, 0]), "a picture that cannot be decoded has no hash");
        let tokens = chat.encode_text("a red square").unwrap().len() as u32;
        let ColumnData::U32s(counts) = &batch.column("text-tokens").unwrap().data else { panic!() };
        assert_eq!(counts[0], tokens);
        let embedding = batch.column("embedding").unwrap();
        let ColumnData::F32Lists(lists) = &embedding.data else { panic!() };
        assert_eq!((lists.row(0), &embedding.valid), (&[0.5, 2.0][..], &Some(vec![1, 0])));
    }

    #[test]
    fn answers_and_references() {
        let fields = |v: Value| record(v, &[]).fields;
        let llava = fields(
            json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        );
        assert_eq!((answers(&llava), references(&llava)), (vec!["a".into(), "b".into()], vec!["b".to_string()]));
        let chat = fields(json!({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "t"}]}]}));
        assert_eq!(answers(&chat), ["t"]);
        let vqa = fields(json!({"answers": [{"answer": "x"}, {"answer": "y"}], "question": "q"}));
        assert_eq!(references(&vqa), ["x", "y"]);
        let votes = fields(json!({"answers": ["n", "x", "y", "x", "y"]}));
        assert_eq!(answers(&votes), ["x"], "the one that the prompt teaches");
        // What the prompt asks of several pairs is the first one.
        let pairs = [json!({"question": "q", "answers": ["a", "A"]}), json!({"question": "r", "answer": "b"})];
        let pairs = fields(json!({"qa": pairs, "caption": "c"}));
        assert_eq!((answers(&pairs), references(&pairs)), (vec!["a".into(), "b".into()], vec!["a".into(), "A".into()]));
        // A conversation goes before a caption; its answer is its end, not an earlier turn.
        let turn = |role: &str, text: &str| json!({"from": role, "value": text});
        let talk = fields(json!({"caption": "c", "conversations": [turn("user", "q"), turn("chatgpt", "a")]}));
        assert_eq!((answers(&talk), references(&talk)), (vec!["a".into()], vec!["a".to_string()]));
        let open = [turn("human", "q"), turn("model", "a"), turn("human", "r")];
        let open = fields(json!({"conversations": open, "answer": "b"}));
        assert_eq!((answers(&open), references(&open)), (vec!["a".into()], vec!["b".to_string()]));
        let nothing = record(json!({"question": "q"}), &[]);
        assert!(references(&nothing.fields).is_empty());
        let rows = [RowView { ordinal: 0, record: &nothing, added: &[] }];
        let chat = crate::chat::tests::chat();
        let compute = Compute { chat: Some(&chat), max_pixels: 1 << 20 };
        assert_eq!(build(&rows, &["text".into()], compute).column("text").unwrap().valid, Some(vec![0]));
    }

    #[test]
    fn roles_are_those_of_the_conversation_prompt() {
        assert_eq!(ASSISTANT_ROLES, conversation::ASSISTANT_ROLES);
    }
}
