//! Where samples come from: shards on disk or in object stores, single samples or packs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ovhost_store::{at_once, is_remote, try_at_once};

use super::Item;
use crate::DataError;
use crate::blend::{Blend, Mixing, SourceShard};
use crate::packed::{Head, Layout, Pack, layout_of, parse};
use crate::record::{Record, RecordOptions, Reject};
use crate::shards::energon::FieldMap;
use crate::shards::{IndexedShard, RawSample, ShardError, allow_many_files};

/// Which shards of a source belong together, and how they are mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// How.
    pub mixing: Mixing,
    /// The parts; their shards lie one after the other in [`SampleSource::shards`].
    pub parts: Vec<MixPart>,
}

/// Shards that are read as one.
#[derive(Debug, Clone, PartialEq)]
pub struct MixPart {
    /// For messages.
    pub name: String,
    /// Number of shards.
    pub shards: usize,
    /// Its weight or its repetitions.
    pub share: f64,
}

/// Where samples come from. Reading needs no order and happens on several threads.
pub trait SampleSource: Send + Sync {
    /// Name and number of samples of each shard, in a fixed order.
    fn shards(&self) -> Vec<(String, u64)>;
    /// Sample `index` of shard `shard`; whatever is wrong with it is a reject.
    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject>;
    /// Many of them, in the order of the items.
    fn records(&self, items: &[Item]) -> Vec<Result<Record, Reject>> {
        items.iter().map(|item| self.record(item.shard, item.index)).collect()
    }
    /// Why samples cannot be read any more, through no fault of theirs: the rejects since then are none, the run has to end.
    fn failure(&self) -> Option<String> {
        None
    }
    /// How the shards are mixed: all as one, unless said otherwise.
    fn mix(&self) -> Mix {
        let part = MixPart { name: "the shards".into(), shards: self.shards().len(), share: 1.0 };
        Mix { mixing: Mixing::Repetitions, parts: vec![part] }
    }
    /// Whether the samples are packs, to be read with [`Self::pack`].
    fn packed(&self) -> bool {
        false
    }
    /// Of packed shards that say what they were made for: the name of each, and what its first pack says.
    fn heads(&self) -> Vec<(String, Head)> {
        Vec::new()
    }
    /// Pack `index` of shard `shard`. What is wrong with one of its samples is that sample's.
    fn pack(&self, shard: u32, index: u64) -> Result<Pack, Reject> {
        let reason = format!("sample {index} of shard {shard} was asked for as a pack, but the source has none");
        Err(Reject { key: String::new(), shard: String::new(), stage: "read", reason })
    }
}

/// Tar shards as a source.
pub struct ShardSource {
    shards: Vec<Opened>,
    mix: Mix,
    options: RecordOptions,
    packed: bool,
    heads: Vec<(String, Head)>,
    /// Whether shards are in object stores: many samples are then asked for at the same time.
    remote: bool,
    /// The first failure of an object store.
    failure: OnceLock<String>,
}

struct Opened {
    shard: IndexedShard,
    fields: Option<Arc<FieldMap>>,
}

impl Opened {
    fn open(wanted: &SourceShard) -> Result<Self, DataError> {
        let mut shard = IndexedShard::open(&wanted.path)?;
        if shard.unnamed() > 0 {
            tracing::warn!(
                "{}: {} members belong to no sample (no dot in the name, or a reserved name __x__) and are not read",
                shard.path().display(),
                shard.unnamed()
            );
        }
        if let Some(samples) = wanted.samples.filter(|n| *n != shard.len() as u64) {
            return Err(DataError::Config(format!(
                "{} has {} samples, and the metadata of its data set says {samples}; one of them is of another time: make the \
                 metadata again with `ovhost data index`, or with `energon prepare`",
                wanted.path.display(),
                shard.len()
            )));
        }
        shard.choose(wanted.range.clone(), &wanted.exclude)?;
        Ok(Opened { shard, fields: wanted.fields.clone() })
    }
}

impl ShardSource {
    /// Opens `paths` as one source. `max_pixels` bounds the header size of a picture. Every shard stays open: the
    /// process's bound on open files is raised as far as it goes.
    ///
    /// # Errors
    /// A shard that cannot be read, packs beside single samples.
    pub fn open(paths: &[PathBuf], max_pixels: u64) -> Result<Self, DataError> {
        Self::open_blend(&Blend::of_paths(paths), max_pixels)
    }

