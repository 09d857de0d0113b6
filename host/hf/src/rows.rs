//! Rows of one file from any row on: a row group at a time, each column by a reader of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};

use crate::HfError;
use crate::chunk::Chunks;
use crate::schema::{Column, columns};
use crate::value::{Row, put};

/// Values that a column reads ahead. Of pictures that is much; pages hold more anyway.
const AHEAD: usize = 32;

/// An open file with the columns to read.
pub(crate) struct Open {
    pub path: PathBuf,
    pub reader: SerializedFileReader<Chunks>,
    columns: Vec<(Column, SchemaDescPtr)>,
}

/// What parquet's reader says, or the words of its panic: on some damage it ends in one.
pub(crate) fn guarded<T>(f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(short(&error.to_string())),
        Err(panic) => {
            let words =
                panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("the data are damaged ({})", short(words.unwrap_or("unreadable"))))
        }
    }
}

/// Some of its errors print the bytes that they are about.
fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl Open {
    /// Opens a file; `only` names the columns to read, others are not touched.
    pub fn new(path: &Path, only: Option<&[String]>) -> Result<Self, HfError> {
        let fail = |reason: String| HfError::File { path: path.display().to_string(), reason };
        let chunks = Chunks::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let reader = guarded(|| SerializedFileReader::new(chunks))
            .map_err(|why| fail(format!("is no whole parquet file: {why}; fetch or make it again")))?;
        let metadata = reader.metadata().file_metadata();
        let mut list = Vec::new();
        for (column, field) in columns(metadata).into_iter().zip(metadata.schema().get_fields()) {
            if only.is_some_and(|only| !only.contains(&column.name)) {
                continue;
            }
            let schema = Type::group_type_builder(metadata.schema().name()).with_fields(vec![field.clone()]).build();
            let schema = schema.map_err(|e| fail(format!("column {}: {e}", column.name)))?;
            list.push((column, Arc::new(SchemaDescriptor::new(Arc::new(schema)))));
        }
        Ok(Open { path: path.to_owned(), reader, columns: list })
    }

    fn group(&self, group: usize) -> Result<Vec<ReaderIter>, HfError> {
        let fail = |column: &str, reason| HfError::Cell {
            path: self.path.display().to_string(),
            group,
            column: column.to_owned(),
            reason,
        };
        let open = |(column, schema): &(Column, SchemaDescPtr)| {
            let make = || {
                let group = self.reader.get_row_group(group)?;
                TreeBuilder::new().with_batch_size(AHEAD).as_iter(schema.clone(), &*group)
            };
            guarded(make).map_err(|why| fail(&column.name, why))
        };
        self.columns.iter().map(open).collect()
    }

    fn row(&self, group: usize, readers: &mut [ReaderIter]) -> Result<Row, HfError> {
        let mut row = Row::default();
        for ((column, _), reader) in self.columns.iter().zip(readers) {
            let next =
                guarded(|| reader.next().unwrap_or_else(|| Err(ParquetError::EOF("the column ends early".into()))));
            let mut cells = next.map(|row| row.into_columns()).map_err(|reason| HfError::Cell {
                path: self.path.display().to_string(),
                group,
                column: column.name.clone(),
                reason,
            })?;
            let field = cells.pop().map_or(Field::Null, |(_, field)| field);
            put(&mut row, &column.name, &column.kind, field);
        }
        Ok(row)
    }
}

/// Iterator over the rows of a file. It yields as many items as there are rows, whatever is wrong with them.
pub struct Rows {
    open: Open,
    /// Rows of each row group.
    groups: Vec<u64>,
    group: usize,
    /// Rows of the current group that were given.
    given: u64,
    /// Rows of the current group to read over first.
    skip: u64,
    state: State,
}

enum State {
    /// The current row group is not open yet.
    Closed,
    Reading(Vec<ReaderIter>),
    /// What is left of the current row group is lost.
    Failed(HfError),
}

impl Rows {
    pub(crate) fn new(open: Open, from: u64) -> Self {
        let groups: Vec<u64> =
            open.reader.metadata().row_groups().iter().map(|g| u64::try_from(g.num_rows()).unwrap_or(0)).collect();
        let (mut group, mut skip) = (0, from);
        while group < groups.len() && skip >= groups[group] {
            skip -= groups[group];
            group += 1;
        }
        Rows { open, groups, group, given: skip, skip, state: State::Closed }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, HfError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.given >= *self.groups.get(self.group)? {
            self.group += 1;
            self.given = 0;
            self.state = State::Closed;
        }
        self.given += 1;
        if matches!(self.state, State::Closed) {
            self.state = match self.open.group(self.group) {
                Ok(readers) => State::Reading(readers),
                Err(error) => State::Failed(error),
            };
        }
        let skip = std::mem::take(&mut self.skip);
        let result = match &mut self.state {
            State::Reading(readers) => {
                let mut over = (0..skip).map(|_| self.open.row(self.group, readers));
                match over.find_map(Result::err) {
                    Some(error) => Err(error),
                    None => self.open.row(self.group, readers),
                }
            }
            State::Failed(error) => return Some(Err(error.clone())),
            State::Closed => return None,
        };
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        Some(result)
    }
}
