//! Files that are there whole or not at all, with this crate's errors.

use std::path::Path;

use crate::error::PluginError;

/// Writes a whole file and makes its folder if needed. Errors: the system's.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PluginError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || std::fs::create_dir_all(folder).and_then(|()| ovhost_files::write(path, bytes));
    write().map_err(|source| PluginError::Io { path: path.to_owned(), action: "write", source })
}
