//! What is converted, as parts with numbered rows: each kind of input behind one face.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ovhost_data::record::Reject;
use ovhost_data::shards::{RawSample, Shard, ShardBytes, ShardError, expand, expand_braces};
use ovhost_hf::{Blob, DataFile, Dataset, is_parquet};
use serde_json::{Value, json};

use super::idx::{self, Pair};
use super::index::{Entry, Places, Tables};
use super::parquet::{self, Table};
use super::rows;
use super::sample::Shape;
use super::shards;
use crate::error::{AFRESH, PrepError, io};

/// Bytes of a table that are read at once, where its rows are taken in order.
const AHEAD: u64 = 1 << 16;

/// What is converted.
#[derive(Debug, Clone)]
pub enum Input {
    /// Files that hold a JSON list of rows, or JSON Lines with one row a line (told apart by the content).
    Rows(Vec<PathBuf>),
    /// Parquet files.
    Parquet(Dataset),
    /// WebDataset shards.
    Shards(Vec<PathBuf>),
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

impl Input {
    /// Finds out what names stand for: parquet files or folders with them, `.tar` files or folders with them, else JSON files or
    /// folders with `.json` and `.jsonl` files. `config` and `split` choose among the configurations and splits of a parquet
    /// folder.
    ///
    /// # Errors
    /// Nothing of a known kind there, several kinds, no such configuration or split.
    pub fn find(names: &[String], config: Option<&str>, split: Option<&str>) -> Result<Self, PrepError> {
        let mut paths = Vec::new();
        for name in names {
            paths.extend(expand_braces(name)?.into_iter().map(PathBuf::from));
        }
        let kind = |path: &PathBuf| {
            if is_parquet(path) {
                "parquet"
            } else if is_tar(path) {
                "tar"
            } else {
                "json"
            }
        };
        let kinds: HashSet<&str> = paths.iter().map(kind).collect();
        if kinds.len() > 1 {
            let what = "the inputs are of several kinds (parquet, tar, JSON); convert each with a run of its own";
            return Err(PrepError::Option(what.into()));
        }
        for (option, _) in [("--config", config), ("--input-split", split)].iter().filter(|(_, value)| value.is_some())
        {
            if !kinds.contains("parquet") {
                return Err(PrepError::Option(format!("{option} is for parquet folders; leave it out")));
            }
        }
        if kinds.contains("parquet") {
            let mut files: Vec<DataFile> = Vec::new();
            for path in &paths {
                let set = Dataset::open_config(path, config, split).map_err(|e| match path.is_dir() {
                    true => PrepError::Option(format!("{e} (--config, --input-split)")),
                    false => PrepError::Option(e.to_string()),
                })?;
                files.extend_from_slice(set.files());
            }
            return Ok(Input::Parquet(Dataset::of(files)));
        }
        if kinds.contains("tar") {
            return Ok(Input::Shards(expand(names, Path::new(""))?));
        }
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                files.extend(tables_in(&path)?);
            } else {
                files.push(path);
            }
        }
        Ok(Input::Rows(files))
    }
}

fn is_tar(path: &Path) -> bool {
    let tar = |path: &Path| path.extension().is_some_and(|e| e == "tar");
    let inside = |entries: std::fs::ReadDir| entries.flatten().any(|e| tar(&e.path()));
    tar(path) || path.is_dir() && std::fs::read_dir(path).is_ok_and(inside)
}

/// JSON files of a folder, by name.
fn tables_in(folder: &Path) -> Result<Vec<PathBuf>, PrepError> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder, "list"))? {
        let path = entry.map_err(io(folder, "list"))?.path();
        if path.extension().is_some_and(|e| e == "json" || e == "jsonl") {
            out.push(path);
        }
    }
    if out.is_empty() {
        let what = "holds no .parquet, .tar, .json or .jsonl file";
        return Err(PrepError::Option(format!("folder {} {what}", folder.display())));
    }
    out.sort();
    Ok(out)
}

/// One file of the input.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub path: PathBuf,
    /// A name of its own among the parts, fit for a file.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// A row, read.
pub(super) enum Loaded {
    /// Of a table, with the bytes that came with it.
    Row { row: Value, blobs: Vec<Blob> },
    /// Of a shard.
    Sample(RawSample),
}

