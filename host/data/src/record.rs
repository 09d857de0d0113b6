//! Raw tar sample → record: key, JSON fields, pictures with their sizes. Or a reject, with the reason.
//!
//! ```text
//!  RawSample { key, [("json", …), ("png", …), ("txt", …)] } ─► Record { fields, media } ─► filters, prompts, loader
//!                                                           └► Reject  ─► rejects.jsonl (one line each)
//! ```
//! Pictures are not decoded here; only their headers are looked at, and where nothing else is wanted only those are read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::image::{DEFAULT_MAX_DECODE_PIXELS, ImageError, decode::is_picture_name, header};
use crate::shards::RawSample;

/// One picture of a record, still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Part of the member's name after the key: `png`, `img0.jpg`.
    pub name: String,
    /// The encoded file. Empty where only the header was read ([`Shard::record_by_headers`](crate::shards::Shard::record_by_headers)).
    pub bytes: Arc<[u8]>,
    /// Bytes of the encoded file.
    pub size: u64,
    /// Width in pixels, from the header.
    pub width: u32,
    /// Height in pixels, from the header.
    pub height: u32,
}

/// One sample as filters, prompts and the loader see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// Key in its shard.
    pub key: String,
    /// File name of the shard.
    pub shard: String,
    /// Position in the shard, from 0.
    pub index: u64,
    /// The JSON part; text of a `.txt` part under `caption` (`text` in a sample without pictures).
    pub fields: Map<String, Value>,
    /// Pictures, ordered naturally by part name (`img2.jpg` before `img10.jpg`).
    pub media: Vec<Media>,
    /// Members of kinds that are not used (`.cls`, `.npy`, …).
    pub ignored: u32,
}

/// A sample that was left out, as it is written to `rejects.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    /// Key of the sample; empty where not even that is known.
    pub key: String,
    /// Shard (or input file) that holds it.
    pub shard: String,
    /// Where it happened: `read`, `convert`, `filter` (a filter dropped it), `filter-error` (it could not judge it),
    /// `prompt`, `encode`, `length`, `pack`, `decode`.
    pub stage: &'static str,
    /// What is wrong, with the value seen; of a filtered sample the filter's name and reason.
    pub reason: String,
}

impl Reject {
    /// In one line: `k7 of train-000.tar: part png: …`.
    pub fn words(&self) -> String {
        format!("{} of {}: {}", self.key, self.shard, self.reason)
    }
}

/// Most bytes of a sample's JSON or text. Real ones have kilobytes; parsed JSON takes up to forty times as much memory.
pub const MOST_TEXT: usize = 16 << 20;

/// Bounds for building records.
#[derive(Debug, Clone, Copy)]
pub struct RecordOptions {
    /// Pictures with more header pixels are rejected.
    pub max_pixels: u64,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self { max_pixels: DEFAULT_MAX_DECODE_PIXELS }
    }
}

/// What was read of a sample's part.
pub(crate) enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// Of a picture its bytes, counted, and (width, height).
    Header(u64, Result<(u32, u32), ImageError>),
    /// Nothing: it is of a kind that is not used.
    Unread,
}

impl Content {
    /// Whether a part of this name is read whole where only headers of pictures are wanted.
    pub(crate) fn is_text(part: &str) -> bool {
        TEXTS.iter().any(|kind| is_kind(part, kind))
    }
}

/// Parts that are text.
const TEXTS: [&str; 2] = ["json", "txt"];

impl Record {
    /// Builds the record of a raw sample. `shard` is the shard's file name, `index` the position in it.
    pub fn build(raw: RawSample, shard: &str, index: u64, options: &RecordOptions) -> Result<Record, Reject> {
        let parts = raw.parts.into_iter().map(|(name, bytes)| (name, Content::Whole(bytes))).collect();
        Self::of_parts(raw.key, parts, shard, index, options)
    }

    /// As [`Self::build`], of parts of which some were not read whole.
    pub(crate) fn of_parts(
        key: String,
        parts: Vec<(String, Content)>,
        shard: &str,
        index: u64,
        options: &RecordOptions,
    ) -> Result<Record, Reject> {
        Self::try_build(key.clone(), parts, shard, index, options).map_err(|reason| Reject {
            key,
            shard: shard.to_owned(),
            stage: "read",
            reason,
        })
    }

