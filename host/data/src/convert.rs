//! Tables with pictures → WebDataset shards.
//!
//! ```text
//!  rows.json / rows.jsonl + image folder ─ rows.rs ─► row ─ sample.rs ─► [group] ─► [shuffle] ─► checked sample ─┐
//!  IDX images + labels ──────────────────── idx.rs ─────────────────────────────────────────────► sample ───────┤
//!                                                                       shards + .nv-meta + rejects.jsonl ◄──────┘
//! ```
//! Pictures are copied byte for byte, never encoded again. The same input gives the same bytes. Shards appear under
//! their names only when the whole conversion has succeeded. Without grouping and shuffling nothing but the keys'
//! hashes grows with the input.

mod idx;
mod rows;
mod sample;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use crate::image::DEFAULT_MAX_DECODE_PIXELS;
use crate::record::{Reject, RejectLog};
use crate::shards::{Commit, ShardError, ShardWriter, WriterOptions, WrittenShard, write_nv_meta};
use sample::{Draft, Groups};

/// What is converted.
#[derive(Debug, Clone)]
pub enum Input {
    /// A file that holds a JSON list of rows, or JSON Lines with one row a line (told apart by the content).
    Rows(PathBuf),
    /// The IDX pair of MNIST-like sets, plain or gzipped: 8-bit grey pictures and one label each.
    Idx {
        /// `…-images-idx3-ubyte(.gz)`.
        images: PathBuf,
        /// `…-labels-idx1-ubyte(.gz)`.
        labels: PathBuf,
        /// Caption of label 0, 1, …
        class_names: Vec<String>,
    },
}

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The table.
    pub input: Input,
    /// Folder that picture names are relative to; the table's own folder when absent.
    pub images: Option<PathBuf>,
    /// Folder for the shards; made where it is missing.
    pub output: PathBuf,
    /// Shard names, with `%06d` for the number.
    pub pattern: String,
    /// For rows that are lists: the name of each position.
    pub fields: Option<Vec<String>>,
    /// Makes a picture's file name from fields of the row: `{image}.png`. Its result becomes the field `image`.
    pub image_pattern: Option<String>,
    /// Rows with the same value of this field become one sample with the other fields in a list `qa`.
    pub group_by: Option<String>,
    /// Field that gives the key. Default: the grouping field, else `id` where a row has it, else the row's number.
    pub id_field: Option<String>,
    /// Shuffles the samples with this seed (needs all rows in memory).
    pub shuffle_seed: Option<u64>,
    /// Energon split that the shards belong to: train, val or test.
    pub split: String,
    /// Most samples in a shard.
    pub max_count: u64,
    /// Most bytes in a shard.
    pub max_bytes: u64,
    /// Share of samples that may be rejected before the run fails.
    pub max_reject_rate: f64,
    /// Decode every picture fully to find damaged ones; otherwise only its header is read.
    pub verify_images: bool,
    /// Pictures with more header pixels are rejected.
    pub max_pixels: u64,
}

