//! Metadataset files of Energon: which prepared folders are mixed, and how.
//!
//! ```text
//!  MetadatasetV2.splits.PART = {path} | {blend: [{path, weight}]} | {blend_epochized: [{path, repetitions}]}
//!  Metadataset.splits.PART = {datasets: [{path, weight}]}
//!                       path = a prepared folder, or another metadataset file (its shares multiply)
//! ```
//! `join`, `aux` and other than plain shuffling are refused: reading without them would give other data than was asked
//! for. `subflavors` are labels for Python code and change nothing here.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{bad, load};
use crate::shards::ShardError;

/// A file may name another, and that a third one; a cycle is deeper than this.
const DEEPEST: usize = 16;

/// Most sources of a mix: a few files that name one another several times would be more than any memory holds.
const MOST_LEAVES: usize = 10_000;

/// How much of a mix a source is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// It is the only one, or one of several that are simply read together.
    Whole,
    /// Of every sample drawn, this share is its own.
    Weight(f64),
    /// Each of its samples comes so many times an epoch.
    Repetitions(f64),
}

impl Share {
    /// This share of a source that is itself a share of a mix.
    ///
    /// # Errors
    /// One is by weight and the other by repetitions.
    pub fn of(self, outer: Share) -> Result<Share, &'static str> {
        use Share::{Repetitions, Weight, Whole};
        Ok(match (self, outer) {
            (Whole, share) | (share, Whole) => share,
            (Weight(a), Weight(b)) => Weight(a * b),
            (Repetitions(a), Repetitions(b)) => Repetitions(a * b),
            _ => {
                return Err(
                    "it mixes by weight inside of a mix by repetitions, or the other way round; use one of the two",
                );
            }
        })
    }
}

/// A prepared folder that a metadataset leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// The folder.
    pub folder: PathBuf,
    /// Part of it.
    pub split_part: String,
    /// Another file than `split.yaml`.
    pub split_config: Option<String>,
    /// Another file than `dataset.yaml`.
    pub dataset_config: Option<String>,
    /// Which of its samples: a range of numbers, then a range of what that leaves, as shares of it (0 to 1).
    pub subset: Subset,
    /// Its share.
    pub share: Share,
}

/// A range of the samples of a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Subset {
    absolute: Option<(u64, Option<u64>)>,
    relative: (f64, f64),
}

impl Default for Subset {
    fn default() -> Self {
        Subset { absolute: None, relative: (0.0, 1.0) }
    }
}

impl Subset {
    /// The numbers of the samples, out of `total`.
    ///
    /// # Errors
    /// The range goes beyond them.
    pub fn range(&self, total: u64) -> Result<std::ops::Range<u64>, String> {
        let (from, to) = match self.absolute {
            None => (0, total),
            Some((from, to)) => (from, to.unwrap_or(total)),
        };
        if to > total || from > to {
            return Err(format!("subset [{from}, {to}] does not lie within its {total} samples"));
        }
        let of = |share: f64| from + ((to - from) as f64 * share) as u64;
        Ok(of(self.relative.0)..of(self.relative.1).min(to))
    }

    fn parse(value: &Value) -> Result<Subset, String> {
        let range = value.get("range").and_then(Value::as_array).filter(|r| r.len() == 2);
        let advice = || {
            format!(
                "subset is {value}; it must be {{range: [25%, 75%]}} or {{range: [100, 200]}}, the second of which may be end"
            )
        };
        let range = range.ok_or_else(advice)?;
        let end = |v: &Value| v.as_str().is_some_and(|t| t.trim() == "end");
        if let Some(from) = range[0].as_u64() {
            let to = if end(&range[1]) { None } else { Some(range[1].as_u64().ok_or_else(advice)?) };
            return Ok(Subset { absolute: Some((from, to)), relative: (0.0, 1.0) });
        }
        let percent = |v: &Value| {
            let share = v.as_str().and_then(|t| t.trim().strip_suffix('%')).and_then(|t| t.trim().parse::<f64>().ok());
            share.filter(|p| (0.0..=100.0).contains(p)).map(|p| p / 100.0).ok_or_else(advice)
        };
        let relative = (percent(&range[0])?, percent(&range[1])?);
        if relative.0 > relative.1 { Err(advice()) } else { Ok(Subset { absolute: None, relative }) }
    }

