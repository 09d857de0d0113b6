//! A task's data set as records: parquet tables, JSON Lines or WebDataset shards behind one face.
//!
//! ```text
//!  data root / ORG / NAME ─► files of config and split ─► rows ─► Record { fields without pictures, media in column order }
//!                                                             └ expand: a row becomes several, with a further field
//! ```
//! Rows are read one after the other or from anywhere; of a table in order only a page is held.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use ovhost_data::image;
use ovhost_data::pipeline::{SampleSource, ShardSource};
use ovhost_data::record::{Media, natural};
use ovhost_data::shards::expand;
use ovhost_data::{Record, Reject};
use ovhost_hf::{DataFile, Dataset, Row, Rows};
use serde_json::{Map, Value};

use crate::select::matches;
use crate::task::{Data, Format, Pick};

/// Most bytes of one line of JSON: pictures in base64 are allowed.
const MOST_LINE: u64 = 256 << 20;

/// A data set's rows as the questions of a task.
pub struct TaskSource {
    data: Data,
    rows: Input,
    /// Rows before they are expanded.
    count: u64,
    files: Vec<PathBuf>,
    max_pixels: u64,
    /// The row that was read last: expanded rows follow one another.
    last: Mutex<Option<(u64, Record)>>,
}

enum Input {
    Tables { files: Vec<DataFile>, open: Mutex<Option<(u64, Rows)>> },
    Lines(Vec<(PathBuf, Vec<u64>)>),
    Shards { source: ShardSource, ends: Vec<u64> },
}

impl TaskSource {
    /// Opens the data set of a task below `root`; there, where `exact` says that it is the data set itself. `max_pixels` bounds a
    /// picture's header.
    ///
    /// # Errors
    /// No such folder (the places that were tried are named), no such split, files that cannot be read.
    pub fn open(data: &Data, root: &Path, exact: bool, max_pixels: u64) -> Result<Self> {
        let folder = if exact { root.to_owned() } else { find(data, root)? };
        let files = files(data, &folder)?;
        let format = match data.format {
            Some(format) => format,
            None => files.first().map_or(Ok(Format::Parquet), |f| format_of(f))?,
        };
        let (rows, count) = match format {
            Format::Parquet => {
                let open = |p: &PathBuf| DataFile::open(p, p.file_name().unwrap_or_default().to_string_lossy().into());
                let files: Vec<DataFile> = files.iter().map(open).collect::<Result<_, _>>()?;
                let count = files.iter().map(|f| f.rows).sum();
                (Input::Tables { files, open: Mutex::new(None) }, count)
            }
            Format::Jsonl => {
                let lines: Vec<(PathBuf, Vec<u64>)> =
                    files.iter().map(|p| Ok((p.clone(), lines(p)?))).collect::<Result<_>>()?;
                let count = lines.iter().map(|(_, l)| l.len() as u64).sum();
                (Input::Lines(lines), count)
            }
            Format::Webdataset => {
                let names: Vec<String> = files.iter().map(|p| p.to_string_lossy().into_owned()).collect();
                let source = ShardSource::open(&expand(&names, Path::new(""))?, max_pixels)?;
                ensure!(
                    !source.packed(),
                    "{}: the shards hold packs; an evaluation asks single samples",
                    folder.display()
                );
                let ends: Vec<u64> = source
                    .shards()
                    .iter()
                    .scan(0, |end, (_, n)| {
                        *end += n;
                        Some(*end)
                    })
                    .collect();
                let count = ends.last().copied().unwrap_or(0);
                (Input::Shards { source, ends }, count)
            }
        };
        ensure!(count > 0, "{}: the data set has no row", folder.display());
        check_columns(data, &rows).with_context(|| format!("{}", folder.display()))?;
        if let Some(expand) = &data.expand {
            ensure!(!expand.values.is_empty(), "data.expand.values is empty; it needs at least one value");
        }
        Ok(Self { data: data.clone(), rows, count, files, max_pixels, last: Mutex::new(None) })
    }

