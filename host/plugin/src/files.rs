//! Files that are there whole or not at all.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::PluginError;

/// Writes a file under a temporary name in its folder (made if needed), syncs it and gives it its name. Errors: the system's.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PluginError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).create(folder)?;
        // As for any new file: what the user's umask leaves. (Temporary files are else private.)
        let rights = Permissions::from_mode(0o666);
        let mut temp = tempfile::Builder::new().prefix(".new-").permissions(rights).tempfile_in(folder)?;
        temp.write_all(bytes)?;
        temp.as_file().sync_all()?;
        temp.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| PluginError::Io { path: path.to_owned(), action: "write", source })
}
