//! JSON lists and JSON Lines: where each row begins, and a row by its place.
//!
//! The first pass reads a file once from end to end, holding one row; the second reads single rows from anywhere.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::index::Entry;
use super::sample::{Shape, picture_names};
use super::source::{Loaded, Part};
use crate::error::PrepError;

/// Of so many rows one picture's size is looked up, to guess how many fit into a shard.
const LOOK_EVERY: u64 = 32;

fn fail(path: &Path, reason: String) -> PrepError {
    PrepError::Option(format!("{}: {reason}", path.display()))
}

/// How a file holds its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    List,
    Lines,
}

/// Finds the form: the first byte that is not white space tells the two apart; a byte order mark is skipped. The reader is
/// left at that byte, whose offset is returned.
fn form(path: &Path, reader: &mut BufReader<File>) -> Result<(Form, u64), PrepError> {
    let mut at = 0;
    loop {
        let buffer = reader.fill_buf().map_err(|e| fail(path, format!("cannot be read: {e}")))?;
        let Some(byte) = buffer.first().copied() else {
            return Err(fail(path, "it is empty; it must hold a JSON list of rows, or one JSON row a line".into()));
        };
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0xEF | 0xBB | 0xBF => {
                reader.consume(1);
                at += 1;
            }
            b'[' if !line_is_whole_array(reader.buffer()) => return Ok((Form::List, at)),
            _ => return Ok((Form::Lines, at)),
        }
    }
}

/// JSON Lines whose rows are lists begin with `[` too: then the first line is one whole list of plain values.
fn line_is_whole_array(buffer: &[u8]) -> bool {
    let Some(end) = buffer.iter().position(|b| *b == b'\n') else { return false };
    let more = buffer[end..].iter().any(|b| !b.is_ascii_whitespace());
    let row: Result<Vec<Value>, _> = serde_json::from_slice(&buffer[..end]);
    more && row.is_ok_and(|row| !row.iter().any(|v| v.is_array() || v.is_object()))
}

fn open(path: &Path) -> Result<BufReader<File>, PrepError> {
    let file = File::open(path).map_err(|e| fail(path, format!("cannot be opened: {e}")))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// Finds the rows of a file: `entry` gets one for each, and the offset at which the last one ends is returned. A bad line of a
/// JSON Lines file is a row (which will be rejected); bad JSON in a list ends the run, because nothing after it can be trusted.
pub(super) fn index(
    part: &Part,
    shape: &Shape<'_>,
    entry: &mut dyn FnMut(Entry) -> Result<(), PrepError>,
) -> Result<u64, PrepError> {
    let mut reader = open(&part.path)?;
    let (form, at) = form(&part.path, &mut reader)?;
    let mut sizes = Sizes { shape, folder: folder(&part.path), mean: 0, looked: 0 };
    let mut number = 0;
    let mut row = |place: u64, text: &[u8]| -> Result<(), PrepError> {
        // As `row` reads it again later.
        let text = if form == Form::Lines { text.strip_suffix(b",").unwrap_or(text) } else { text };
        let parsed: Result<Value, _> = serde_json::from_slice(text);
        let mut found = Entry::default();
        let mut bytes = text.len() as u64;
        match parsed {
            Ok(row) => {
                if let Ok(mut fields) = shape.object(row) {
                    found = shape.index(&mut fields);
                    bytes += sizes.of(number, &mut fields);
                }
            }
            Err(error) if form == Form::List => {
                return Err(fail(
                    &part.path,
                    format!("not a valid JSON list: row {number} at byte {place}: {error}; nothing was written"),
                ));
            }
            Err(_) => {}
        }
        number += 1;
        entry(Entry { place, bytes, ..found })
    };
    match form {
        Form::Lines => lines(&part.path, at, reader, &mut row),
        Form::List => list(&part.path, at, reader, &mut row),
    }
}

type OnRow<'a> = dyn FnMut(u64, &[u8]) -> Result<(), PrepError> + 'a;

fn lines(path: &Path, mut at: u64, mut reader: BufReader<File>, row: &mut OnRow<'_>) -> Result<u64, PrepError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        let length = read.map_err(|e| fail(path, format!("cannot be read from byte {at} on: {e}")))?;
        if length == 0 {
            return Ok(at);
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            row(at, text)?;
        }
        at += length as u64;
    }
}