impl ConvertOptions {
    /// Converts `input` into `output` with the defaults of every other option.
    pub fn new(input: Input, output: impl Into<PathBuf>) -> Self {
        Self {
            input,
            images: None,
            output: output.into(),
            pattern: "train-%06d.tar".into(),
            fields: None,
            image_pattern: None,
            group_by: None,
            id_field: None,
            shuffle_seed: None,
            split: "train".into(),
            max_count: 10_000,
            max_bytes: 1 << 30,
            max_reject_rate: 0.01,
            verify_images: true,
            max_pixels: DEFAULT_MAX_DECODE_PIXELS,
        }
    }
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows read.
    pub rows: u64,
    /// Samples written.
    pub samples: u64,
    /// Samples rejected.
    pub rejects: u64,
    /// Samples to come to, where that is known beforehand.
    pub total: Option<u64>,
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Samples written.
    pub samples: u64,
    /// Pictures written.
    pub images: u64,
    /// Samples without a picture among those written.
    pub text_only: u64,
    /// Samples (or unreadable rows) left out; each is a line of [`Self::rejects_path`].
    pub rejects: u64,
    /// Keys that got a number appended because another sample had the same.
    pub renamed_keys: u64,
    /// The list of what was left out.
    pub rejects_path: PathBuf,
    /// The shards, in order.
    pub shards: Vec<WrittenShard>,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// Why a conversion failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The table cannot be read.
    #[error("{path}: {reason}")]
    Input {
        /// The file.
        path: String,
        /// What is wrong, where, and what is allowed.
        reason: String,
    },
    /// Options that contradict each other.
    #[error("option {option}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// More was rejected than allowed.
    #[error(
        "{rejects} of {total} samples were rejected, more than max_reject_rate = {rate} allows; no shard was written. The first: {first}. All are listed in {path}; mend the input or raise max_reject_rate"
    )]
    TooManyRejects {
        /// Samples rejected.
        rejects: u64,
        /// Samples seen.
        total: u64,
        /// The bound.
        rate: f64,
        /// Key and reason of the first.
        first: String,
        /// The list.
        path: String,
    },
    /// Writing shards failed.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Writing the list of rejects failed.
    #[error("{path}: cannot write the list of rejects: {source}")]
    Rejects {
        /// The file.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Runs a conversion. `progress` is called after every sample.
pub fn convert(options: &ConvertOptions, mut progress: impl FnMut(Progress)) -> Result<Summary, ConvertError> {
    check(options)?;
    let mut sink = Sink::create(options, &mut progress)?;
    match &options.input {
        Input::Idx { images, labels, class_names } => {
            idx::read(images, labels, class_names, &options.pattern, &mut |total, draft| {
                sink.total = Some(total);
                sink.rows += 1;
                sink.put(draft)
            })?
        }
        Input::Rows(path) => {
            let folder = options.images.clone().unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned());
            let shape = sample::Shape { options, folder, file: path.display().to_string() };
            let mut groups = Groups::new(options.group_by.as_deref());
            let in_memory = options.group_by.is_some() || options.shuffle_seed.is_some();
            rows::for_each(path, &mut |number, row| {
                sink.rows += 1;
                match row.and_then(|row| shape.named(row)) {
                    Ok(row) if in_memory => match groups.add(number, row) {
                        Ok(()) => Ok(()),
                        Err(reason) => sink.reject(shape.reject(number, reason)),
                    },
                    Ok(row) => sink.put(shape.draft(number, row)),
                    Err(reason) => sink.reject(shape.reject(number, reason)),
                }
            })?;
            let mut list = groups.into_samples();
            if let Some(seed) = options.shuffle_seed {
                shuffle(&mut list, seed);
            }
            if in_memory {
                sink.total = Some(list.len() as u64);
            }
            for (number, row) in list {
                sink.put(shape.draft(number, row))?;
            }
        }
    }
    sink.finish()
}

fn check(options: &ConvertOptions) -> Result<(), ConvertError> {
    let fail = |option, reason: String| Err(ConvertError::Option { option, reason });
    if !(0.0..=1.0).contains(&options.max_reject_rate) {
        return fail("max_reject_rate", format!("{} is not a share between 0 and 1", options.max_reject_rate));
    }
    if options.max_count == 0 || options.max_bytes == 0 {
        return fail("max_count / max_bytes", "a shard must hold at least one sample".into());
    }
    if let Some(pattern) = &options.image_pattern {
        sample::check_image_pattern(pattern, options.fields.as_deref())
            .or_else(|reason| fail("image_pattern", reason))?;
    }
    if let (Some(fields), Some(group)) = (&options.fields, &options.group_by)
        && !fields.contains(group)
    {
        return fail("group_by", format!("\"{group}\" is not among the fields {}", fields.join(", ")));
    }
    if let Some(fields) = &options.fields
        && let Some(twice) = fields.iter().enumerate().find(|(i, f)| fields[..*i].contains(f))
    {
        return fail("fields", format!("\"{}\" is named twice", twice.1));
    }
    Ok(())
}

/// Fisher-Yates with a fixed generator, so that a seed means the same order in every build.
fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for last in (1..list.len()).rev() {
        let pick = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        list.swap(last, pick as usize);
    }
}

/// Takes finished samples: makes keys unique, writes, counts, reports.
struct Sink<'a> {
    options: &'a ConvertOptions,
    writer: ShardWriter,
    log: RejectLog,
    progress: &'a mut dyn FnMut(Progress),
    keys: HashSet<u64>,
    total: Option<u64>,
    rows: u64,
    samples: u64,
    images: u64,
    text_only: u64,
    renamed: u64,
    rejects: u64,
    first_reject: Option<String>,
}

