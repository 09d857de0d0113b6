//! Step `convert`: the samples of a job, read, checked and written into its shard.
//!
//! A job takes about as much as fits into a shard. What is more after all goes on in `NAME_1.tar`, so that no shard is over its
//! bound and no job depends on another.

use std::path::{Path, PathBuf};

use ovhost_data::image::decode::is_picture_name;
use ovhost_data::record::{Record, RecordOptions, Reject};
use ovhost_data::rejects::Counters;
use ovhost_data::shards::{RawSample, ShardFile, WrittenShard, write_nv_meta};
use serde_json::{Map, Value, json};

use super::index::Tables;
use super::keys::number_key;
use super::order::Order;
use super::sample::{Draft, Shape};
use super::source::{Loaded, Reader, Source, beside, sample_fault};
use super::{ConvertSettings, Input, shards, steps};
use crate::error::PrepError;
use crate::jobs::{Done, Made, MadeFile, Plan, Step};

/// A sample ready to be written: its key, and its parts once the key is final.
enum Ready {
    Draft(Draft),
    Parts { key: String, parts: Vec<(String, Vec<u8>)>, pictures: u64 },
}

/// The step.
pub(super) struct Write<'a> {
    pub settings: &'a ConvertSettings,
    pub source: &'a Source,
    pub shape: &'a Shape<'a>,
    pub tables: &'a Tables,
    pub order: &'a Order,
    /// Hash of the indexes.
    pub indexes: String,
    /// Name of shard `n`, without `.tar`.
    pub names: Vec<String>,
    pub indexed: bool,
}

impl Write<'_> {
    pub fn plan(&self) -> Plan {
        let s = self.settings;
        let settings = json!({
            "input": self.source.record(), "indexes": self.indexes, "fields": s.fields, "image_pattern": s.image_pattern,
            "group_by": s.group_by, "id_column": s.id_column, "image_columns": self.shape.image_columns,
            "text_column": s.text_column, "shuffle_seed": s.shuffle_seed, "split": s.split, "max_count": s.max_count,
            "max_bytes": s.max_bytes, "verify_images": s.verify_images, "max_image_pixels": s.max_pixels,
        });
        Plan { step: steps(&s.split).1, settings, jobs: self.names.clone() }
    }

    fn reject(&self, key: String, part: usize, row: u64, reason: &str) -> Reject {
        let file = &self.source.parts()[part].path;
        Reject {
            key,
            shard: file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            stage: "convert",
            reason: format!("{reason} (row {row} of {})", file.display()),
        }
    }

    /// Reads one row of a table: its fields and key; its pictures are still to be found.
    fn row(&self, reader: &mut Reader<'_>, row: u64) -> Result<Result<Row, Reject>, PrepError> {
        let (part, index) = self.order.locate(row);
        let loaded = reader.read(part, index)?;
        let number = number_key(row);
        let fail = |key: &str, reason: String| Ok(Err(self.reject(key.to_owned(), part, index, &reason)));
        let (value, blobs) = match loaded {
            Ok(Loaded::Row { row, blobs }) => (row, blobs),
            Ok(Loaded::Sample(raw)) => return fail(&raw.key, "a shard's sample is no row".into()),
            Err(reason) => return fail(&number, reason),
        };
        let mut fields = match self.shape.object(value) {
            Ok(fields) => fields,
            Err(reason) => return fail(&number, reason),
        };
        let key = match self.shape.key(&fields) {
            Ok(key) => key.unwrap_or(number),
            Err(reason) => return fail(&number, reason),
        };
        let rest = self.shape.name_picture(&mut fields).and_then(|()| self.shape.group(&fields));
        match rest {
            Ok(group) => Ok(Ok(Row { part, index, key, fields, blobs, group })),
            Err(reason) => fail(&key, reason),
        }
    }

    /// The sample of these rows. Rows that cannot be in it are added to `rejects`.
    fn sample(
        &self,
        reader: &mut Reader<'_>,
        rows: &[u64],
        rejects: &mut Vec<Reject>,
    ) -> Result<Option<Ready>, PrepError> {
        if self.source.keeps_members() {
            return self.members(reader, rows[0], rejects);
        }
        let mut sample: Option<(Row, Vec<Value>)> = None;
        for row in rows {
            let mut row = match self.row(reader, *row)? {
                Ok(row) => row,
                Err(reject) => {
                    rejects.push(reject);
                    continue;
                }
            };
            let Some(by) = &self.settings.group_by else {
                sample = Some((row, Vec::new()));
                break;
            };
            let entry = match row.split(by, &self.shape.picture_columns()) {
                Ok(entry) => entry,
                Err(reason) => {
                    rejects.push(self.reject(row.key, row.part, row.index, &reason));
                    continue;
                }
            };
            match &mut sample {
                None => sample = Some((row, vec![entry])),
                Some((first, entries)) => match first.differs(&row) {
                    Some(reason) => rejects.push(self.reject(row.key, row.part, row.index, &reason)),
                    None => entries.push(entry),
                },
            }
        }
        let Some((mut first, entries)) = sample else { return Ok(None) };
        if self.settings.group_by.is_some() {
            first.fields.insert("qa".into(), Value::Array(entries));
        }
        let Row { part, index, key, fields, mut blobs, .. } = first;
        let folder = beside(&self.source.parts()[part]);
        let fields = self.shape.rename(fields, &mut blobs);
        let draft = fields.and_then(|fields| self.shape.draft(key.clone(), fields, blobs, &folder));
        match draft {
            Ok(draft) => Ok(Some(Ready::Draft(draft))),
            Err(reason) => {
                rejects.push(self.reject(key, part, index, &reason));
                Ok(None)
            }
        }
    }

    /// A sample of a shard, members kept.
    fn members(
        &self,
        reader: &mut Reader<'_>,
        row: u64,
        rejects: &mut Vec<Reject>,
    ) -> Result<Option<Ready>, PrepError> {
        let (part, index) = self.order.locate(row);
        let raw = match reader.read(part, index)? {
            Ok(Loaded::Sample(raw)) => raw,
            Ok(Loaded::Row { .. }) => return Ok(None),
            Err(reason) => {
                rejects.push(self.reject(number_key(row), part, index, &reason));
                return Ok(None);
            }
        };
        let tar_key = raw.key.clone();
        match self.mapped(raw) {
            Ok((key, parts, pictures)) => Ok(Some(Ready::Parts { key, parts, pictures })),
            Err(reason) => {
                rejects.push(self.reject(tar_key, part, index, &reason));
                Ok(None)
            }
        }
    }

    /// Key and parts of a shard's sample, once it was checked as a reader would.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart")]
    fn mapped(&self, mut raw: RawSample) -> Result<(String, Vec<(String, Vec<u8>)>, u64), String> {
        let mut key = raw.key.clone();
        let s = self.settings;
        if s.id_column.is_some() || s.text_column.is_some() {
            let (at, fields) = shards::fields(&raw)?.ok_or("it has no json part, so it has no columns to map")?;
            if s.id_column.is_some() {
                key = self.shape.key(&fields)?.ok_or("the value of its id column is no text or number")?;
            }
            if s.text_column.is_some() {
                let fields = self.shape.rename(fields, &mut [])?;
                raw.parts[at].1 = serde_json::to_vec(&Value::Object(fields)).map_err(|e| e.to_string())?;
            }
        }
        for (part, bytes) in raw.parts.iter().filter(|(part, _)| is_picture_name(part)) {
            self.shape.check(bytes).map_err(|e| format!("part {part}: {e}"))?;
        }
        let parts = raw.parts.clone();
        let record = Record::build(raw, "", 0, &RecordOptions { max_pixels: s.max_pixels }).map_err(|r| r.reason)?;
        Ok((key, parts, record.media.len() as u64))
    }
}

