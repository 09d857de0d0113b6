//! `convert`: tables with pictures → WebDataset shards, in two steps that may each be stopped, split and begun again.
//!
//! ```text
//!  JSON, JSONL ┐
//!  parquet     ├ source.rs ─ index.rs ─► NAME.rows ─ order.rs ─► renames, groups, jobs ─ write.rs ─► shards, .nv-meta,
//!  WebDataset  │            (any part)              (alike in every process)            (any part)   rejects.jsonl, manifest
//!  IDX         ┘                                                     sample.rs: row ─► key, JSON, pictures
//! ```
//! * The index is a first pass over what decides keys, groups and sizes: all of a JSON table, the id column of parquet files, the
//!   headers of shards. It is made once, in jobs of one file each. After it every process knows which rows make which sample of
//!   which shard under which key, without looking at the others.
//! * A job is about one shard's worth of samples, whatever files they come from. Output is the same for any number of workers,
//!   parts and kills.
//! * Pictures are copied byte for byte, never encoded again (an IDX file's become PNGs). Members of shards are kept.
//! * Memory does not grow with the bytes of the input, and with its rows by what order.rs says.
//! * Train, val and test may share a folder: each has its own records, and the list of rejects and the manifest are of all.

mod idx;
mod index;
mod keys;
mod order;
mod parquet;
mod rows;
mod sample;
mod shards;
mod source;
mod write;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ovhost_data::image::DEFAULT_MAX_DECODE_PIXELS;
use ovhost_data::rejects::{Counters, RejectBudget};
use ovhost_data::shards::check_split;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::index::{Index, Tables};
use self::order::Order;
use self::sample::Shape;
pub use self::source::Input;
use self::source::{Source, inputs_of};
use self::write::Write;
use crate::error::{PrepError, io};
use crate::files::{apart, get_json, hex, put_json, put_with};
use crate::jobs::{Progress, RunOptions, Summary, done_jobs, records, run};

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertSettings {
    /// The table.
    pub input: Input,
    /// Folder that picture names are relative to; the table's own folder when absent.
    pub image_dir: Option<PathBuf>,
    /// Shard names, with `%06d` for the number.
    pub pattern: String,
    /// For rows that are lists: the name of each position.
    pub fields: Option<Vec<String>>,
    /// Makes a picture's file name from fields of the row: `{image}.png`. Its result becomes the field `image`.
    pub image_pattern: Option<String>,
    /// Rows with the same value of this field become one sample with the other fields in a list `qa`.
    pub group_by: Option<String>,
    /// Column that gives the key. Default: the grouping column, else `id` where a row has it, else the row's number; of shards
    /// the tar's own key.
    pub id_column: Option<String>,
    /// Columns with pictures, in order. Default: those of parquet's `Image` type; else `image`, else `images`.
    pub image_columns: Option<Vec<String>>,
    /// Column with the text: becomes `caption`, or `conversations` or `messages` where it is one.
    pub text_column: Option<String>,
    /// Shuffles the samples with this seed.
    pub shuffle_seed: Option<u64>,
    /// Energon split that the shards belong to: train, val or test.
    pub split: String,
    /// Most samples in a shard.
    pub max_count: u64,
    /// Most bytes in a shard; a single larger sample still gets a shard of its own.
    pub max_bytes: u64,
    /// Decode every picture fully to find damaged ones; otherwise only its header is read.
    pub verify_images: bool,
    /// Pictures with more header pixels are rejected.
    pub max_pixels: u64,
}

impl ConvertSettings {
    /// Defaults of everything but the input.
    pub fn new(input: Input) -> Self {
        ConvertSettings {
            input,
            image_dir: None,
            pattern: "shard-%06d.tar".into(),
            fields: None,
            image_pattern: None,
            group_by: None,
            id_column: None,
            image_columns: None,
            text_column: None,
            shuffle_seed: None,
            split: "train".into(),
            max_count: 10_000,
            max_bytes: 1 << 30,
            verify_images: true,
            max_pixels: DEFAULT_MAX_DECODE_PIXELS,
        }
    }
}

/// The step that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Rows of so many files are indexed.
    Indexing(usize),
    /// So many rows are written.
    Writing(u64),
}