/// Walks over a list by its brackets and strings; what is between two commas is a row.
fn list(path: &Path, mut at: u64, mut reader: BufReader<File>, on_row: &mut OnRow<'_>) -> Result<u64, PrepError> {
    reader.consume(1);
    at += 1;
    let (mut row, mut begin) = (Vec::new(), at);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut rows = 0_u64;
    loop {
        let buffer = reader.fill_buf().map_err(|e| fail(path, format!("cannot be read from byte {at} on: {e}")))?;
        if buffer.is_empty() {
            let what = "the file ends before the list does; nothing was written";
            return Err(fail(path, format!("not a valid JSON list: {what}")));
        }
        let mut used = 0;
        for byte in buffer.iter().copied() {
            used += 1;
            let inside = in_string || depth > 0;
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    _ => {}
                }
            }
            if inside || !matches!(byte, b',' | b']') {
                row.push(byte);
                continue;
            }
            // A comma between rows, or the end.
            let end = at + used as u64 - 1;
            let text = row.trim_ascii();
            if !text.is_empty() || byte == b',' || rows > 0 {
                on_row(begin, text)?;
                rows += 1;
            }
            row.clear();
            begin = end + 1;
            if byte == b']' {
                reader.consume(used);
                return after(path, end, reader);
            }
        }
        reader.consume(used);
        at += used as u64;
    }
}

/// Nothing but white space may follow the list.
fn after(path: &Path, end: u64, reader: BufReader<File>) -> Result<u64, PrepError> {
    for byte in reader.bytes() {
        let byte = byte.map_err(|e| fail(path, format!("cannot be read after its list: {e}")))?;
        if !byte.is_ascii_whitespace() {
            let what = format!("something follows its end at byte {end}");
            return Err(fail(path, format!("not a valid JSON list: {what}; nothing was written")));
        }
    }
    Ok(end)
}

/// The folder that picture names are relative to where no other is given.
pub(super) fn folder(table: &Path) -> PathBuf {
    table.parent().unwrap_or(Path::new("")).to_owned()
}

/// Guesses the size of rows' pictures from a few of them.
struct Sizes<'a> {
    shape: &'a Shape<'a>,
    folder: PathBuf,
    mean: u64,
    looked: u64,
}

impl Sizes<'_> {
    fn of(&mut self, number: u64, fields: &mut Map<String, Value>) -> u64 {
        // The index has made the name already where it needed it.
        let named = if self.shape.groups_by_made_name() { Ok(()) } else { self.shape.name_picture(fields) };
        let Ok(names) = named.and_then(|()| picture_names(self.shape, fields)) else { return 0 };
        if number.is_multiple_of(LOOK_EVERY)
            && let Some(name) = names.first()
            && let Ok(found) = std::fs::metadata(self.shape.folder(&self.folder).join(name))
        {
            self.looked += 1;
            // Recent ones count most: tables are often sorted by source.
            let weight = self.looked.min(16);
            self.mean = (self.mean * (weight - 1) + found.len()) / weight;
        }
        names.len() as u64 * (self.mean + 1024) + 1024
    }
}

/// Parses the bytes of a row, with the comma that may follow it.
pub(super) fn row(place: u64, text: &[u8]) -> Result<Loaded, String> {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b",").unwrap_or(text);
    let row = serde_json::from_slice(text).map_err(|e| format!("the row at byte {place} is not valid JSON: {e}"))?;
    Ok(Loaded::Row { row, blobs: Vec::new() })
}