/// The input, looked at.
pub(super) struct Source {
    kind: Kind,
    parts: Vec<Part>,
    /// Whether rows are read in any order.
    pub scattered: bool,
}

enum Kind {
    Rows,
    Parquet(Dataset),
    Shards,
    Idx(Pair),
}

impl Source {
    /// Looks at the input: files and their sizes, footers, headers.
    pub fn open(input: &Input, scattered: bool) -> Result<Self, PrepError> {
        let (kind, paths) = match input {
            Input::Rows(paths) => (Kind::Rows, paths.clone()),
            Input::Shards(paths) => (Kind::Shards, paths.clone()),
            Input::Parquet(set) => {
                (Kind::Parquet(set.clone()), set.files().iter().map(|file| file.path.clone()).collect())
            }
            Input::Idx { images, labels, class_names } => {
                (Kind::Idx(Pair::open(images, labels, class_names)?), vec![images.clone()])
            }
        };
        let found = crate::lengths::inputs(&paths)?;
        let parts = found.into_iter().map(|i| Part { path: i.path, name: i.name, bytes: i.bytes }).collect();
        Ok(Source { kind, parts, scattered })
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What plans say of it.
    pub fn record(&self) -> Value {
        let kind = match &self.kind {
            Kind::Rows => "json",
            Kind::Parquet(_) => "parquet",
            Kind::Shards => "webdataset",
            Kind::Idx(pair) => return json!({ "kind": "idx", "images": pair.count(), "class_names": pair.class_names }),
        };
        let parts: Vec<Value> = self.parts.iter().map(|p| json!({ "name": p.name, "bytes": p.bytes })).collect();
        json!({ "kind": kind, "parts": parts })
    }

    /// The columns that hold pictures, where the input itself says so.
    pub fn image_columns(&self) -> Option<Vec<String>> {
        match &self.kind {
            Kind::Parquet(set) => Some(parquet::image_columns(set)),
            _ => None,
        }
    }

    /// Whether samples are taken as they are, members and all.
    pub fn keeps_members(&self) -> bool {
        matches!(self.kind, Kind::Shards)
    }

    /// Whether it is a pair of IDX files, which are read in order.
    pub fn is_idx(&self) -> bool {
        matches!(self.kind, Kind::Idx(_))
    }

    /// Whether an index is needed to know its rows, their keys and their groups.
    pub fn needs_index(&self, shape: &Shape<'_>) -> bool {
        match &self.kind {
            Kind::Rows | Kind::Shards => true,
            Kind::Idx(_) => false,
            Kind::Parquet(set) => {
                let wanted = shape.key_columns();
                // A column that is asked for and missing must be said of each row.
                shape.settings.group_by.is_some()
                    || shape.settings.id_column.is_some()
                    || set.columns().iter().any(|c| wanted.contains(&c.name))
            }
        }
    }

    /// Rows of a part, where they are known without an index.
    pub fn rows(&self, part: usize) -> Option<u64> {
        match &self.kind {
            Kind::Parquet(set) => set.files().get(part).map(|file| file.rows),
            Kind::Idx(pair) => Some(pair.count()),
            Kind::Rows | Kind::Shards => None,
        }
    }

    /// Rows that are stored together, of parquet files: (number of the first, rows, bytes of one), by part.
    pub fn groups(&self) -> Option<Vec<(u64, u64, u64)>> {
        let Kind::Parquet(set) = &self.kind else { return None };
        let mut first = 0;
        let mut out = Vec::new();
        for file in set.files() {
            for group in &file.groups {
                // The two headers and the padding of a picture and its JSON.
                out.push((first + group.first, group.rows, group.bytes / group.rows.max(1) + 2048));
            }
            first += file.rows;
        }
        Some(out)
    }

    /// Bytes of a row, where every row has as many.
    pub fn row_bytes(&self) -> Option<u64> {
        if let Kind::Idx(pair) = &self.kind { Some(pair.row_bytes()) } else { None }
    }

    /// Notes the rows of a part. Returns where the last one ends, and what was lost with a damaged end.
    pub fn index(
        &self,
        part: usize,
        shape: &Shape<'_>,
        entry: &mut dyn FnMut(Entry) -> Result<(), PrepError>,
    ) -> Result<(u64, Option<Reject>), PrepError> {
        match &self.kind {
            Kind::Rows => Ok((rows::index(&self.parts[part], shape, entry)?, None)),
            Kind::Parquet(set) => Ok((parquet::index(&set.files()[part], shape, entry)?, None)),
            Kind::Shards => shards::index(&self.parts[part], shape, entry),
            Kind::Idx(_) => Ok((0, None)),
        }
    }

    /// A reader of rows from anywhere; it is quick where they come in order.
    pub fn reader<'a>(&'a self, tables: &'a Tables) -> Reader<'a> {
        Reader { source: self, tables, open: None }
    }
}

/// Reads rows.
pub(super) struct Reader<'a> {
    source: &'a Source,
    tables: &'a Tables,
    /// The part that was read last.
    open: Option<(usize, Open)>,
}

