//! Hugging Face dataset folders → rows: a JSON object and the bytes of its pictures. Knows no torch and no plugins.
//!
//! ```text
//!  folder, config, split ─ folder.rs ─► Dataset ─ file.rs ─► DataFile: rows, row groups, columns (the footer alone is read)
//!                                                    │
//!                                         rows.rs ─ Rows: one row group open, page by page ─ value.rs ─► Row { fields, blobs }
//! ```
//! Reading is bounded by the largest page of a row group, whatever the number of rows. A row group that is damaged costs its
//! own rows, each an error with file, row group and column; the rows after it are read.
//!
//! ```no_run
//! let dataset = ovhost_hf::Dataset::open("MMMU/Accounting".as_ref(), Some("validation"))?;
//! println!("{} rows of {:?}", dataset.len(), dataset.columns());
//! for row in dataset.rows(0) {
//!     let row = row?;
//!     println!("{} with {} pictures", row.fields["question"], row.blobs.len());
//! }
//! # Ok::<(), ovhost_hf::HfError>(())
//! ```

mod chunk;
mod configs;
mod file;
mod folder;
mod rows;
mod schema;
mod value;

pub use file::{DataFile, RowGroup};
pub use folder::{Dataset, is_parquet, split_of, splits};
pub use rows::Rows;
pub use schema::{Column, Kind};
pub use value::{Blob, Row};

/// What can go wrong with a data set. Cloned for every row that it costs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HfError {
    /// A folder without what is looked for.
    #[error("{path}: {reason}")]
    Folder {
        /// The folder, or the file.
        path: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A file that is no whole parquet file.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Rows that cannot be read.
    #[error("{path}, row group {group}, column {column}: {reason}")]
    Cell {
        /// The file.
        path: String,
        /// Number of the row group, from 0.
        group: usize,
        /// Name of the top-level column.
        column: String,
        /// What is wrong.
        reason: String,
    },
}
