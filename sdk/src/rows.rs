//! Rows out of columns: a checked batch in, one [`Row`] view per row out.
//!
//! `Rows::new` checks a batch once (row counts, offsets, UTF-8, the declared types), so that reading a value is only
//! an index. A plugin that reads a column which it did not declare, or as another type, is noted and fails the call.

use std::cell::{OnceCell, RefCell};

use serde_json::Value as Json;

use crate::bindings::ovhost::plugin::types::{Batch, ColumnData, RaggedU8};
use crate::columns::{ColumnType, Need};
use crate::fields::Fields;
use crate::text::ascii_prefix;

/// One checked column.
struct Source<'a> {
    name: &'a str,
    /// The name as `READS` has it; empty for a column that it does not name.
    declared: &'static str,
    data: View<'a>,
    valid: Option<&'a [u8]>,
}

enum View<'a> {
    U8(&'a [u8]),
    U32(&'a [u32]),
    S64(&'a [i64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Utf8(&'a [u32], &'a str),
    Bytes(&'a [u32], &'a [u8]),
    U32List(&'a [u32], &'a [u32]),
    F32List(&'a [u32], &'a [f32]),
}

/// A checked batch.
pub(crate) struct Rows<'a> {
    rows: u32,
    sources: Vec<Source<'a>>,
    needs: &'static [Need],
    fault: RefCell<Option<String>>,
}

fn check_offsets(name: &str, rows: u32, offsets: &[u32], len: usize) -> Result<(), String> {
    let whole = offsets.len() == rows as usize + 1
        && offsets.first() == Some(&0)
        && offsets.last().is_some_and(|&last| last as usize == len)
        && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if whole {
        Ok(())
    } else {
        Err(format!("column `{name}`: its offsets do not describe {rows} rows of {len} values"))
    }
}

fn check_text<'a>(name: &str, ragged: &'a RaggedU8) -> Result<&'a str, String> {
    if ascii_prefix(&ragged.data) == ragged.data.len() {
        // SAFETY: ASCII is UTF-8. Every offset is at a character.
        return Ok(unsafe { std::str::from_utf8_unchecked(&ragged.data) });
    }
    let text = std::str::from_utf8(&ragged.data).map_err(|e| format!("column `{name}` is not UTF-8: {e}"))?;
    match ragged.offsets.iter().find(|&&at| !text.is_char_boundary(at as usize)) {
        Some(at) => Err(format!("column `{name}` cuts a UTF-8 character at byte {at}")),
        None => Ok(text),
    }
}

impl<'a> Rows<'a> {
    /// Checks `batch` against `needs`. `Err` names the column and what is wrong with it.
    pub(crate) fn new(batch: &'a Batch, needs: &'static [Need]) -> Result<Self, String> {
        let rows = batch.rows;
        let mut sources = Vec::with_capacity(batch.columns.len());
        for column in &batch.columns {
            let name = column.name.as_str();
            let found = ColumnType::of(&column.data);
            let need = needs.iter().find(|need| need.name == name);
            match need {
                Some(need) if need.ty != found => {
                    let (want, found) = (need.ty.name(), found.name());
                    return Err(format!("column `{name}` is {found}; this plugin reads it as {want}"));
                }
                _ => {}
            }
            let flat = |len: usize| {
                if len == rows as usize {
                    Ok(())
                } else {
                    Err(format!("column `{name}` has {len} values for {rows} rows"))
                }
            };
            let data = match &column.data {
                ColumnData::U8s(v) => flat(v.len()).map(|()| View::U8(v))?,
                ColumnData::U32s(v) => flat(v.len()).map(|()| View::U32(v))?,
                ColumnData::S64s(v) => flat(v.len()).map(|()| View::S64(v))?,
                ColumnData::F32s(v) => flat(v.len()).map(|()| View::F32(v))?,
                ColumnData::F64s(v) => flat(v.len()).map(|()| View::F64(v))?,
                ColumnData::Utf8(v) => {
                    check_offsets(name, rows, &v.offsets, v.data.len())?;
                    View::Utf8(&v.offsets, check_text(name, v)?)
                }
                ColumnData::Bytes(v) => {
                    check_offsets(name, rows, &v.offsets, v.data.len())?;
                    View::Bytes(&v.offsets, &v.data)
                }
                ColumnData::U32Lists(v) => {
                    check_offsets(name, rows, &v.offsets, v.data.len())?;
                    View::U32List(&v.offsets, &v.data)
                }
                ColumnData::F32Lists(v) => {
                    check_offsets(name, rows, &v.offsets, v.data.len())?;
                    View::F32List(&v.offsets, &v.data)
                }
            };
            let valid = column.valid.as_deref();
            if let Some(mask) = valid.filter(|mask| mask.len() != rows as usize) {
                return Err(format!("column `{name}` has {} validity bytes for {rows} rows", mask.len()));
            }
            sources.push(Source { name, declared: need.map_or("", |need| need.name), data, valid });
        }
        if let Some(need) = needs.iter().find(|n| n.required && !sources.iter().any(|source| source.name == n.name)) {
            return Err(format!("the required column `{}` is missing", need.name));
        }
        Ok(Self { rows, sources, needs, fault: RefCell::new(None) })
    }