/// How far it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Converted {
    /// This part's index is done, others' are not: nothing can be written yet.
    Waiting(Summary),
    /// Shards were written.
    Written {
        /// Of writing them.
        summary: Summary,
        /// Rows of the input.
        rows: u64,
        /// Samples whose key was another's.
        renamed: u64,
    },
}

const SPLITS: [(&str, &str, &str); 3] = [
    ("train", "index-train", "convert-train"),
    ("val", "index-val", "convert-val"),
    ("test", "index-test", "convert-test"),
];

/// Names of the two steps of a split.
fn steps(split: &str) -> (&'static str, &'static str) {
    SPLITS.iter().find(|s| s.0 == split).map_or(("index", "convert"), |s| (s.1, s.2))
}

/// Converts.
///
/// # Errors
/// See [`run`]; an input that cannot be read, options that contradict it or each other.
pub fn convert(
    settings: &ConvertSettings,
    options: &RunOptions<'_>,
    begins: &dyn Fn(Phase),
) -> Result<Converted, PrepError> {
    check(settings)?;
    apart(inputs_of(&settings.input), &options.out)?;
    let scattered = settings.shuffle_seed.is_some() || settings.group_by.is_some();
    let source = Source::open(&settings.input, scattered)?;
    fits(settings, &source)?;
    let columns = settings.image_columns.clone().or_else(|| source.image_columns());
    let shape = Shape::new(settings, columns);
    let tables = Tables::new(settings, &source, &options.out);
    let indexed = source.needs_index(&shape);
    let mut indexes = Sha256::new();
    if indexed {
        begins(Phase::Indexing(source.parts().len()));
        let step = Index { settings, source: &source, shape: &shape, tables: &tables };
        let plan = step.plan();
        // Only damaged ends of shards are rejected here, and judged with all samples later.
        let budget = RejectBudget { max_rate: 1.0, ..options.budget };
        let summary = run(&step, &plan, &RunOptions { out: options.out.clone(), budget, ..*options })?;
        if !summary.finished {
            return Ok(Converted::Waiting(summary));
        }
        for file in done_jobs(&plan, &options.out)?.iter().flat_map(|d| &d.files) {
            indexes.update(&file.sha256);
        }
    }
    let order = Order::new(settings, &source, &tables, indexed)?;
    if order.rows() == 0 {
        let first = source.parts().first().map(|p| p.path.display().to_string()).unwrap_or_default();
        return Err(PrepError::Option(format!("{first}: it holds no rows")));
    }
    let names = write::names(&settings.pattern, order.jobs())?;
    let (rows, renamed) = (order.rows(), order.renames.len() as u64);
    let indexes = hex(&indexes.finalize());
    let step =
        Write { settings, source: &source, shape: &shape, tables: &tables, order: &order, indexes, names, indexed };
    let plan = step.plan();
    no_clash(&settings.split, &plan.jobs, &options.out)?;
    begins(Phase::Writing(rows));
    (options.progress)(Progress::Total(rows));
    let summary = run(&step, &plan, options)?;
    if summary.finished {
        publish(&options.out)?;
    }
    Ok(Converted::Written { summary, rows, renamed })
}

fn check(settings: &ConvertSettings) -> Result<(), PrepError> {
    let fail = |option: &str, reason: String| Err(PrepError::Option(format!("{option}: {reason}")));
    check_split(&settings.split)?;
    write::names(&settings.pattern, 0)?;
    if settings.max_count == 0 || settings.max_bytes == 0 {
        return fail("--max-count, --max-bytes", "a shard must hold at least one sample".into());
    }
    if let Some(pattern) = &settings.image_pattern {
        sample::check_image_pattern(pattern, settings.fields.as_deref())
            .or_else(|reason| fail("--image-pattern", reason))?;
    }
    if let (Some(fields), Some(group)) = (&settings.fields, &settings.group_by)
        && !fields.contains(group)
    {
        return fail("--group-by", format!("\"{group}\" is not among the fields {}", fields.join(", ")));
    }
    if let Some(fields) = &settings.fields
        && let Some(twice) = fields.iter().enumerate().find(|(i, f)| fields[..*i].contains(f))
    {
        return fail("--fields", format!("\"{}\" is named twice", twice.1));
    }
    Ok(())
}

