//! A batch as a crash file has it: rows as people write them, and columns byte for byte where JSON would change them.
//!
//! In: a [`Batch`]. Out: JSON from which exactly that batch comes back, down to the bits of a NaN.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::json::{self, ColumnType, JsonRow};
use crate::{Batch, Column, ColumnData, Ragged};

/// A batch in a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// One object a row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<JsonRow>,
    /// The columns' types.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, ColumnType>,
    /// Columns that JSON would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<RawColumn>,
}

/// A column, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// Of ragged types: where rows begin and end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<Vec<u32>>,
    /// The values, little-endian, base64.
    pub data: String,
    /// One byte a row, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<String>,
}

impl Rows {
    /// Writes a batch.
    pub(crate) fn of(batch: &Batch) -> Self {
        let types: BTreeMap<String, ColumnType> =
            batch.columns.iter().map(|c| (c.name.clone(), type_of(&c.data))).collect();
        let mut out = Rows { rows: json::rows(batch), types, raw: Vec::new() };
        let back = json::batch(&out.rows, &out.types).unwrap_or_default();
        for column in &batch.columns {
            // A column without any value is in no row: it too is written raw.
            if !back.column(&column.name).is_some_and(|b| same_values(b, column)) {
                out.types.remove(&column.name);
                out.rows.iter_mut().for_each(|row| {
                    row.shift_remove(&column.name);
                });
                out.raw.push(RawColumn::of(column));
            }
        }
        out
    }

    /// The batch that was written. The error says what is wrong with it.
    pub(crate) fn batch(&self) -> Result<Batch, String> {
        let mut batch = json::batch(&self.rows, &self.types).map_err(|e| e.to_string())?;
        for raw in &self.raw {
            let column = raw.column()?;
            column.check(self.rows.len(), false)?;
            batch.columns.push(column);
        }
        Ok(batch)
    }
}

fn type_of(data: &ColumnData) -> ColumnType {
    match data {
        ColumnData::U8s(_) => ColumnType::U8s,
        ColumnData::U32s(_) => ColumnType::U32s,
        ColumnData::S64s(_) => ColumnType::S64s,
        ColumnData::F32s(_) => ColumnType::F32s,
        ColumnData::F64s(_) => ColumnType::F64s,
        ColumnData::Utf8(_) => ColumnType::Utf8,
        ColumnData::Bytes(_) => ColumnType::Bytes,
        ColumnData::U32Lists(_) => ColumnType::U32Lists,
        ColumnData::F32Lists(_) => ColumnType::F32Lists,
    }
}

/// Equal, where a list of validity bytes that are all 1 is as good as none.
fn same_values(a: &Column, b: &Column) -> bool {
    fn valid(c: &Column) -> Option<&Vec<u8>> {
        c.valid.as_ref().filter(|v| v.iter().any(|b| *b != 1))
    }
    valid(a) == valid(b) && type_of(&a.data) == type_of(&b.data) && bytes(&a.data) == bytes(&b.data)
}

/// Values in little-endian bytes, and the offsets of ragged types.
fn bytes(data: &ColumnData) -> (Vec<u8>, Option<&[u32]>) {
    fn flat<T: Copy, const N: usize>(values: &[T], le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|v| le(*v)).collect()
    }
    match data {
        ColumnData::U8s(v) => (v.clone(), None),
        ColumnData::U32s(v) => (flat(v, u32::to_le_bytes), None),
        ColumnData::S64s(v) => (flat(v, i64::to_le_bytes), None),
        ColumnData::F32s(v) => (flat(v, f32::to_le_bytes), None),
        ColumnData::F64s(v) => (flat(v, f64::to_le_bytes), None),
        ColumnData::Utf8(r) | ColumnData::Bytes(r) => (r.data.clone(), Some(&r.offsets)),
        ColumnData::U32Lists(r) => (flat(&r.data, u32::to_le_bytes), Some(&r.offsets)),
        ColumnData::F32Lists(r) => (flat(&r.data, f32::to_le_bytes), Some(&r.offsets)),
    }
}

impl RawColumn {
    fn of(column: &Column) -> Self {
        let (data, offsets) = bytes(&column.data);
        RawColumn {
            name: column.name.clone(),
            ty: type_of(&column.data),
            offsets: offsets.map(<[u32]>::to_vec),
            data: STANDARD.encode(data),
            valid: column.valid.as_ref().map(|v| STANDARD.encode(v)),
        }
    }

