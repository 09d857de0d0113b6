//! Why a model cannot be configured, loaded, run or saved.

use std::path::{Path, PathBuf};

use ovhost_torch::TorchError;

/// Errors of this crate. Messages name the file, key or tensor, what was seen, what is allowed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// `config.json` is missing something, or asks for something that this model code does not do.
    #[error("{file}: {key}: {reason}")]
    Config {
        /// The file, or where the configuration came from.
        file: String,
        /// The key, with its section.
        key: String,
        /// Value seen, values allowed, next step.
        reason: String,
    },
    /// Weight files that do not fit the configuration, or are damaged.
    #[error("{0}")]
    Weights(String),
    /// A folder or file that a model cannot be made from.
    #[error("{0}")]
    Source(String),
    /// A batch that does not fit the model.
    #[error("{0}")]
    Input(String),
    /// A fixture that cannot be used.
    #[error("{0}")]
    Verify(String),
    /// libtorch refused.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        ModelError::Torch(error.into())
    }
}

impl ModelError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        ModelError::Io { path: path.to_owned(), source }
    }
}

/// Result of this crate.
pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;
