//! Rows as named columns: what callers fill in, and what plugins give back.
//!
//! ```text
//!  Batch { rows, columns } ──select(reads)──► ColumnParam<'a> (borrows) ──► guest
//!  guest ──► ColumnResult (owned) ──check──► Column
//! ```

use crate::bindings::ovhost::plugin::types as wit;

/// Position of a call in its stream: the only source of "time" and "randomness" that a plugin sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CallCtx {
    /// Seed of the run; the plugin's own name and [`PluginSpec::seed`](crate::PluginSpec) are mixed in before it sees it.
    pub run_seed: u64,
    /// Data-parallel stream.
    pub shard: u32,
    /// Which stretch of the stream the batch is from; several calls may share it.
    pub batch_index: u64,
    /// Ordinal in the stream of the batch's row 0.
    pub first_row: u64,
}

/// Rows of different lengths, end to end: row `i` is `data[offsets[i]..offsets[i + 1]]`; `rows + 1` offsets, the first 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ragged<T> {
    /// `rows + 1` positions in `data`.
    pub offsets: Vec<u32>,
    /// All rows' values.
    pub data: Vec<T>,
}

impl<T> Default for Ragged<T> {
    fn default() -> Self {
        Ragged { offsets: vec![0], data: Vec::new() }
    }
}