    fn column(&self) -> Result<Column, String> {
        fn flat<T, const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
            let chunks = bytes.chunks_exact(N);
            chunks.remainder().is_empty().then_some(())?;
            chunks.map(|c| Some(of(c.try_into().ok()?))).collect()
        }
        let wrong = |what: &str| format!("raw column \"{}\": {what}", self.name);
        let decode = |text: &str| STANDARD.decode(text).map_err(|e| wrong(&e.to_string()));
        let data = decode(&self.data)?;
        let offsets = || self.offsets.clone().unwrap_or_default();
        let data =
            match self.ty {
                ColumnType::U8s => Some(ColumnData::U8s(data)),
                ColumnType::U32s => flat(&data, u32::from_le_bytes).map(ColumnData::U32s),
                ColumnType::S64s => flat(&data, i64::from_le_bytes).map(ColumnData::S64s),
                ColumnType::F32s => flat(&data, f32::from_le_bytes).map(ColumnData::F32s),
                ColumnType::F64s => flat(&data, f64::from_le_bytes).map(ColumnData::F64s),
                ColumnType::Utf8 => Some(ColumnData::Utf8(Ragged { offsets: offsets(), data })),
                ColumnType::Bytes => Some(ColumnData::Bytes(Ragged { offsets: offsets(), data })),
                ColumnType::U32Lists => flat(&data, u32::from_le_bytes)
                    .map(|data| ColumnData::U32Lists(Ragged { offsets: offsets(), data })),
                ColumnType::F32Lists => flat(&data, f32::from_le_bytes)
                    .map(|data| ColumnData::F32Lists(Ragged { offsets: offsets(), data })),
            };
        let data = data.ok_or_else(|| wrong("its length does not fit its type"))?;
        let valid = self.valid.as_deref().map(decode).transpose()?;
        Ok(Column { name: self.name.clone(), data, valid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_survive_exactly() {
        let plain = Batch {
            rows: 2,
            columns: vec![
                Column::utf8("text", ["a\u{0}\n", "é"]),
                Column::new("f", ColumnData::F32s(vec![0.1, -0.0])),
                Column::new("d", ColumnData::F64s(vec![f64::MAX, 5e-324])),
                Column::new("n", ColumnData::S64s(vec![i64::MIN, i64::MAX])),
                Column::new("l", ColumnData::U32Lists(Ragged::from_rows([vec![], vec![1, 2]]))),
                Column { name: "w".into(), data: ColumnData::U32s(vec![0, 7]), valid: Some(vec![0, 1]) },
                Column { name: "all".into(), data: ColumnData::U8s(vec![1, 0]), valid: Some(vec![1, 1]) },
            ],
        };
        let rows = Rows::of(&plain);
        assert!(rows.raw.is_empty(), "JSON can say all of it: {:?}", rows.raw);
        // What JSON would change goes another way: hidden values, odd NaNs, text that is none, columns without any value.
        let odd = Batch {
            rows: 2,
            columns: vec![
                Column { name: "hidden".into(), data: ColumnData::U32s(vec![5, 7]), valid: Some(vec![0, 1]) },
                Column::new("nan", ColumnData::F32s(vec![f32::from_bits(0x7fc0_1234), f32::INFINITY])),
                Column::new("broken", ColumnData::Utf8(Ragged::from_rows([&b"\xff"[..], b"ok"]))),
                Column { name: "none".into(), data: ColumnData::F64s(vec![0.0, 0.0]), valid: Some(vec![0, 0]) },
                Column::new(
                    "lists",
                    ColumnData::F32Lists(Ragged::from_rows([vec![f32::from_bits(0xffc0_0001)], vec![]])),
                ),
            ],
        };
        let raw: Vec<String> = Rows::of(&odd).raw.into_iter().map(|c| c.name).collect();
        assert_eq!(raw, ["hidden", "nan", "broken", "none", "lists"]);
        for batch in [plain, odd] {
            let text = serde_json::to_string(&Rows::of(&batch)).unwrap();
            let back: Rows = serde_json::from_str(&text).unwrap();
            let back = back.batch().unwrap();
            assert_eq!((back.rows, back.columns.len()), (batch.rows, batch.columns.len()));
            for column in &batch.columns {
                assert!(same_values(back.column(&column.name).unwrap(), column), "{}", column.name);
            }
        }
    }

    #[test]
    fn damaged_columns_are_refused() {
        let column = Column::new("n", ColumnData::U32s(vec![1, 2]));
        let good = RawColumn::of(&column);
        let rows = |raw: RawColumn| Rows { rows: vec![JsonRow::new(); 2], types: BTreeMap::new(), raw: vec![raw] };
        assert!(rows(good.clone()).batch().is_ok());
        assert!(rows(RawColumn { data: "AAAA".into(), ..good.clone() }).batch().unwrap_err().contains("length"));
        assert!(rows(RawColumn { data: "?".into(), ..good.clone() }).batch().is_err());
        let ragged = RawColumn { ty: ColumnType::U32Lists, offsets: Some(vec![0, 9, 1]), ..good.clone() };
        assert!(rows(ragged).batch().is_err());
        assert!(rows(RawColumn { offsets: None, ty: ColumnType::Utf8, ..good }).batch().is_err());
    }
}