    /// The files that are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Number of questions.
    pub fn len(&self) -> u64 {
        self.count * self.data.expand.as_ref().map_or(1, |e| e.values.len() as u64)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Question `index`.
    fn question(&self, index: u64) -> Result<Record, Reject> {
        let (row, value) = match &self.data.expand {
            None => (index, None),
            Some(expand) => {
                let n = expand.values.len() as u64;
                let (row, value) = match expand.pick {
                    Pick::Every => (index / n, index % n),
                    Pick::Cycle => (index % self.count, index % n),
                };
                (row, Some((expand.field.clone(), expand.values[value as usize].clone(), index)))
            }
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = match last.take() {
            Some((at, record)) if at == row => record,
            _ => self.row(row)?,
        };
        if self.data.expand.is_some() {
            *last = Some((row, record.clone()));
        }
        drop(last);
        record.index = index;
        if let Some((field, value, index)) = value {
            record.fields.insert(field, value);
            record.key = format!("{}-{index}", record.key);
        }
        Ok(record)
    }

    fn row(&self, row: u64) -> Result<Record, Reject> {
        let (shard, read) = match &self.rows {
            Input::Tables { files, open } => table_row(files, open, row),
            Input::Lines(files) => line_row(files, row),
            Input::Shards { source, ends } => {
                let shard = ends.partition_point(|end| *end <= row);
                let first = if shard == 0 { 0 } else { ends[shard - 1] };
                return self.of_record(source.record(shard as u32, row - first)?);
            }
        };
        let reject = |key: String, reason: String| Reject { key, shard: shard.clone(), stage: "read", reason };
        let raw = read.map_err(|reason| reject(row.to_string(), reason))?;
        let key = self.key(&raw.fields, row);
        self.record(raw, &shard).map_err(|reason| reject(key, reason))
    }

    fn key(&self, fields: &Map<String, Value>, row: u64) -> String {
        match self.data.key.as_ref().and_then(|k| fields.get(k)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => row.to_string(),
            Some(other) => other.to_string(),
        }
    }

    /// A shard's sample has its pictures already; of the JSON part only base64 columns may hold more.
    fn of_record(&self, mut record: Record) -> Result<Record, Reject> {
        if self.data.key.as_ref().is_some_and(|k| record.fields.contains_key(k)) {
            record.key = self.key(&record.fields, record.index);
        }
        for column in &self.data.base64 {
            if let Some(value) = record.fields.shift_remove(column) {
                let media = decode(column, &value).and_then(|b| b.map(|b| self.media(column, b)).transpose());
                match media {
                    Ok(media) => record.media.extend(media),
                    Err(reason) => return Err(Reject { key: record.key, shard: record.shard, stage: "read", reason }),
                }
            }
        }
        Ok(record)
    }

    fn record(&self, raw: Raw, shard: &str) -> Result<Record, String> {
        let key = self.key(&raw.fields, raw.row);
        let mut record =
            Record { key, shard: shard.to_owned(), index: raw.row, fields: raw.fields, media: Vec::new(), ignored: 0 };
        for pattern in &self.data.images {
            let mut columns: Vec<String> =
                record.fields.keys().filter(|name| matches(pattern, name)).cloned().collect();
            columns.extend(raw.blobs.iter().map(|(column, _)| column).filter(|c| matches(pattern, c)).cloned());
            columns.sort_by(|a, b| natural(a, b));
            columns.dedup();
            let mut empty = Vec::new();
            for column in columns {
                let before = record.media.len();
                let value = record.fields.shift_remove(&column).unwrap_or(Value::Null);
                let stored: Vec<&Vec<u8>> = raw.blobs.iter().filter(|(c, _)| *c == column).map(|(_, b)| b).collect();
                if !stored.is_empty() {
                    for bytes in stored {
                        record.media.push(self.media(&column, bytes.clone())?);
                    }
                } else {
                    for bytes in named(&column, &value, raw.folder.as_deref())? {
                        record.media.push(self.media(&column, bytes)?);
                    }
                }
                // Prompts count pictures: `<image 2>` is image_2 also where there is no image_1. What stands for the missing one has no
                // bytes, so that a prompt which shows it is a reject.
                if record.media.len() == before {
                    empty.push(column);
                } else if !empty.is_empty() {
                    let gap = |name| Media { name, bytes: Arc::default(), size: 0, width: 1, height: 1 };
                    record.media.splice(before..before, empty.drain(..).map(gap));
                }
            }
        }
        for column in &self.data.base64 {
            let value = record.fields.shift_remove(column).unwrap_or(Value::Null);
            if let Some(bytes) = decode(column, &value)? {
                record.media.push(self.media(column, bytes)?);
            }
        }
        Ok(record)
    }

    fn media(&self, column: &str, bytes: Vec<u8>) -> Result<Media, String> {
        let (width, height) = image::header(&bytes, self.max_pixels).map_err(|e| format!("column {column}: {e}"))?;
        let size = bytes.len() as u64;
        Ok(Media { name: column.to_owned(), bytes: bytes.into(), size, width, height })
    }
}

impl SampleSource for TaskSource {
    fn shards(&self) -> Vec<(String, u64)> {
        vec![(self.data.dataset.clone(), self.len())]
    }

    fn record(&self, _shard: u32, index: u64) -> Result<Record, Reject> {
        self.question(index)
    }

    fn failure(&self) -> Option<String> {
        match &self.rows {
            Input::Shards { source, .. } => source.failure(),
            _ => None,
        }
    }
}

/// A row before its pictures are taken.
struct Raw {
    row: u64,
    fields: Map<String, Value>,
    /// Column and bytes, in order.
    blobs: Vec<(String, Vec<u8>)>,
    /// Where file names start from.
    folder: Option<PathBuf>,
}

type Read1 = (String, Result<Raw, String>);

fn table_row(files: &[DataFile], open: &Mutex<Option<(u64, Rows)>>, row: u64) -> Read1 {
    let mut first = 0;
    let found = files.iter().find(|f| {
        let inside = row < first + f.rows;
        if !inside {
            first += f.rows;
        }
        inside
    });
    let Some(file) = found else { return (String::new(), Err(format!("there is no row {row}"))) };
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = match open.take() {
        Some((next, rows)) if next == row && row != first => Ok(rows),
        _ => file.rows(row - first),
    };
    let read = rows.map_err(|e| e.to_string()).and_then(|rows| {
        let (next, rows) = open.insert((row, rows));
        *next += 1;
        match rows.next() {
            Some(Ok(Row { fields, blobs })) => {
                let mut stored = Vec::new();
                for blob in blobs {
                    // A name alone is looked up beside the table.
                    if let Some(bytes) = blob.bytes {
                        stored.push((blob.column, bytes));
                    }
                }
                Ok(Raw { row, fields, blobs: stored, folder: file.path.parent().map(Path::to_owned) })
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the file has fewer rows than when it was opened".into()),
        }
    });
    (file.name.clone(), read)
}

fn line_row(files: &[(PathBuf, Vec<u64>)], row: u64) -> Read1 {
    let mut left = row;
    for (path, places) in files {
        let Some(at) = places.get(left as usize) else {
            left -= places.len() as u64;
            continue;
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = || -> Result<Raw> {
            let mut file = BufReader::new(fs::File::open(path)?);
            file.seek(SeekFrom::Start(*at))?;
            let mut line = Vec::new();
            file.take(MOST_LINE).read_until(b'\n', &mut line)?;
            let fields = match serde_json::from_slice(&line).context("not valid JSON")? {
                Value::Object(fields) => fields,
                other => bail!("a line holds {}; it must be an object", ovhost_data::record::kind_of(&other)),
            };
            Ok(Raw { row, fields, blobs: Vec::new(), folder: path.parent().map(Path::to_owned) })
        };
        return (name, read().map_err(|e| format!("line {}: {e:#}", left + 1)));
    }
    (String::new(), Err(format!("there is no row {row}")))
}

/// Rows of JSON Lines that are looked at to know their columns.
const LOOK: u64 = 64;

/// A column that is named and not there would leave every question without its picture, or every answer without a right one.
fn check_columns(data: &Data, rows: &Input) -> Result<()> {
    let known: Vec<String> = match rows {
        Input::Tables { files, .. } => files.iter().flat_map(|f| f.columns.iter().map(|c| c.name.clone())).collect(),
        Input::Lines(files) => {
            let total = files.iter().map(|(_, l)| l.len() as u64).sum::<u64>().min(LOOK);
            let fields = (0..total).filter_map(|row| line_row(files, row).1.ok()).map(|raw| raw.fields);
            fields.flat_map(|f| f.keys().cloned().collect::<Vec<_>>()).collect()
        }
        // The pictures of shards are files of their own.
        Input::Shards { .. } => return Ok(()),
    };
    let expanded = data.expand.as_ref().map(|e| &e.field);
    let plain = |name: &&String| !name.contains('{') && expanded != Some(*name);
    let named = data.images.iter().map(|n| ("images", n)).chain(data.base64.iter().map(|n| ("base64", n)));
    let single = [("key", &data.key), ("references", &data.references)];
    let single = single.into_iter().filter_map(|(what, name)| Some((what, name.as_ref().filter(plain)?)));
    for (what, name) in named.chain(single) {
        if known.is_empty() || known.iter().any(|k| matches(name, k)) {
            continue;
        }
        let mut all = known.clone();
        all.sort_unstable();
        all.dedup();
        bail!("data.{what} names {name:?}, and no column is called so; there are {}", all.join(", "));
    }
    Ok(())
}

/// Where the lines of a file begin, empty ones left out.
fn lines(path: &Path) -> Result<Vec<u64>> {
    let context = || format!("reading {}", path.display());
    let mut file = BufReader::with_capacity(1 << 20, fs::File::open(path).with_context(context)?);
    let (mut places, mut at, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let read = file.by_ref().take(MOST_LINE).read_until(b'\n', &mut line).with_context(context)? as u64;
        if read == 0 {
            return Ok(places);
        }
        ensure!(
            read < MOST_LINE || line.ends_with(b"\n"),
            "{}: a line at byte {at} is longer than {MOST_LINE} bytes",
            path.display()
        );
        if !line.trim_ascii().is_empty() {
            places.push(at);
        }
        at += read;
    }
}

/// Bytes of a base64 column; none of null or empty.
fn decode(column: &str, value: &Value) -> Result<Option<Vec<u8>>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.trim(),
        other => {
            return Err(format!(
                "column {column} holds {}; base64 text is needed",
                ovhost_data::record::kind_of(other)
            ));
        }
    };
    let text = text.strip_prefix("data:").and_then(|t| t.split_once(";base64,")).map_or(text, |(_, data)| data);
    if text.is_empty() {
        return Ok(None);
    }
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map(Some)
        .map_err(|e| format!("column {column} is not base64: {e}"))
}

/// The pictures that a JSON value names: file names, data URIs, `{"bytes": base64}` or `{"path": name}`, or a list of these.
fn named(column: &str, value: &Value, folder: Option<&Path>) -> Result<Vec<Vec<u8>>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            let all: Result<Vec<_>, _> = items.iter().map(|item| named(column, item, folder)).collect();
            Ok(all?.into_iter().flatten().collect())
        }
        Value::String(text) if text.starts_with("data:") => Ok(decode(column, value)?.into_iter().collect()),
        Value::String(name) => {
            let folder = folder.unwrap_or(Path::new(""));
            if name.is_empty() {
                return Ok(Vec::new());
            }
            use std::path::Component;
            let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            if !inside {
                return Err(format!("column {column}: the picture {name:?} is not a path below {}", folder.display()));
            }
            let path = folder.join(name);
            fs::read(&path).map(|b| vec![b]).map_err(|e| format!("column {column}: reading {}: {e}", path.display()))
        }
        Value::Object(fields) => match (fields.get("bytes"), fields.get("path")) {
            (Some(bytes @ Value::String(_)), _) => Ok(decode(column, bytes)?.into_iter().collect()),
            (_, Some(path @ Value::String(_))) => named(column, path, folder),
            _ => Err(format!("column {column}: an object without `bytes` or `path` is no picture")),
        },
        other => {
            let seen = ovhost_data::record::kind_of(other);
            Err(format!("column {column} holds {seen}; a picture is a file name, a data URI or bytes"))
        }
    }
}

