//! `inspect`: shards in, a description of each data set out: counts, members, JSON schema, pictures, a few samples.
//!
//! ```text
//!  shards ─ by folder ─► count (index, else headers) ─► a sample of samples ─► members, schema, packs   (on all threads)
//!                                                      └► a few, whole ─► examples, contact sheet
//! ```
//! Pictures are looked at by their headers; only those of the contact sheet are decoded. Memory does not grow with the number
//! of samples: what is kept is bounded, and of the shards it is a number each.

mod schema;
mod sheet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ovhost_data::image::decode::{extension_of, is_picture_name};
use ovhost_data::image::header;
use ovhost_data::packed::{self, Head, Layout};
use ovhost_data::record::MOST_TEXT;
use ovhost_data::shards::RawSample;
use serde::Serialize;
use serde_json::Value;

pub use schema::{Range, Schema, percent};
pub use sheet::contact_sheet;

use crate::error::PrepError;
use crate::ordered::ordered;
use crate::peek::{Peek, spread};

/// Different members, formats and fingerprints that are told apart.
const NAMES: usize = 100;

/// Faults that are listed; the others are counted.
const LISTED: usize = 10;

/// How to look.
#[derive(Debug, Clone)]
pub struct InspectOptions {
    /// Samples of each data set that the schema is made of; 0: all.
    pub sample: u64,
    /// Samples of each data set that are shown.
    pub examples: u64,
    /// Draws samples instead of taking them evenly spread, and examples instead of the first ones.
    pub seed: Option<u64>,
    /// Threads.
    pub workers: usize,
    /// Pictures whose header promises more pixels count as faults.
    pub max_pixels: u64,
}

/// A sample that cannot be read, or a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// File name of the shard.
    pub shard: String,
    /// Number of the sample; none where it is the shard's.
    pub index: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

/// The members of one name (digits before its ending are `#`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Member {
    /// Samples that have it.
    pub samples: u64,
    /// Members of that name.
    pub count: u64,
    /// Bytes of one.
    pub bytes: Option<Range<u64>>,
    /// Bytes of all.
    pub total_bytes: u64,
    /// Of pictures: how many of each format, by content.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub formats: BTreeMap<String, u64>,
    /// Of pictures: width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<Range<u32>>,
    /// Of pictures: height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<Range<u32>>,
    /// Of pictures: how many have no readable header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
    /// Of JSON: its schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
}

/// What the packs of a data set say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Packs {
    /// Samples in a pack.
    pub samples: Option<Range<u64>>,
    /// Samples in all packs that were looked at.
    pub total_samples: u64,
    /// Tokens in a pack; not recorded in the reference's layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Range<u64>>,
    /// Tokens of all packs that were looked at.
    pub total_tokens: u64,
    /// Tokens that they were made to hold.
    pub total_capacity: u64,
    /// How many packs have which fingerprint. A set that one run can read has one.
    pub fingerprints: BTreeMap<String, u64>,
    /// Of the first pack: what it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
}

/// A sample, shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// File name of the shard.
    pub shard: String,
    /// Number in it.
    pub index: u64,
    /// Its key.
    pub key: String,
    /// Its members.
    pub members: Vec<ExampleMember>,
}

/// A member of a sample, shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExampleMember {
    /// Its name after the key.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its content: JSON as it is, text as a string, of a picture `{format, width, height}`, else nothing.
    pub content: Value,
}

/// A folder of shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Dataset {
    /// The folder.
    pub folder: String,
    /// `webdataset`, `packed` or `reference`, by the first sample.
    pub layout: &'static str,
    /// Shards.
    pub shards: u64,
    /// Of these how many have a usable `.tar.idx`.
    pub indexed: u64,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Samples; of packed shards, packs.
    pub samples: u64,
    /// Samples that everything below is made of.
    pub looked_at: u64,
    /// Shards and samples that cannot be read.
    pub faults: u64,
    /// The first of them.
    pub first_faults: Vec<Fault>,
    /// By name.
    pub members: BTreeMap<String, Member>,
    /// Members of further names.
    pub other_members: u64,
    /// Of packed shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packs: Option<Packs>,
    /// A few samples.
    pub examples: Vec<Example>,
}

