//! JSON rows to batches and back, for people: files of rows, golden cases, tables.
//!
//! ```text
//!  {"text": "a", "width": 3} ──Columns (types: given > standard > inferred)──► Batch ──► plugin
//!  Decisions | Packing | PromptOutput | Scored | MetricValue ──outputs──► JSON of the golden format
//! ```
//!
//! A type, once known, holds for the rest of the stream, so that the cut into batches never changes a column. A missing or
//! null value is a row without a value. Floats that JSON cannot write are the strings "NaN", "inf" and "-inf".

mod outputs;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::error::clip;
use crate::{Batch, Column, ColumnData, Ragged};

pub use outputs::{decisions, metric_values, packing, prompt_items, scored};

/// Type of a column's values: the cases of the contract's `column-data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(missing_docs, reason = "the names say it; lists are ragged")]
pub enum ColumnType {
    U8s,
    U32s,
    S64s,
    F32s,
    F64s,
    Utf8,
    Bytes,
    U32Lists,
    F32Lists,
}

use ColumnType as T;

/// Types of the columns that the host itself offers: to filters and prompts (`host/data`), packers and metrics.
pub const STANDARD: [(&str, ColumnType); 20] = [
    ("id", T::S64s),
    ("key", T::Utf8),
    ("record", T::Utf8),
    ("text", T::Utf8),
    ("num-images", T::U32s),
    ("width", T::U32s),
    ("height", T::U32s),
    ("widths", T::U32Lists),
    ("heights", T::U32Lists),
    ("image-bytes", T::U32s),
    ("source", T::Utf8),
    ("index", T::S64s),
    ("phash", T::Bytes),
    ("text-tokens", T::U32s),
    ("embedding", T::F32Lists),
    ("length", T::U32s),
    ("patches", T::U32s),
    ("prediction", T::Utf8),
    ("references", T::Utf8),
    ("judgement", T::Utf8),
];

/// Columns that the host offers to filters and prompts for every sample.
pub const SAMPLE_COLUMNS: [&str; 15] = [
    "id",
    "key",
    "record",
    "text",
    "num-images",
    "width",
    "height",
    "widths",
    "heights",
    "image-bytes",
    "source",
    "index",
    "phash",
    "text-tokens",
    "embedding",
];

/// The type of a column that the host offers.
pub fn standard_type(name: &str) -> Option<ColumnType> {
    STANDARD.iter().find(|(standard, _)| *standard == name).map(|(_, ty)| *ty)
}

impl ColumnType {
    /// All of them.
    pub const ALL: [ColumnType; 9] =
        [T::U8s, T::U32s, T::S64s, T::F32s, T::F64s, T::Utf8, T::Bytes, T::U32Lists, T::F32Lists];

    /// The contract's name of it.
    pub fn name(self) -> &'static str {
        self.empty().type_name()
    }

    /// What a row may hold, in words.
    pub fn allowed(self) -> &'static str {
        match self {
            T::U8s => "true, false, or a whole number from 0 to 255",
            T::U32s => "a whole number from 0 to 4294967295",
            T::S64s => "a whole number from -9223372036854775808 to 9223372036854775807",
            T::F32s => "a number within the range of 32-bit floats, \"NaN\", \"inf\" or \"-inf\"",
            T::F64s => "a number, \"NaN\", \"inf\" or \"-inf\"",
            T::Utf8 => "a text, or an object or list (passed on as JSON text)",
            T::Bytes => "a text of hexadecimal digits, two a byte",
            T::U32Lists => "a list of whole numbers from 0 to 4294967295",
            T::F32Lists => "a list of numbers within the range of 32-bit floats, \"NaN\", \"inf\" or \"-inf\"",
        }
    }

    fn empty(self) -> ColumnData {
        match self {
            T::U8s => ColumnData::U8s(Vec::new()),
            T::U32s => ColumnData::U32s(Vec::new()),
            T::S64s => ColumnData::S64s(Vec::new()),
            T::F32s => ColumnData::F32s(Vec::new()),
            T::F64s => ColumnData::F64s(Vec::new()),
            T::Utf8 => ColumnData::Utf8(Ragged::default()),
            T::Bytes => ColumnData::Bytes(Ragged::default()),
            T::U32Lists => ColumnData::U32Lists(Ragged::default()),
            T::F32Lists => ColumnData::F32Lists(Ragged::default()),
        }
    }

    /// The type that a value suggests. None: null, or nothing that a column holds.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(T::U8s),
            Value::String(_) | Value::Object(_) => Some(T::Utf8),
            Value::Number(n) if n.is_f64() => Some(T::F64s),
            Value::Number(_) => Some(T::S64s),
            Value::Array(list) if list.iter().all(|v| v.as_u64().is_some_and(|n| u32::try_from(n).is_ok())) => {
                Some(T::U32Lists)
            }
            Value::Array(list) => list.iter().all(Value::is_number).then_some(T::F32Lists),
        }
    }

    /// The type that holds values of both, if one does.
    fn join(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (T::S64s, T::F64s) | (T::F64s, T::S64s) => Some(T::F64s),
            (T::U32Lists, T::F32Lists) | (T::F32Lists, T::U32Lists) => Some(T::F32Lists),
            _ => None,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        T::ALL.into_iter().find(|ty| ty.name() == name).ok_or_else(|| {
            let all: Vec<&str> = T::ALL.iter().map(|ty| ty.name()).collect();
            format!("there is no column type \"{}\"; allowed: {}", clip(name, 40), all.join(", "))
        })
    }
}