/// The data set's folder.
fn find(data: &Data, root: &Path) -> Result<PathBuf> {
    for name in std::iter::once(&data.dataset).chain(&data.aliases) {
        let plain = |c| matches!(c, std::path::Component::Normal(_));
        ensure!(
            Path::new(name).components().all(plain) && !name.is_empty(),
            "data.dataset {name:?} is no name below the data root, as ORG/NAME"
        );
    }
    let mut tried = Vec::new();
    for name in std::iter::once(&data.dataset).chain(&data.aliases) {
        let short = name.rsplit('/').next().unwrap_or(name);
        // `huggingface-cli download` keeps snapshots as datasets--ORG--NAME/snapshots/HASH.
        let cached = format!("datasets--{}", name.replace('/', "--"));
        for place in [root.join(name), root.join(short)] {
            if place.is_dir() {
                return Ok(place);
            }
            tried.push(place.display().to_string());
        }
        let snapshots = root.join(cached).join("snapshots");
        let mut found: Vec<PathBuf> =
            fs::read_dir(snapshots).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
        found.sort();
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            n => bail!(
                "{} has {n} snapshots; name the one to read with --data TASK=FOLDER",
                found[0].parent().unwrap_or(root).display()
            ),
        }
    }
    bail!(
        "the data set {} is not below {}: there is no {}; download it there, or name its folder with --data TASK=FOLDER",
        data.dataset,
        root.display(),
        tried.join(", no ")
    )
}

