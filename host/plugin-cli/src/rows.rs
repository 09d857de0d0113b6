//! Files of rows: one JSON object a line, read as a stream.
//!
//! In: a path, or `-` for standard input. Out: rows in batches; memory holds one batch. Blank lines count for nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ovhost_plugin::json::JsonRow;

/// Longest line, so that a file without line ends cannot fill the memory.
const LINE_BYTES: u64 = 256 << 20;

/// A file of rows.
pub struct RowReader {
    source: Box<dyn BufRead>,
    /// How errors call it.
    name: String,
    line: u64,
    bytes: u64,
    size: Option<u64>,
    buffer: Vec<u8>,
}

impl RowReader {
    /// Opens a file, or standard input for `-`. Errors: the file cannot be opened.
    pub fn open(name: &str) -> Result<Self> {
        let (source, size): (Box<dyn BufRead>, _) = match name {
            "-" => (Box::new(BufReader::new(std::io::stdin())), None),
            path => {
                let file = File::open(path).with_context(|| format!("opening the rows {path}"))?;
                let meta = file.metadata().with_context(|| format!("opening the rows {path}"))?;
                if meta.is_dir() {
                    bail!("{path} is a folder; rows are a file with one JSON object a line, or - for standard input");
                }
                (Box::new(BufReader::with_capacity(1 << 18, file)), meta.is_file().then_some(meta.len()))
            }
        };
        let name = if name == "-" { "standard input".to_owned() } else { name.to_owned() };
        Ok(RowReader { source, name, line: 0, bytes: 0, size, buffer: Vec::new() })
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file, where they are known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// How errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next line that is not blank, without its end. None: there is no more.
    fn line(&mut self) -> Result<Option<&[u8]>> {
        loop {
            self.buffer.clear();
            let read = self.source.by_ref().take(LINE_BYTES + 1).read_until(b'\n', &mut self.buffer);
            let read = read.with_context(|| format!("reading {}", self.name))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.bytes += read;
            if self.line == 1 {
                // Some programs put it before UTF-8.
                if self.buffer.starts_with(b"\xef\xbb\xbf") {
                    self.buffer.drain(..3);
                }
                if self.buffer.starts_with(b"\x1f\x8b") {
                    bail!("{} is compressed with gzip; unpack it first, such as `zcat FILE | … --rows -`", self.name);
                }
            }
            if read > LINE_BYTES {
                bail!("{} line {}: over {} MiB; one row is one line", self.name, self.line, LINE_BYTES >> 20);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(self.buffer.trim_ascii()));
            }
        }
    }

    /// The next row. Errors name the file and the line.
    pub fn row(&mut self) -> Result<Option<JsonRow>> {
        let Some(text) = self.line()? else { return Ok(None) };
        let row = serde_json::from_slice(text);
        let place = |e: &serde_json::Error| {
            let (why, at) = fault(e);
            format!("{} line {} is no row; each line is one JSON object: {why}{at}", self.name, self.line)
        };
        row.map_err(|e| anyhow!(place(&e))).map(Some)
    }

    /// Up to `most` rows; fewer only at the end.
    pub fn batch(&mut self, most: usize) -> Result<Vec<JsonRow>> {
        let mut rows = Vec::with_capacity(most.min(4096));
        while rows.len() < most {
            match self.row()? {
                Some(row) => rows.push(row),
                None => break,
            }
        }
        Ok(rows)
    }
}

/// What is wrong with a line of JSON, and where in it (" in column 7"): the error's own line number is always 1.
pub fn fault(error: &serde_json::Error) -> (String, String) {
    let text = error.to_string();
    let why = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column())).unwrap_or(&text);
    let at = if error.column() > 0 { format!(" in column {}", error.column()) } else { String::new() };
    (why.to_owned(), at)
}

/// Lengths, one whole number a line, or JSON objects with `length`. Errors name file, line and what is allowed.
pub fn lengths(path: &Path) -> Result<Vec<u32>> {
    let mut reader = RowReader::open(&path.display().to_string())?;
    let mut out = Vec::new();
    while let Some(text) = reader.line()? {
        let value: Option<serde_json::Value> = serde_json::from_slice(text).ok();
        let number = value.as_ref().map(|v| v.get("length").unwrap_or(v));
        let Some(length) = number.and_then(serde_json::Value::as_u64).and_then(|n| u32::try_from(n).ok()) else {
            bail!(
                "{} line {}: {:?} is no length; allowed: a whole number from 0 to 4294967295, or an object with such a \
                 \"length\"",
                path.display(),
                reader.line,
                String::from_utf8_lossy(&reader.buffer.trim_ascii()[..reader.buffer.trim_ascii().len().min(60)])
            );
        };
        out.push(length);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn rows_come_in_batches_and_errors_name_the_line() {
        let rows = file("{\"a\": 1}\n\n  {\"a\": 2}  \r\n{\"a\": 3}\n[4]\n");
        let mut reader = RowReader::open(rows.path().to_str().unwrap()).unwrap();
        assert_eq!(reader.batch(2).unwrap().len(), 2);
        assert_eq!(reader.row().unwrap().unwrap()["a"], 3);
        assert_eq!(reader.bytes(), 33);
        let error = format!("{:#}", reader.row().unwrap_err());
        assert!(error.contains("line 5 is no row; each line is one JSON object: invalid type"), "{error}");
        assert!(!error.contains("at line"), "one position: {error}");
        assert!(reader.row().unwrap().is_none());
        assert!(format!("{:#}", RowReader::open("nowhere").err().unwrap()).contains("opening the rows nowhere"));
    }

    #[test]
    fn a_mark_before_the_text_is_skipped_and_compression_named() {
        let rows = file("\u{feff}{\"a\": 1}\n{\"a\": 2}\n");
        let mut reader = RowReader::open(rows.path().to_str().unwrap()).unwrap();
        assert_eq!(reader.batch(9).unwrap().len(), 2);
        let packed = file("");
        std::fs::write(packed.path(), [0x1f, 0x8b, 8, 0, 1, 2]).unwrap();
        let error = format!("{:#}", RowReader::open(packed.path().to_str().unwrap()).unwrap().row().unwrap_err());
        assert!(error.contains("compressed with gzip") && error.contains("zcat"), "{error}");
    }

    #[test]
    fn lengths_are_numbers_or_rows() {
        assert_eq!(lengths(file("3\n{\"length\": 4, \"x\": 0}\n\n5").path()).unwrap(), [3, 4, 5]);
        for bad in ["x", "-1", "{\"len\": 3}", "4294967296", "1.5"] {
            let error = format!("{:#}", lengths(file(&format!("1\n{bad}\n")).path()).unwrap_err());
            assert!(error.contains("line 2") && error.contains("no length"), "{error}");
        }
    }
}