/// Shards of one folder, with how many samples each has.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Its shards, in order.
    pub shards: Vec<(PathBuf, u64)>,
}

impl Folder {
    /// Paths by their folders, in the order in which the folders come.
    pub fn group(paths: &[PathBuf]) -> Vec<Folder> {
        let mut out: Vec<Folder> = Vec::new();
        for path in paths {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let at = out.iter().position(|f| f.path == parent).unwrap_or_else(|| {
                out.push(Folder { path: parent.to_owned(), shards: Vec::new() });
                out.len() - 1
            });
            out[at].shards.push((path.clone(), 0));
        }
        out
    }

    /// The first `count` samples, or drawn ones, each with its shard open. `seen` gets the shard, the number and the sample.
    pub fn each(
        &self,
        count: u64,
        seed: Option<u64>,
        mut seen: impl FnMut(&Peek, u64, Result<RawSample, String>),
    ) -> Result<(), PrepError> {
        let total = self.shards.iter().map(|(_, n)| n).sum();
        let numbers = if seed.is_some() { spread(total, count, seed) } else { (0..count.min(total)).collect() };
        let (mut first, mut next) = (0, numbers.into_iter().peekable());
        for (path, samples) in &self.shards {
            let here: Vec<u64> =
                std::iter::from_fn(|| next.next_if(|n| *n < first + samples)).map(|n| n - first).collect();
            first += samples;
            if !here.is_empty() {
                let peek = Peek::open(path)?;
                here.into_iter().filter(|i| *i < peek.len()).for_each(|i| seen(&peek, i, peek.read(i)));
            }
        }
        Ok(())
    }
}