fn format_of(path: &Path) -> Result<Format> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "parquet" => Ok(Format::Parquet),
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "tar" | "gz" | "tgz" | "zst" => Ok(Format::Webdataset),
        _ => bail!("{}: a file of no known format; parquet, jsonl and tar are", path.display()),
    }
}

/// The files of the wanted split.
fn files(data: &Data, folder: &Path) -> Result<Vec<PathBuf>> {
    let all = below(folder)?;
    let relative = |path: &PathBuf| {
        let inside = path.strip_prefix(folder).unwrap_or(path);
        inside.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    if !data.files.is_empty() {
        let mut out = Vec::new();
        for pattern in &data.files {
            let found: Vec<PathBuf> = all.iter().filter(|p| matches(pattern, &relative(p))).cloned().collect();
            ensure!(!found.is_empty(), "{}: no file matches {pattern:?}", folder.display());
            out.extend(found);
        }
        return Ok(out);
    }
    let wanted = data.format;
    let ending = |formats: Format| {
        let all: Vec<PathBuf> = all.iter().filter(|p| format_of(p).is_ok_and(|f| f == formats)).cloned().collect();
        all
    };
    if wanted.is_none_or(|f| f == Format::Parquet) && !ending(Format::Parquet).is_empty() {
        let set = Dataset::open_config(folder, data.config.as_deref(), data.split.as_deref())?;
        return Ok(set.files().iter().map(|f| f.path.clone()).collect());
    }
    for format in [Format::Jsonl, Format::Webdataset] {
        if wanted.is_some_and(|f| f != format) {
            continue;
        }
        let mut found = ending(format);
        if let Some(config) = &data.config {
            let inside: Vec<PathBuf> =
                found.iter().filter(|p| relative(p).starts_with(&format!("{config}/"))).cloned().collect();
            if !inside.is_empty() {
                found = inside;
            }
        }
        if let Some(split) = &data.split {
            let of_split: Vec<PathBuf> = found.iter().filter(|p| in_split(&relative(p), split)).cloned().collect();
            // One file may have any name, but not that of another split.
            let of_another = |path: &PathBuf| SPLITS.iter().any(|word| in_split(&relative(path), word));
            if of_split.is_empty() && (found.len() > 1 || found.iter().any(of_another)) {
                bail!(
                    "{}: no file of the split {split}: {}",
                    folder.display(),
                    found.iter().map(relative).collect::<Vec<_>>().join(", ")
                );
            }
            if !of_split.is_empty() {
                found = of_split;
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    bail!("{}: there is no parquet, jsonl or tar file in it or below it", folder.display())
}

/// Words that name splits.
const SPLITS: [&str; 7] = ["train", "training", "validation", "valid", "val", "dev", "test"];

/// Whether a word of the file's name or of its folders is the split.
fn in_split(name: &str, split: &str) -> bool {
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    name.split(['/', '-', '.', '_']).any(|word| word == split) || name.split('/').any(|part| part == split)
}

/// Files below a folder, sorted; hidden ones are left out.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut out, mut left) = (Vec::new(), vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = left.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                // Deeper than data sets are; also the end of links that lead upwards.
                if depth < 8 {
                    left.push((path, depth + 1));
                }
            } else {
                out.push(path);
            }
        }
    }
    out.sort();
    Ok(out)
}

impl TaskSource {
    /// As a source that several readers share.
    pub fn shared(self) -> Arc<dyn SampleSource> {
        Arc::new(self)
    }
}
