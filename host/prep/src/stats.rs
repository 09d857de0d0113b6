//! `stats`: shards in, histograms, totals and sources out, as JSON and plots, in one pass.
//!
//! ```text
//!  shard NAME ─ samples ─► Tally ─► OUT/.ovhost/stats/NAME.tally.json          (a job each, any part, any thread)
//!                all of them, added up in order ─► OUT/stats.json, OUT/*.png
//! ```
//! Of pictures only the headers are read. Memory does not grow with the number of samples: histograms have a fixed scale and
//! sources are bounded.

mod plots;
mod tally;

use std::path::{Path, PathBuf};

use ovhost_data::ChatTokenizer;
use ovhost_data::columns::answers;
use ovhost_data::pipeline::Outcome;
use ovhost_data::record::{Record, Reject};
use ovhost_data::rejects::Counters;
use ovhost_data::shards::Shard;
use serde_json::{Value, json};

pub use tally::{OTHERS, PERCENTILES, Source, Spread, Tally};

use crate::error::{AFRESH, PrepError};
use crate::files::{apart, get_json, put_json};
use crate::jobs::{Done, Made, MadeFile, Plan, RunOptions, Step, Summary, records, run};
use crate::lengths::{Input, inputs};
use crate::samples::{CHUNK, Encoder, Encoding, Reader};

/// Name of the step, and of its folder.
const STEP: &str = "stats";

/// Fields that name a sample's source, in the order in which they are looked for.
pub const SOURCE_FIELDS: [&str; 3] = ["source", "dataset", "data_source"];

/// Characters of a source's name.
const SOURCE_NAME: usize = 120;

/// How tokens are counted.
pub enum Tokens {
    /// They are not.
    None,
    /// Of the answers alone, without markup: all that a tokenizer without image sizes can tell.
    Answers(Box<ChatTokenizer>),
    /// As training counts them.
    Exact(Box<Encoding>),
}

/// What is measured.
pub struct StatsSettings {
    /// Shards, in order.
    pub inputs: Vec<PathBuf>,
    /// How tokens are counted.
    pub tokens: Tokens,
    /// The field that names the source; else the first of [`SOURCE_FIELDS`]; else the shard's folder.
    pub source_field: Option<String>,
    /// Pictures whose header promises more pixels are rejected.
    pub max_pixels: u64,
}

/// What is measured: name, unit, what one value is of, and how many times the value the stored number is.
pub const MEASURES: [(&str, &str, &str, u64); 15] = [
    ("tokens", "tokens", "sample", 1),
    ("image_tokens", "tokens", "sample", 1),
    ("learnt_tokens", "tokens", "sample", 1),
    ("answer_tokens", "tokens", "sample", 1),
    ("characters", "characters", "sample", 1),
    ("turns", "answers", "sample", 1),
    ("images", "images", "sample", 1),
    ("width", "pixels", "image", 1),
    ("height", "pixels", "image", 1),
    ("aspect", "width / height", "image", ASPECT),
    ("patches", "patches", "image", 1),
    ("image_bytes", "bytes", "image", 1),
    ("pack_samples", "samples", "pack", 1),
    ("pack_tokens", "tokens", "pack", 1),
    ("pack_patches", "patches", "pack", 1),
];

/// Ratios are counted in thousandths: whole numbers add up to the same in any order.
const ASPECT: u64 = 1000;

/// Measures shards.
///
/// # Errors
/// See [`run`].
pub fn stats(settings: &StatsSettings, options: &RunOptions<'_>) -> Result<Summary, PrepError> {
    apart(&settings.inputs, &options.out)?;
    let step = Stats { settings, inputs: inputs(&settings.inputs)? };
    run(&step, &step.plan(), options)
}

/// The numbers of a finished step: of all jobs of `summary`'s plan.
pub fn read_stats(out: &Path) -> Result<Value, PrepError> {
    let path = out.join("stats.json");
    get_json(&path)?.ok_or_else(|| PrepError::Record {
        path: path.display().to_string(),
        why: "it is missing".into(),
        next: "run the same command again",
    })
}

struct Stats<'a> {
    settings: &'a StatsSettings,
    inputs: Vec<Input>,
}