    fn try_build(
        key: String,
        parts: Vec<(String, Content)>,
        shard: &str,
        index: u64,
        options: &RecordOptions,
    ) -> Result<Record, String> {
        let json = pick(&parts, "json")?;
        let text = pick(&parts, "txt")?;
        let mut record = Record { key, shard: shard.to_owned(), index, fields: Map::new(), media: vec![], ignored: 0 };
        let mut caption = None;
        for (position, (part, content)) in parts.into_iter().enumerate() {
            let picture = |size: Result<(u32, u32), ImageError>| size.map_err(|e| format!("part {part}: {e}"));
            match content {
                Content::Whole(bytes) if Some(position) == json => record.fields = parse_fields(&part, &bytes)?,
                Content::Whole(bytes) if Some(position) == text => {
                    check_length(&part, bytes.len())?;
                    let text = String::from_utf8(bytes).map_err(|e| format!("part {part} is not UTF-8: {e}"))?;
                    caption = Some(text.trim_end_matches(['\n', '\r']).to_owned());
                }
                Content::Whole(bytes) if is_picture_name(&part) => {
                    let (width, height) = picture(header(&bytes, options.max_pixels))?;
                    let size = bytes.len() as u64;
                    record.media.push(Media { name: part, bytes: bytes.into(), size, width, height });
                }
                Content::Header(size, sides) => {
                    let (width, height) = picture(sides)?;
                    record.media.push(Media { name: part, bytes: Arc::default(), size, width, height });
                }
                Content::Whole(_) | Content::Unread => record.ignored += 1,
            }
        }
        record.media.sort_by(|a, b| natural(&a.name, &b.name));
        if let Some(caption) = caption {
            let name =
                if record.media.is_empty() || record.fields.contains_key("caption") { "text" } else { "caption" };
            record.fields.entry(name).or_insert(Value::String(caption));
        }
        if record.fields.is_empty() && record.media.is_empty() {
            return Err("the sample has neither a .json or .txt part nor a picture".into());
        }
        check_named_pictures(&record)?;
        Ok(record)
    }
}

/// Whether a part is `kind` or ends in `.kind`.
fn is_kind(part: &str, kind: &str) -> bool {
    part.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(kind))
}