    /// This range of what an outer range is a range of.
    fn within(self, outer: Subset) -> Result<Subset, String> {
        if outer.absolute.is_some() {
            return Err(
                "a subset of numbers can only be that of a single data set; give a mix a subset in percent".into()
            );
        }
        let width = self.relative.1 - self.relative.0;
        let of = |share: f64| self.relative.0 + share * width;
        Ok(Subset { relative: (of(outer.relative.0), of(outer.relative.1)), ..self })
    }
}

/// A reference as files write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    path: Option<String>,
    weight: Option<f64>,
    repetitions: Option<f64>,
    split_part: Option<String>,
    split_config: Option<String>,
    dataset_config: Option<String>,
    subset: Option<Value>,
    #[serde(default)]
    shuffle_over_epochs_multiplier: Option<Value>,
    subflavor: Option<Value>,
    subflavors: Option<Value>,
    aux: Option<Value>,
    join: Option<Value>,
    joiner: Option<Value>,
    nonmatch: Option<Value>,
}

/// Whether a path is taken for a metadataset file.
pub fn is_metadataset(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml") && path.is_file()
}

/// The prepared folders that part `split_part` of the metadataset `path` mixes, in its order.
///
/// # Errors
/// A file that is no metadataset, and what it says that cannot be done here.
pub fn metadataset(path: &Path, split_part: &str) -> Result<Vec<Leaf>, ShardError> {
    let mut leaves = Vec::new();
    let outer = Outer { split_part: split_part.to_owned(), subset: Subset::default(), share: Share::Whole };
    file(path, &outer, 0, &mut leaves)?;
    Ok(leaves)
}

/// What the references above say.
struct Outer {
    split_part: String,
    subset: Subset,
    share: Share,
}

fn file(path: &Path, outer: &Outer, depth: usize, leaves: &mut Vec<Leaf>) -> Result<(), ShardError> {
    if depth > DEEPEST {
        return Err(bad(
            path,
            format!("metadatasets name one another more than {DEEPEST} files deep; is there a cycle?"),
        ));
    }
    let fail = |reason: String| bad(path, reason);
    let config = load(path)?;
    let class = config["__class__"].as_str().unwrap_or("Metadataset");
    if config["__module__"].as_str().is_some_and(|m| m != "megatron.energon")
        || !["Metadataset", "MetadatasetV2"].contains(&class)
    {
        return Err(fail(format!(
            "its class is {}.{class}; only megatron.energon's Metadataset and MetadatasetV2 are read",
            config["__module__"].as_str().unwrap_or_default()
        )));
    }
    let Some(splits) = config["splits"].as_object() else {
        return Err(fail("it has no splits; it must be a metadataset of Energon's".into()));
    };
    let part = &outer.split_part;
    let Some(split) = splits.get(part) else {
        let parts: Vec<&str> = splits.keys().map(String::as_str).collect();
        return Err(fail(format!("it has no split \"{part}\"; it has {}", parts.join(", "))));
    };
    let place = format!("splits.{part}");
    let list = |key: &str| {
        split.get(key).map(|list| list.as_array().ok_or_else(|| fail(format!("{place}.{key} must be a list"))))
    };
    if class == "Metadataset" {
        let list = list("datasets").ok_or_else(|| fail(format!("{place} has no datasets")))??;
        return mix(path, &place, list, Share::Weight, outer, depth, leaves);
    }
    let known = ["path", "blend", "blend_epochized"];
    let kinds: Vec<&str> = known.into_iter().filter(|key| split.get(key).is_some()).collect();
    match kinds[..] {
        ["path"] => {
            let reference = parse(split, &place).map_err(fail)?;
            follow(path, &place, reference, Share::Whole, outer, depth, leaves)
        }
        [kind] => {
            let subset =
                split.get("subset").map(Subset::parse).transpose().map_err(|e| fail(format!("{place}: {e}")))?;
            if let Some(key) =
                split.as_object().into_iter().flat_map(|m| m.keys()).find(|k| *k != kind && *k != "subset")
            {
                return Err(fail(format!("{place}.{key} is not known")));
            }
            let subset = subset
                .map_or(Ok(outer.subset), |s| s.within(outer.subset))
                .map_err(|e| fail(format!("{place}: {e}")))?;
            let outer = Outer { split_part: part.clone(), subset, share: outer.share };
            let list = list(kind).ok_or_else(|| fail(format!("{place} is empty")))??;
            let share = if kind == "blend" { Share::Weight } else { Share::Repetitions };
            mix(path, &place, list, share, &outer, depth, leaves)
        }
        _ if split.get("join").is_some() => Err(fail(format!("{place}.join: {NO_JOIN}"))),
        _ => Err(fail(format!("{place} must have one of path, blend and blend_epochized"))),
    }
}