/// A row of a table.
struct Row {
    part: usize,
    index: u64,
    key: String,
    fields: Map<String, Value>,
    blobs: Vec<ovhost_hf::Blob>,
    group: Option<String>,
}

impl Row {
    /// Takes what is the row's own out of the fields that its group shares: the rest stays.
    fn split(&mut self, by: &str, pictures: &[String]) -> Result<Value, String> {
        if let Some(blob) = self.blobs.iter().find(|blob| !pictures.contains(&blob.column)) {
            let column = &blob.column;
            return Err(format!("column {column} holds bytes, which a group's list cannot; leave out --group-by"));
        }
        let mut shared = Map::new();
        for name in ["id", by].into_iter().chain(pictures.iter().map(String::as_str)) {
            if let Some(value) = self.fields.shift_remove(name) {
                shared.insert(name.to_owned(), value);
            }
        }
        let own = std::mem::replace(&mut self.fields, shared);
        if own.is_empty() {
            return Err(format!("the row has nothing but \"{by}\" to put into the group's list qa"));
        }
        Ok(Value::Object(own))
    }

    /// Why another row cannot be in the group that this one began.
    fn differs(&self, other: &Row) -> Option<String> {
        if self.group != other.group {
            let group = other.group.as_deref().unwrap_or_default();
            return Some(format!("its group {group} has the same hash as another; give one of them another value"));
        }
        let pictures = |row: &Row| {
            let names: Vec<Value> =
                row.fields.iter().filter(|(name, _)| *name != "id").map(|(_, value)| value.clone()).collect();
            (names, row.blobs.iter().map(|blob| blob.bytes.clone()).collect::<Vec<_>>())
        };
        (pictures(self) != pictures(other)).then(|| {
            let name = other.fields.iter().find(|(name, value)| *name != "id" && self.fields.get(*name) != Some(value));
            let (name, value) = name.map_or(("picture", &Value::Null), |(name, value)| (name.as_str(), value));
            format!("the row's {name} {value} differs from that of the first row of its group")
        })
    }
}

