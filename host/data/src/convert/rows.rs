//! A JSON list or JSON Lines file → rows, one at a time, without holding the file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::ConvertError;

/// Called with the row's number (from 0) and the row, or with what is wrong with it.
pub(super) type OnRow<'a> = dyn FnMut(u64, Result<Value, String>) -> Result<(), ConvertError> + 'a;

/// Reads all rows of `path`. A bad line of a JSON Lines file costs that row; bad JSON in a list ends the run, because
/// nothing after it can be trusted.
pub(super) fn for_each(path: &Path, on_row: &mut OnRow) -> Result<(), ConvertError> {
    let fail = |reason: String| ConvertError::Input { path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    // The first byte that is not white space tells the two apart; a byte order mark is skipped.
    let mut lead: Vec<u8> = vec![];
    loop {
        let buffer = reader.fill_buf().map_err(|e| fail(format!("cannot be read: {e}")))?;
        let Some(byte) = buffer.first().copied() else {
            return Err(fail("it is empty; it must hold a JSON list of rows, or one JSON row a line".into()));
        };
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0xEF | 0xBB | 0xBF => {
                reader.consume(1);
                lead.push(if byte == b'\n' { b'\n' } else { b' ' });
            }
            b'[' if !line_is_whole_array(&reader) => return list(path, lead.as_slice().chain(reader), on_row),
            _ => {
                let first_line = lead.iter().filter(|b| **b == b'\n').count() as u64 + 1;
                return lines(path, first_line, reader, on_row);
            }
        }
    }
}

/// JSON Lines whose rows are lists begin with `[` too: then the first line is one whole list of plain values.
fn line_is_whole_array(reader: &BufReader<File>) -> bool {
    let buffer = reader.buffer();
    let Some(end) = buffer.iter().position(|b| *b == b'\n') else { return false };
    let more = buffer[end..].iter().any(|b| !b.is_ascii_whitespace());
    let row: Result<Vec<Value>, _> = serde_json::from_slice(&buffer[..end]);
    more && row.is_ok_and(|row| !row.iter().any(|v| v.is_array() || v.is_object()))
}

fn lines(path: &Path, first: u64, reader: BufReader<File>, on_row: &mut OnRow) -> Result<(), ConvertError> {
    let mut number = 0;
    for (line_number, line) in (first..).zip(reader.split(b'\n')) {
        let line = line.map_err(|e| ConvertError::Input {
            path: path.display().to_string(),
            reason: format!("line {line_number} cannot be read: {e}"),
        })?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row = serde_json::from_slice(&line).map_err(|e| format!("line {line_number} is not valid JSON: {e}"));
        on_row(number, row)?;
        number += 1;
    }
    Ok(())
}

fn list(path: &Path, reader: impl Read, on_row: &mut OnRow) -> Result<(), ConvertError> {
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, reader));
    let done = List { on_row, failure: &mut failure }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (failure, done) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(ConvertError::Input {
            path: path.display().to_string(),
            reason: format!("not a valid JSON list: {error}; nothing was written"),
        }),
    }
}

/// Hands the elements of a JSON list on as they are parsed.
struct List<'a, 'b> {
    on_row: &'a mut OnRow<'b>,
    failure: &'a mut Option<ConvertError>,
}

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(row) = rows.next_element::<Value>()? {
            if let Err(error) = (self.on_row)(number, Ok(row)) {
                *self.failure = Some(error);
                return Err(A::Error::custom("stopped"));
            }
            number += 1;
        }
        Ok(())
    }
}