impl<T: Copy> Ragged<T> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of row `i`. Panics past the end, as slices do.
    pub fn row(&self, i: usize) -> &[T] {
        &self.data[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// Adds a row. Panics where a column would pass 4 Gi values, which no batch comes near.
    pub fn push(&mut self, row: &[T]) {
        self.data.extend_from_slice(row);
        self.offsets.push(u32::try_from(self.data.len()).expect("a column of a batch has at most 2^32 - 1 values"));
    }

    /// A column of the given rows.
    pub fn from_rows<R: AsRef<[T]>>(rows: impl IntoIterator<Item = R>) -> Self {
        let mut column = Ragged::default();
        for row in rows {
            column.push(row.as_ref());
        }
        column
    }

    fn slice(&self, lo: usize, hi: usize) -> Self {
        let (start, end) = (self.offsets[lo], self.offsets[hi]);
        Ragged {
            offsets: self.offsets[lo..=hi].iter().map(|o| o - start).collect(),
            data: self.data[start as usize..end as usize].to_vec(),
        }
    }

    fn append(&mut self, other: &Self) {
        let base = self.data.len() as u32;
        self.data.extend_from_slice(&other.data);
        self.offsets.extend(other.offsets[1..].iter().map(|o| o + base));
    }

    fn check(&self, rows: usize) -> Result<(), String> {
        if self.offsets.len() != rows + 1 {
            return Err(format!("{} offsets for {rows} rows, there must be {}", self.offsets.len(), rows + 1));
        }
        if self.offsets[0] != 0 {
            return Err(format!("the first offset is {}, it must be 0", self.offsets[0]));
        }
        if let Some(i) = self.offsets.windows(2).position(|w| w[0] > w[1]) {
            return Err(format!("offsets go down from {} to {} at row {i}", self.offsets[i], self.offsets[i + 1]));
        }
        let last = self.offsets[rows] as usize;
        if last != self.data.len() {
            return Err(format!("the last offset is {last} and there are {} values", self.data.len()));
        }
        Ok(())
    }
}

impl Ragged<u8> {
    /// A text column of the given strings.
    pub fn from_strs<S: AsRef<str>>(rows: impl IntoIterator<Item = S>) -> Self {
        let mut column = Ragged::default();
        for row in rows {
            column.push(row.as_ref().as_bytes());
        }
        column
    }

    /// Row `i` as text, if it is UTF-8. Panics past the end, as slices do.
    pub fn str(&self, i: usize) -> Option<&str> {
        std::str::from_utf8(self.row(i)).ok()
    }
}

/// One column's values, one per row. The cases are the contract's.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it; lists are ragged")]
pub enum ColumnData {
    U8s(Vec<u8>),
    U32s(Vec<u32>),
    S64s(Vec<i64>),
    F32s(Vec<f32>),
    F64s(Vec<f64>),
    Utf8(Ragged<u8>),
    Bytes(Ragged<u8>),
    U32Lists(Ragged<u32>),
    F32Lists(Ragged<f32>),
}

macro_rules! each {
    ($value:expr, $flat:ident => $on_flat:expr, $ragged:ident => $on_ragged:expr) => {
        match $value {
            ColumnData::U8s($flat) => $on_flat,
            ColumnData::U32s($flat) => $on_flat,
            ColumnData::S64s($flat) => $on_flat,
            ColumnData::F32s($flat) => $on_flat,
            ColumnData::F64s($flat) => $on_flat,
            ColumnData::Utf8($ragged) | ColumnData::Bytes($ragged) => $on_ragged,
            ColumnData::U32Lists($ragged) => $on_ragged,
            ColumnData::F32Lists($ragged) => $on_ragged,
        }
    };
}

impl ColumnData {
    /// Number of rows.
    pub fn len(&self) -> usize {
        each!(self, flat => flat.len(), ragged => ragged.len())
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The contract's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            ColumnData::U8s(_) => "u8s",
            ColumnData::U32s(_) => "u32s",
            ColumnData::S64s(_) => "s64s",
            ColumnData::F32s(_) => "f32s",
            ColumnData::F64s(_) => "f64s",
            ColumnData::Utf8(_) => "utf8",
            ColumnData::Bytes(_) => "bytes",
            ColumnData::U32Lists(_) => "u32-lists",
            ColumnData::F32Lists(_) => "f32-lists",
        }
    }

    /// Bytes that crossing the boundary copies.
    pub fn bytes(&self) -> usize {
        each!(self, flat => size_of_val(flat.as_slice()),
              ragged => size_of_val(ragged.data.as_slice()) + size_of_val(ragged.offsets.as_slice()))
    }

    /// An empty column of the same type.
    fn empty_like(&self) -> Self {
        match self {
            ColumnData::U8s(_) => ColumnData::U8s(Vec::new()),
            ColumnData::U32s(_) => ColumnData::U32s(Vec::new()),
            ColumnData::S64s(_) => ColumnData::S64s(Vec::new()),
            ColumnData::F32s(_) => ColumnData::F32s(Vec::new()),
            ColumnData::F64s(_) => ColumnData::F64s(Vec::new()),
            ColumnData::Utf8(_) => ColumnData::Utf8(Ragged::default()),
            ColumnData::Bytes(_) => ColumnData::Bytes(Ragged::default()),
            ColumnData::U32Lists(_) => ColumnData::U32Lists(Ragged::default()),
            ColumnData::F32Lists(_) => ColumnData::F32Lists(Ragged::default()),
        }
    }

    /// Adds `n` rows of zero or empty values.
    fn pad(&mut self, n: usize) {
        each!(self, flat => flat.resize(flat.len() + n, Default::default()), ragged => {
            let end = ragged.data.len() as u32;
            ragged.offsets.resize(ragged.offsets.len() + n, end);
        });
    }

    fn slice(&self, lo: usize, hi: usize) -> Self {
        match self {
            ColumnData::U8s(v) => ColumnData::U8s(v[lo..hi].to_vec()),
            ColumnData::U32s(v) => ColumnData::U32s(v[lo..hi].to_vec()),
            ColumnData::S64s(v) => ColumnData::S64s(v[lo..hi].to_vec()),
            ColumnData::F32s(v) => ColumnData::F32s(v[lo..hi].to_vec()),
            ColumnData::F64s(v) => ColumnData::F64s(v[lo..hi].to_vec()),
            ColumnData::Utf8(r) => ColumnData::Utf8(r.slice(lo, hi)),
            ColumnData::Bytes(r) => ColumnData::Bytes(r.slice(lo, hi)),
            ColumnData::U32Lists(r) => ColumnData::U32Lists(r.slice(lo, hi)),
            ColumnData::F32Lists(r) => ColumnData::F32Lists(r.slice(lo, hi)),
        }
    }

    /// Adds another's rows; false (and nothing done) where the types differ.
    fn append(&mut self, other: &Self) -> bool {
        match (self, other) {
            (ColumnData::U8s(a), ColumnData::U8s(b)) => a.extend_from_slice(b),
            (ColumnData::U32s(a), ColumnData::U32s(b)) => a.extend_from_slice(b),
            (ColumnData::S64s(a), ColumnData::S64s(b)) => a.extend_from_slice(b),
            (ColumnData::F32s(a), ColumnData::F32s(b)) => a.extend_from_slice(b),
            (ColumnData::F64s(a), ColumnData::F64s(b)) => a.extend_from_slice(b),
            (ColumnData::Utf8(a), ColumnData::Utf8(b)) | (ColumnData::Bytes(a), ColumnData::Bytes(b)) => a.append(b),
            (ColumnData::U32Lists(a), ColumnData::U32Lists(b)) => a.append(b),
            (ColumnData::F32Lists(a), ColumnData::F32Lists(b)) => a.append(b),
            _ => return false,
        }
        true
    }

    fn check(&self, rows: usize) -> Result<(), String> {
        each!(self, flat => if flat.len() == rows {
            Ok(())
        } else {
            Err(format!("it has {} values for {rows} rows", flat.len()))
        }, ragged => ragged.check(rows))
    }

    fn check_text(&self) -> Result<(), String> {
        let ColumnData::Utf8(text) = self else { return Ok(()) };
        // One pass over all rows: whole text valid and every row starting at a character is each row valid.
        let whole = std::str::from_utf8(&text.data).map_err(|e| format!("byte {} is not UTF-8", e.valid_up_to()))?;
        match text.offsets.iter().position(|o| !whole.is_char_boundary(*o as usize)) {
            None => Ok(()),
            Some(i) => Err(format!("offset {i} cuts a UTF-8 character")),
        }
    }

    fn as_param(&self) -> wit::ColumnDataParam<'_> {
        use wit::ColumnDataParam as P;
        fn bytes(r: &Ragged<u8>) -> wit::RaggedU8Param<'_> {
            wit::RaggedU8Param { offsets: &r.offsets, data: &r.data }
        }
        match self {
            ColumnData::U8s(v) => P::U8s(v),
            ColumnData::U32s(v) => P::U32s(v),
            ColumnData::S64s(v) => P::S64s(v),
            ColumnData::F32s(v) => P::F32s(v),
            ColumnData::F64s(v) => P::F64s(v),
            ColumnData::Utf8(r) => P::Utf8(bytes(r)),
            ColumnData::Bytes(r) => P::Bytes(bytes(r)),
            ColumnData::U32Lists(r) => P::U32Lists(wit::RaggedU32Param { offsets: &r.offsets, data: &r.data }),
            ColumnData::F32Lists(r) => P::F32Lists(wit::RaggedF32Param { offsets: &r.offsets, data: &r.data }),
        }
    }
}