/// Bytes of the part that were read at once, for several rows in a row.
#[derive(Default)]
struct Read {
    start: u64,
    bytes: Vec<u8>,
}

impl Read {
    fn get(&self, start: u64, end: u64) -> Option<&[u8]> {
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        self.bytes.get(at(start)?..at(end)?)
    }
}

/// A part whose rows are found by the index.
struct Rows {
    file: ShardBytes,
    places: Places,
    read: Read,
}

enum Open {
    Places(Box<Rows>),
    Parquet(Box<Table>),
    Idx(Box<idx::Items>),
}

impl Reader<'_> {
    /// Row `row` of a part; what is wrong with it in words.
    ///
    /// # Errors
    /// The part cannot be read at all.
    pub fn read(&mut self, part: usize, row: u64) -> Result<Result<Loaded, String>, PrepError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != part) {
            self.open = Some((part, self.begin(part)?));
        }
        let Some((_, open)) = &mut self.open else { return Ok(Err("it is not open".into())) };
        match open {
            Open::Places(rows) => {
                let Rows { file, places, read } = &mut **rows;
                let Part { path, bytes: size, .. } = &self.source.parts[part];
                let (start, end) = places.of(row)?;
                // The index was made of this very file, whose size the plan knows.
                if start > end || end > *size {
                    return Err(PrepError::Record {
                        path: path.display().to_string(),
                        why: format!("its index says that row {row} lies at bytes {start} to {end}"),
                        next: AFRESH,
                    });
                }
                if matches!(self.source.kind, Kind::Shards) {
                    return Ok(shards::sample(&file.read(start, end)?).map(Loaded::Sample));
                }
                if read.get(start, end).is_none() {
                    let ahead = if self.source.scattered { end } else { end.max(start + AHEAD).min(*size) };
                    *read = Read { start, bytes: file.read(start, ahead)? };
                }
                Ok(rows::row(start, read.get(start, end).unwrap_or_default()))
            }
            Open::Parquet(table) => table.read(row),
            Open::Idx(items) => items.read(row),
        }
    }

    fn begin(&self, part: usize) -> Result<Open, PrepError> {
        let path = &self.source.parts[part].path;
        Ok(match &self.source.kind {
            Kind::Rows | Kind::Shards => {
                let places = self.tables.open(part, !self.source.scattered)?;
                Open::Places(Box::new(Rows { file: ShardBytes::open(path)?, places, read: Read::default() }))
            }
            Kind::Parquet(set) => Open::Parquet(Box::new(Table::new(&set.files()[part], self.source.scattered))),
            Kind::Idx(pair) => Open::Idx(Box::new(pair.items()?)),
        })
    }
}

/// Refuses shards among the outputs.
pub(super) fn inputs_of(input: &Input) -> &[PathBuf] {
    if let Input::Shards(paths) = input { paths } else { &[] }
}

/// The folder that picture names of a part are relative to.
pub(super) fn beside(part: &Part) -> PathBuf {
    rows::folder(&part.path)
}

/// What [`ShardError`] says of one sample.
pub(super) fn sample_fault(error: ShardError) -> Result<String, PrepError> {
    match error {
        ShardError::Sample { reason, .. } => Ok(reason),
        other => Err(other.into()),
    }
}

/// Opens a shard's index of headers.
pub(super) fn open_shard(path: &Path) -> Result<Shard, PrepError> {
    let shard = Shard::open_damaged(path)?;
    if shard.is_compressed() {
        return Err(PrepError::Option(format!(
            "{} is compressed, and converting reads its samples once more at random places; unpack it (`ovhost data filter` reads \
             compressed shards and writes plain ones)",
            path.display()
        )));
    }
    Ok(shard)
}