    /// Opens the shards of a blend.
    ///
    /// # Errors
    /// As [`Self::open`], and shards whose number of samples is not that of their metadata.
    pub fn open_blend(blend: &Blend, max_pixels: u64) -> Result<Self, DataError> {
        allow_many_files();
        let wanted: Vec<&SourceShard> = blend.sources.iter().flat_map(|s| &s.shards).collect();
        let remote = wanted.iter().any(|shard| shard.path.to_str().is_some_and(is_remote));
        let mut shards = match remote {
            true => try_at_once(&wanted, |shard| Opened::open(shard))?,
            false => wanted.iter().map(|shard| Opened::open(shard)).collect::<Result<Vec<_>, _>>()?,
        };
        tell_apart(&mut shards);
        let (mut heads, mut plain, mut packed) = (Vec::new(), None, None);
        let filled: Vec<&IndexedShard> = shards.iter().map(|s| &s.shard).filter(|s| !s.is_empty()).collect();
        for (shard, layout) in filled.iter().zip(at_once(&filled, |shard| layout_of(*shard))) {
            let (layout, head) = layout?;
            heads.extend(head.map(|head| (shard.name().to_owned(), head)));
            let seen = if layout == Layout::Plain { &mut plain } else { &mut packed };
            seen.get_or_insert(shard.path());
        }
        if let (Some(plain), Some(packed)) = (plain, packed) {
            return Err(DataError::Config(format!(
                "{} holds packs and {} single samples; a run reads one or the other: pack all of the data, or none",
                packed.display(),
                plain.display()
            )));
        }
        let packed = packed.is_some();
        let parts =
            blend.sources.iter().map(|s| MixPart { name: s.name.clone(), shards: s.shards.len(), share: s.share });
        let mix = Mix { mixing: blend.mixing, parts: parts.collect() };
        Ok(Self { shards, mix, options: RecordOptions { max_pixels }, packed, heads, remote, failure: OnceLock::new() })
    }

    fn read(&self, shard: u32, index: u64) -> Result<(RawSample, &Opened), Reject> {
        let reject = |key, shard: &str, reason| Reject { key, shard: shard.to_owned(), stage: "read", reason };
        let Some(opened) = self.shards.get(shard as usize) else {
            return Err(reject(String::new(), "", format!("there is no shard {shard}, only {}", self.shards.len())));
        };
        let name = opened.shard.name();
        // The run ends anyway; the other samples need not wait for a store that does not answer.
        if let Some(reason) = self.failure() {
            return Err(reject(String::new(), name, reason));
        }
        let raw = opened.shard.read(index as usize).map_err(|error| match error {
            ShardError::Sample { key, reason, .. } => reject(key, name, reason),
            ShardError::Store(error) => {
                // Another thread may have been first.
                let _ = self.failure.set(error.to_string());
                reject(String::new(), name, error.to_string())
            }
            other => reject(String::new(), name, other.to_string()),
        })?;
        let Some(fields) = &opened.fields else { return Ok((raw, opened)) };
        let key = raw.key.clone();
        Ok((fields.apply(raw).map_err(|reason| reject(key, name, reason))?, opened))
    }
}

/// Shards of several folders often bear the same names; messages then say the folder too.
fn tell_apart(shards: &mut [Opened]) {
    let mut count: HashMap<String, usize> = HashMap::new();
    for opened in shards.iter() {
        *count.entry(opened.shard.name().to_owned()).or_default() += 1;
    }
    for Opened { shard, .. } in shards {
        let folder = shard.path().parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        if let Some(folder) = folder.filter(|_| count[shard.name()] > 1) {
            let name = format!("{folder}/{}", shard.name());
            shard.rename(name);
        }
    }
}

impl SampleSource for ShardSource {
    fn shards(&self) -> Vec<(String, u64)> {
        self.shards.iter().map(|s| (s.shard.name().to_string(), s.shard.len() as u64)).collect()
    }

    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject> {
        let (raw, opened) = self.read(shard, index)?;
        Record::build(raw, opened.shard.name(), index, &self.options)
    }

    fn records(&self, items: &[Item]) -> Vec<Result<Record, Reject>> {
        let record = |item: &Item| self.record(item.shard, item.index);
        if self.remote { at_once(items, record) } else { items.iter().map(record).collect() }
    }

    fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    fn mix(&self) -> Mix {
        self.mix.clone()
    }

    fn packed(&self) -> bool {
        self.packed
    }

    fn heads(&self) -> Vec<(String, Head)> {
        self.heads.clone()
    }

    fn pack(&self, shard: u32, index: u64) -> Result<Pack, Reject> {
        let (raw, opened) = self.read(shard, index)?;
        parse(raw, opened.shard.name(), &self.options)
    }
}
