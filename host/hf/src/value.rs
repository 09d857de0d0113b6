//! A parquet record → a JSON object, with pictures and other bytes taken out of it.

use parquet::record::Field;
use serde_json::{Map, Number, Value};

use crate::schema::{Kind, is_image};

/// A row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// The columns. Where bytes were there is a name: their path, else their place with dots (`images.0`).
    pub fields: Map<String, Value>,
    /// The bytes, in the order of the columns and of the lists in them.
    pub blobs: Vec<Blob>,
}

/// Bytes of a row: a picture, or a plain binary value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The top-level column.
    pub column: String,
    /// JSON pointer to its name in [`Row::fields`]: `/images/0`.
    pub pointer: String,
    /// File name that was stored with it, if any.
    pub path: Option<String>,
    /// The bytes; none where a file name alone is stored.
    pub bytes: Option<Vec<u8>>,
    /// Whether the column's type says that it is a picture (plain binary columns say nothing).
    pub image: bool,
}

/// Adds a top-level column to a row.
pub fn put(row: &mut Row, column: &str, kind: &Kind, field: Field) {
    let mut place = Place { column, pointer: format!("/{}", escape(column)), media: has_media(kind) };
    let value = value(field, &mut place, &mut row.blobs);
    row.fields.insert(column.to_owned(), value);
}

fn has_media(kind: &Kind) -> bool {
    match kind {
        Kind::Media(_) => true,
        Kind::List(item) | Kind::Map(item) => has_media(item),
        Kind::Struct(fields) => fields.iter().any(|field| has_media(&field.kind)),
        _ => false,
    }
}

struct Place<'a> {
    column: &'a str,
    pointer: String,
    /// Sounds and films are stored as pictures are.
    media: bool,
}

impl Place<'_> {
    fn inside<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&escape(name));
        let out = f(self);
        self.pointer.truncate(length);
        out
    }

    fn blob(&self, path: Option<String>, bytes: Option<Vec<u8>>, image: bool, blobs: &mut Vec<Blob>) -> Value {
        let name = path.clone().unwrap_or_else(|| self.pointer[1..].replace('/', "."));
        blobs.push(Blob { column: self.column.to_owned(), pointer: self.pointer.clone(), path, bytes, image });
        Value::String(name)
    }
}

/// RFC 6901.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn value(field: Field, place: &mut Place<'_>, blobs: &mut Vec<Blob>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => v.into(),
        Field::Byte(v) => v.into(),
        Field::Short(v) => v.into(),
        Field::Int(v) => v.into(),
        Field::Long(v) => v.into(),
        Field::UByte(v) => v.into(),
        Field::UShort(v) => v.into(),
        Field::UInt(v) => v.into(),
        Field::ULong(v) => v.into(),
        Field::Float16(v) => float(v.into()),
        // Shortest digits that give the 32-bit value back, not those of its 64-bit neighbour.
        Field::Float(v) => v.to_string().parse().map_or(Value::Null, float),
        Field::Double(v) => float(v),
        Field::Str(v) => v.into(),
        Field::Bytes(v) => place.blob(None, Some(v.data().to_vec()), false, blobs),
        Field::Group(group) => structure(group.into_columns(), place, blobs),
        Field::ListInternal(list) => {
            let items = list.elements().iter().enumerate();
            Value::Array(items.map(|(i, v)| place.inside(&i.to_string(), |p| value(v.clone(), p, blobs))).collect())
        }
        Field::MapInternal(map) => {
            let mut out = Map::new();
            for (key, v) in map.entries() {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                let v = place.inside(&key, |p| value(v.clone(), p, blobs));
                out.insert(key, v);
            }
            Value::Object(out)
        }
        // Decimals, dates, times.
        other => Value::String(other.to_string()),
    }
}

fn structure(fields: Vec<(String, Field)>, place: &mut Place<'_>, blobs: &mut Vec<Blob>) -> Value {
    let binary = |(name, field): &(String, Field)| name != "bytes" || matches!(field, Field::Bytes(_) | Field::Null);
    let text = |(name, field): &(String, Field)| name != "path" || matches!(field, Field::Str(_) | Field::Null);
    if is_image(fields.iter().map(|(name, _)| name.as_str())) && fields.iter().all(|f| binary(f) && text(f)) {
        let (mut bytes, mut path) = (None, None);
        for (_, field) in fields {
            match field {
                Field::Bytes(v) => bytes = Some(v.data().to_vec()),
                Field::Str(v) => path = Some(v).filter(|v| !v.is_empty()),
                _ => {}
            }
        }
        if bytes.is_none() && path.is_none() {
            return Value::Null;
        }
        return place.blob(path, bytes, !place.media, blobs);
    }
    let mut out = Map::with_capacity(fields.len());
    for (name, field) in fields {
        let v = place.inside(&name, |p| value(field, p, blobs));
        out.insert(name, v);
    }
    Value::Object(out)
}