/// The shards of a job.
struct Shards<'a> {
    out: &'a Path,
    name: &'a str,
    most: u64,
    open: Option<ShardFile>,
    files: Vec<MadeFile>,
}

impl Shards<'_> {
    fn file_name(&self) -> String {
        match self.files.len() {
            0 => format!("{}.tar", self.name),
            n => format!("{}_{n}.tar", self.name),
        }
    }

    fn write(&mut self, key: &str, parts: &[(String, Vec<u8>)]) -> Result<Result<(), String>, PrepError> {
        let size: u64 = parts.iter().map(|(_, bytes)| 512 + (bytes.len() as u64).next_multiple_of(512)).sum();
        if self.open.as_ref().is_some_and(|open| open.samples() > 0 && open.bytes() + size > self.most) {
            self.close()?;
        }
        let path = self.out.join(self.file_name());
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(ShardFile::create(path)?),
        };
        let parts: Vec<(&str, &[u8])> = parts.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        match open.write(key, &parts) {
            Ok(()) => Ok(Ok(())),
            Err(error) => sample_fault(error).map(Err),
        }
    }

    fn close(&mut self) -> Result<(), PrepError> {
        let Some(open) = self.open.take().filter(|open| open.samples() > 0) else { return Ok(()) };
        self.files.push(MadeFile::publish(open, self.file_name())?);
        Ok(())
    }
}

impl<'a> Step for Write<'a> {
    type Worker = Reader<'a>;

    fn worker(&self) -> Result<Reader<'a>, PrepError> {
        Ok(self.source.reader(self.tables))
    }

    fn is_last(&self) -> bool {
        false
    }

    fn follows(&self) -> Option<&'static str> {
        self.indexed.then(|| steps(&self.settings.split).0)
    }

    fn job(
        &self,
        reader: &mut Reader<'a>,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let mut made = Made::within(out);
        let mut shards =
            Shards { out, name: &self.names[index], most: self.settings.max_bytes, open: None, files: Vec::new() };
        for rows in self.order.samples_of(index) {
            tick(rows.len() as u64)?;
            let mut rejects = Vec::new();
            if let Some(ready) = self.sample(reader, &rows, &mut rejects)? {
                let (key, pictures) = match &ready {
                    Ready::Draft(draft) => (draft.key.clone(), draft.pictures()),
                    Ready::Parts { key, pictures, .. } => (key.clone(), *pictures),
                };
                let named = self.order.renames.key(rows[0], &key).and_then(|key| {
                    let parts = match ready {
                        Ready::Draft(draft) => draft.finish(&key)?,
                        Ready::Parts { parts, .. } => parts,
                    };
                    Ok((key, parts))
                });
                let written = match named {
                    Ok((key, parts)) => shards.write(&key, &parts)?,
                    Err(reason) => Err(reason),
                };
                match written {
                    Ok(()) => {
                        made.counts.samples += 1;
                        made.counts.images += pictures;
                    }
                    Err(reason) => {
                        let (part, row) = self.order.locate(rows[0]);
                        rejects.push(self.reject(key, part, row, &reason));
                    }
                }
            }
            for reject in rejects {
                *made.counts.rejected.entry(reject.stage.to_owned()).or_default() += 1;
                made.rejects.push(reject);
            }
        }
        made.counts.read = made.counts.samples + made.counts.rejected_total();
        shards.close()?;
        made.files = shards.files;
        Ok(made)
    }

    fn finish(&self, out: &Path, done: &[Done], counts: &Counters) -> Result<(), PrepError> {
        if counts.samples == 0 {
            let why = format!("no sample could be made. {}", counts.summary("written"));
            let list = crate::jobs::records(out, steps(&self.settings.split).1).join("jobs");
            return Err(PrepError::Rejects(format!("{why}. Each is listed in {}/*.rejects.jsonl", list.display())));
        }
        // Of parquet files it is known from the start that the columns are there.
        let unseen = counts.images == 0 && !matches!(self.settings.input, Input::Parquet(_));
        if let Some(columns) = self.settings.image_columns.as_ref().filter(|_| unseen) {
            let columns = columns.join(", ");
            return Err(PrepError::Option(format!("no sample has a picture in {columns}; check --image-column")));
        }
        let written = |f: &MadeFile| WrittenShard { path: out.join(&f.name), samples: f.samples, bytes: f.bytes };
        let shards: Vec<WrittenShard> = done.iter().flat_map(|d| &d.files).map(written).collect();
        Ok(write_nv_meta(out, &self.settings.split, &shards)?)
    }
}

/// The names of the jobs: the pattern's.
pub(super) fn names(pattern: &str, count: usize) -> Result<Vec<String>, PrepError> {
    let name = ovhost_data::shards::shard_name(pattern)?;
    Ok((0..count).map(|n| PathBuf::from(name(n)).with_extension("").to_string_lossy().into_owned()).collect())
}
