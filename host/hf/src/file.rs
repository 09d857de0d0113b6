//! One parquet file: what its footer says, and its rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::file::reader::FileReader;

use crate::HfError;
use crate::rows::{Open, Rows};
use crate::schema::{Column, columns};

/// Rows that are stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroup {
    /// Number of its first row in the file.
    pub first: u64,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its columns, not compressed.
    pub bytes: u64,
}

/// A file, not open.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name below the folder that was opened, with slashes.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Its row groups, in order.
    pub groups: Vec<RowGroup>,
    /// Its columns; files of one data set share them.
    pub columns: Arc<Vec<Column>>,
}

impl DataFile {
    /// Reads the footer of a file.
    ///
    /// # Errors
    /// No file, no parquet, a cut or damaged footer.
    pub fn open(path: &Path, name: String) -> Result<Self, HfError> {
        let open = Open::new(path, None)?;
        let fail = |reason: String| HfError::File { path: path.display().to_string(), reason };
        let bytes = std::fs::metadata(path).map_err(|e| fail(format!("cannot read its size: {e}")))?.len();
        let metadata = open.reader.metadata();
        let (mut groups, mut first) = (Vec::with_capacity(metadata.num_row_groups()), 0_u64);
        for (i, group) in metadata.row_groups().iter().enumerate() {
            let number = |n: i64| u64::try_from(n).map_err(|_| fail(format!("row group {i} has {n} rows or bytes")));
            let (rows, bytes) = (number(group.num_rows())?, number(group.total_byte_size())?);
            groups.push(RowGroup { first, rows, bytes });
            first = first.checked_add(rows).ok_or_else(|| fail(format!("row group {i} has {rows} rows")))?;
        }
        let columns = Arc::new(columns(metadata.file_metadata()));
        Ok(DataFile { path: path.to_owned(), name, bytes, rows: first, groups, columns })
    }

    /// Its rows from number `from` on. The row groups before it are not read.
    ///
    /// # Errors
    /// The file cannot be opened any more.
    pub fn rows(&self, from: u64) -> Result<Rows, HfError> {
        Ok(Rows::new(Open::new(&self.path, None)?, from))
    }

    /// As [`Self::rows`], but of the named columns alone; names that the file does not have are left out of the rows.
    ///
    /// # Errors
    /// The file cannot be opened any more.
    pub fn rows_of(&self, columns: &[String], from: u64) -> Result<Rows, HfError> {
        Ok(Rows::new(Open::new(&self.path, Some(columns))?, from))
    }
}