/// The source of a record: what `field` says, else the first of [`SOURCE_FIELDS`]; the folder of its shard where they say nothing.
pub fn source_of(record: &Record, shard: &Path, field: Option<&str>) -> String {
    let names = field.as_slice().iter().copied().chain(SOURCE_FIELDS.into_iter().filter(|_| field.is_none()));
    let found = names.filter_map(|name| record.fields.get(name)).find_map(|value| match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    });
    let folder = || {
        let folder = shard.parent().and_then(Path::file_name);
        folder.map_or_else(|| "(this folder)".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    found.unwrap_or_else(folder).chars().take(SOURCE_NAME).collect()
}

/// A measured sample, before its tokens are known.
struct Measured {
    source: String,
    numbers: Source,
}

impl Stats<'_> {
    fn plan(&self) -> Plan {
        let s = self.settings;
        let shards: Vec<_> = self.inputs.iter().map(|i| json!({ "name": i.name, "bytes": i.bytes })).collect();
        let tokens = match &s.tokens {
            Tokens::None => Value::Null,
            Tokens::Answers(chat) => json!({ "answers": chat.fingerprint() }),
            Tokens::Exact(encoding) => encoding.record(),
        };
        let settings = json!({
            "tokens": tokens, "source_field": s.source_field, "max_image_pixels": s.max_pixels, "inputs": shards,
        });
        Plan { step: STEP, settings, jobs: self.inputs.iter().map(|i| i.name.clone()).collect() }
    }

    fn file(&self, input: &Input, out: &Path) -> PathBuf {
        records(out, STEP).join(format!("{}.tally.json", input.name))
    }

    /// Everything but tokens.
    fn measure(&self, record: &Record, input: &Input, tally: &mut Tally) -> Measured {
        let answers = answers(&record.fields);
        let mut numbers = Source {
            samples: 1,
            images: record.media.len() as u64,
            turns: answers.len() as u64,
            characters: answers.iter().map(|a| a.chars().count() as u64).sum(),
            ..Source::default()
        };
        tally.samples += 1;
        tally.add("images", numbers.images);
        tally.add("turns", numbers.turns);
        tally.add("characters", numbers.characters);
        for media in &record.media {
            numbers.image_bytes += media.size;
            tally.add("width", media.width.into());
            tally.add("height", media.height.into());
            tally.add("aspect", u64::from(media.width) * ASPECT / u64::from(media.height.max(1)));
            tally.add("image_bytes", media.size);
            // By its name: no more than the size is read of it. The names of pictures are few.
            let format = media.name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            *tally.formats.entry(format).or_default() += 1;
            if let Tokens::Exact(encoding) = &self.settings.tokens
                && let Ok(grid) = encoding.images.grid(media.width, media.height)
            {
                tally.add("patches", grid.iter().product::<usize>() as u64);
            }
        }
        if let Tokens::Answers(chat) = &self.settings.tokens {
            // A text that cannot be tokenised is told by whoever trains on it.
            numbers.tokens = answers.iter().map(|a| chat.encode_text(a).map_or(0, |ids| ids.len() as u64)).sum();
            tally.add("answer_tokens", numbers.tokens);
        }
        Measured { source: source_of(record, &input.path, self.settings.source_field.as_deref()), numbers }
    }

    /// Tokens of a chunk, and then all of it into its sources.
    fn chunk(
        &self,
        worker: &mut Worker,
        first: u64,
        chunk: Vec<(Record, Measured)>,
        tally: &mut Tally,
        made: &mut Made,
    ) -> Result<(), PrepError> {
        let (records, mut measured): (Vec<Record>, Vec<Measured>) = chunk.into_iter().unzip();
        if let Some(encoder) = worker {
            for (outcome, one) in encoder.run(first, records)?.into_iter().zip(&mut measured) {
                match outcome {
                    Outcome::Sample(sample) => {
                        one.numbers.tokens = sample.input_ids.len() as u64;
                        tally.add("tokens", one.numbers.tokens);
                        tally.add("image_tokens", sample.images.iter().map(|i| i.tokens as u64).sum());
                        tally.add("learnt_tokens", sample.labels.iter().filter(|l| **l >= 0).count() as u64);
                    }
                    Outcome::Filtered(reject) | Outcome::Reject(reject) => {
                        // It was counted among the samples: what it looks like is known, what it costs is not.
                        tally.samples -= 1;
                        one.numbers.samples = 0;
                        rejected(made, reject);
                    }
                }
            }
        }
        for one in measured {
            made.counts.samples += one.numbers.samples;
            made.counts.images += one.numbers.images;
            made.counts.tokens += one.numbers.tokens;
            tally.add_source(&one.source, &one.numbers);
        }
        Ok(())
    }
}

fn rejected(made: &mut Made, reject: Reject) {
    *made.counts.rejected.entry(reject.stage.to_owned()).or_default() += 1;
    made.rejects.push(reject);
}

/// An encoder, where tokens are counted exactly.
type Worker = Option<Encoder>;

