//! Files that appear whole, with errors that name them; `ovhost_files` does the work.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

/// A file in the making. Dropped before [`Whole::finish`], it leaves nothing behind.
pub struct Whole {
    path: PathBuf,
    out: BufWriter<ovhost_files::Whole>,
}

impl Whole {
    /// Begins the file that is to be at `path`. Errors: its folder is missing or not writable.
    pub fn create(path: &Path) -> Result<Self> {
        let out = ovhost_files::Whole::create(path);
        let out = out.with_context(|| format!("writing {}: its folder must exist and be writable", path.display()))?;
        Ok(Whole { path: path.to_owned(), out: BufWriter::with_capacity(1 << 18, out) })
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
        let file = out.into_inner().map_err(|e| anyhow!(e.into_error())).with_context(place)?;
        file.finish().with_context(place)
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
    fn lines_are_written_and_errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut file = Whole::create(&path).unwrap();
        file.line(&serde_json::json!({"a": 1})).unwrap();
        file.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");
        let error = format!("{:#}", write(&folder.path().join("no/where"), b"").unwrap_err());
        assert!(error.contains("no/where: its folder must exist"), "{error}");
    }
}