    /// The rows, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows).map(|index| Row { rows: self, index, parsed: OnceCell::new() })
    }

    /// What a row's reader did that the declaration does not allow, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.borrow_mut().take()
    }

    /// All values of a `u32s` column, without rows' views.
    pub(crate) fn u32_column(&self, name: &str) -> Option<&'a [u32]> {
        self.sources.iter().find(|source| source.name == name).and_then(|source| match source.data {
            View::U32(values) => Some(values),
            _ => None,
        })
    }

    /// All values of an `s64s` column, without rows' views.
    pub(crate) fn s64_column(&self, name: &str) -> Option<&'a [i64]> {
        self.sources.iter().find(|source| source.name == name).and_then(|source| match source.data {
            View::S64(values) => Some(values),
            _ => None,
        })
    }

    fn undeclared(&self, name: &str, ty: ColumnType) {
        let mut fault = self.fault.borrow_mut();
        if fault.is_none() {
            *fault = Some(match self.needs.iter().find(|need| need.name == name) {
                Some(need) => format!("column `{name}` was read as {}; READS says {}", ty.name(), need.ty.name()),
                None => format!("column `{name}` was read; READS does not name it"),
            });
        }
    }
}

/// One row. Every reader gives `None` when the row has no value, or the host does not have the (optional) column.
///
/// ```
/// use ovhost_sdk::prelude::*;
/// use ovhost_sdk::testing::for_each_row;
///
/// // What `READS` of the plugin says.
/// const READS: &[Need] = &[Need::utf8("text"), Need::u32s("width").optional(), Need::u32_lists("widths")];
///
/// for_each_row(READS, &json!([{ "text": "a chair", "widths": [640, 32] }]), |row| {
///     assert_eq!(row.str("text"), Some("a chair"));
///     assert_eq!(row.u32("width"), None);
///     assert_eq!(row.u32_list("widths"), Some(&[640, 32][..]));
/// });
/// ```
pub struct Row<'a> {
    rows: &'a Rows<'a>,
    index: u32,
    parsed: OnceCell<Vec<OnceCell<Result<Json, String>>>>,
}

