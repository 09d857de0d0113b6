//! Files that are there whole or not at all, with this crate's errors, and reading that ends.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::PluginError;

/// Writes a whole file and makes its folder if needed. Errors: the system's.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PluginError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || std::fs::create_dir_all(folder).and_then(|()| ovhost_files::write(path, bytes));
    write().map_err(|source| PluginError::Io { path: path.to_owned(), action: "write", source })
}

/// The bytes of a regular file, `cap` + 1 of them at most: whoever has that many knows that it is too large. A pipe or device,
/// which might never end, is an error, and is not waited for. Errors: that, or the system's.
pub(crate) fn read_regular(path: &Path, cap: u64) -> std::io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer; on a regular file the flag does nothing.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is no regular file (a folder, pipe or device)"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(cap)).unwrap_or(0));
    file.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
