//! Writing `.nv-meta`, so that Energon (5 and later) reads shards without a preparing step.
//!
//! Files: `.info.json` and `.info.yaml` (samples a shard), `split.yaml` (which shards train, validate, test),
//! `dataset.yaml` (a raw data set: every sample keeps its parts). The YAML files hold JSON, which is YAML too.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{FOLDER, bad};
use crate::shards::{ShardError, WrittenShard, expand_braces, io_error};

const SPLITS: [&str; 3] = ["train", "val", "test"];

/// For which Energon the counts of samples are written. Version 7 reads both files, its own first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EnergonVersion {
    /// `.info.yaml` and `.info.json`.
    #[default]
    Both,
    /// `.info.yaml` only.
    V5,
    /// `.info.json` only.
    V7,
}

/// Refuses a split that Energon does not know.
pub fn check_split(split: &str) -> Result<(), ShardError> {
    if SPLITS.contains(&split) {
        return Ok(());
    }
    let reason = format!("split \"{split}\" is unknown; it must be train, val or test");
    Err(ShardError::Metadata { path: FOLDER.into(), reason })
}

/// Records `shards` (all in `folder`) as the split `split` ("train", "val" or "test"), for every version. Other splits
/// that are recorded in the same folder stay; this split is replaced.
///
/// # Errors
/// An unknown split, or metadata in the folder that cannot be read.
pub fn write_nv_meta(folder: &Path, split: &str, shards: &[WrittenShard]) -> Result<(), ShardError> {
    let counts: Vec<(String, u64)> = shards.iter().map(|s| (file_name(&s.path), s.samples)).collect();
    write_nv_meta_for(EnergonVersion::Both, folder, split, &counts)
}

/// As [`write_nv_meta`] for one version; `shards` are names relative to `folder`, with their samples.
///
/// # Errors
/// As [`write_nv_meta`].
pub fn write_nv_meta_for(
    version: EnergonVersion,
    folder: &Path,
    split: &str,
    shards: &[(String, u64)],
) -> Result<(), ShardError> {
    let meta = folder.join(FOLDER);
    check_split(split)?;
    fs::create_dir_all(&meta).map_err(io_error(&meta, "make the folder"))?;
    let mut parts: Map<String, Value> = Map::new();
    let mut counts: Map<String, Value> = Map::new();
    let old_split = ours(&meta.join("split.yaml"))?;
    let old_counts = match ours(&meta.join(".info.json"))? {
        Value::Null => ours(&meta.join(".info.yaml"))?,
        counts => counts,
    };
    let old_parts = old_split["split_parts"].as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    for name in SPLITS.into_iter().chain(old_parts.filter(|name| !SPLITS.contains(name))) {
        let list = if name == split {
            shards.iter().map(|(name, samples)| (name.clone(), json!(samples))).collect::<Vec<_>>()
        } else {
            // Shards that were replaced or removed since then are no longer that split's.
            let old = old_split["split_parts"][name].as_array().into_iter().flatten().filter_map(Value::as_str);
            let old = old.map(expand_braces).collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
            old.filter(|old| folder.join(old).is_file() && !shards.iter().any(|(name, _)| name == old))
                .filter_map(|old| {
                    let count = old_counts["shard_counts"].get(&old)?.clone();
                    Some((old, count))
                })
                .collect()
        };
        parts.insert(name.into(), list.iter().map(|(shard, _)| Value::from(shard.as_str())).collect());
        counts.extend(list);
    }
    // What somebody left out by hand stays left out.
    let exclude = match &old_split["exclude"] {
        Value::Null => json!([]),
        Value::Array(list) => list.clone().into(),
        other => return Err(bad(&meta.join("split.yaml"), format!("exclude is {other}; it must be a list"))),
    };
    let info = json!({"energon_version": concat!("ovhost-", env!("CARGO_PKG_VERSION")), "shard_counts": counts});
    let info5 = json!({"shard_counts": info["shard_counts"]});
    let dataset = json!({"__module__": "megatron.energon", "__class__": "CrudeWebdataset"});
    for (name, value, wanted) in
        [(".info.json", &info, version != EnergonVersion::V5), (".info.yaml", &info5, version != EnergonVersion::V7)]
    {
        let path = meta.join(name);
        // A file of the other version that is there already must not contradict this one.
        if wanted || path.exists() {
            store(&path, value)?;
        }
    }
    store(&meta.join("split.yaml"), &json!({"split_parts": parts, "exclude": exclude}))?;
    let dataset_path = meta.join("dataset.yaml");
    // Somebody may have described the samples more closely by hand.
    if !dataset_path.exists() {
        store(&dataset_path, &dataset)?;
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A file that this program wrote, as a value; null where there is none.
fn ours(path: &Path) -> Result<Value, ShardError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = fs::read_to_string(path).map_err(io_error(path, "read"))?;
    serde_json::from_str(&text).map_err(|error| {
        let reason = format!("was not written by this program ({error}) and will not be overwritten");
        bad(path, format!("{reason}; move it away or choose another output folder"))
    })
}

fn store(path: &Path, value: &Value) -> Result<(), ShardError> {
    let temporary = path.with_extension("tmp");
    let text = format!("{value:#}\n");
    fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(io_error(&temporary, "write"))?;
    fs::rename(&temporary, path).map_err(io_error(path, "put in place"))
}
