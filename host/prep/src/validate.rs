//! `validate`: shards in, everything out that would hurt later, by kind. It never stops at a fault.
//!
//! ```text
//!  folder ─ .nv-meta, manifest.json, pack.json ─► what is said of each shard
//!  shard ─ tar, index, hash ─► samples ─► JSON, text, pictures, placeholders ─ with a tokenizer ─► prompt, lengths
//!             (a shard a thread; results are taken in order, so a report does not depend on the threads)
//! ```
//! Memory: eight bytes a sample for the keys, and what one shard needs on every thread.

mod folder;
mod keys;
mod packs;
mod record;
mod report;

use std::path::{Path, PathBuf};

use ovhost_data::image::decode::is_picture_name;
use ovhost_data::image::{check, header};
use ovhost_data::packed::Layout;
use ovhost_data::pipeline::Outcome;
use ovhost_data::record::{MOST_TEXT, Record, Reject};
use ovhost_data::shards::{RawSample, Shard, index_path, read_index, stored_size};
use serde_json::Value;

pub use report::{Finding, Found, Kind, Report};

use crate::error::PrepError;
use crate::files::sha256;
use crate::inspect::{Folder, is_json};
use crate::ordered::ordered;
use crate::samples::{CHUNK, Encoder, Encoding, Reader};
use folder::FolderFacts;
use keys::Keys;

/// What is checked.
pub struct ValidateSettings {
    /// Shards.
    pub inputs: Vec<PathBuf>,
    /// Decode every picture; else its header is read.
    pub decode: bool,
    /// Compare the shards' hashes with those of manifests.
    pub hashes: bool,
    /// A sample without a picture is a fault.
    pub require_images: bool,
    /// Pictures whose header promises more pixels are faults.
    pub max_pixels: u64,
    /// By what samples become tokens: prompts, lengths and fingerprints are checked with it.
    pub encoding: Option<Encoding>,
    /// Findings of each kind that are kept; the others are counted.
    pub most: usize,
    /// Threads.
    pub workers: usize,
}

/// Checks shards. `tick(n)` is told of samples, and fails when the process is to stop.
///
/// # Errors
/// A request to stop; a prompt plugin that cannot be made or fails as a whole. Whatever is wrong with the data is in the report.
pub fn validate(
    settings: &ValidateSettings,
    tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
) -> Result<Report, PrepError> {
    let most = settings.most;
    let mut report = Report::default();
    let folders = Folder::group(&settings.inputs);
    let facts: Vec<FolderFacts> = folders.iter().map(|f| FolderFacts::read(&f.path, most, &mut report)).collect();
    // Shards in the order in which they were given, each with its folder's number.
    let parent = |path: &Path| folders.iter().position(|f| f.shards.iter().any(|(p, _)| p == path)).unwrap_or_default();
    let numbers: Vec<usize> = match folders.len() {
        1 => vec![0; settings.inputs.len()],
        _ => settings.inputs.iter().map(|p| parent(p)).collect(),
    };
    let make_worker = || settings.encoding.as_ref().map(Encoder::new).transpose();
    let mut workers = (0..settings.workers.max(1)).map(|_| make_worker()).collect::<Result<Vec<_>, _>>()?;
    let mut keys = Keys::default();
    let make = |worker: &mut Option<Encoder>, i: usize| {
        let mut check = Check {
            settings,
            folder: numbers[i],
            facts: &facts[numbers[i]],
            encoder: worker.as_mut(),
            tick,
            file: settings.inputs[i].display().to_string(),
            report: Report { shards: 1, ..Report::default() },
            keys: Vec::new(),
        };
        check.shard(&settings.inputs[i], i)?;
        Ok((check.report, check.keys))
    };
    let take = |(part, hashes): (Report, Vec<u64>)| {
        report.join(most, part);
        keys.push(hashes);
        Ok(())
    };
    ordered(&mut workers, settings.inputs.len(), make, take)?;
    keys.report(&settings.inputs, most, &mut report);
    report.clean = report.faults.is_empty();
    Ok(report)
}

/// The check of one shard.
struct Check<'a> {
    settings: &'a ValidateSettings,
    /// Number of its folder.
    folder: usize,
    facts: &'a FolderFacts,
    encoder: Option<&'a mut Encoder>,
    tick: &'a (dyn Fn(u64) -> Result<(), PrepError> + Sync),
    file: String,
    report: Report,
    keys: Vec<u64>,
}

