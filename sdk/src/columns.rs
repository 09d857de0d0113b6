//! The types of columns: what a plugin declares that it reads and writes, and single values on their way into a column.
//!
//! The contract names columns without a type. Declaring the type here lets the SDK refuse a host column of another type
//! with a clear message, lets tests build columns out of JSON, and lets an added column have its type even when no row
//! of a batch set a value.

use crate::bindings::ovhost::plugin::types::{Column, ColumnData, RaggedU8, RaggedU32};

/// Type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Small integers and booleans.
    U8,
    /// 32-bit unsigned integers.
    U32,
    /// 64-bit signed integers.
    S64,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// Text.
    Utf8,
    /// Raw bytes.
    Bytes,
    /// A list of 32-bit unsigned integers per row.
    U32List,
    /// A list of 32-bit floats per row.
    F32List,
}

impl ColumnType {
    /// The contract's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8s",
            Self::U32 => "u32s",
            Self::S64 => "s64s",
            Self::F32 => "f32s",
            Self::F64 => "f64s",
            Self::Utf8 => "utf8",
            Self::Bytes => "bytes",
            Self::U32List => "u32-lists",
            Self::F32List => "f32-lists",
        }
    }

    /// Type of `data`.
    pub const fn of(data: &ColumnData) -> Self {
        match data {
            ColumnData::U8s(_) => Self::U8,
            ColumnData::U32s(_) => Self::U32,
            ColumnData::S64s(_) => Self::S64,
            ColumnData::F32s(_) => Self::F32,
            ColumnData::F64s(_) => Self::F64,
            ColumnData::Utf8(_) => Self::Utf8,
            ColumnData::Bytes(_) => Self::Bytes,
            ColumnData::U32Lists(_) => Self::U32List,
            ColumnData::F32Lists(_) => Self::F32List,
        }
    }
}

/// A column that a plugin reads. The host copies in declared columns only.
///
/// ```
/// use ovhost_sdk::{ColumnType, Need};
///
/// const READS: &[Need] =
///     &[Need::utf8("text"), Need::u32s("width").optional(), Need::new("embedding", ColumnType::F32List)];
/// assert!(READS[0].required && !READS[1].required);
/// assert_eq!(READS[2].ty.name(), "f32-lists");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Name of the column.
    pub name: &'static str,
    /// Type of its values.
    pub ty: ColumnType,
    /// Whether a run without this column is an error before any data is read.
    pub required: bool,
}

impl Need {
    /// A required column of any type.
    pub const fn new(name: &'static str, ty: ColumnType) -> Self {
        Self { name, ty, required: true }
    }

    /// A required text column.
    pub const fn utf8(name: &'static str) -> Self {
        Self::new(name, ColumnType::Utf8)
    }

    /// A required column of byte strings.
    pub const fn bytes(name: &'static str) -> Self {
        Self::new(name, ColumnType::Bytes)
    }

    /// A required column of `u32`.
    pub const fn u32s(name: &'static str) -> Self {
        Self::new(name, ColumnType::U32)
    }

    /// A required column of lists of `u32`.
    pub const fn u32_lists(name: &'static str) -> Self {
        Self::new(name, ColumnType::U32List)
    }

    /// The same column; a host without it is fine and every row reads as having no value.
    pub const fn optional(self) -> Self {
        Self { required: false, ..self }
    }
}

/// A column that a plugin adds: its name and the type of its values.
///
/// ```
/// use ovhost_sdk::Write;
///
/// const WRITES: &[Write] = &[Write::f32s("score"), Write::utf8("language")];
/// assert_eq!(WRITES[1].name, "language");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Name of the column.
    pub name: &'static str,
    /// Type of its values.
    pub ty: WriteType,
}

/// Types that a row may set with [`RowCtx::set`](crate::RowCtx::set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteType {
    /// Small integers and booleans.
    U8,
    /// 32-bit unsigned integers.
    U32,
    /// 64-bit signed integers.
    S64,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// Text.
    Utf8,
    /// A list of 32-bit unsigned integers per row.
    U32List,
}

impl Write {
    /// A column of `f32`, as scores are.
    pub const fn f32s(name: &'static str) -> Self {
        Self { name, ty: WriteType::F32 }
    }

    /// A column of `f64`.
    pub const fn f64s(name: &'static str) -> Self {
        Self { name, ty: WriteType::F64 }
    }

    /// A column of `u8` (flags).
    pub const fn u8s(name: &'static str) -> Self {
        Self { name, ty: WriteType::U8 }
    }

    /// A column of `u32`.
    pub const fn u32s(name: &'static str) -> Self {
        Self { name, ty: WriteType::U32 }
    }

