//! Where samples come from: shards on disk, single samples or packs.

use crate::DataError;
use crate::packed::{Head, Layout, Pack, layout_of, parse};
use crate::record::{Record, RecordOptions, Reject};
use crate::shards::{Shard, allow_many_files};

/// Where samples come from. Reading needs no order and happens on several threads.
pub trait SampleSource: Send + Sync {
    /// Name and number of samples of each shard, in a fixed order.
    fn shards(&self) -> Vec<(String, u64)>;
    /// Sample `index` of shard `shard`; whatever is wrong with it is a reject.
    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject>;
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
    shards: Vec<Shard>,
    options: RecordOptions,
    packed: bool,
    heads: Vec<(String, Head)>,
}

impl ShardSource {
    /// Opens and indexes `paths`. `max_pixels` bounds the header size of a picture. Every shard stays open: the
    /// process's bound on open files is raised as far as it goes.
    pub fn open(paths: &[std::path::PathBuf], max_pixels: u64) -> Result<Self, DataError> {
        allow_many_files();
        let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>, _>>()?;
        for shard in shards.iter().filter(|s| s.unnamed() > 0) {
            tracing::warn!(
                "{}: {} members belong to no sample (no dot in the name, or a reserved name __x__) and are not read",
                shard.path().display(),
                shard.unnamed()
            );
        }
        let (mut heads, mut plain, mut packed) = (Vec::new(), None, None);
        for shard in shards.iter().filter(|s| !s.is_empty()) {
            let (layout, head) = layout_of(shard)?;
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
        Ok(Self { shards, options: RecordOptions { max_pixels }, packed, heads })
    }

    fn shard(&self, shard: u32) -> Result<&Shard, Reject> {
        self.shards.get(shard as usize).ok_or_else(|| Reject {
            key: String::new(),
            shard: String::new(),
            stage: "read",
            reason: format!("there is no shard {shard}, only {}", self.shards.len()),
        })
    }
}

impl SampleSource for ShardSource {
    fn shards(&self) -> Vec<(String, u64)> {
        self.shards.iter().map(|s| (s.name().to_string(), s.len() as u64)).collect()
    }

    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject> {
        self.shard(shard)?.record(index as usize, &self.options)
    }

    fn packed(&self) -> bool {
        self.packed
    }

    fn heads(&self) -> Vec<(String, Head)> {
        self.heads.clone()
    }

    fn pack(&self, shard: u32, index: u64) -> Result<Pack, Reject> {
        let shard = self.shard(shard)?;
        match shard.read(index as usize) {
            Ok(raw) => parse(raw, shard.name(), &self.options),
            Err(error) => Err(shard.reject(index as usize, error)),
        }
    }
}
