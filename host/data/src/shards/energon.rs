//! The `.nv-meta` folder of Megatron-Energon beside shards, read and written.
//!
//! ```text
//!  .nv-meta/.info.json (7 and later) or .info.yaml (5)   samples a shard ─┐
//!  .nv-meta/split.yaml or split.json                     which shards, what is left out ─┼─► Part: shards, counts, FieldMap
//!  .nv-meta/dataset.yaml                                 what a sample's parts mean ─┘
//!  NAME.tar.idx                                          where samples begin (see `offsets.rs`)
//!  mix.yaml (Metadataset, MetadatasetV2)                 ─ metadataset.rs ─► Leaf: a part and its share of the mix
//! ```
//! `index.sqlite` and `index.uuid` of version 7 are neither read nor written: training needs neither of them. Only
//! Energon's joins and auxiliary data sets look samples up by key; what asks for those is refused with a message.

mod dataset;
mod metadataset;
mod read;
mod write;

use std::path::Path;

use serde_json::Value;

pub use dataset::FieldMap;
pub use metadataset::{Leaf, Share, is_metadataset, metadataset};
pub use read::{Part, PartShard, is_prepared, read_part};
pub use write::{EnergonVersion, check_split, write_nv_meta, write_nv_meta_for};

use super::{ShardError, places};

/// The folder beside the shards.
const FOLDER: &str = ".nv-meta";

/// A YAML or JSON file as a value; null where there is none.
///
/// # Errors
/// It cannot be read, or is not what its ending says.
pub fn load(path: &Path) -> Result<Value, ShardError> {
    let Some(text) = places::read_text(path)? else { return Ok(Value::Null) };
    let json = path.extension().is_some_and(|e| e == "json");
    let parsed = if json {
        serde_json::from_str(&text).map_err(|e| format!("it is not valid JSON: {e}"))
    } else {
        ovhost_yaml::parse(&text)
    };
    parsed.map_err(|reason| bad(path, reason))
}

fn bad(path: &Path, reason: impl Into<String>) -> ShardError {
    ShardError::Metadata { path: path.display().to_string(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