/// Looks at shards. `tick` is told of every shard that is done, and fails when the process is to stop.
///
/// # Errors
/// A shard that cannot be opened; what is wrong inside of one is in the description.
pub fn inspect(
    paths: &[PathBuf],
    options: &InspectOptions,
    tick: &(dyn Fn() -> Result<(), PrepError> + Sync),
) -> Result<Vec<(Dataset, Folder)>, PrepError> {
    let mut out = Vec::new();
    for mut folder in Folder::group(paths) {
        let mut all = Dataset { folder: folder.path.display().to_string(), ..Dataset::default() };
        let mut workers = vec![(); options.workers.max(1)];
        // A share of every shard, or of so many of them that each gives one sample: one pass, whatever is indexed.
        let shards = folder.shards.len() as u64;
        let every = if options.sample == 0 { 1 } else { (shards / options.sample.max(1)).max(1) };
        let share = if options.sample == 0 { u64::MAX } else { options.sample.div_ceil(shards) };
        let make = |_: &mut (), i: usize| {
            tick()?;
            let share = if (i as u64).is_multiple_of(every) { share } else { 0 };
            let seed = options.seed.map(|s| s.wrapping_add(i as u64));
            look(&folder.shards[i].0, share, seed, options.max_pixels)
        };
        let mut counts = Vec::with_capacity(folder.shards.len());
        let take = |(samples, part): (u64, Dataset)| {
            counts.push(samples);
            all.join(part);
            Ok(())
        };
        ordered(&mut workers, folder.shards.len(), make, take)?;
        folder.shards.iter_mut().zip(counts).for_each(|(shard, n)| shard.1 = n);
        folder.each(options.examples, options.seed, |peek, index, raw| match raw {
            Ok(raw) => all.examples.push(example(name(&peek.path), index, raw, options.max_pixels)),
            // It is one of the faults if it was looked at; shown it must be in any case.
            Err(reason) => all.examples.push(Example {
                shard: name(&peek.path),
                index,
                key: String::new(),
                members: vec![ExampleMember { name: "unreadable".into(), bytes: 0, content: Value::String(reason) }],
            }),
        })?;
        out.push((all, folder));
    }
    Ok(out)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One shard: its number of samples, and what `share` of them are.
fn look(path: &Path, share: u64, seed: Option<u64>, max_pixels: u64) -> Result<(u64, Dataset), PrepError> {
    let peek = Peek::open(path)?;
    let mut seen = Dataset {
        shards: 1,
        indexed: u64::from(peek.is_indexed()),
        bytes: peek.bytes,
        samples: peek.len(),
        ..Dataset::default()
    };
    let fault = |seen: &mut Dataset, index, reason| {
        seen.fault(Fault { shard: name(path), index, reason });
    };
    if let Some(reason) = &peek.index_fault {
        fault(&mut seen, None, format!("its index cannot be used: {reason}"));
    }
    if let Some(damage) = peek.damage() {
        fault(&mut seen, None, format!("damaged at byte {}: {}", damage.offset, damage.reason));
    }
    for index in spread(peek.len(), share, seed) {
        match peek.read(index) {
            Ok(raw) => {
                if let Err(reason) = seen.see(&raw, max_pixels) {
                    fault(&mut seen, Some(index), format!("{}: {reason}", raw.key));
                }
            }
            Err(reason) => fault(&mut seen, Some(index), reason),
        }
        seen.looked_at += 1;
    }
    Ok((peek.len(), seen))
}

/// `img12_3.jpg` → `img#_#.jpg`: names that only count are one.
fn pattern(part: &str) -> String {
    let (stem, ending) = part.rsplit_once('.').map_or(("", part), |(stem, _)| (stem, &part[stem.len()..]));
    let mut out = String::new();
    for c in stem.chars() {
        match c {
            c if c.is_ascii_digit() && out.ends_with('#') => {}
            c if c.is_ascii_digit() => out.push('#'),
            c => out.push(c),
        }
    }
    out + ending
}

impl Dataset {
    fn fault(&mut self, fault: Fault) {
        self.faults += 1;
        if self.first_faults.len() < LISTED {
            self.first_faults.push(fault);
        }
    }

    /// Takes a sample in. The error is the first thing that is wrong with it.
    fn see(&mut self, raw: &RawSample, max_pixels: u64) -> Result<(), String> {
        let mut wrong = None;
        let mut seen: Vec<String> = Vec::new();
        for (part, bytes) in &raw.parts {
            let name = pattern(part);
            if !self.members.contains_key(&name) && self.members.len() >= NAMES {
                self.other_members += 1;
                continue;
            }
            let member = self.members.entry(name.clone()).or_default();
            member.samples += u64::from(!seen.contains(&name));
            member.count += 1;
            member.total_bytes += bytes.len() as u64;
            Range::see(&mut member.bytes, bytes.len() as u64);
            if is_picture_name(part) {
                match (extension_of(bytes), header(bytes, max_pixels)) {
                    (Ok(format), Ok((width, height))) => {
                        *member.formats.entry(format.to_owned()).or_default() += 1;
                        Range::see(&mut member.width, width);
                        Range::see(&mut member.height, height);
                    }
                    (_, Err(e)) | (Err(e), _) => {
                        *member.unreadable.get_or_insert(0) += 1;
                        wrong.get_or_insert(format!("part {part}: {e}"));
                    }
                }
            } else if is_json(part) && bytes.len() > MOST_TEXT {
                wrong.get_or_insert(format!("part {part} has {} bytes; at most {MOST_TEXT} are read", bytes.len()));
            } else if is_json(part) {
                match serde_json::from_slice::<Value>(bytes) {
                    Ok(value) => {
                        member.schema.get_or_insert_default().see(&value);
                        if part == "json" {
                            self.layout(&raw.key, &value, raw);
                        }
                    }
                    Err(e) => {
                        wrong.get_or_insert(format!("part {part} is not valid JSON: {e}"));
                    }
                }
            }
            seen.push(name);
        }
        wrong.map_or(Ok(()), Err)
    }

    fn layout(&mut self, key: &str, json: &Value, raw: &RawSample) {
        let layout = packed::layout(key, json);
        if self.layout.is_empty() {
            self.layout = match layout {
                Layout::Plain => "webdataset",
                Layout::Packed => "packed",
                Layout::Reference => "reference",
            };
        }
        let packs = match layout {
            Layout::Plain => return,
            Layout::Packed | Layout::Reference => self.packs.get_or_insert_default(),
        };
        let list = |name: &str| json[name].as_array().map_or(0, |list| list.len() as u64);
        let samples = if layout == Layout::Packed {
            list("samples")
        } else {
            raw.parts.iter().filter(|(part, _)| is_picture_name(part)).count() as u64
        };
        Range::see(&mut packs.samples, samples);
        packs.total_samples += samples;
        let Ok(head) = serde_json::from_value::<Head>(json.clone()) else { return };
        Range::see(&mut packs.tokens, head.tokens);
        packs.total_tokens += head.tokens;
        packs.total_capacity += u64::from(head.capacity);
        if packs.fingerprints.len() < NAMES || packs.fingerprints.contains_key(&head.fingerprint) {
            *packs.fingerprints.entry(head.fingerprint.clone()).or_default() += 1;
        }
        packs.head.get_or_insert(head);
    }

    /// Takes in what was seen of another shard.
    fn join(&mut self, other: Dataset) {
        self.shards += other.shards;
        self.indexed += other.indexed;
        self.bytes += other.bytes;
        self.samples += other.samples;
        self.looked_at += other.looked_at;
        let listed = other.first_faults.len() as u64;
        other.first_faults.into_iter().for_each(|f| self.fault(f));
        self.faults += other.faults - listed;
        if self.layout.is_empty() {
            self.layout = other.layout;
        }
        self.other_members += other.other_members;
        for (name, theirs) in other.members {
            if !self.members.contains_key(&name) && self.members.len() >= NAMES {
                self.other_members += theirs.count;
                continue;
            }
            let ours = self.members.entry(name).or_default();
            ours.samples += theirs.samples;
            ours.count += theirs.count;
            ours.total_bytes += theirs.total_bytes;
            Range::join(&mut ours.bytes, theirs.bytes);
            Range::join(&mut ours.width, theirs.width);
            Range::join(&mut ours.height, theirs.height);
            if let Some(n) = theirs.unreadable {
                *ours.unreadable.get_or_insert(0) += n;
            }
            for (format, n) in theirs.formats {
                *ours.formats.entry(format).or_default() += n;
            }
            if let Some(schema) = theirs.schema {
                ours.schema.get_or_insert_default().join(schema);
            }
        }
        if let Some(theirs) = other.packs {
            let ours = self.packs.get_or_insert_default();
            Range::join(&mut ours.samples, theirs.samples);
            Range::join(&mut ours.tokens, theirs.tokens);
            ours.total_samples += theirs.total_samples;
            ours.total_tokens += theirs.total_tokens;
            ours.total_capacity += theirs.total_capacity;
            for (fingerprint, n) in theirs.fingerprints {
                if ours.fingerprints.len() < NAMES || ours.fingerprints.contains_key(&fingerprint) {
                    *ours.fingerprints.entry(fingerprint).or_default() += n;
                }
            }
            if ours.head.is_none() {
                ours.head = theirs.head;
            }
        }
    }
}

/// Whether a part is JSON by its name.
pub(crate) fn is_json(part: &str) -> bool {
    part.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("json"))
}

fn example(shard: String, index: u64, raw: RawSample, max_pixels: u64) -> Example {
    let member = |(name, bytes): (String, Vec<u8>)| {
        let content = if is_picture_name(&name) {
            match (extension_of(&bytes), header(&bytes, max_pixels)) {
                (Ok(format), Ok((width, height))) => {
                    serde_json::json!({ "format": format, "width": width, "height": height })
                }
                (_, Err(e)) | (Err(e), _) => serde_json::json!({ "unreadable": e.to_string() }),
            }
        } else if is_json(&name) {
            serde_json::from_slice(&bytes).unwrap_or_else(|e| serde_json::json!({ "unreadable": e.to_string() }))
        } else if name.rsplit('.').next().is_some_and(|last| ["txt", "cls", "text"].contains(&last)) {
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            Value::Null
        };
        ExampleMember { name, bytes: bytes.len() as u64, content }
    };
    Example { shard, index, key: raw.key, members: raw.parts.into_iter().map(member).collect() }
}

#[cfg(test)]
mod tests;
