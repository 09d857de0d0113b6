//! What a recipe names as training data → sources with their shards and their shares of the mix.
//!
//! ```text
//!  data.train = shards, folders, prepared folders, one metadataset ─┐
//!  [[data.blend]] path, weight | repetitions ───────────────────────┴─► Blend ─► ShardSource ─► Loader
//! ```
//! A folder with Energon's `.nv-meta` stands for a part of it (`data.split_part`), any other folder for its `*.tar`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ovhost_store::{is_remote, local_path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::loader::{DataConfig, OneOrMany};
use crate::shards::energon::{self, FieldMap, Share};
use crate::shards::{expand, is_shard_name};

/// One entry of `[[data.blend]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlendEntry {
    /// Shards, folders, or one metadataset file, as in data.train.
    pub path: OneOrMany,
    /// Share of the samples, relative to the other entries' weights. Sources that end begin again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How often each sample of it comes in an epoch; 1.5 is once and for every other sample twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetitions: Option<f64>,
    /// Part of prepared folders and metadatasets that is read, where it is not data.split_part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_part: Option<String>,
}

/// How sources are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixing {
    /// Each draws its share for ever; one that ends begins again.
    Weights,
    /// An epoch holds each source a number of times.
    Repetitions,
}

/// A shard of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceShard {
    /// The tar file.
    pub path: PathBuf,
    /// Samples that metadata says it has.
    pub samples: Option<u64>,
    /// Numbers of the samples that are used.
    pub range: Range<u64>,
    /// Keys of samples that are left out.
    pub exclude: BTreeSet<String>,
    /// How its records are made of parts.
    pub fields: Option<Arc<FieldMap>>,
}

/// A source of a mix.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendSource {
    /// What the user wrote, for messages.
    pub name: String,
    /// Its shards in order.
    pub shards: Vec<SourceShard>,
    /// Its weight or its repetitions.
    pub share: f64,
}

/// Training data.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// How the sources are mixed. Of a single one it makes no difference but for its repetitions.
    pub mixing: Mixing,
    /// The sources.
    pub sources: Vec<BlendSource>,
}

impl SourceShard {
    /// All of a tar file.
    pub fn whole(path: PathBuf) -> Self {
        SourceShard { path, samples: None, range: 0..u64::MAX, exclude: BTreeSet::new(), fields: None }
    }
}

impl Blend {
    /// The shards `paths` as they are.
    pub fn of_paths(paths: &[PathBuf]) -> Self {
        let shards = paths.iter().cloned().map(SourceShard::whole).collect();
        Blend {
            mixing: Mixing::Repetitions,
            sources: vec![BlendSource { name: "the shards".into(), shards, share: 1.0 }],
        }
    }

    /// What the recipe's `[data]` names; `base` is where relative paths start.
    ///
    /// # Errors
    /// Nothing or too much is named, shares that do not go together, shards or metadata that are not there or wrong.
    pub fn of_config(config: &DataConfig, base: &Path) -> Result<Self, DataError> {
        let train = config.train.list();
        let split_part = config.split_part.as_deref().unwrap_or("train");
        if config.blend.is_empty() {
            return mix(sources(&train, "data.train", split_part, Share::Whole, base)?);
        }
        if !train.is_empty() {
            return Err(DataError::Config(
                "both data.train and [[data.blend]] name training data; keep one of them".into(),
            ));
        }
        let mut all = Vec::new();
        for (i, entry) in config.blend.iter().enumerate() {
            let place = format!("data.blend[{i}]");
            let share = match (entry.weight, entry.repetitions) {
                (Some(_), Some(_)) => {
                    return Err(DataError::Config(format!(
                        "{place} has a weight and repetitions; give it one of the two"
                    )));
                }
                (Some(weight), None) => Share::Weight(weight),
                (None, repetitions) => Share::Repetitions(repetitions.unwrap_or(1.0)),
            };
            let split_part = entry.split_part.as_deref().unwrap_or(split_part);
            all.extend(sources(&entry.path.list(), &place, split_part, share, base)?);
        }
        mix(all)
    }

    /// The shards as plain paths, for steps that read every sample of them once and in order.
    ///
    /// # Errors
    /// There is more to say about them: several sources, samples that are left out, fields that are mapped.
    pub fn plain_paths(&self) -> Result<Vec<PathBuf>, DataError> {
        let refuse = |what: &str| {
            Err(DataError::Config(format!(
                "the recipe's data {what}, which this step does not do; name its shards with --input"
            )))
        };
        let [source] = self.sources.as_slice() else { return refuse("is a mix of several sources") };
        if source.share != 1.0 {
            return refuse("is repeated");
        }
        for shard in &source.shards {
            let all = shard.range.start == 0 && shard.samples.is_none_or(|n| shard.range.end >= n);
            if !all || !shard.exclude.is_empty() {
                return refuse("leaves samples of a shard out");
            }
            if shard.fields.is_some() {
                return refuse("maps fields (field_map of dataset.yaml)");
            }
        }
        Ok(source.shards.iter().map(|s| s.path.clone()).collect())
    }
}