impl Check<'_> {
    fn add(&mut self, kind: Kind, key: &str, reason: impl Into<String>) {
        self.report.add(self.settings.most, kind, &self.file, key, reason);
    }

    fn shard(&mut self, path: &Path, number: usize) -> Result<(), PrepError> {
        let shard = match Shard::open_damaged(path) {
            Ok(shard) => shard,
            Err(error) => {
                self.add(Kind::Unreadable, "", error.to_string());
                return Ok(());
            }
        };
        if let Some(damage) = shard.damage() {
            let key = damage.cut.clone().unwrap_or_default();
            let (at, whole) = (damage.offset, shard.len());
            self.add(Kind::Tar, &key, format!("byte {at}: {}; {whole} whole samples come before it", damage.reason));
        }
        if shard.is_empty() && shard.damage().is_none() {
            self.add(Kind::EmptyShard, "", "it holds no sample");
        }
        if shard.unnamed() > 0 {
            let reason = format!("{} members have no dot in their name, or a reserved name __x__", shard.unnamed());
            self.add(Kind::Member, "", reason);
        }
        self.index(path, &shard);
        self.said(path, &shard);
        let reader = Reader::new(&shard, self.settings.max_pixels, true);
        let (mut chunk, mut id) = (Vec::new(), (number as u64) << 32);
        for member in 0..shard.len() {
            let sample = &shard.samples()[member];
            self.keys.push(keys::hash(self.folder, &sample.key));
            if let Some(fault) = &sample.fault {
                self.add(Kind::Member, &sample.key, fault.clone());
            } else {
                match shard.read(member) {
                    Err(error) => self.add(Kind::Unreadable, &sample.key, error.to_string()),
                    Ok(raw) if reader.layout == Layout::Plain => chunk.extend(self.sample(raw, &reader, member)),
                    Ok(raw) => self.pack(raw, &reader, member, id)?,
                }
            }
            if chunk.len() >= CHUNK || member + 1 == shard.len() {
                let chunk = std::mem::take(&mut chunk);
                let next = id + chunk.len() as u64;
                self.encode(id, chunk)?;
                id = next;
            }
            (self.tick)(1)?;
        }
        Ok(())
    }

    /// The `.tar.idx` beside it.
    fn index(&mut self, path: &Path, shard: &Shard) {
        let length = std::fs::metadata(path).map_or(0, |m| m.len());
        let found = match read_index(&index_path(path), length) {
            Ok(Some(found)) if !found.is_empty() => found,
            Ok(Some(_)) => return self.add(Kind::Index, "", "it holds no whole numbers of 8 bytes"),
            Ok(None) => return self.add(Kind::NoIndex, "", "readers must scan its headers"),
            Err(error) => return self.add(Kind::Index, "", error.to_string()),
        };
        let is = shard.offsets();
        if found.len() != is.len() {
            let reason = format!("it has {} samples, and the tar has {}", found.len() - 1, is.len() - 1);
            return self.add(Kind::Index, "", reason);
        }
        if let Some(at) = (0..is.len()).find(|i| found[*i] != is[*i]) {
            let what = shard.samples().get(at).map_or("the end", |s| s.key.as_str()).to_owned();
            let reason = format!("it has {what} at byte {}, and the tar has it at {}", found[at], is[at]);
            self.add(Kind::Index, "", reason);
        }
    }

    /// What metadata and manifests say of it.
    fn said(&mut self, path: &Path, shard: &Shard) {
        let samples = shard.len() as u64;
        if let Some(counts) = &self.facts.counts {
            match counts.get(shard.name()) {
                Some(count) if *count == samples => {}
                Some(count) => {
                    self.add(Kind::Metadata, "", format!("it has {samples} samples, and .nv-meta says {count}"))
                }
                None => self.add(Kind::Metadata, "", "it is not listed in .nv-meta, so Energon does not read it"),
            }
        }
        let Some(listed) = self.facts.listed.get(shard.name()) else {
            if !self.facts.listed.is_empty() {
                self.add(
                    Kind::Manifest,
                    "",
                    "it is not listed in manifest.json or pack.json: left over, or added later",
                );
            }
            return;
        };
        let bytes = stored_size(path).unwrap_or_default();
        // The file is read once for all who list it.
        let hash = if self.settings.hashes { Some(sha256(path)) } else { None };
        for one in listed {
            if one.samples != samples {
                self.add(Kind::Manifest, "", format!("it has {samples} samples, and {} says {}", one.by, one.samples));
            }
            if let Some(said) = one.bytes.filter(|said| *said != bytes) {
                self.add(Kind::Manifest, "", format!("it has {bytes} bytes, and {} says {said}", one.by));
            }
            match &hash {
                Some(Ok(hash)) if *hash != one.sha256 => {
                    self.add(Kind::Manifest, "", format!("its sha256 is {hash}, and {} says {}", one.by, one.sha256));
                }
                Some(Err(error)) => self.add(Kind::Unreadable, "", error.to_string()),
                _ => {}
            }
        }
    }

    /// One sample. It is given back if nothing is wrong with it so far.
    fn sample(&mut self, raw: RawSample, reader: &Reader<'_>, index: usize) -> Option<Record> {
        self.report.samples += 1;
        let (key, before) = (raw.key.clone(), self.report.total());
        for (part, bytes) in &raw.parts {
            self.part(&key, part, bytes);
        }
        if self.report.total() > before {
            return None;
        }
        let mut records = reader.take(raw, index).records;
        match records.pop() {
            Some(Ok(record)) => self.record(&key, record),
            Some(Err(reject)) => {
                self.reject(&key, &reject);
                None
            }
            None => None,
        }
    }

    /// One file of a sample.
    fn part(&mut self, key: &str, part: &str, bytes: &[u8]) {
        if is_json(part) {
            if bytes.len() > MOST_TEXT {
                return self.add(
                    Kind::Json,
                    key,
                    format!("part {part} has {} bytes; at most {MOST_TEXT} are read", bytes.len()),
                );
            }
            match serde_json::from_slice::<Value>(bytes) {
                Err(e) => self.add(Kind::Json, key, format!("part {part}: {e}")),
                Ok(Value::Object(_)) => {}
                Ok(Value::Array(turns)) if !turns.is_empty() && turns.iter().all(Value::is_object) => {}
                Ok(_) => {
                    let reason = format!("part {part} is neither an object nor a list of messages");
                    self.add(Kind::JsonType, key, reason);
                }
            }
        } else if is_picture_name(part) {
            self.picture(key, part, bytes);
        } else if part.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("txt"))
            && let Err(e) = std::str::from_utf8(bytes)
        {
            self.add(Kind::Utf8, key, format!("part {part}: {e}"));
        }
    }

    fn picture(&mut self, key: &str, part: &str, bytes: &[u8]) {
        self.report.images += 1;
        let read = header(bytes, self.settings.max_pixels).and_then(|_| {
            if self.settings.decode {
                self.report.decoded += 1;
                check(bytes, self.settings.max_pixels)?;
            }
            Ok(())
        });
        if let Err(e) = read {
            self.add(Kind::Image, key, format!("part {part}: {e}"));
        }
    }

    /// What a record says, whether it came alone or in a pack.
    fn record(&mut self, key: &str, record: Record) -> Option<Record> {
        if let Err((kind, reason)) = record::check(&record) {
            self.add(kind, key, reason);
            return None;
        }
        if record.media.is_empty() {
            let kind = if self.settings.require_images { Kind::MissingImage } else { Kind::TextOnly };
            self.add(kind, key, "it has no picture");
        }
        Some(record)
    }

    /// A record that could not be made, of parts that are right each for itself.
    fn reject(&mut self, key: &str, reject: &Reject) {
        // `record` names the field first where pictures that it lists are not there.
        let names = reject.reason.starts_with("field \"image");
        self.add(if names { Kind::MissingImage } else { Kind::Record }, key, reject.reason.clone());
    }

    /// Prompt and tokens.
    fn encode(&mut self, first: u64, records: Vec<Record>) -> Result<(), PrepError> {
        let Some(encoder) = self.encoder.as_deref_mut().filter(|_| !records.is_empty()) else { return Ok(()) };
        for outcome in encoder.run(first, records)? {
            self.outcome(outcome);
        }
        Ok(())
    }

    fn outcome(&mut self, outcome: Outcome) {
        let Outcome::Reject(reject) = outcome else { return };
        let kind = match reject.stage {
            "prompt" => Kind::Prompt,
            "length" => Kind::TooLong,
            _ => Kind::Encode,
        };
        self.add(kind, &reject.key, reject.reason);
    }
}

#[cfg(test)]
mod tests;