/// Refuses options that an input has no use for: nothing that was asked for is left undone in silence.
fn fits(settings: &ConvertSettings, source: &Source) -> Result<(), PrepError> {
    let s = settings;
    let table = [
        ("--group-by", s.group_by.is_some()),
        ("--fields", s.fields.is_some()),
        ("--image-pattern", s.image_pattern.is_some()),
        ("--image-column", s.image_columns.is_some()),
        ("--image-dir", s.image_dir.is_some()),
    ];
    let named = |list: &[(&'static str, bool)]| list.iter().find(|(_, set)| *set).map(|(name, _)| *name);
    if source.keeps_members()
        && let Some(option) = named(&table)
    {
        let what = "is for tables; members of shards are kept as they are, leave it out";
        return Err(PrepError::Option(format!("{option} {what}")));
    }
    if source.is_idx() {
        let order = [
            ("--shuffle-seed", s.shuffle_seed.is_some()),
            ("--id-column", s.id_column.is_some()),
            ("--text-column", s.text_column.is_some()),
        ];
        if let Some(option) = named(&table).or(named(&order)) {
            return Err(PrepError::Option(format!(
                "{option} is not for IDX pairs, which are taken in their order; leave it out"
            )));
        }
    }
    if let (Some(columns), Input::Parquet(set)) = (&s.image_columns, &s.input)
        && let Some(missing) = columns.iter().find(|name| !set.columns().iter().any(|c| c.name == **name))
    {
        let have: Vec<String> = set.columns().iter().map(|c| format!("{} ({})", c.name, c.kind)).collect();
        return Err(PrepError::Option(format!(
            "--image-column: there is no column {missing}; there are {}",
            have.join(", ")
        )));
    }
    Ok(())
}

/// Refuses shard names that another split in the same folder has.
fn no_clash(split: &str, jobs: &[String], out: &Path) -> Result<(), PrepError> {
    let jobs: HashSet<&str> = jobs.iter().map(String::as_str).collect();
    for (other, _, step) in SPLITS.iter().filter(|s| s.0 != split) {
        let plan: Option<Value> = get_json(&records(out, step).join("plan.json"))?;
        let names = plan.as_ref().and_then(|plan| plan["jobs"].as_array()).map(Vec::as_slice).unwrap_or_default();
        if let Some(name) = names.iter().filter_map(Value::as_str).find(|name| jobs.contains(name)) {
            return Err(PrepError::Option(format!(
                "{} has a shard {name}.tar of the split {other}; give another --pattern, such as {split}-%06d.tar, or another --out",
                out.display()
            )));
        }
    }
    Ok(())
}

/// Writes the list of rejects and the manifest of the folder: of all splits that are finished.
fn publish(out: &Path) -> Result<(), PrepError> {
    let mut manifests: Vec<(&str, &str, Value)> = Vec::new();
    for (split, _, step) in SPLITS {
        if let Some(manifest) = get_json(&records(out, step).join("manifest.json"))? {
            manifests.push((split, step, manifest));
        }
    }
    put_with(&out.join("rejects.jsonl"), |file| {
        for (_, step, _) in &manifests {
            let path = records(out, step).join("rejects.jsonl");
            let mut lines = std::fs::File::open(&path).map_err(io(&path, "open"))?;
            std::io::copy(&mut lines, file).map_err(io(&path, "copy"))?;
        }
        Ok(())
    })?;
    let mut all =
        json!({ "ovhost": env!("CARGO_PKG_VERSION"), "step": "convert", "settings": {}, "counts": {}, "jobs": [] });
    let mut counts = Counters::default();
    let mut jobs = Vec::new();
    for (split, _, manifest) in &mut manifests {
        all["settings"][*split] = manifest["settings"].take();
        let path = out.display().to_string();
        let damaged = |e: serde_json::Error| PrepError::Record { path, why: e.to_string(), next: crate::error::AFRESH };
        counts.add(&serde_json::from_value(manifest["counts"].take()).map_err(damaged)?);
        if let Value::Array(list) = manifest["jobs"].take() {
            jobs.extend(list);
        }
    }
    all["counts"] = json!(counts);
    all["jobs"] = Value::Array(jobs);
    put_json(&out.join("manifest.json"), &all)
}

#[cfg(test)]
#[path = "convert/tests.rs"]
mod tests;