impl TryFrom<String> for ColumnType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<ColumnType> for String {
    fn from(ty: ColumnType) -> String {
        ty.name().to_owned()
    }
}

/// A value that its column cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The column's type is known, and the value is another.
    #[error("row {row}, column \"{column}\": {value} does not fit its type {ty}; allowed: {allowed}. Another type is set by `types`", allowed = .ty.allowed())]
    Value {
        /// Ordinal in the stream.
        row: u64,
        /// Name of the column.
        column: String,
        /// As in the row, shortened.
        value: String,
        /// What the column holds.
        ty: ColumnType,
    },
    /// Values of one column that no type holds together.
    #[error(
        "row {row}, column \"{column}\": {value} does not go with the values before it, which are {before}; a column has one \
         type, which `types` can set"
    )]
    Mixed {
        /// Ordinal in the stream.
        row: u64,
        /// Name of the column.
        column: String,
        /// As in the row, shortened.
        value: String,
        /// What the earlier rows suggest.
        before: ColumnType,
    },
    /// A value that is in no column type.
    #[error(
        "row {row}, column \"{column}\": no column type holds {value}; allowed: true or false, a number, a text, an object (as \
         JSON text), a list of numbers; `types` can set utf8 to pass a list on as JSON text"
    )]
    NoType {
        /// Ordinal in the stream.
        row: u64,
        /// Name of the column.
        column: String,
        /// As in the row, shortened.
        value: String,
    },
    /// A batch that is larger than columns can be.
    #[error("row {row}, column \"{column}\": its values pass 4 GiB in one batch; use a smaller batch")]
    TooLarge {
        /// Ordinal in the stream.
        row: u64,
        /// Name of the column.
        column: String,
    },
}

/// A JSON object: one row.
pub type JsonRow = Map<String, Value>;

/// The columns of a stream of JSON rows. Types stay as they were first found.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    types: BTreeMap<String, ColumnType>,
    wanted: Option<Vec<String>>,
    /// Names in the order in which they came, with their type as soon as a value told it.
    seen: Vec<(String, Option<ColumnType>)>,
}

impl Columns {
    /// Columns of the given types, other names by the standard table, else by their values. `wanted`: make only columns of
    /// these names (what a plugin reads), whatever else the rows hold; none: all.
    pub fn new(types: BTreeMap<String, ColumnType>, wanted: Option<Vec<String>>) -> Self {
        Columns { types, wanted, seen: Vec::new() }
    }

    /// Names that rows have and whose type no value has told yet: they are in no batch so far.
    pub fn untyped(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().filter(|(_, ty)| ty.is_none()).map(|(name, _)| name.as_str())
    }

    /// The next rows of the stream as a batch; `first_row` is the ordinal of the first, for errors. A column that an earlier
    /// batch had is there even if none of these rows has a value. Errors: the row, the column, the value and what is allowed.
    pub fn batch(&mut self, rows: &[JsonRow], first_row: u64) -> Result<Batch, JsonError> {
        for row in rows {
            for name in row.keys() {
                let wanted = self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
                if wanted && !self.seen.iter().any(|(seen, _)| seen == name) {
                    let ty = self.types.get(name).copied().or_else(|| standard_type(name));
                    self.seen.push((name.clone(), ty));
                }
            }
        }
        let mut columns = Vec::with_capacity(self.seen.len());
        for (name, known) in &mut self.seen {
            if known.is_none() {
                *known = infer(name, rows, first_row)?;
            }
            if let Some(ty) = known {
                columns.push(column(name, *ty, rows, first_row)?);
            }
        }
        Ok(Batch { rows: rows.len() as u32, columns })
    }
}

/// A batch of all columns of `rows`, whose types are `types`, the standard ones, or told by the values. Errors: as
/// [`Columns::batch`].
pub fn batch(rows: &[JsonRow], types: &BTreeMap<String, ColumnType>) -> Result<Batch, JsonError> {
    Columns::new(types.clone(), None).batch(rows, 0)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let cut = clip(&text, 80);
    if cut.len() < text.len() { format!("{cut}...") } else { text }
}

fn infer(name: &str, rows: &[JsonRow], first_row: u64) -> Result<Option<ColumnType>, JsonError> {
    let mut found: Option<ColumnType> = None;
    for (i, value) in rows.iter().enumerate().filter_map(|(i, row)| Some((i, row.get(name).filter(|v| !v.is_null())?)))
    {
        let at = |row: usize| (first_row + row as u64, name.to_owned(), shown(value));
        let Some(ty) = ColumnType::of(value) else {
            let (row, column, value) = at(i);
            return Err(JsonError::NoType { row, column, value });
        };
        found = match found {
            None => Some(ty),
            Some(before) => Some(before.join(ty).ok_or_else(|| {
                let (row, column, value) = at(i);
                JsonError::Mixed { row, column, value, before }
            })?),
        };
    }
    Ok(found)
}

