//! The run folder's append-only records: `metrics.jsonl`, `rejects.jsonl`, and `run.json` beside them.
//!
//! Their length in bytes is part of every checkpoint: on resume they are cut to it, so that a resumed run's records are
//! those of an unbroken one.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::PathBuf,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tracing::warn;

/// A JSONL file that only grows.
pub struct Lines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Lines {
    /// Opens `path` and cuts it to `bytes`.
    ///
    /// # Errors
    /// When the file is shorter than that: part of the record is lost.
    pub fn open(path: PathBuf, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let found = file.metadata()?.len();
        ensure!(
            found >= bytes,
            "{} has {found} bytes, the checkpoint was written when it had {bytes}: the file was cut or replaced",
            path.display()
        );
        file.set_len(bytes)?;
        Ok(Lines { path, file, bytes })
    }

    /// Appends one value as a line.
    pub fn push(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("writing {}", self.path.display()))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Bytes so far, all of them on disk after this call.
    pub fn synced_bytes(&mut self) -> Result<u64> {
        self.file.sync_all().with_context(|| format!("fsync of {}", self.path.display()))?;
        Ok(self.bytes)
    }
}

/// The folder of one run.
pub struct RunFolder {
    /// Its path.
    pub path: PathBuf,
    /// Held while this process writes there; the system lets go of it however the process ends.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder, for this process alone.
    ///
    /// # Errors
    /// It cannot be made, or another process trains in it.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making the run folder {}", path.display()))?;
        let lock = path.join(".lock");
        let file = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another process trains in {}: wait for it, end it, or write elsewhere with --set run.folder=FOLDER",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                warn!("{} cannot be locked ({error}): see to it that no other process trains there", path.display());
            }
        }
        Ok(RunFolder { path, _lock: file })
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the trained model is written at the end.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// True where a run has already left something.
    pub fn has_run(&self) -> bool {
        self.path.join("run.json").exists()
    }

    /// Opens a JSONL record of this run.
    pub fn lines(&self, name: &str, bytes: u64) -> Result<Lines> {
        Lines::open(self.path.join(name), bytes)
    }

    /// Replaces a JSON file of this run, whole.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        crate::checkpoint::write_synced(&self.path.join(name), &serde_json::to_vec_pretty(value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_process_s() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::create(dir.path().join("a")).unwrap();
        let error = format!("{:#}", RunFolder::create(dir.path().join("a")).err().unwrap());
        assert!(error.contains("another process") && error.contains("run.folder"), "{error}");
        drop(first);
        RunFolder::create(dir.path().join("a")).unwrap();
    }

    #[test]
    fn resuming_cuts_what_the_checkpoint_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut lines = Lines::open(path.clone(), 0).unwrap();
        lines.push(&1).unwrap();
        let at = lines.synced_bytes().unwrap();
        lines.push(&2).unwrap();
        drop(lines);
        let mut lines = Lines::open(path.clone(), at).unwrap();
        lines.push(&3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n3\n");
        let error = Lines::open(path, 99).err().unwrap().to_string();
        assert!(error.contains("4 bytes") && error.contains("99"), "{error}");
    }
}
