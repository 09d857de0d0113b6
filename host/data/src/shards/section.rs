//! Parts of an open file as files of their own, and reading ahead in them. Nothing moves the file's own position, so threads
//! share it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A part of a file as a file of its own.
pub(super) struct Section<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    at: u64,
    /// Why the system could not read it; decoders would call that a corrupt picture.
    pub failed: Option<std::io::Error>,
}

impl<'a> Section<'a> {
    /// `length` bytes from `start` on.
    pub fn new(file: &'a File, start: u64, length: u64) -> Self {
        Section { file, start, length, at: 0, failed: None }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        match self.file.read_at(&mut buffer[..wanted], self.start + self.at) {
            Ok(read) => {
                self.at += read as u64;
                Ok(read)
            }
            Err(error) => {
                let again = std::io::Error::new(error.kind(), error.to_string());
                if error.kind() != std::io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(again)
            }
        }
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Bytes that are read at once: the headers of several small members, or one of a large one.
const AHEAD: usize = 16 << 10;

/// Reads ahead, and keeps what it has when a seek stays within it.
pub(super) struct Ahead<R> {
    file: BufReader<R>,
    at: u64,
}

impl<R: Read + Seek> Ahead<R> {
    /// Of a file at its beginning.
    pub fn new(file: R) -> Self {
        Ahead { file: BufReader::with_capacity(AHEAD, file), at: 0 }
    }
}

impl<R: Read> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Ahead<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let by = match to {
            SeekFrom::Start(at) => i64::try_from(at).ok().and_then(|at| at.checked_sub_unsigned(self.at)),
            SeekFrom::Current(by) => Some(by),
            SeekFrom::End(_) => {
                self.at = self.file.seek(to)?;
                return Ok(self.at);
            }
        };
        let by = by.ok_or(std::io::ErrorKind::InvalidInput)?;
        let at = self.at.checked_add_signed(by).ok_or(std::io::ErrorKind::InvalidInput)?;
        self.file.seek_relative(by)?;
        self.at = at;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn reads_and_seeks_are_those_of_a_file(
            steps in prop::collection::vec((0u8..3, -70_000i64..70_000, 0usize..40_000), 1..40),
        ) {
            let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let (start, length) = (1_234, 90_000);
            let mut ours = Ahead::new(Section::new(&file, start, length));
            let mut expected = std::io::Cursor::new(&content[start as usize..(start + length) as usize]);
            for (kind, by, count) in steps {
                let to = match kind {
                    0 => SeekFrom::Current(by),
                    1 => SeekFrom::Start(by.unsigned_abs()),
                    _ => SeekFrom::End(by),
                };
                prop_assert_eq!(ours.seek(to).ok(), expected.seek(to).ok(), "{:?}", to);
                let (mut a, mut b) = (vec![], vec![]);
                ours.by_ref().take(count as u64).read_to_end(&mut a).unwrap();
                expected.by_ref().take(count as u64).read_to_end(&mut b).unwrap();
                prop_assert!(a == b, "{:?} and {} bytes", to, count);
            }
        }
    }
}