    /// A column of `i64`.
    pub const fn s64s(name: &'static str) -> Self {
        Self { name, ty: WriteType::S64 }
    }

    /// A text column.
    pub const fn utf8(name: &'static str) -> Self {
        Self { name, ty: WriteType::Utf8 }
    }

    /// A column of lists of `u32`.
    pub const fn u32_lists(name: &'static str) -> Self {
        Self { name, ty: WriteType::U32List }
    }
}

/// One value of an added column, for values whose type is known only when the plugin runs.
///
/// ```
/// use ovhost_sdk::Value;
///
/// assert_eq!(Value::from(true), Value::U8(1));
/// assert_eq!(Value::from("en"), Value::Utf8("en".into()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// For a column declared with [`Write::u8s`].
    U8(u8),
    /// For a column declared with [`Write::u32s`].
    U32(u32),
    /// For a column declared with [`Write::s64s`].
    S64(i64),
    /// For a column declared with [`Write::f32s`].
    F32(f32),
    /// For a column declared with [`Write::f64s`].
    F64(f64),
    /// For a column declared with [`Write::utf8`].
    Utf8(String),
    /// For a column declared with [`Write::u32_lists`].
    U32List(Vec<u32>),
}

macro_rules! value_from {
    ($($from:ty => $case:ident),+) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$case(value.into())
            }
        })+
    };
}
value_from!(
    bool => U8, u8 => U8, u32 => U32, i64 => S64, f32 => F32, f64 => F64, String => Utf8, &str => Utf8,
    Vec<u32> => U32List, &[u32] => U32List
);

/// An added column while its rows are being judged.
pub(crate) struct Growing {
    name: &'static str,
    data: ColumnData,
    rows: usize,
    /// Empty until a row has no value.
    valid: Vec<u8>,
}

impl Growing {
    pub(crate) fn new(write: &Write, rows: usize) -> Self {
        let data = match write.ty {
            WriteType::U8 => ColumnData::U8s(Vec::with_capacity(rows)),
            WriteType::U32 => ColumnData::U32s(Vec::with_capacity(rows)),
            WriteType::S64 => ColumnData::S64s(Vec::with_capacity(rows)),
            WriteType::F32 => ColumnData::F32s(Vec::with_capacity(rows)),
            WriteType::F64 => ColumnData::F64s(Vec::with_capacity(rows)),
            WriteType::Utf8 => ColumnData::Utf8(RaggedU8 { offsets: vec![0], data: Vec::new() }),
            WriteType::U32List => ColumnData::U32Lists(RaggedU32 { offsets: vec![0], data: Vec::new() }),
        };
        Self { name: write.name, data, rows: 0, valid: Vec::new() }
    }

    /// Appends one row's value. `Err` says what type was given for what type of column.
    pub(crate) fn push(&mut self, value: Option<&Value>) -> Result<(), String> {
        if value.is_none() || !self.valid.is_empty() {
            self.valid.resize(self.rows, 1);
            self.valid.push(u8::from(value.is_some()));
        }
        self.rows += 1;
        match (&mut self.data, value) {
            (ColumnData::U8s(out), None) => out.push(0),
            (ColumnData::U8s(out), Some(Value::U8(v))) => out.push(*v),
            (ColumnData::U32s(out), None) => out.push(0),
            (ColumnData::U32s(out), Some(Value::U32(v))) => out.push(*v),
            (ColumnData::S64s(out), None) => out.push(0),
            (ColumnData::S64s(out), Some(Value::S64(v))) => out.push(*v),
            (ColumnData::F32s(out), None) => out.push(0.0),
            (ColumnData::F32s(out), Some(Value::F32(v))) => out.push(*v),
            (ColumnData::F64s(out), None) => out.push(0.0),
            (ColumnData::F64s(out), Some(Value::F64(v))) => out.push(*v),
            (ColumnData::Utf8(out), v) if matches!(v, None | Some(Value::Utf8(_))) => {
                if let Some(Value::Utf8(text)) = v {
                    out.data.extend_from_slice(text.as_bytes());
                }
                out.offsets.push(out.data.len() as u32);
            }
            (ColumnData::U32Lists(out), v) if matches!(v, None | Some(Value::U32List(_))) => {
                if let Some(Value::U32List(list)) = v {
                    out.data.extend_from_slice(list);
                }
                out.offsets.push(out.data.len() as u32);
            }
            (data, v) => {
                return Err(format!(
                    "column `{}` is declared as {} and a row set {v:?}",
                    self.name,
                    ColumnType::of(data).name()
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Column {
        let valid = (!self.valid.is_empty()).then_some(self.valid);
        Column { name: self.name.into(), data: self.data, valid }
    }
}
