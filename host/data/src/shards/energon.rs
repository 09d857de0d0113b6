//! The `.nv-meta` folder beside shards, so that Megatron-Energon (5 and later) reads them without a preparing step.
//!
//! Files: `.info.json` and `.info.yaml` (samples a shard), `split.yaml` (which shards train, validate, test),
//! `dataset.yaml` (a raw data set: every sample keeps its parts). The YAML files hold JSON, which is YAML too.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ShardError, WrittenShard, io_error};

const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Refuses a split that Energon does not know.
pub fn check_split(split: &str) -> Result<(), ShardError> {
    if SPLITS.contains(&split) {
        return Ok(());
    }
    let reason = format!("split \"{split}\" is unknown; it must be train, val or test");
    Err(ShardError::Metadata { path: ".nv-meta".into(), reason })
}

/// Records `shards` (all in `folder`) as the split `split` ("train", "val" or "test"). Other splits that an earlier
/// call recorded in the same folder stay; this split is replaced.
pub fn write_nv_meta(folder: &Path, split: &str, shards: &[WrittenShard]) -> Result<(), ShardError> {
    let meta = folder.join(".nv-meta");
    check_split(split)?;
    fs::create_dir_all(&meta).map_err(io_error(&meta, "make the folder"))?;
    let mut parts: Map<String, Value> = Map::new();
    let mut counts: Map<String, Value> = Map::new();
    let old_split = load(&meta.join("split.yaml"))?;
    let old_counts = load(&meta.join(".info.json"))?;
    for name in SPLITS {
        let list = if name == split {
            shards.iter().map(|s| (file_name(&s.path), json!(s.samples))).collect::<Vec<_>>()
        } else {
            // Shards that were replaced or removed since then are no longer that split's.
            old_split["split_parts"][name]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .filter(|old| folder.join(old).is_file() && !shards.iter().any(|s| file_name(&s.path) == **old))
                .filter_map(|old| Some((old.to_owned(), old_counts["shard_counts"].get(old)?.clone())))
                .collect()
        };
        parts.insert(name.into(), list.iter().map(|(shard, _)| Value::from(shard.as_str())).collect());
        counts.extend(list);
    }
    let info = json!({"energon_version": concat!("ovhost-", env!("CARGO_PKG_VERSION")), "shard_counts": counts});
    let info5 = json!({"shard_counts": info["shard_counts"]});
    let dataset = json!({"__module__": "megatron.energon", "__class__": "CrudeWebdataset"});
    store(&meta.join(".info.json"), &info)?;
    store(&meta.join(".info.yaml"), &info5)?;
    store(&meta.join("split.yaml"), &json!({"split_parts": parts, "exclude": []}))?;
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

fn load(path: &Path) -> Result<Value, ShardError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = fs::read_to_string(path).map_err(io_error(path, "read"))?;
    serde_json::from_str(&text).map_err(|error| ShardError::Metadata {
        path: path.display().to_string(),
        reason: format!(
            "was not written by this program ({error}) and will not be overwritten; move it away or choose another output folder"
        ),
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
