//! What lies beside the shards and says something of them: Energon's metadata, manifests with sizes and hashes, `pack.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ovhost_data::shards::{ShardError, energon};
use serde_json::Value;

use super::report::{Kind, Report};

/// What a manifest says of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its size; `pack.json` does not tell.
    pub bytes: Option<u64>,
    /// Its hash, in hexadecimal.
    pub sha256: String,
    /// Samples in it; of packed shards, packs.
    pub samples: u64,
    /// The file that says so.
    pub by: &'static str,
}

/// A folder of shards, and what it says of them.
#[derive(Debug, Default)]
pub struct FolderFacts {
    /// The folder.
    pub path: PathBuf,
    /// By file name: samples, by Energon's metadata. None: there is none.
    pub counts: Option<BTreeMap<String, u64>>,
    /// By file name.
    pub listed: BTreeMap<String, Vec<Listed>>,
    /// The fingerprint that its packs must have.
    pub fingerprint: Option<String>,
}

/// A file's JSON or YAML; none where there is none.
fn load(path: &Path) -> Result<Option<Value>, String> {
    energon::load(path).map(|value| Some(value).filter(|v| !v.is_null())).map_err(|error| match error {
        ShardError::Metadata { reason, .. } => reason,
        other => other.to_string(),
    })
}

impl FolderFacts {
    /// Reads them. What is wrong with the files themselves is reported, and what they say of shards that are not there.
    pub fn read(path: &Path, most: usize, report: &mut Report) -> FolderFacts {
        let mut facts = FolderFacts { path: path.to_owned(), ..FolderFacts::default() };
        facts.metadata(most, report);
        facts.manifest(most, report);
        facts.pack_set(most, report);
        facts
    }

    fn missing<'a>(&self, names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
        names.filter(|name| !self.path.join(name).is_file()).collect()
    }

    fn metadata(&mut self, most: usize, report: &mut Report) {
        let meta = self.path.join(".nv-meta");
        let folder = self.path.display().to_string();
        if !meta.is_dir() {
            report.add(most, Kind::NoMetadata, &folder, "", "Energon cannot read it without a preparing step");
            return;
        }
        for name in [".info.json", ".info.yaml"] {
            let place = meta.join(name).display().to_string();
            let value = match load(&meta.join(name)) {
                Ok(Some(value)) => value,
                Ok(None) => continue,
                Err(reason) => {
                    report.add(most, Kind::Metadata, &place, "", reason);
                    continue;
                }
            };
            let Some(listed) = value.get("shard_counts").and_then(Value::as_object) else {
                report.add(most, Kind::Metadata, &place, "", "it has no shard_counts");
                continue;
            };
            let mut counts = BTreeMap::new();
            for (shard, count) in listed {
                match count.as_u64() {
                    Some(count) => drop(counts.insert(shard.clone(), count)),
                    None => report.add(most, Kind::Metadata, &place, "", format!("{shard} has the count {count}")),
                }
            }
            for shard in self.missing(counts.keys()) {
                report.add(most, Kind::Metadata, &place, "", format!("{shard} is listed and does not exist"));
            }
            match &self.counts {
                None => self.counts = Some(counts),
                Some(first) if *first == counts => {}
                Some(_) => report.add(most, Kind::Metadata, &place, "", "its counts are not those of .info.json"),
            }
        }
        let Some(counts) = &self.counts else {
            let reason = "it has neither .info.json nor .info.yaml with counts";
            report.add(most, Kind::Metadata, &meta.display().to_string(), "", reason);
            return;
        };
        let place = meta.join("split.yaml").display().to_string();
        match load(&meta.join("split.yaml")) {
            Ok(None) => report.add(most, Kind::Metadata, &place, "", "it does not exist: no shard is in a split"),
            Err(reason) => report.add(most, Kind::Metadata, &place, "", reason),
            Ok(Some(split)) => {
                let parts = split.get("split_parts").and_then(Value::as_object);
                let names = parts.into_iter().flat_map(|p| p.values()).filter_map(Value::as_array).flatten();
                let names: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
                // Patterns stand for names that are in the counts or not; each name is looked at alone.
                for name in names.iter().flat_map(|n| ovhost_data::shards::expand_braces(n).unwrap_or_default()) {
                    if !counts.contains_key(&name) {
                        report.add(most, Kind::Metadata, &place, "", format!("{name} is in a split and has no count"));
                    }
                }
            }
        }
    }

    fn manifest(&mut self, most: usize, report: &mut Report) {
        let path = self.path.join("manifest.json");
        let place = path.display().to_string();
        let value = match load(&path) {
            Ok(Some(value)) => value,
            Ok(None) => return,
            Err(reason) => return report.add(most, Kind::Manifest, &place, "", reason),
        };
        let Some(jobs) = value.get("jobs").and_then(Value::as_array) else {
            return report.add(most, Kind::Manifest, &place, "", "it has no list of jobs");
        };
        for file in jobs.iter().filter_map(|job| job.get("files")?.as_array()).flatten() {
            let text = |name: &str| file.get(name).and_then(Value::as_str).map(str::to_owned);
            let number = |name: &str| file.get(name).and_then(Value::as_u64);
            let (Some(name), Some(sha256), Some(samples)) = (text("name"), text("sha256"), number("samples")) else {
                report.add(
                    most,
                    Kind::Manifest,
                    &place,
                    "",
                    format!("it lists {file}, without name, sha256 or samples"),
                );
                continue;
            };
            let listed = Listed { bytes: number("bytes"), sha256, samples, by: "manifest.json" };
            self.listed.entry(name).or_default().push(listed);
        }
        for name in self.missing(self.listed.keys()) {
            report.add(most, Kind::Manifest, &place, "", format!("{name} is listed and does not exist"));
        }
    }

    fn pack_set(&mut self, most: usize, report: &mut Report) {
        let path = self.path.join("pack.json");
        let place = path.display().to_string();
        let value = match load(&path) {
            Ok(Some(value)) => value,
            Ok(None) => return,
            Err(reason) => return report.add(most, Kind::Manifest, &place, "", reason),
        };
        self.fingerprint = value.get("fingerprint").and_then(Value::as_str).map(str::to_owned);
        if self.fingerprint.is_none() {
            report.add(most, Kind::Manifest, &place, "", "it has no fingerprint");
        }
        let made_for = value.get("made_for").cloned().unwrap_or_default();
        let made_for = serde_json::from_value::<ovhost_data::packed::MadeFor>(made_for).map(|m| m.fingerprint());
        if let (Some(said), Ok(is)) = (&self.fingerprint, made_for)
            && *said != is
        {
            report.add(
                most,
                Kind::Fingerprint,
                &place,
                "",
                format!("its fingerprint is {said}, and what it covers has {is}"),
            );
        }
        for shard in value.get("shards").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| shard.get(name).and_then(Value::as_str).map(str::to_owned);
            let (Some(name), Some(sha256)) = (text("name"), text("sha256")) else { continue };
            let samples = shard.get("packs").and_then(Value::as_u64).unwrap_or_default();
            let listed = Listed { bytes: None, sha256, samples, by: "pack.json" };
            // Twice the same is told once.
            let known = self.listed.entry(name).or_default();
            if !known.iter().any(|k| k.sha256 == listed.sha256 && k.samples == listed.samples) {
                known.push(listed);
            }
        }
    }
}
