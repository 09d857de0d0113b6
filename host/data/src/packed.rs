//! Packed shards: samples whose members are whole samples, and what they were made for.
//!
//! ```text
//!  00000012.json      {"ovhost_pack": 1, fingerprint, made_for, seed, capacity, tokens, patches, samples: [..]}
//!  00000012.img0_0.jpg   picture 0 of sample 0, byte for byte
//!  00000012.img3_1.png   picture 1 of sample 3
//! ```
//! Lengths hold for one tokenizer with its template, one image processor and one prompt only. A pack names them, and
//! reading it under others is an error. The layout of the reference (`ps_*`, one picture and one turn a sample, nothing
//! recorded) is read too: see [`mod@reference`].

mod read;
pub mod reference;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use read::{Pack, SubSample, layout, layout_of, parse};

use crate::DataError;
use crate::chat::ChatTokenizer;
use crate::image::ImageProcessor;

/// The version of the layout that is written and read.
pub const VERSION: u64 = 1;

/// The field that says that a sample is a pack.
pub const MARK: &str = "ovhost_pack";

/// How deeply a record's fields may be nested: packs put them a few levels deeper, and JSON readers have a bound.
pub const MAX_DEPTH: usize = 100;

/// How the samples of a shard are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A sample is a sample.
    Plain,
    /// A sample is a pack of ours.
    Packed,
    /// A sample is a pack as the reference writes it.
    Reference,
}

/// What lengths depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MadeFor {
    /// Fingerprint of the tokenizer and its template.
    pub tokenizer: String,
    /// Settings of the image processor.
    pub image_processor: Value,
    /// The prompt plugin: hash, entry, configuration.
    pub prompt: Value,
}

impl MadeFor {
    /// Of a run's own parts. `prompt` is what the stages say of their prompt.
    pub fn of(chat: &ChatTokenizer, images: &ImageProcessor, prompt: Value) -> Self {
        // Numbers and names: always serialises.
        let image_processor = serde_json::to_value(images).unwrap_or_default();
        MadeFor { tokenizer: chat.fingerprint().to_owned(), image_processor, prompt }
    }

    /// sha256 (hexadecimal) over all of it; the order of keys does not matter.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for value in [&Value::from(self.tokenizer.as_str()), &self.image_processor, &self.prompt] {
            hash.update(sorted(value).to_string());
            hash.update(b"\n");
        }
        crate::loader::to_hex(&hash.finalize())
    }

    /// The first thing that differs, with both values.
    fn difference(&self, now: &MadeFor) -> Option<String> {
        let of = |m: &MadeFor| {
            Value::Object(Map::from_iter([
                ("tokenizer".to_owned(), Value::from(m.tokenizer.as_str())),
                ("image_processor".to_owned(), m.image_processor.clone()),
                ("prompt".to_owned(), m.prompt.clone()),
            ]))
        };
        difference("", &of(self), &of(now))
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Where two values first differ: the place, and both sides.
fn difference(place: &str, then: &Value, now: &Value) -> Option<String> {
    let name = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            // Versions and names differ too when a plugin does; the hash says it best.
            keys.sort_by_key(|k| (*k != "sha256", *k == "config"));
            let null = Value::Null;
            keys.into_iter().find_map(|k| difference(&name(k), a.get(k).unwrap_or(&null), b.get(k).unwrap_or(&null)))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{place} was {} and is {} in this run", short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// What a pack says of itself, beside its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the layout.
    #[serde(rename = "ovhost_pack")]
    pub version: u64,
    /// [`MadeFor::fingerprint`].
    pub fingerprint: String,
    /// In words what the fingerprint covers.
    pub made_for: MadeFor,
    /// Seed that filters and prompt saw.
    pub seed: u64,
    /// Most tokens that a pack was to have.
    pub capacity: u32,
    /// Tokens of all samples.
    pub tokens: u64,
    /// Vision patches of all samples.
    pub patches: u64,
}

impl Head {
    /// Fails if a run with `now` and packs of `capacity` tokens cannot use the pack; `place` names it.
    pub fn check(&self, place: &str, now: &MadeFor, capacity: u32) -> Result<(), DataError> {
        if self.version != VERSION {
            return Err(DataError::Config(format!(
                "{place} is a pack of version {}, this program reads version {VERSION}; pack the data again, or use the program \
                 that packed it",
                self.version
            )));
        }
        if self.fingerprint != now.fingerprint() {
            let what = self.made_for.difference(now).unwrap_or_else(|| {
                format!("the fingerprint is {}, of this run {}", self.fingerprint, now.fingerprint())
            });
            return Err(DataError::Config(format!(
                "{place} was packed for other settings, so its lengths do not hold: {what}. Use the model folder and the prompt \
                 that it was packed with, or pack the data again"
            )));
        }
        if self.capacity > capacity || self.tokens > u64::from(capacity) {
            return Err(DataError::Config(format!(
                "{place} has {} tokens and was packed for {}, but data.capacity is {capacity}; set data.capacity = {}, or pack \
                 the data again",
                self.tokens, self.capacity, self.capacity
            )));
        }
        Ok(())
    }
}

/// One sample of a pack, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its key in the shard that it came from.
    pub key: String,
    /// Name of that shard.
    pub source: String,
    /// Its number there.
    pub index: u64,
    /// The id under which filters and prompt saw it: what they draw by chance depends on it.
    pub row: u64,
    /// Tokens.
    pub tokens: u32,
    /// Vision patches.
    pub patches: u32,
    /// Members of the pack that are its pictures, in order.
    pub images: Vec<String>,
    /// Its fields.
    pub record: Map<String, Value>,
}

/// The `json` member of a pack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackJson {
    /// About all of it.
    #[serde(flatten)]
    pub head: Head,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// The name of picture `image` of sample `sample` whose part in its own shard is `part` (`png`, `img0.jpg`).
pub fn image_name(sample: usize, image: usize, part: &str) -> String {
    format!("img{sample}_{image}.{}", part.rsplit('.').next().unwrap_or(part))
}

/// Whether a record's fields can be put into a pack.
///
/// # Errors
/// They are nested too deeply to be read again.
pub fn check_depth(fields: &Map<String, Value>) -> Result<(), String> {
    fn fits(value: &Value, room: usize) -> bool {
        match value {
            Value::Object(fields) => room > 0 && fields.values().all(|v| fits(v, room - 1)),
            Value::Array(items) => room > 0 && items.iter().all(|v| fits(v, room - 1)),
            _ => true,
        }
    }
    if fields.values().all(|v| fits(v, MAX_DEPTH)) {
        return Ok(());
    }
    Err(format!("its fields are nested more than {MAX_DEPTH} levels deep; flatten them"))
}

#[cfg(test)]
mod tests;