/// The member that is exactly `kind`, else the only one that ends in `.kind`; two candidates are an error.
fn pick(parts: &[(String, Content)], kind: &str) -> Result<Option<usize>, String> {
    let exact = parts.iter().position(|(part, _)| part.eq_ignore_ascii_case(kind));
    if exact.is_some() {
        return Ok(exact);
    }
    let ending: Vec<usize> = (0..parts.len()).filter(|i| is_kind(&parts[*i].0, kind)).collect();
    match ending[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(format!(
            "parts {} could all be the sample's .{kind}; name one of them exactly \"{kind}\"",
            ending.iter().map(|i| parts[*i].0.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

fn parse_fields(part: &str, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match parse_json(part, bytes)? {
        Value::Object(fields) => Ok(fields),
        // LLaVA's converters write the message list alone.
        Value::Array(messages) if !messages.is_empty() && messages.iter().all(Value::is_object) => {
            Ok(Map::from_iter([("messages".to_owned(), Value::Array(messages))]))
        }
        other => Err(format!("part {part} holds {}; it must be a JSON object or a list of messages", kind_of(&other))),
    }
}

/// Parses a JSON part.
pub(crate) fn parse_json(part: &str, bytes: &[u8]) -> Result<Value, String> {
    check_length(part, bytes.len())?;
    serde_json::from_slice(bytes).map_err(|e| format!("part {part} is not valid JSON: {e}"))
}

fn check_length(part: &str, bytes: usize) -> Result<(), String> {
    if bytes <= MOST_TEXT {
        return Ok(());
    }
    Err(format!("part {part} has {bytes} bytes of text; at most {MOST_TEXT} are read"))
}

/// What a JSON value is, in words, for error texts.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A sample whose JSON names pictures must carry at least as many.
fn check_named_pictures(record: &Record) -> Result<(), String> {
    for field in ["image", "images"] {
        let (count, first) = match record.fields.get(field) {
            Some(Value::String(name)) if !name.is_empty() => (1, name.as_str()),
            Some(Value::Array(names)) => match names.iter().filter(|name| !name.is_null()).count() {
                0 => continue,
                count => (count, names.iter().find_map(Value::as_str).unwrap_or("a picture")),
            },
            _ => continue,
        };
        if record.media.is_empty() {
            return Err(format!(
                "field \"{field}\" names image {first} but the sample has none; its tar needs a member {}.jpg (or .png, …)",
                record.key
            ));
        }
        if count > record.media.len() {
            return Err(format!(
                "field \"{field}\" names {count} images but the sample has {}: {}",
                record.media.len(),
                record.media.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    Ok(())
}

/// Orders names so that runs of digits compare as numbers.
pub fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, rest_x) = digits(left);
                let (y, rest_y) = digits(right);
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order.is_ne() {
                    return order;
                }
                (left, right) = (rest_x, rest_y);
            }
            (Some(x), Some(y)) => {
                if x != y {
                    return x.cmp(y);
                }
                (left, right) = (&left[1..], &right[1..]);
            }
            // Equal so far: the rest decides, then the raw text (`01` and `1` differ).
            (x, y) => return x.is_some().cmp(&y.is_some()).then_with(|| a.cmp(b)),
        }
    }
}

/// The leading digits without leading zeros, and what follows them.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let zeros = text[..end].iter().position(|b| *b != b'0').unwrap_or(end);
    (&text[zeros..end], &text[end..])
}

/// Writes `rejects.jsonl` and counts.
#[derive(Debug)]
pub struct RejectLog {
    path: PathBuf,
    out: BufWriter<File>,
    count: u64,
}

impl RejectLog {
    /// Starts an empty file at `path`.
    pub fn create(path: impl AsRef<Path>) -> std::io::Result<Self> {
        let path = path.as_ref().to_owned();
        Ok(Self { out: BufWriter::new(File::create(&path)?), path, count: 0 })
    }

    /// Appends one line.
    pub fn push(&mut self, reject: &Reject) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.out, reject)?;
        self.out.write_all(b"\n")?;
        self.count += 1;
        Ok(())
    }

    /// Rejects so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png() -> Vec<u8> {
        let mut out = std::io::Cursor::new(vec![]);
        image::RgbImage::new(6, 4).write_to(&mut out, image::ImageFormat::Png).unwrap();
        out.into_inner()
    }

    fn build(parts: &[(&str, &[u8])]) -> Result<Record, String> {
        let parts = parts.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        Record::build(RawSample { key: "k".into(), parts }, "s.tar", 3, &RecordOptions::default())
            .map_err(|reject| reject.reason)
    }

    #[test]
    fn fields_pictures_and_text() {
        let png = png();
        let record = build(&[
            ("img10.png", &png),
            ("img2.PNG", &png),
            ("json", br#"{"images":["a","b"],"question":"q"}"#),
            ("txt", b"a caption\n"),
            ("cls", b"3"),
        ])
        .unwrap();
        assert_eq!((record.key.as_str(), record.shard.as_str(), record.index), ("k", "s.tar", 3));
        let names: Vec<_> = record.media.iter().map(|m| (m.name.as_str(), m.width, m.height)).collect();
        assert_eq!(names, [("img2.PNG", 6, 4), ("img10.png", 6, 4)]);
        assert_eq!(record.fields["caption"], "a caption");
        assert_eq!(record.fields["question"], "q");
        assert_eq!(record.ignored, 1);
        assert_eq!(build(&[("json", br#"{"images":["a",null]}"#), ("png", &png)]).unwrap().media.len(), 1);
        assert_eq!(build(&[("json", br#"{"images":[null]}"#)]).unwrap().media.len(), 0);
        assert_eq!(build(&[("txt", b"only words")]).unwrap().fields["text"], "only words");
        assert!(build(&[("json", br#"[{"role":"user","content":"x"}]"#)]).unwrap().fields["messages"].is_array());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let png = png();
        type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
        let cases: [Case; 9] = [
            (&[("json", br#"{"image":"a.png"}"#)], "names image a.png but the sample has none"),
            (
                &[("json", br#"{"images":["a.png","b.png"]}"#), ("png", &png)],
                "names 2 images but the sample has 1: png",
            ),
            (&[("json", b"3")], "holds a number"),
            (&[("json", b"{")], "not valid JSON"),
            (&[("a.json", b"{}"), ("b.json", b"{}")], "parts a.json, b.json could all be"),
            (&[("png", &png[..20])], "part png: corrupt PNG"),
            (&[("jpg", b"")], "the file is empty"),
            (&[("txt", b"\xff\xfe")], "not UTF-8"),
            (&[("cls", b"1")], "neither a .json or .txt part nor a picture"),
        ];
        for (parts, expected) in cases {
            let reason = build(parts).unwrap_err();
            assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
        let small = RecordOptions { max_pixels: 23 };
        let raw = RawSample { key: "bomb".into(), parts: vec![("png".into(), png)] };
        let reject = Record::build(raw, "s.tar", 0, &small).unwrap_err();
        assert!(reject.reason.contains("6x4 = 24 pixels is over the bound of 23"), "{}", reject.reason);
        let line = serde_json::to_string(&reject).unwrap();
        assert!(line.starts_with(r#"{"key":"bomb","shard":"s.tar","stage":"read","reason":"part png"#), "{line}");
    }

    #[test]
    fn natural_order() {
        let mut names = ["10.jpg", "2.jpg", "img10.jpg", "img1_2.jpg", "img1.jpg", "02.jpg", "1.jpg", "a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["1.jpg", "02.jpg", "2.jpg", "10.jpg", "a", "img1.jpg", "img1_2.jpg", "img10.jpg"]);
    }
}
