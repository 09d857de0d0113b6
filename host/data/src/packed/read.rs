//! The members of one packed sample → its samples as records, each for itself.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Head, Layout, MARK, PackJson, Sample, reference};
use crate::image::header;
use crate::record::{MOST_TEXT, Media, Record, RecordOptions, Reject, parse_json};
use crate::shards::{IndexedShard, RawSample, Shard, ShardError};

/// A pack, read. Its pictures are not decoded.
#[derive(Debug)]
pub struct Pack {
    /// What it says of itself; none in the reference's layout.
    pub head: Option<Head>,
    /// Where it lies, for messages: `00000012 of packed-000000.tar`.
    pub place: String,
    /// Its samples.
    pub samples: Vec<SubSample>,
}

/// A sample of a pack.
#[derive(Debug)]
pub struct SubSample {
    /// The id under which it was measured; none in the reference's layout.
    pub row: Option<u64>,
    /// The sample, or what is wrong with it alone.
    pub record: Result<Record, Reject>,
}

/// How the samples of a shard are to be read: what its first sample with readable JSON is. Of a pack of ours its head,
/// unless its version is another one.
///
/// # Errors
/// The shard cannot be read, or a pack's head cannot.
pub fn layout_of(shard: &impl FirstSamples) -> Result<(Layout, Option<Head>), ShardError> {
    for index in 0.. {
        let Some(first) = shard.json(index)? else { break };
        let (key, json) = match first {
            First::Unreadable => continue,
            First::NoJson => return Ok((Layout::Plain, None)),
            First::Json(key, json) => (key, json),
        };
        let Ok(fields) = parse_json("json", &json) else { continue };
        return match layout(&key, &fields) {
            Layout::Packed => match head(&fields) {
                Ok(head) => Ok((Layout::Packed, Some(head))),
                Err(reason) => Err(ShardError::Sample { path: shard.path().display().to_string(), key, reason }),
            },
            other => Ok((other, None)),
        };
    }
    Ok((Layout::Plain, None))
}

/// A shard, as far as its layout is to be told.
pub trait FirstSamples {
    /// As it was named.
    fn path(&self) -> &Path;
    /// What sample `index` shows; none after the last.
    fn json(&self, index: usize) -> Result<Option<First>, ShardError>;
}

/// What a sample shows of its shard's layout.
pub enum First {
    /// Nothing: it cannot be read.
    Unreadable,
    /// That it is no pack.
    NoJson,
    /// Its key and its part `json`.
    Json(String, Vec<u8>),
}

impl FirstSamples for Shard {
    fn path(&self) -> &Path {
        Shard::path(self)
    }

    fn json(&self, index: usize) -> Result<Option<First>, ShardError> {
        let Some(sample) = self.samples().get(index) else { return Ok(None) };
        if sample.fault.is_some() {
            return Ok(Some(First::Unreadable));
        }
        if sample.members.iter().any(|m| m.part == "json" && m.size > MOST_TEXT as u64) {
            return Ok(Some(First::Unreadable));
        }
        let json = self.read_part(index, |part| part == "json")?;
        Ok(Some(json.map_or(First::NoJson, |json| First::Json(sample.key.clone(), json))))
    }
}

impl FirstSamples for IndexedShard {
    fn path(&self) -> &Path {
        IndexedShard::path(self)
    }

    fn json(&self, index: usize) -> Result<Option<First>, ShardError> {
        if index >= self.len() {
            return Ok(None);
        }
        let raw = match self.read(index) {
            Ok(raw) => raw,
            Err(error @ ShardError::Store(_)) => return Err(error),
            Err(_) => return Ok(Some(First::Unreadable)),
        };
        let json = raw.parts.into_iter().find(|(part, _)| part == "json");
        Ok(Some(json.map_or(First::NoJson, |(_, json)| First::Json(raw.key, json))))
    }
}

/// What a sample is, by its key and its JSON.
pub fn layout(key: &str, fields: &Value) -> Layout {
    let name = key.rsplit('/').next().unwrap_or(key);
    if fields.get(MARK).is_some() {
        Layout::Packed
    } else if name.starts_with("ps_") && reference::is_pack(fields) {
        Layout::Reference
    } else {
        Layout::Plain
    }
}

fn head(fields: &Value) -> Result<Head, String> {
    Head::deserialize(fields).map_err(|e| {
        let version = fields.get(MARK).map_or_else(String::new, Value::to_string);
        format!("it says {MARK} (version {version}), but its description cannot be read: {e}; pack the data again")
    })
}

/// Reads a pack. What is wrong with one sample is that sample's; what is wrong with all of them is the error.
pub fn parse(raw: RawSample, shard: &str, options: &RecordOptions) -> Result<Pack, Reject> {
    let place = format!("{} of {shard}", raw.key);
    let key = raw.key.clone();
    let failed = |reason: String| Reject { key: key.clone(), shard: shard.to_owned(), stage: "read", reason };
    let json = raw.parts.iter().find(|(part, _)| part == "json");
    let (_, json) = json.ok_or_else(|| failed("the pack has no part json".into()))?;
    let fields = parse_json("json", json).map_err(failed)?;
    match layout(&raw.key, &fields) {
        Layout::Packed => {}
        Layout::Reference => return Ok(reference::read(raw, &fields, place, shard, options)),
        Layout::Plain => {
            return Err(failed(format!("a packed shard holds a sample that is no pack ({MARK} is not in its json)")));
        }
    }
    let head = head(&fields).map_err(failed)?;
    let PackJson { samples, .. } =
        serde_json::from_value(fields).map_err(|e| failed(format!("its list of samples cannot be read: {e}")))?;
    let mut members: HashMap<String, Vec<u8>> = raw.parts.into_iter().collect();
    let samples = samples
        .into_iter()
        .map(|sample| SubSample { row: Some(sample.row), record: record(sample, &mut members, options) });
    Ok(Pack { head: Some(head), samples: samples.collect(), place })
}

fn record(sample: Sample, members: &mut HashMap<String, Vec<u8>>, options: &RecordOptions) -> Result<Record, Reject> {
    let Sample { key, source, index, row, images, record: fields, .. } = sample;
    // Plugins see it as a signed number.
    if row > i64::MAX as u64 {
        let reason = format!("its row is {row}; at most {} is possible: the pack was altered", i64::MAX);
        return Err(Reject { key, shard: source, stage: "read", reason });
    }
    match images.iter().map(|name| picture(name, members, options)).collect() {
        Ok(media) => Ok(Record { key, shard: source, index, fields, media, ignored: 0 }),
        Err(reason) => Err(Reject { key, shard: source, stage: "read", reason }),
    }
}

/// Takes a member out and makes a picture of it.
pub(super) fn picture(
    name: &str,
    members: &mut HashMap<String, Vec<u8>>,
    options: &RecordOptions,
) -> Result<Media, String> {
    let bytes = members.remove(name).ok_or_else(|| format!("its picture {name} is not in the pack"))?;
    let (width, height) = header(&bytes, options.max_pixels).map_err(|e| format!("part {name}: {e}"))?;
    Ok(Media { name: name.to_owned(), size: bytes.len() as u64, bytes: bytes.into(), width, height })
}
