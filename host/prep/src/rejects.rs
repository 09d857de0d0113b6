//! The samples that a job leaves out, on their way to its `rejects.jsonl`: as many as there may be, a few in memory.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ovhost_data::Reject;

use crate::error::{PrepError, io};
use crate::files::put_with;

/// Bytes of lines that stay in memory.
const IN_MEMORY: usize = 1 << 16;

/// A list of rejects that only grows. What does not fit in memory lies in a file without a name, which is gone with the process.
#[derive(Debug, Default)]
pub struct Rejects {
    /// Where that file is made; none: in the system's folder for such files.
    folder: Option<PathBuf>,
    lines: Vec<u8>,
    spilled: Option<File>,
    count: u64,
    last: Option<String>,
    /// What went wrong with the file, for whoever commits the job.
    failed: Option<PrepError>,
}

impl Rejects {
    /// An empty list whose file, if it needs one, lies in `folder`.
    pub fn within(folder: &Path) -> Self {
        Rejects { folder: Some(folder.to_owned()), ..Rejects::default() }
    }

    /// Adds one. A disk that is full is reported when the job is committed.
    pub fn push(&mut self, reject: Reject) {
        if self.failed.is_some() {
            return;
        }
        self.count += 1;
        if let Err(e) = serde_json::to_writer(&mut self.lines, &reject) {
            self.failed = Some(PrepError::Record {
                path: reject.key,
                why: format!("a reject cannot be written: {e}"),
                next: "this is a defect of the program",
            });
            return;
        }
        self.lines.push(b'\n');
        // Filter drops are wanted: they say nothing about what is wrong with the data.
        if reject.stage != "filter" {
            self.last = Some(reject.words());
        }
        if self.lines.len() >= IN_MEMORY {
            self.failed = self.spill().err();
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The latest that is no filter's, in words.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    fn spill(&mut self) -> Result<(), PrepError> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let file = match &mut self.spilled {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&folder).map_err(io(&folder, "make a temporary file in it"))?),
        };
        file.write_all(&self.lines).map_err(io(&folder, "write a temporary file in it"))?;
        self.lines.clear();
        Ok(())
    }

    /// Writes the list to `path`, whole or not at all.
    pub fn put(self, path: &Path) -> Result<(), PrepError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        put_with(path, |out| {
            if let Some(mut file) = self.spilled {
                file.seek(SeekFrom::Start(0)).map_err(io(path, "read the list of"))?;
                std::io::copy(&mut file, out).map_err(io(path, "write"))?;
            }
            out.write_all(&self.lines).map_err(io(path, "write"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_written_in_order_and_takes_little_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut rejects = Rejects::within(dir.path());
        let stage = |i: u32| if i.is_multiple_of(2) { "read" } else { "filter" };
        for i in 0..50_001 {
            let reason = format!("reason {i} {}", "x".repeat(50));
            rejects.push(Reject { key: format!("k{i}"), shard: "s.tar".into(), stage: stage(i), reason });
        }
        assert!(rejects.lines.capacity() <= 4 * IN_MEMORY && rejects.spilled.is_some());
        assert_eq!((rejects.len(), rejects.last().unwrap().split(':').next()), (50_001, Some("k50000 of s.tar")));
        let path = dir.path().join("list.jsonl");
        rejects.put(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for (i, line) in text.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (line["key"].as_str(), line["stage"].as_str()),
                (Some(&*format!("k{i}")), Some(stage(i as u32)))
            );
        }
        assert_eq!(text.lines().count(), 50_001);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the list is left");
        let mut lost = Rejects::within(&dir.path().join("gone"));
        let reject = Reject { key: "k".into(), shard: "s".into(), stage: "read", reason: "r".repeat(2 * IN_MEMORY) };
        (0..3).for_each(|_| lost.push(reject.clone()));
        assert!(lost.put(&path).unwrap_err().to_string().contains("gone"));
    }
}