macro_rules! reader {
    ($(#[$doc:meta])* $name:ident, $ty:ident, $out:ty, |$view:ident, $i:ident| $pattern:pat => $value:expr) => {
        $(#[$doc])*
        #[inline]
        pub fn $name(&self, column: &str) -> Option<$out> {
            let source = self.source(column, ColumnType::$ty)?;
            let $i = self.index as usize;
            match source.data {
                $pattern => Some($value),
                _ => {
                    self.rows.undeclared(column, ColumnType::$ty);
                    None
                }
            }
        }
    };
}

impl<'a> Row<'a> {
    /// Index of the row in its batch.
    pub fn index(&self) -> u32 {
        self.index
    }

    #[inline]
    fn source(&self, column: &str, ty: ColumnType) -> Option<&'a Source<'a>> {
        // Equal literals are mostly one literal once linked, and comparing addresses is a third of a light row's time saved.
        let found = self.rows.sources.iter().find(|source| std::ptr::eq(source.declared, column));
        let source = match found {
            Some(source) => source,
            None => self.source_by_name(column, ty)?,
        };
        source.valid.is_none_or(|mask| mask[self.index as usize] != 0).then_some(source)
    }

    fn source_by_name(&self, column: &str, ty: ColumnType) -> Option<&'a Source<'a>> {
        // The contract's own columns of packers and metrics may be there without being declared.
        let found = self.rows.sources.iter().find(|source| source.name == column);
        if found.is_none() && !self.rows.needs.iter().any(|need| need.name == column && need.ty == ty) {
            self.rows.undeclared(column, ty);
        }
        found
    }

    reader!(
        /// Text of a `utf8` column.
        str, Utf8, &'a str, |view, i| View::Utf8(offsets, text) => &text[offsets[i] as usize..offsets[i + 1] as usize]);
    reader!(
        /// Bytes of a `bytes` column.
        bytes, Bytes, &'a [u8], |view, i| View::Bytes(at, data) => &data[at[i] as usize..at[i + 1] as usize]);
    reader!(
        /// Value of a `u8s` column.
        u8, U8, u8, |view, i| View::U8(values) => values[i]);
    reader!(
        /// Value of a `u32s` column.
        u32, U32, u32, |view, i| View::U32(values) => values[i]);
    reader!(
        /// Value of an `s64s` column.
        i64, S64, i64, |view, i| View::S64(values) => values[i]);
    reader!(
        /// Value of an `f32s` column.
        f32, F32, f32, |view, i| View::F32(values) => values[i]);
    reader!(
        /// Value of an `f64s` column.
        f64, F64, f64, |view, i| View::F64(values) => values[i]);
    reader!(
        /// List of a `u32-lists` column.
        u32_list, U32List, &'a [u32], |view, i| View::U32List(at, data) => &data[at[i] as usize..at[i + 1] as usize]);
    reader!(
        /// List of an `f32-lists` column.
        f32_list, F32List, &'a [f32], |view, i| View::F32List(at, data) => &data[at[i] as usize..at[i + 1] as usize]);

    /// Text of a `utf8` column as JSON. Parsed once per row, however often it is asked for.
    ///
    /// ```
    /// use ovhost_sdk::prelude::*;
    /// use ovhost_sdk::testing::for_each_row;
    ///
    /// fn question(row: &Row) -> Result<String, String> {
    ///     let record = row.json("record")?.ok_or("the row has no record")?;
    ///     Ok(record["question"].as_str().ok_or("the record has no text `question`")?.to_owned())
    /// }
    ///
    /// const READS: &[Need] = &[Need::utf8("record")];
    /// for_each_row(READS, &json!([{ "record": { "question": "Why?" } }]), |row| {
    ///     assert_eq!(question(&row).unwrap(), "Why?");
    /// });
    /// ```
    ///
    /// # Errors
    /// The text is no JSON; the message names the column and the place.
    pub fn json(&self, column: &str) -> Result<Option<&Json>, String> {
        let Some(text) = self.str(column) else { return Ok(None) };
        let cells = self.parsed.get_or_init(|| (0..self.rows.sources.len()).map(|_| OnceCell::new()).collect());
        let Some(at) = self.rows.sources.iter().position(|source| source.name == column) else { return Ok(None) };
        cells[at]
            .get_or_init(|| serde_json::from_str(text).map_err(|e| format!("column `{column}` is not JSON: {e}")))
            .as_ref()
            .map(Some)
            .map_err(Clone::clone)
    }

    /// Some fields of the object in a `utf8` column, which costs a part of [`Self::json`] where a record has long texts that
    /// nobody reads.
    ///
    /// # Errors
    /// As of [`Fields::parse`]; the message names the column.
    pub fn fields<'n>(&self, column: &str, names: &'n [&'n str]) -> Result<Option<Fields<'n>>, String>
    where
        'a: 'n,
    {
        let Some(text) = self.str(column) else { return Ok(None) };
        Fields::parse(text, names).map(Some).map_err(|e| format!("column `{column}` is not JSON: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::ovhost::plugin::types::Column;

    const NEEDS: &[Need] = &[Need::utf8("text"), Need::u32s("width").optional()];

    fn text_column(name: &str, offsets: &[u32], data: &[u8]) -> Column {
        let data = ColumnData::Utf8(RaggedU8 { offsets: offsets.to_vec(), data: data.to_vec() });
        Column { name: name.into(), data, valid: None }
    }

    #[test]
    fn rows_read_values_masks_and_json() {
        let mut text = text_column("text", &[0, 7, 7, 9], "{\"a\":1}é".as_bytes());
        text.valid = Some(vec![1, 0, 1]);
        let batch = Batch { rows: 3, columns: vec![text] };
        let rows = Rows::new(&batch, NEEDS).unwrap();
        let got: Vec<_> = rows.iter().map(|row| row.str("text")).collect();
        assert_eq!(got, [Some("{\"a\":1}"), None, Some("é")]);
        let first = rows.iter().next().unwrap();
        assert_eq!(first.json("text").unwrap().unwrap()["a"], 1);
        assert!(rows.iter().nth(2).unwrap().json("text").unwrap_err().contains("`text` is not JSON"));
        assert_eq!(first.u32("width"), None);
        assert_eq!(rows.fault(), None);
    }

    #[test]
    fn undeclared_reads_and_wrong_types_are_faults() {
        let batch = Batch { rows: 1, columns: vec![text_column("text", &[0, 1], b"x")] };
        let rows = Rows::new(&batch, NEEDS).unwrap();
        let row = rows.iter().next().unwrap();
        assert_eq!(row.str("key"), None);
        assert!(rows.fault().unwrap().contains("READS does not name it"));
        assert_eq!(row.u32("text"), None);
        assert!(rows.fault().unwrap().contains("read as u32s; READS says utf8"));
    }

    #[test]
    fn broken_batches_are_refused() {
        let refuse = |column: Column, rows: u32| {
            Rows::new(&Batch { rows, columns: vec![column] }, NEEDS).err().expect("the batch is broken")
        };
        assert!(refuse(text_column("text", &[0, 1], b"xy"), 1).contains("offsets"));
        assert!(refuse(text_column("text", &[0, 2, 1], b"x"), 2).contains("offsets"));
        assert!(refuse(text_column("text", &[0, 1, 2], "é".as_bytes()), 2).contains("cuts a UTF-8 character"));
        assert!(refuse(text_column("text", &[0, 1], b"\xff"), 1).contains("not UTF-8"));
        assert!(refuse(text_column("key", &[0, 1], b"x"), 1).contains("`text` is missing"));
        let wide = Column { name: "text".into(), data: ColumnData::U32s(vec![1]), valid: None };
        assert!(refuse(wide, 1).contains("is u32s; this plugin reads it as utf8"));
        let mut masked = text_column("text", &[0, 1], b"x");
        masked.valid = Some(vec![]);
        assert!(refuse(masked, 1).contains("validity bytes"));
    }
}
