//! Step `index`: what must be known of all rows before the first is written.
//!
//! ```text
//!  part NAME ─► NAME.rows: an Entry of every row (key and group as hashes, place, size), and at last where the last one ends
//! ```
//! 32 bytes a row, on disk; numbers are little-endian. One job a part. Tables whose rows are found without reading them and have
//! their numbers for keys (IDX pairs, parquet without an id column) need no index.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ovhost_data::rejects::Counters;
use serde_json::json;

use super::sample::Shape;
use super::source::Source;
use super::{ConvertSettings, steps};
use crate::error::{AFRESH, PrepError, io};
use crate::files::put_with;
use crate::jobs::{Done, Made, MadeFile, Plan, Step, records};

/// Bytes of an entry.
const ENTRY: usize = 32;

/// What is noted of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Hash of its key, or [`NO_KEY`], or [`NUMBER`].
    pub key: u64,
    /// Hash of its group; 0: it is alone.
    pub group: u64,
    /// Byte offset in its file.
    pub place: u64,
    /// About how many bytes of a shard it will take.
    pub bytes: u64,
}

impl Entry {
    fn pack(self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        for (to, from) in out.chunks_exact_mut(8).zip([self.key, self.group, self.place, self.bytes]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        out
    }

    fn unpack(bytes: &[u8; ENTRY]) -> Self {
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |i: usize| u64::from_le_bytes(numbers[i]);
        Entry { key: number(0), group: number(1), place: number(2), bytes: number(3) }
    }
}

/// The indexes of all parts.
pub(super) struct Tables {
    paths: Vec<PathBuf>,
}

impl Tables {
    /// Those in `out`.
    pub fn new(settings: &ConvertSettings, source: &Source, out: &Path) -> Self {
        let folder = records(out, steps(&settings.split).0);
        Tables { paths: source.parts().iter().map(|part| folder.join(format!("{}.rows", part.name))).collect() }
    }

    /// Rows of a part.
    pub fn rows(&self, part: usize) -> Result<u64, PrepError> {
        let path = &self.paths[part];
        let bytes = std::fs::metadata(path).map_err(io(path, "read its size"))?.len();
        let entries = bytes / ENTRY as u64;
        if bytes % ENTRY as u64 != 0 || entries == 0 {
            let why = format!("it has {bytes} bytes, no whole number of entries");
            return Err(PrepError::Record { path: path.display().to_string(), why, next: AFRESH });
        }
        Ok(entries - 1)
    }

    /// The entries of a part, in order, without the last.
    pub fn walk(&self, part: usize, mut on: impl FnMut(Entry)) -> Result<(), PrepError> {
        let path = &self.paths[part];
        let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(io(path, "open"))?);
        for _ in 0..self.rows(part)? {
            let mut bytes = [0; ENTRY];
            file.read_exact(&mut bytes).map_err(io(path, "read"))?;
            on(Entry::unpack(&bytes));
        }
        Ok(())
    }

    /// Opens the index of a part, to look up places.
    /// `ahead`: rows will be asked for in their order.
    pub fn open(&self, part: usize, ahead: bool) -> Result<Places, PrepError> {
        let path = self.paths[part].clone();
        let file = File::open(&path).map_err(io(&path, "open"))?;
        let entries = self.rows(part)? + 1;
        Ok(Places { file, path, entries, ahead: if ahead { 256 } else { 2 }, first: 0, read: Vec::new() })
    }
}

/// Places of the rows of a part.
pub(super) struct Places {
    file: File,
    path: PathBuf,
    entries: u64,
    /// Entries to read at once.
    ahead: u64,
    /// Those that were read, and the number of the first.
    read: Vec<[u8; ENTRY]>,
    first: u64,
}

impl Places {
    /// Where a row begins and where the next one does.
    pub fn of(&mut self, row: u64) -> Result<(u64, u64), PrepError> {
        let has = |places: &Self| {
            let at = usize::try_from(row.checked_sub(places.first)?).ok()?;
            let pair = places.read.get(at..at + 2)?;
            Some((Entry::unpack(&pair[0]).place, Entry::unpack(&pair[1]).place))
        };
        if let Some(pair) = has(self) {
            return Ok(pair);
        }
        let count = self.entries.saturating_sub(row).clamp(2, self.ahead);
        self.read.resize(count as usize, [0; ENTRY]);
        let at = row.saturating_mul(ENTRY as u64);
        let read = self.file.read_exact_at(self.read.as_flattened_mut(), at);
        if read.is_err() {
            self.read.clear();
        }
        read.map_err(io(&self.path, "read a row's place in it"))?;
        self.first = row;
        Ok(has(self).unwrap_or_default())
    }
}

/// The step.
pub(super) struct Index<'a> {
    pub settings: &'a ConvertSettings,
    pub source: &'a Source,
    pub shape: &'a Shape<'a>,
    pub tables: &'a Tables,
}

impl Index<'_> {
    pub fn plan(&self) -> Plan {
        let s = self.settings;
        let settings = json!({
            "input": self.source.record(), "fields": s.fields, "group_by": s.group_by, "id_column": s.id_column,
            "image_columns": self.shape.image_columns,
        });
        let jobs = self.source.parts().iter().map(|part| part.name.clone()).collect();
        Plan { step: steps(&s.split).0, settings, jobs }
    }
}

impl Step for Index<'_> {
    type Worker = ();

    fn worker(&self) -> Result<(), PrepError> {
        Ok(())
    }

    fn is_last(&self) -> bool {
        false
    }

    fn job(
        &self,
        (): &mut (),
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let path = &self.tables.paths[index];
        let mut made = Made::within(out);
        let mut rows = 0;
        put_with(path, |file| {
            let mut file = BufWriter::with_capacity(1 << 18, file);
            let mut put = |entry: Entry| -> Result<(), PrepError> {
                file.write_all(&entry.pack()).map_err(io(path, "write"))?;
                rows += 1;
                if rows % 256 == 0 { tick(256) } else { Ok(()) }
            };
            let (end, damage) = self.source.index(index, self.shape, &mut put)?;
            file.write_all(&Entry { place: end, ..Entry::default() }.pack()).map_err(io(path, "write"))?;
            file.flush().map_err(io(path, "write"))?;
            if let Some(damage) = damage {
                made.counts = Counters { read: 1, ..Counters::default() };
                made.counts.rejected.insert(damage.stage.to_owned(), 1);
                made.rejects.push(damage);
            }
            Ok(())
        })?;
        tick(rows % 256)?;
        let name = path.strip_prefix(out).unwrap_or(path).to_string_lossy().into_owned();
        made.files.push(MadeFile::of(path, &name, rows)?);
        Ok(made)
    }

    fn finish(&self, _: &Path, _: &[Done], _: &Counters) -> Result<(), PrepError> {
        Ok(())
    }
}
