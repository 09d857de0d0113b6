//! Parquet files as a source: keys from the id column alone, rows in order or from anywhere.

use ovhost_hf::{DataFile, Dataset, HfError, Kind, Row, Rows};
use serde_json::Value;

use super::index::Entry;
use super::keys::NO_KEY;
use super::sample::Shape;
use super::source::Loaded;
use crate::error::PrepError;

/// Names under which plain binary columns hold pictures.
const BINARY_IMAGES: [&str; 8] = ["image", "images", "image_bytes", "img", "jpg", "jpeg", "png", "webp"];

/// The columns with pictures: those of the type `Image` and lists of them, else plain bytes and file names under usual names.
pub(super) fn image_columns(set: &Dataset) -> Vec<String> {
    let typed: Vec<String> = set.columns().iter().filter(|c| c.kind.holds_images()).map(|c| c.name.clone()).collect();
    if !typed.is_empty() {
        return typed;
    }
    let plain = |kind: &Kind| match kind {
        Kind::Bytes | Kind::Text => true,
        Kind::List(item) => matches!(**item, Kind::Bytes | Kind::Text),
        _ => false,
    };
    let named = set.columns().iter().filter(|c| BINARY_IMAGES.contains(&c.name.as_str()) && plain(&c.kind));
    named.map(|c| c.name.clone()).collect()
}

fn option(error: HfError) -> PrepError {
    PrepError::Option(error.to_string())
}

/// Notes the rows of a file: reads their keys and groups, nothing else.
pub(super) fn index(
    file: &DataFile,
    shape: &Shape<'_>,
    entry: &mut dyn FnMut(Entry) -> Result<(), PrepError>,
) -> Result<u64, PrepError> {
    let mut rows = file.rows_of(&shape.key_columns(), 0).map_err(option)?;
    for group in &file.groups {
        let bytes = group.bytes / group.rows.max(1);
        for _ in 0..group.rows {
            let found = match rows.next() {
                Some(Ok(mut row)) => shape.index(&mut row.fields),
                // The second pass will say what is wrong with it.
                _ => Entry { key: NO_KEY, ..Entry::default() },
            };
            entry(Entry { bytes, ..found })?;
        }
    }
    Ok(0)
}

/// An open file. In order it holds a page of each column; in any order, a row group.
pub(super) struct Table {
    file: DataFile,
    scattered: bool,
    /// Number of the next row, and the rows from it on.
    ahead: Option<(u64, Rows)>,
    /// Number of the first row of a row group, and the group.
    group: Option<(u64, Vec<Result<Row, HfError>>)>,
}

impl Table {
    pub fn new(file: &DataFile, scattered: bool) -> Self {
        Table { file: file.clone(), scattered, ahead: None, group: None }
    }

    pub fn read(&mut self, row: u64) -> Result<Result<Loaded, String>, PrepError> {
        let read = if self.scattered { self.anywhere(row)? } else { self.in_order(row)? };
        Ok(match read {
            Ok(row) => Ok(Loaded::Row { row: Value::Object(row.fields), blobs: row.blobs }),
            Err(error) => Err(error.to_string()),
        })
    }

    fn in_order(&mut self, row: u64) -> Result<Result<Row, HfError>, PrepError> {
        let at = match self.ahead.take() {
            Some((next, rows)) if next == row => rows,
            _ => self.file.rows(row).map_err(option)?,
        };
        let (next, rows) = self.ahead.insert((row, at));
        *next += 1;
        Ok(rows.next().unwrap_or_else(|| Err(self.short())))
    }

    fn anywhere(&mut self, row: u64) -> Result<Result<Row, HfError>, PrepError> {
        let inside = |first: u64, rows: usize| row >= first && row - first < rows as u64;
        if self.group.as_ref().is_none_or(|(first, rows)| !inside(*first, rows.len())) {
            self.group = None;
            let group = self.file.groups.iter().find(|g| inside(g.first, g.rows as usize));
            let Some(group) = group else { return Ok(Err(self.short())) };
            let rows = self.file.rows(group.first).map_err(option)?.take(group.rows as usize).collect();
            self.group = Some((group.first, rows));
        }
        let found = self.group.as_ref().and_then(|(first, rows)| rows.get((row - first) as usize));
        Ok(found.cloned().unwrap_or_else(|| Err(self.short())))
    }

    fn short(&self) -> HfError {
        let reason = "has fewer rows than when it was planned; do not change it under a running step".into();
        HfError::File { path: self.file.path.display().to_string(), reason }
    }
}