impl From<wit::ColumnDataResult> for ColumnData {
    fn from(data: wit::ColumnDataResult) -> Self {
        use wit::ColumnDataResult as R;
        match data {
            R::U8s(v) => ColumnData::U8s(v),
            R::U32s(v) => ColumnData::U32s(v),
            R::S64s(v) => ColumnData::S64s(v),
            R::F32s(v) => ColumnData::F32s(v),
            R::F64s(v) => ColumnData::F64s(v),
            R::Utf8(r) => ColumnData::Utf8(Ragged { offsets: r.offsets, data: r.data }),
            R::Bytes(r) => ColumnData::Bytes(Ragged { offsets: r.offsets, data: r.data }),
            R::U32Lists(r) => ColumnData::U32Lists(Ragged { offsets: r.offsets, data: r.data }),
            R::F32Lists(r) => ColumnData::F32Lists(Ragged { offsets: r.offsets, data: r.data }),
        }
    }
}

/// A named column. `valid`, when there, has one byte per row: 0 means that the row has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name: the contract between host and plugin.
    pub name: String,
    /// Its values.
    pub data: ColumnData,
    /// One byte per row, or none where every row has a value.
    pub valid: Option<Vec<u8>>,
}

impl Column {
    /// A column in which every row has a value.
    pub fn new(name: impl Into<String>, data: ColumnData) -> Self {
        Column { name: name.into(), data, valid: None }
    }

    /// A text column.
    pub fn utf8<S: AsRef<str>>(name: impl Into<String>, rows: impl IntoIterator<Item = S>) -> Self {
        Column::new(name, ColumnData::Utf8(Ragged::from_strs(rows)))
    }

    /// Whether row `i` has a value.
    pub fn is_valid(&self, i: usize) -> bool {
        self.valid.as_ref().is_none_or(|v| v.get(i).is_some_and(|b| *b != 0))
    }

    /// Checks length, offsets and, where `text` is true, UTF-8. The error is the broken rule.
    pub(crate) fn check(&self, rows: usize, text: bool) -> Result<(), String> {
        let named = |why: String| format!("column \"{}\" ({}): {why}", self.name, self.data.type_name());
        self.data.check(rows).map_err(named)?;
        if text {
            self.data.check_text().map_err(named)?;
        }
        if let Some(valid) = &self.valid
            && valid.len() != rows
        {
            return Err(named(format!("{} validity bytes for {rows} rows", valid.len())));
        }
        Ok(())
    }

    pub(crate) fn as_param(&self) -> wit::ColumnParam<'_> {
        wit::ColumnParam { name: &self.name, data: self.data.as_param(), valid: self.valid.as_deref() }
    }

    fn slice(&self, lo: usize, hi: usize) -> Self {
        Column {
            name: self.name.clone(),
            data: self.data.slice(lo, hi),
            valid: self.valid.as_ref().map(|v| v[lo..hi].to_vec()),
        }
    }
}

