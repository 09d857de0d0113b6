//! Step `write`: packs of ordinals in, packed shards out.
//!
//! ```text
//!  packs.bin ─ packs of shard k ─► for each sample: one read out of its shard ─► members + json ─► OUT/packed-00000k.tar
//!                                                                               all done ─► pack.json, .nv-meta
//! ```
//! Pictures are copied byte for byte. A shard depends on its number alone, so shards are made in any order, anywhere.

use std::path::Path;
use std::sync::Arc;

use ovhost_data::packed::{self, Head, Layout, MadeFor, PackJson, Sample, image_name, reference};
use ovhost_data::record::{Record, RecordOptions};
use ovhost_data::rejects::Counters;
use ovhost_data::shards::{ShardFile, WrittenShard, write_nv_meta};
use serde_json::{Value, json};

use crate::error::{PrepError, io};
use crate::files::{put, put_json};
use crate::jobs::{Done, Made, MadeFile, Plan, Step};
use crate::pack::PackSettings;
use crate::packs::{self, PacksFile};
use crate::places::{Found, Places, SampleReader};

/// Name of the step, and of its folder.
pub const STEP: &str = "write";

/// Read by Megatron-Energon to turn a packed sample of the reference's layout into its fields.
const SAMPLE_LOADER: &str = r#"# Megatron-Energon reads the packed shards beside this folder with these two functions.


def sample_loader(raw):
    pack = raw["json"]
    return {
        "__key__": raw["__key__"],
        "__restore_key__": raw["__restore_key__"],
        "images": [raw["img%d.jpg" % i] for i in range(len(pack["images"]))],
        "prompts": pack["prompts"],
        "captions": pack["captions"],
    }


def part_filter(part):
    return True
"#;

/// Name and content of a member of a pack.
type Member = (String, Arc<[u8]>);

/// The step.
pub struct Write<'a> {
    /// What is packed.
    pub settings: &'a PackSettings,
    /// Where samples lie.
    pub places: &'a Places,
    /// The packs.
    pub packs: PacksFile,
    /// Their hash.
    pub packs_sha256: String,
    /// What they are made for.
    pub made_for: MadeFor,
}

impl Write<'_> {
    /// The plan: one job a shard.
    pub fn plan(&self) -> Plan {
        let s = self.settings;
        let settings = json!({
            "packs": self.packs_sha256, "made_for": self.made_for, "filters": s.filters, "packer": s.packer, "limits": s.limits,
            "seed": s.seed, "shuffle": s.shuffle, "layout": s.layout_name(), "packs_per_shard": s.packs_per_shard,
            "split": s.split,
        });
        let shards = self.packs.packs.div_ceil(s.packs_per_shard);
        Plan { step: STEP, settings, jobs: (0..shards).map(|i| format!("packed-{i:06}")).collect() }
    }

    /// A sample as it was measured.
    fn record(&self, found: Found) -> Result<Record, PrepError> {
        let options = RecordOptions { max_pixels: self.settings.images.max_decode_pixels };
        let changed = |reason: String| {
            let shard = &self.places.inputs[found.input].path;
            PrepError::Option(format!(
                "{}, sample {}: it was usable when it was measured and is not now: {reason}",
                shard.display(),
                found.index
            ))
        };
        let record = Record::build(found.raw, &found.shard, found.index, &options).map_err(|r| changed(r.reason))?;
        if self.settings.layout == Layout::Reference { reference::turn(record).map_err(changed) } else { Ok(record) }
    }

    fn pack(&self, number: u64, samples: Vec<(Sample, Record)>) -> (String, Vec<Member>) {
        let mut parts = Vec::new();
        let (key, json) = match self.settings.layout {
            Layout::Reference => {
                let records: Vec<Record> = samples.into_iter().map(|(_, record)| record).collect();
                for (i, media) in records.iter().flat_map(|r| &r.media).enumerate() {
                    parts.push((format!("img{i}.jpg"), media.bytes.clone()));
                }
                (reference::key(number), reference::pack_json(&records).to_string())
            }
            Layout::Plain | Layout::Packed => {
                let head = Head {
                    version: packed::VERSION,
                    fingerprint: self.made_for.fingerprint(),
                    made_for: self.made_for.clone(),
                    seed: self.settings.seed,
                    capacity: self.settings.limits.capacity,
                    tokens: samples.iter().map(|(s, _)| u64::from(s.tokens)).sum(),
                    patches: samples.iter().map(|(s, _)| u64::from(s.patches)).sum(),
                };
                let mut list = Vec::with_capacity(samples.len());
                for (s, (mut sample, record)) in samples.into_iter().enumerate() {
                    for (i, media) in record.media.into_iter().enumerate() {
                        let name = image_name(s, i, &media.name);
                        parts.push((name.clone(), media.bytes));
                        sample.images.push(name);
                    }
                    sample.record = record.fields;
                    list.push(sample);
                }
                // Strings, numbers and maps with string keys: always serialises.
                (format!("{number:08}"), serde_json::to_string(&PackJson { head, samples: list }).unwrap_or_default())
            }
        };
        parts.push(("json".into(), json.into_bytes().into()));
        (key, parts)
    }

    fn describe(&self, done: &[Done], counts: &Counters) -> Value {
        let s = self.settings;
        let shards: Vec<Value> = done
            .iter()
            .flat_map(|d| &d.files)
            .map(|f| json!({ "name": f.name, "packs": f.samples, "sha256": f.sha256 }))
            .collect();
        json!({
            "ovhost_pack_set": packed::VERSION, "ovhost": env!("CARGO_PKG_VERSION"), "layout": s.layout_name(),
            "fingerprint": self.made_for.fingerprint(), "made_for": self.made_for, "filters": s.filters, "packer": s.packer,
            "limits": s.limits, "seed": s.seed, "shuffle": s.shuffle, "packs_per_shard": s.packs_per_shard,
            "fill": counts.fill(), "counts": counts, "shards": shards,
        })
    }
}