const NO_JOIN: &str = "joins are not supported; join the data sets into shards of their own first";

/// The entries of a list, whose shares are `share` of their weights or repetitions.
fn mix(
    path: &Path,
    place: &str,
    list: &[Value],
    share: fn(f64) -> Share,
    outer: &Outer,
    depth: usize,
    leaves: &mut Vec<Leaf>,
) -> Result<(), ShardError> {
    let by_weight = matches!(share(1.0), Share::Weight(_));
    let (key, other) = if by_weight { ("weight", "repetitions") } else { ("repetitions", "weight") };
    let mut entries = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let reference = parse(value, &place).map_err(|e| bad(path, e))?;
        let (mine, theirs) = if by_weight {
            (reference.weight, reference.repetitions)
        } else {
            (reference.repetitions, reference.weight)
        };
        if theirs.is_some() {
            return Err(bad(path, format!("{place} has {other}; entries of this list have {key}")));
        }
        let number = mine.unwrap_or(1.0);
        if !(number.is_finite() && number > 0.0) {
            return Err(bad(path, format!("{place}.{key} is {number}; it must be above 0")));
        }
        entries.push((place, reference, number));
    }
    // Weights count within their own list, whatever their sum.
    let sum: f64 = if by_weight { entries.iter().map(|e| e.2).sum() } else { 1.0 };
    for (place, reference, number) in entries {
        follow(path, &place, reference, share(number / sum), outer, depth, leaves)?;
    }
    Ok(())
}

fn parse(value: &Value, place: &str) -> Result<Reference, String> {
    let reference = Reference::deserialize(value).map_err(|e| format!("{place}: {e}"))?;
    if reference.join.is_some() || reference.joiner.is_some() || reference.nonmatch.is_some() {
        return Err(format!("{place}.join: {NO_JOIN}"));
    }
    if reference.aux.is_some() {
        return Err(format!(
            "{place}.aux: auxiliary data sets are for Python cookers and are not supported; put what they hold into the shards"
        ));
    }
    // Null means unshuffled, -1 with replacement, 2 two epochs at once: other data, or another order, than is read here.
    if let Some(value) = reference.shuffle_over_epochs_multiplier.as_ref().filter(|v| v.as_i64() != Some(1)) {
        return Err(format!(
            "{place}.shuffle_over_epochs_multiplier is {value}; only 1 is supported (data.shuffle_buffer = 0 reads in order)"
        ));
    }
    if reference.subflavor.is_some() || reference.subflavors.is_some() {
        tracing::debug!("{place}: subflavors are labels for Python code; they change nothing here");
    }
    Ok(reference)
}

fn follow(
    path: &Path,
    place: &str,
    reference: Reference,
    share: Share,
    outer: &Outer,
    depth: usize,
    leaves: &mut Vec<Leaf>,
) -> Result<(), ShardError> {
    let fail = |reason: &str| bad(path, format!("{place}: {reason}"));
    let name = reference.path.ok_or_else(|| fail("it has no path"))?;
    let target = path.parent().unwrap_or(Path::new("")).join(&name);
    let own = reference.subset.as_ref().map(Subset::parse).transpose().map_err(|e| fail(&e))?;
    let subset = own.map_or(Ok(outer.subset), |s| s.within(outer.subset)).map_err(|e| fail(&e))?;
    let share = share.of(outer.share).map_err(fail)?;
    let split_part = reference.split_part.unwrap_or_else(|| outer.split_part.clone());
    if target.is_file() && target.extension().is_some_and(|e| e == "jsonl") {
        return Err(fail("JSONL data sets are not read as they are; turn them into shards with `ovhost data convert`"));
    }
    if target.is_file() {
        if reference.split_config.is_some() || reference.dataset_config.is_some() {
            return Err(fail("split_config and dataset_config belong to prepared folders, not to another metadataset"));
        }
        return file(&target, &Outer { split_part, subset, share }, depth + 1, leaves);
    }
    if !target.is_dir() {
        return Err(fail(&format!("{} does not exist; paths are relative to this file", target.display())));
    }
    let (split_config, dataset_config) = (reference.split_config, reference.dataset_config);
    if leaves.len() >= MOST_LEAVES {
        return Err(fail(&format!("the mix has more than {MOST_LEAVES} sources")));
    }
    leaves.push(Leaf { folder: target, split_part, split_config, dataset_config, subset, share });
    Ok(())
}
