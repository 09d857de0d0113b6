//! The error of every fallible call into libtorch.

/// What libtorch said, without its C++ backtrace.
#[derive(Debug, Clone, thiserror::Error)]
#[error("torch: {0}")]
pub struct TorchError(String);

impl TorchError {
    /// An error with this message; only the part before libtorch's backtrace is kept.
    pub fn new(message: impl AsRef<str>) -> Self {
        let text = message.as_ref();
        let text = text.split("\nException raised from").next().unwrap_or(text);
        TorchError(text.trim_end().to_owned())
    }
}

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        TorchError::new(error.to_string())
    }
}