impl<'a> Step for Write<'a> {
    type Worker = SampleReader<'a>;

    fn worker(&self) -> Result<SampleReader<'a>, PrepError> {
        Ok(SampleReader::new(self.places, &self.settings.out))
    }

    fn follows(&self) -> Option<&'static str> {
        Some(packs::STEP)
    }

    fn job(
        &self,
        reader: &mut SampleReader<'a>,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let s = self.settings;
        let first = index as u64 * s.packs_per_shard;
        let last = self.packs.packs.min(first + s.packs_per_shard);
        let name = format!("packed-{index:06}.tar");
        let mut file = ShardFile::create(out.join(&name))?;
        let mut counts = Counters::default();
        for (number, ordinals) in (first..).zip(self.packs.members(first, last)?) {
            let mut samples = Vec::with_capacity(ordinals.len());
            for ordinal in ordinals {
                let found = reader.read(ordinal)?;
                let sample = Sample {
                    key: found.raw.key.clone(),
                    source: found.shard.clone(),
                    index: found.index,
                    row: ((found.input as u64) << 32) | found.index,
                    tokens: found.tokens,
                    patches: found.patches,
                    images: Vec::new(),
                    record: serde_json::Map::new(),
                };
                counts.samples += 1;
                counts.tokens += u64::from(found.tokens);
                let record = self.record(found)?;
                counts.images += record.media.len() as u64;
                samples.push((sample, record));
            }
            counts.packs += 1;
            counts.capacity += u64::from(s.limits.capacity);
            let packed = samples.len() as u64;
            let (key, parts) = self.pack(number, samples);
            let parts: Vec<(&str, &[u8])> = parts.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
            file.write(&key, &parts)?;
            tick(packed)?;
        }
        Ok(Made { files: vec![MadeFile::publish(file, name)?], counts, ..Made::default() })
    }

    fn finish(&self, out: &Path, done: &[Done], counts: &Counters) -> Result<(), PrepError> {
        if self.settings.layout == Layout::Reference {
            let meta = out.join(".nv-meta");
            std::fs::create_dir_all(&meta).map_err(io(&meta, "make the folder"))?;
            put(&meta.join("sample_loader.py"), SAMPLE_LOADER.as_bytes())?;
            let dataset = json!({
                "sample_type": {
                    "__module__": "aiak_training_llm.data.multimodal", "__class__": "PackedCaptioningSample",
                },
                "part_filter": "sample_loader.py:part_filter",
                "sample_loader": "sample_loader.py:sample_loader",
            });
            put_json(&meta.join("dataset.yaml"), &dataset)?;
        }
        let written = |f: &MadeFile| WrittenShard { path: out.join(&f.name), samples: f.samples, bytes: f.bytes };
        let shards: Vec<WrittenShard> = done.iter().flat_map(|d| &d.files).map(written).collect();
        write_nv_meta(out, &self.settings.split, &shards)?;
        put_json(&out.join("pack.json"), &self.describe(done, counts))
    }
}