impl Step for Stats<'_> {
    type Worker = Worker;

    fn worker(&self) -> Result<Worker, PrepError> {
        match &self.settings.tokens {
            Tokens::Exact(encoding) => Ok(Some(Encoder::new(encoding)?)),
            _ => Ok(None),
        }
    }

    fn job(
        &self,
        worker: &mut Worker,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let input = &self.inputs[index];
        let shard = Shard::open_damaged(&input.path)?;
        let whole = worker.as_ref().is_some_and(Encoder::reads_pixels);
        let reader = Reader::new(&shard, self.settings.max_pixels, whole);
        let (mut tally, mut made, mut chunk, mut id) =
            (Tally::default(), Made::within(out), Vec::new(), (index as u64) << 32);
        for member in 0..shard.len() {
            let unit = reader.read(member);
            if let Some(pack) = unit.pack {
                tally.packs += 1;
                tally.add("pack_samples", unit.records.len() as u64);
                if let Some(head) = pack.head {
                    tally.capacity += u64::from(head.capacity);
                    tally.add("pack_tokens", head.tokens);
                    tally.add("pack_patches", head.patches);
                }
                if matches!(self.settings.tokens, Tokens::None) {
                    // What was measured when they were packed.
                    pack.lengths.iter().for_each(|[tokens, _]| tally.add("tokens", u64::from(*tokens)));
                }
            }
            made.counts.read += unit.records.len() as u64;
            for record in unit.records {
                match record {
                    Ok(record) => {
                        let measured = self.measure(&record, input, &mut tally);
                        chunk.push((record, measured));
                    }
                    Err(reject) => rejected(&mut made, reject),
                }
            }
            if chunk.len() >= CHUNK || member + 1 == shard.len() {
                let chunk = std::mem::take(&mut chunk);
                let next = id + chunk.len() as u64;
                self.chunk(worker, id, chunk, &mut tally, &mut made)?;
                id = next;
            }
            tick(1)?;
        }
        if let Some(damage) = shard.damage_reject() {
            made.counts.read += 1;
            rejected(&mut made, damage);
        }
        let path = self.file(input, out);
        put_json(&path, &tally)?;
        let name = path.strip_prefix(out).unwrap_or(&path).to_string_lossy().into_owned();
        made.files.push(MadeFile::of(&path, &name, made.counts.samples)?);
        Ok(made)
    }

    fn finish(&self, out: &Path, _: &[Done], counts: &Counters) -> Result<(), PrepError> {
        let mut all = Tally::default();
        for input in &self.inputs {
            let path = self.file(input, out);
            let tally = get_json::<Tally>(&path)?.ok_or_else(|| PrepError::Record {
                path: path.display().to_string(),
                why: "it is missing".into(),
                next: AFRESH,
            })?;
            all.merge(&tally);
        }
        put_json(&out.join("stats.json"), &self.report(&all, counts))?;
        plots::draw(out, &all)
    }
}

impl Stats<'_> {
    fn report(&self, all: &Tally, counts: &Counters) -> Value {
        let spreads: serde_json::Map<String, Value> = MEASURES
            .iter()
            .filter_map(|(name, unit, of, scale)| {
                let mut report = all.spreads.get(*name)?.report(unit, *scale);
                report["of"] = json!(of);
                Some(((*name).to_owned(), report))
            })
            .collect();
        let share = |n: u64| n as f64 / all.samples.max(1) as f64;
        let sources: Vec<Value> = all
            .by_size()
            .into_iter()
            .map(|(name, s)| {
                json!({
                    "source": name, "samples": s.samples, "share": share(s.samples), "images": s.images,
                    "image_bytes": s.image_bytes, "turns": s.turns, "characters": s.characters, "tokens": s.tokens,
                })
            })
            .collect();
        let sum = |name: &str| all.spreads.get(name).map_or(0, |s| s.sum);
        json!({
            "ovhost_stats": 1, "ovhost": env!("CARGO_PKG_VERSION"), "settings": self.plan().settings,
            "totals": {
                "shards": self.inputs.len(), "bytes": self.inputs.iter().map(|i| i.bytes).sum::<u64>(), "read": counts.read,
                "samples": all.samples, "packs": all.packs, "pack_capacity": all.capacity, "images": sum("images"),
                "image_bytes": sum("image_bytes"), "turns": sum("turns"), "characters": sum("characters"),
                "tokens": sum("tokens"), "answer_tokens": sum("answer_tokens"), "image_tokens": sum("image_tokens"),
                "patches": sum("patches"),
            },
            "rejected": counts.rejected, "formats": all.formats, "histograms": spreads, "sources": sources,
        })
    }
}