impl<'a> Sink<'a> {
    fn create(options: &'a ConvertOptions, progress: &'a mut dyn FnMut(Progress)) -> Result<Self, ConvertError> {
        let writer = ShardWriter::create(
            &options.output,
            &options.pattern,
            WriterOptions { max_count: options.max_count, max_bytes: options.max_bytes, commit: Commit::AtEnd },
        )?;
        let path = options.output.join("rejects.jsonl");
        let kept = kept_rejects(&path, &options.pattern);
        let failed = |source| ConvertError::Rejects { path: path.display().to_string(), source };
        let mut log = RejectLog::create(&path).map_err(failed)?;
        log.keep(&kept).map_err(failed)?;
        Ok(Self {
            options,
            writer,
            log,
            progress,
            keys: HashSet::new(),
            total: None,
            rows: 0,
            samples: 0,
            images: 0,
            text_only: 0,
            renamed: 0,
            rejects: 0,
            first_reject: None,
        })
    }

    fn report(&mut self) {
        (self.progress)(Progress { rows: self.rows, samples: self.samples, rejects: self.rejects, total: self.total });
    }

    fn reject(&mut self, reject: Reject) -> Result<(), ConvertError> {
        self.first_reject.get_or_insert_with(|| format!("\"{}\": {}", reject.key, reject.reason));
        self.log
            .push(&reject)
            .map_err(|source| ConvertError::Rejects { path: self.log.path().display().to_string(), source })?;
        self.rejects += 1;
        self.report();
        Ok(())
    }

    fn put(&mut self, draft: Result<Draft, Reject>) -> Result<(), ConvertError> {
        let draft = match draft {
            Ok(draft) => draft,
            Err(reject) => return self.reject(reject),
        };
        let key = self.unique(&draft.key);
        let parts: Vec<(&str, &[u8])> = draft.parts.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        self.writer.write(&key, &parts)?;
        self.samples += 1;
        let images = draft.parts.len() as u64 - 1;
        self.images += images;
        self.text_only += u64::from(images == 0);
        self.report();
        Ok(())
    }

    /// Readers want keys that are unique in the whole set.
    fn unique(&mut self, key: &str) -> String {
        fn hash(key: &str) -> u64 {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            hasher.finish()
        }
        if self.keys.insert(hash(key)) {
            return key.to_owned();
        }
        self.renamed += 1;
        let mut number = 2u64;
        loop {
            let candidate = format!("{key}-{number}");
            if self.keys.insert(hash(&candidate)) {
                return candidate;
            }
            number += 1;
        }
    }

    fn finish(mut self) -> Result<Summary, ConvertError> {
        let rejects_path = self.log.path().to_owned();
        let shown = rejects_path.display().to_string();
        self.log.flush().map_err(|source| ConvertError::Rejects { path: shown.clone(), source })?;
        let total = self.samples + self.rejects;
        if total == 0 {
            let path = match &self.options.input {
                Input::Rows(path) => path,
                Input::Idx { images, .. } => images,
            };
            return Err(ConvertError::Input { path: path.display().to_string(), reason: "it holds no rows".into() });
        }
        let rate = self.options.max_reject_rate;
        if self.samples == 0 || self.rejects as f64 > rate * total as f64 {
            return Err(ConvertError::TooManyRejects {
                rejects: self.rejects,
                total,
                rate,
                first: self.first_reject.unwrap_or_default(),
                path: shown,
            });
        }
        let shards = self.writer.finish()?;
        write_nv_meta(&self.options.output, &self.options.split, &shards)?;
        Ok(Summary {
            rows: self.rows,
            samples: self.samples,
            images: self.images,
            text_only: self.text_only,
            rejects: self.rejects,
            renamed_keys: self.renamed,
            rejects_path,
            bytes: shards.iter().map(|s| s.bytes).sum(),
            shards,
        })
    }
}

/// Lines of an earlier conversion into the same folder under another shard name: they still hold.
fn kept_rejects(path: &Path, pattern: &str) -> String {
    let Ok(text) = std::fs::read_to_string(path) else { return String::new() };
    text.lines()
        .filter(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            value["shard"].as_str().is_some_and(|shard| shard != pattern)
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests;
