//! One part (`train`, `val`, `test`) of a prepared folder: its shards in order, their counts, what is left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{FOLDER, FieldMap, bad, load};
use crate::shards::places::is_file;
use crate::shards::{ShardError, expand_braces};

/// A part of a prepared data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Shards in the order of the split.
    pub shards: Vec<PartShard>,
    /// How records are made of parts; none: by what the parts are.
    pub fields: Option<FieldMap>,
}

/// A shard of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartShard {
    /// The tar file.
    pub path: PathBuf,
    /// Samples that the metadata says it has, those left out included.
    pub samples: u64,
    /// Keys of samples that are left out.
    pub exclude: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Split {
    split_parts: Map<String, Value>,
    #[serde(default)]
    exclude: Option<Vec<String>>,
}

/// Whether the folder has metadata of Energon's.
pub fn is_prepared(folder: &Path) -> bool {
    let meta = folder.join(FOLDER);
    is_file(&meta.join(".info.json")) || is_file(&meta.join(".info.yaml"))
}

/// Reads part `split_part` of the prepared folder `folder`. `split_config` and `dataset_config` name other files than
/// `split.yaml` (or `split.json`) and `dataset.yaml` in its `.nv-meta`.
///
/// # Errors
/// Metadata that is missing, contradicts itself, or has no such part.
pub fn read_part(
    folder: &Path,
    split_part: &str,
    split_config: Option<&str>,
    dataset_config: Option<&str>,
) -> Result<Part, ShardError> {
    let meta = folder.join(FOLDER);
    let (info_path, counts) = counts(&meta)?;
    let split_path = match split_config {
        Some(name) => meta.join(name),
        None if !is_file(&meta.join("split.yaml")) && is_file(&meta.join("split.json")) => meta.join("split.json"),
        None => meta.join("split.yaml"),
    };
    let split = match load(&split_path)? {
        Value::Null => Err(bad(
            &split_path,
            "it does not exist or is empty; make it with `ovhost data index`, or with `energon prepare`",
        )),
        value => Split::deserialize(value)
            .map_err(|e| bad(&split_path, format!("it must hold split_parts and exclude: {e}"))),
    }?;
    let Some(listed) = split.split_parts.get(split_part) else {
        let parts: Vec<&str> = split.split_parts.keys().map(String::as_str).collect();
        return Err(bad(&split_path, format!("it has no part \"{split_part}\"; it has {}", parts.join(", "))));
    };
    let listed = Vec::<String>::deserialize(listed)
        .map_err(|e| bad(&split_path, format!("part {split_part} must be a list of shards: {e}")))?;
    let exclude: BTreeSet<String> = expand_all(&split.exclude.unwrap_or_default(), &split_path)?.into_iter().collect();
    let mut shards = Vec::new();
    let mut seen = BTreeSet::new();
    let mut used = BTreeSet::new();
    for name in expand_all(&listed, &split_path)? {
        let Some(samples) = counts.get(&name) else {
            return Err(bad(
                &split_path,
                format!(
                    "part {split_part} lists {name}, but {} has no count of it; prepare the data set again",
                    info_path.display()
                ),
            ));
        };
        let samples = samples
            .as_u64()
            .ok_or_else(|| bad(&info_path, format!("the count of {name} is {samples}; it must be a whole number")))?;
        if !seen.insert(name.clone()) {
            return Err(bad(
                &split_path,
                format!("part {split_part} lists {name} twice; its samples would be read twice"),
            ));
        }
        if exclude.contains(&name) {
            used.insert(name);
            continue;
        }
        let prefix = format!("{name}/");
        let of_shard = exclude.range(prefix.clone()..).map_while(|e| e.strip_prefix(&prefix).map(|key| (e, key)));
        let keys = of_shard.map(|(entry, key)| {
            used.insert(entry.clone());
            key.to_owned()
        });
        let exclude = keys.collect();
        shards.push(PartShard { path: folder.join(&name), samples, exclude });
    }
    if shards.is_empty() {
        let others: Vec<&str> = split
            .split_parts
            .iter()
            .filter(|(_, v)| v.as_array().is_some_and(|a| !a.is_empty()))
            .map(|(k, _)| k.as_str())
            .collect();
        let others = if others.is_empty() {
            "no other part has any either".to_owned()
        } else {
            format!("parts with shards: {}", others.join(", "))
        };
        return Err(bad(&split_path, format!("part {split_part} has no shards; {others}")));
    }
    // What is left out of another part is of no concern here; a name that is in no part is a slip.
    let known = |entry: &str| {
        counts.contains_key(entry) || entry.match_indices('/').any(|(slash, _)| counts.contains_key(&entry[..slash]))
    };
    if let Some(entry) = exclude.iter().find(|e| !used.contains(*e) && !known(e)) {
        return Err(bad(
            &split_path,
            format!("exclude names \"{entry}\", which is no shard of this data set and no sample of one (SHARD/KEY)"),
        ));
    }
    warn_of_unlisted(folder, &counts);
    let dataset_path = meta.join(dataset_config.unwrap_or("dataset.yaml"));
    let fields = FieldMap::of(&load(&dataset_path)?, &dataset_path)?;
    Ok(Part { shards, fields })
}

/// Shards that were put into the folder after its metadata was made are not read; whoever did that should know.
fn warn_of_unlisted(folder: &Path, counts: &Map<String, Value>) {
    let names =
        std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut unlisted: Vec<String> = names.filter(|n| n.ends_with(".tar") && !counts.contains_key(n)).collect();
    unlisted.sort();
    if let Some(first) = unlisted.first() {
        tracing::warn!(
            "{}: {} shards are not in its metadata and not read, such as {first}; add them with `ovhost data index`, or name the \
             shards themselves",
            folder.display(),
            unlisted.len()
        );
    }
}

/// Samples of every shard, by its name, and the file that says so.
fn counts(meta: &Path) -> Result<(PathBuf, Map<String, Value>), ShardError> {
    // Version 7 looks in this order too.
    for name in [".info.json", ".info.yaml"] {
        let path = meta.join(name);
        match load(&path)? {
            Value::Null => {}
            Value::Object(mut info) => {
                return match info.remove("shard_counts") {
                    Some(Value::Object(counts)) => Ok((path, counts)),
                    _ => Err(bad(
                        &path,
                        "it has no shard_counts; make it again with `ovhost data index`, or with `energon prepare`",
                    )),
                };
            }
            _ => return Err(bad(&path, "it must hold shard_counts")),
        }
    }
    Err(bad(
        meta,
        "it has neither .info.json nor .info.yaml; make them with `ovhost data index`, or with `energon prepare`",
    ))
}

fn expand_all(names: &[String], place: &Path) -> Result<Vec<String>, ShardError> {
    let mut all = Vec::new();
    for name in names {
        all.extend(expand_braces(name).map_err(|e| bad(place, e.to_string()))?);
    }
    Ok(all)
}