fn column(name: &str, ty: ColumnType, rows: &[JsonRow], first_row: u64) -> Result<Column, JsonError> {
    let mut data = ty.empty();
    let mut valid = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let value = row.get(name).unwrap_or(&Value::Null);
        let row = first_row + i as u64;
        valid.push(u8::from(!value.is_null()));
        match push(&mut data, value) {
            Some(Room::Enough) => {}
            Some(Room::None) => return Err(JsonError::TooLarge { row, column: name.to_owned() }),
            None => return Err(JsonError::Value { row, column: name.to_owned(), value: shown(value), ty }),
        }
    }
    Ok(Column { name: name.to_owned(), data, valid: valid.contains(&0).then_some(valid) })
}

enum Room {
    Enough,
    None,
}

/// Adds a value, for null an empty one; none where the value does not fit the type.
fn push(data: &mut ColumnData, value: &Value) -> Option<Room> {
    fn flat<V: Default>(into: &mut Vec<V>, value: &Value, read: impl Fn(&Value) -> Option<V>) -> Option<Room> {
        into.push(if value.is_null() { V::default() } else { read(value)? });
        Some(Room::Enough)
    }
    fn ragged<V: Copy>(into: &mut Ragged<V>, row: &[V]) -> Option<Room> {
        if u32::try_from(into.data.len() + row.len()).is_err() {
            return Some(Room::None);
        }
        into.push(row);
        Some(Room::Enough)
    }
    fn list<V: Copy>(into: &mut Ragged<V>, value: &Value, read: impl Fn(&Value) -> Option<V>) -> Option<Room> {
        let row: Vec<V> = match value {
            Value::Null => Vec::new(),
            value => value.as_array()?.iter().map(read).collect::<Option<_>>()?,
        };
        ragged(into, &row)
    }
    match data {
        ColumnData::U8s(v) => flat(v, value, |value| match value {
            Value::Bool(b) => Some(u8::from(*b)),
            value => u8::try_from(value.as_u64()?).ok(),
        }),
        ColumnData::U32s(v) => flat(v, value, u32_of),
        ColumnData::S64s(v) => flat(v, value, Value::as_i64),
        ColumnData::F32s(v) => flat(v, value, f32_of),
        ColumnData::F64s(v) => flat(v, value, f64_of),
        ColumnData::Utf8(r) => match value {
            Value::Null => ragged(r, b""),
            Value::String(text) => ragged(r, text.as_bytes()),
            Value::Object(_) | Value::Array(_) => ragged(r, value.to_string().as_bytes()),
            Value::Bool(_) | Value::Number(_) => None,
        },
        ColumnData::Bytes(r) => match value {
            Value::Null => ragged(r, b""),
            value => ragged(r, &bytes_of(value.as_str()?)?),
        },
        ColumnData::U32Lists(r) => list(r, value, u32_of),
        ColumnData::F32Lists(r) => list(r, value, f32_of),
    }
}

fn u32_of(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn f64_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

fn f32_of(value: &Value) -> Option<f32> {
    let wide = f64_of(value)?;
    let narrow = wide as f32;
    (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// The value of row `i`; none where the row has no value, or there is no such row.
pub fn value(column: &Column, i: usize) -> Option<Value> {
    if i >= column.data.len() || !column.is_valid(i) {
        return None;
    }
    Some(match &column.data {
        ColumnData::U8s(v) => v[i].into(),
        ColumnData::U32s(v) => v[i].into(),
        ColumnData::S64s(v) => v[i].into(),
        ColumnData::F32s(v) => of_f32(v[i]),
        ColumnData::F64s(v) => of_f64(v[i]),
        // The host has checked that text columns of plugins are UTF-8.
        ColumnData::Utf8(r) => String::from_utf8_lossy(r.row(i)).into_owned().into(),
        ColumnData::Bytes(r) => crate::cache::hex(r.row(i)).into(),
        ColumnData::U32Lists(r) => r.row(i).to_vec().into(),
        ColumnData::F32Lists(r) => r.row(i).iter().map(|x| of_f32(*x)).collect(),
    })
}

/// The rows of a batch; a row has the columns in which it has a value.
pub fn rows(batch: &Batch) -> Vec<JsonRow> {
    (0..batch.rows as usize).map(|i| set(&batch.columns, i)).collect()
}

/// The values of row `i` in some columns, by name.
pub fn set(columns: &[Column], i: usize) -> JsonRow {
    columns.iter().filter_map(|c| Some((c.name.clone(), value(c, i)?))).collect()
}

fn of_f64(x: f64) -> Value {
    match Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => "NaN".into(),
        None if x > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

/// The shortest digits that give the same 32-bit float: 0.1, not 0.10000000149011612.
fn of_f32(x: f32) -> Value {
    of_f64(if x.is_finite() { x.to_string().parse().unwrap_or(f64::from(x)) } else { f64::from(x) })
}

#[cfg(test)]
mod tests;
