//! Files that appear whole: written under another name in the same folder, synced, renamed.

use std::fs::Permissions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use tempfile::NamedTempFile;

/// A file in the making. Dropped before [`Whole::finish`], it leaves nothing behind.
pub struct Whole {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
}

impl Whole {
    /// Begins the file that is to be at `path`. Errors: its folder is missing or not writable.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As for any new file: what the user's umask leaves. (Temporary files are else private.)
        let rights = Permissions::from_mode(0o666);
        let temp = tempfile::Builder::new().prefix(".new-").permissions(rights).tempfile_in(folder);
        let place = || format!("writing {}: its folder must exist and be writable", path.display());
        let temp = temp.with_context(place)?;
        // A file that is replaced keeps its rights: a private recipe stays private.
        if let Ok(old) = std::fs::metadata(path).map(|m| m.permissions()) {
            temp.as_file().set_permissions(old).with_context(place)?;
        }
        Ok(Whole { path: path.to_owned(), out: BufWriter::with_capacity(1 << 18, temp) })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Adds a value as one line of JSON.
    pub fn line(&mut self, value: &impl serde::Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).with_context(|| format!("writing {}", self.path.display()))?;
        line.push(b'\n');
        self.write(&line)
    }

    /// Puts the file in its place, replacing what was there.
    pub fn finish(self) -> Result<()> {
        let Whole { path, out } = self;
        let place = || format!("writing {}", path.display());
        let temp = out.into_inner().map_err(|e| anyhow!(e.into_error())).with_context(place)?;
        temp.as_file().sync_all().with_context(place)?;
        temp.persist(&path).map_err(|e| e.error).with_context(place)?;
        Ok(())
    }
}

/// Writes a whole file at once.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Whole::create(path)?;
    file.write(bytes)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut dropped = Whole::create(&path).unwrap();
        dropped.line(&3).unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let mut file = Whole::create(&path).unwrap();
        file.line(&serde_json::json!({"a": 1})).unwrap();
        file.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "as private as it was");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        let error = format!("{:#}", write(&folder.path().join("no/where"), b"").unwrap_err());
        assert!(error.contains("no/where: its folder must exist"), "{error}");
    }
}
