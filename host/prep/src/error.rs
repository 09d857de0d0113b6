//! What ends a step.

use std::path::Path;

use ovhost_data::DataError;
use ovhost_data::shards::ShardError;

/// Why a step stopped. What it had committed stays, and the same command goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum PrepError {
    /// Shards, plugins, settings.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Its own words.
        source: std::io::Error,
    },
    /// The folder holds the work of another plan.
    #[error(
        "{out} was begun with other settings: {difference}. Give the same settings to go on, or another --out, or remove the folder"
    )]
    OtherPlan {
        /// The output folder.
        out: String,
        /// The first difference, both sides.
        difference: String,
    },
    /// A file of the step's own records is not what it wrote.
    #[error("{path}: {why}; {next}")]
    Record {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
        /// What to do.
        next: &'static str,
    },
    /// An option that cannot work here.
    #[error("{0}")]
    Option(String),
    /// More samples were rejected than allowed.
    #[error("{0}")]
    Rejects(String),
    /// Ctrl-C or a signal.
    #[error("stopped; the same command goes on from what was saved")]
    Stopped,
}

impl From<ShardError> for PrepError {
    fn from(error: ShardError) -> Self {
        PrepError::Data(error.into())
    }
}

/// What to do about records that are damaged.
pub(crate) const AFRESH: &str = "remove the output folder's .ovhost to do the step afresh";

pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> PrepError {
    let path = path.display().to_string();
    move |source| PrepError::Io { path, action, source }
}