impl From<wit::ColumnResult> for Column {
    fn from(column: wit::ColumnResult) -> Self {
        Column { name: column.name, data: column.data.into(), valid: column.valid }
    }
}

/// `rows` rows of named columns, all of that length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: u32,
    /// The columns, in any order, names unique.
    pub columns: Vec<Column>,
}

impl Batch {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Rows `lo..hi` as a batch of its own.
    pub fn slice(&self, lo: u32, hi: u32) -> Batch {
        let columns = self.columns.iter().map(|c| c.slice(lo as usize, hi as usize)).collect();
        Batch { rows: hi - lo, columns }
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    /// Text of column `key` at row `i`, for error messages.
    pub(crate) fn key(&self, i: u32) -> Option<String> {
        match &self.column("key")?.data {
            ColumnData::Utf8(text) if (i as usize) < text.len() => text.str(i as usize).map(str::to_owned),
            _ => None,
        }
    }
}

/// Puts the columns of several answers end to end. Rows for which an answer lacks a column (or has it in another type) get an
/// invalid value.
#[derive(Default)]
pub(crate) struct ColumnJoiner {
    rows: usize,
    columns: Vec<Column>,
}

impl ColumnJoiner {
    pub(crate) fn push(&mut self, rows: usize, part: Vec<Column>) {
        for column in part {
            let mine = match self.columns.iter().position(|c| c.name == column.name) {
                Some(i) => &mut self.columns[i],
                None => {
                    let mut data = column.data.empty_like();
                    data.pad(self.rows);
                    let valid = (self.rows > 0).then(|| vec![0; self.rows]);
                    self.columns.push(Column { name: column.name.clone(), data, valid });
                    let last = self.columns.len() - 1;
                    &mut self.columns[last]
                }
            };
            if !mine.data.append(&column.data) {
                continue;
            }
            if column.valid.is_some() || mine.valid.is_some() {
                let valid = mine.valid.get_or_insert_with(|| vec![1; self.rows]);
                match column.valid {
                    Some(theirs) => valid.extend(theirs),
                    None => valid.resize(self.rows + rows, 1),
                }
            }
        }
        self.rows += rows;
        for column in &mut self.columns {
            let missing = self.rows - column.data.len();
            if missing > 0 {
                let before = self.rows - missing;
                column.data.pad(missing);
                column.valid.get_or_insert_with(|| vec![1; before]).resize(self.rows, 0);
            }
        }
    }

    pub(crate) fn finish(self) -> Vec<Column> {
        self.columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_joins_are_inverse() {
        let mut column = Column::utf8("text", ["a", "", "bcd", "e"]);
        column.valid = Some(vec![1, 0, 1, 1]);
        let batch = Batch { rows: 4, columns: vec![column, Column::new("n", ColumnData::U32s(vec![1, 2, 3, 4]))] };
        for cut in 0..=4 {
            let mut joiner = ColumnJoiner::default();
            joiner.push(cut as usize, batch.slice(0, cut).columns);
            joiner.push(4 - cut as usize, batch.slice(cut, 4).columns);
            assert_eq!(joiner.finish(), batch.columns);
        }
    }

    #[test]
    fn joiner_marks_rows_without_a_value() {
        let mut joiner = ColumnJoiner::default();
        joiner.push(1, vec![]);
        joiner.push(2, vec![Column::new("score", ColumnData::F32s(vec![0.5, 0.25]))]);
        joiner.push(1, vec![]);
        let columns = joiner.finish();
        assert_eq!(columns[0].data, ColumnData::F32s(vec![0.0, 0.5, 0.25, 0.0]));
        assert_eq!(columns[0].valid, Some(vec![0, 1, 1, 0]));
    }

    #[test]
    fn malformed_columns_are_named() {
        let text = |offsets: Vec<u32>, data: &[u8]| {
            Column::new("t", ColumnData::Utf8(Ragged { offsets, data: data.to_vec() })).check(2, true)
        };
        assert!(text(vec![0, 1, 3], "aé".as_bytes()).is_ok());
        assert!(text(vec![0, 2, 3], "aé".as_bytes()).unwrap_err().contains("cuts a UTF-8 character"));
        assert!(text(vec![0, 2, 1], b"ab").unwrap_err().contains("go down from 2 to 1"));
        assert!(text(vec![1, 2, 2], b"ab").unwrap_err().contains("first offset is 1"));
        assert!(text(vec![0, 1, 9], b"ab").unwrap_err().contains("last offset is 9"));
        assert!(text(vec![0, 2], b"ab").unwrap_err().contains("must be 3"));
        assert!(text(vec![0, 1, 2], b"a\xff").unwrap_err().contains("not UTF-8"));
    }
}