fn mix(leaves: Vec<(Share, BlendSource)>) -> Result<Blend, DataError> {
    let weights = leaves.iter().any(|(share, _)| matches!(share, Share::Weight(_)));
    let (mut sources, mut odd) = (Vec::with_capacity(leaves.len()), None);
    let single = leaves.len() == 1;
    for (share, mut source) in leaves {
        source.share = match share {
            // A weight without another to compare it with says nothing.
            Share::Weight(_) if single => 1.0,
            Share::Weight(share) => share,
            Share::Repetitions(share) if !weights => share,
            Share::Whole if !weights => 1.0,
            Share::Repetitions(_) | Share::Whole => {
                odd.get_or_insert(source.name.clone());
                1.0
            }
        };
        let key = if weights { "weight" } else { "repetitions" };
        if !(source.share.is_finite() && source.share > 0.0) {
            return Err(DataError::Config(format!(
                "the {key} of {} is {}; it must be above 0",
                source.name, source.share
            )));
        }
        sources.push(source);
    }
    if let Some(name) = odd {
        return Err(DataError::Config(format!(
            "{name} has no weight, and others have; give each a weight (sources begin again when they end) or each \
             repetitions (an epoch ends when all have been read so often)"
        )));
    }
    let mixing = if weights && !single { Mixing::Weights } else { Mixing::Repetitions };
    Ok(Blend { mixing, sources })
}

/// The sources that a list of names leads to: one, unless the list is one metadataset.
fn sources(
    names: &[String],
    place: &str,
    split_part: &str,
    share: Share,
    base: &Path,
) -> Result<Vec<(Share, BlendSource)>, DataError> {
    if let [one] = names
        && energon::is_metadataset(&base.join(one))
    {
        let path = base.join(one);
        let mut all = Vec::new();
        for leaf in energon::metadataset(&path, split_part)? {
            let share = leaf.share.of(share).map_err(|why| DataError::Config(format!("{place}: {one}: {why}")))?;
            let shards =
                prepared(&leaf.folder, &leaf.split_part, leaf.split_config.as_deref(), leaf.dataset_config.as_deref())?;
            let shards = subset(shards, &leaf, one)?;
            let name = format!("{} ({one})", leaf.folder.display());
            all.push((share, BlendSource { name, shards, share: 1.0 }));
        }
        return Ok(all);
    }
    let mut shards = Vec::new();
    let mut plain = Vec::new();
    for name in names {
        let path = local_path(name).map_or_else(|| PathBuf::from(name), |path| base.join(path));
        if energon::is_metadataset(&path) {
            return Err(DataError::Config(format!(
                "{place} names the metadataset {name} beside other data; name it alone, or in an entry of its own in [[data.blend]]"
            )));
        }
        let folder = path.is_dir() || (is_remote(name) && !is_shard_name(name) && !name.contains('{'));
        if folder && energon::is_prepared(&path) {
            plain_shards(&mut shards, &mut plain, base)?;
            shards.extend(prepared(&path, split_part, None, None)?);
        } else {
            plain.push(name.clone());
        }
    }
    // Together, so that a shard that is named twice is noticed; and with no name at all, for what that says.
    if !plain.is_empty() || shards.is_empty() {
        plain_shards(&mut shards, &mut plain, base)?;
        if shards.is_empty() {
            expand(&plain, base)?;
        }
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = shards.iter().find(|s| !seen.insert(&s.path)) {
        return Err(DataError::Config(format!(
            "{place} names {} twice; its samples would be read twice",
            twice.path.display()
        )));
    }
    Ok(vec![(share, BlendSource { name: format!("{place} ({})", names.join(", ")), shards, share: 1.0 })])
}

fn plain_shards(shards: &mut Vec<SourceShard>, plain: &mut Vec<String>, base: &Path) -> Result<(), DataError> {
    if !plain.is_empty() {
        shards.extend(expand(plain, base)?.into_iter().map(SourceShard::whole));
        plain.clear();
    }
    Ok(())
}

fn prepared(
    folder: &Path,
    split_part: &str,
    split_config: Option<&str>,
    dataset_config: Option<&str>,
) -> Result<Vec<SourceShard>, DataError> {
    let part = energon::read_part(folder, split_part, split_config, dataset_config)?;
    let fields = part.fields.map(Arc::new);
    let shard = |s: energon::PartShard| SourceShard {
        path: s.path,
        samples: Some(s.samples),
        range: 0..s.samples,
        exclude: s.exclude,
        fields: fields.clone(),
    };
    Ok(part.shards.into_iter().map(shard).collect())
}

/// Cuts the samples of a part, one shard after the other, down to a leaf's subset.
fn subset(shards: Vec<SourceShard>, leaf: &energon::Leaf, file: &str) -> Result<Vec<SourceShard>, DataError> {
    let total = shards.iter().map(|s| s.samples.unwrap_or(0)).sum();
    let range = leaf
        .subset
        .range(total)
        .map_err(|why| DataError::Config(format!("{file}: {}: {why}", leaf.folder.display())))?;
    let mut first = 0;
    let mut kept = Vec::with_capacity(shards.len());
    for shard in shards {
        let samples = shard.samples.unwrap_or(0);
        let (from, to) =
            (range.start.clamp(first, first + samples) - first, range.end.clamp(first, first + samples) - first);
        first += samples;
        if from < to {
            kept.push(SourceShard { range: from..to, ..shard });
        }
    }
    Ok(kept)
}
