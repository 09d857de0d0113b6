//! Columns of a file: parquet's types and the feature types that Hugging Face's `datasets` writes beside them → [`Kind`]s.

use std::fmt;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::Type;
use serde_json::Value;

/// A top-level column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A number; what JSON cannot say (NaN, infinite) becomes null.
    Float,
    /// Text.
    Text,
    /// Plain bytes.
    Bytes,
    /// `datasets`' `Image`: a struct of `bytes` and `path`.
    Image,
    /// `datasets`' `Audio`, `Video` or `Pdf`, stored alike.
    Media(String),
    /// A list.
    List(Box<Kind>),
    /// Named values.
    Struct(Vec<Column>),
    /// Text to values.
    Map(Box<Kind>),
    /// Dates, times, decimals: they become text.
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("bool"),
            Kind::Int => f.write_str("int"),
            Kind::Float => f.write_str("float"),
            Kind::Text => f.write_str("text"),
            Kind::Bytes => f.write_str("bytes"),
            Kind::Image => f.write_str("image"),
            Kind::Media(name) | Kind::Other(name) => f.write_str(name),
            Kind::List(item) => write!(f, "list of {item}"),
            Kind::Map(item) => write!(f, "map to {item}"),
            Kind::Struct(fields) => {
                f.write_str("{")?;
                for (i, field) in fields.iter().enumerate() {
                    write!(f, "{}{}: {}", if i == 0 { "" } else { ", " }, field.name, field.kind)?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Kind {
    /// Whether it is a picture or a list of them.
    pub fn holds_images(&self) -> bool {
        match self {
            Kind::Image => true,
            Kind::List(item) => item.holds_images(),
            _ => false,
        }
    }
}

/// The columns of a file.
pub fn columns(metadata: &FileMetaData) -> Vec<Column> {
    let features = features(metadata);
    let of = |field: &std::sync::Arc<Type>| {
        let name = field.name().to_owned();
        let mut kind = kind(field);
        if let Some(media) = features.get(&name).and_then(media) {
            rename(&mut kind, &media);
        }
        Column { name, kind }
    };
    metadata.schema().get_fields().iter().map(of).collect()
}

/// What `datasets` says about the columns: it is the only place that tells a sound from a picture.
fn features(metadata: &FileMetaData) -> Value {
    let entries = metadata.key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let text = entries.iter().find(|entry| entry.key == "huggingface").and_then(|entry| entry.value.as_deref());
    let mut value: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    value["info"]["features"].take()
}

/// The media type of a feature (or of its items) that is not a picture.
fn media(feature: &Value) -> Option<String> {
    match feature {
        Value::Object(fields) => match fields.get("_type").and_then(Value::as_str) {
            Some(name @ ("Audio" | "Video" | "Pdf")) => Some(name.to_lowercase()),
            _ => fields.values().find_map(media),
        },
        Value::Array(items) => items.iter().find_map(media),
        _ => None,
    }
}

fn rename(kind: &mut Kind, media: &str) {
    match kind {
        Kind::Image => *kind = Kind::Media(media.to_owned()),
        Kind::List(item) | Kind::Map(item) => rename(item, media),
        Kind::Struct(fields) => fields.iter_mut().for_each(|field| rename(&mut field.kind, media)),
        _ => {}
    }
}

/// Whether a struct of these fields is how `datasets` stores a picture.
pub fn is_image<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    matches!(
        (names.next(), names.next(), names.next()),
        (Some("bytes"), Some("path"), None) | (Some("path"), Some("bytes"), None)
    )
}

fn kind(field: &Type) -> Kind {
    let info = field.get_basic_info();
    let repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
    let one = if field.is_primitive() { primitive(field) } else { group(field) };
    if repeated { Kind::List(Box::new(one)) } else { one }
}

fn primitive(field: &Type) -> Kind {
    match (field.get_physical_type(), field.get_basic_info().converted_type()) {
        (_, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => Kind::Text,
        (_, ConvertedType::DECIMAL) => Kind::Other("decimal".into()),
        (_, ConvertedType::DATE) => Kind::Other("date".into()),
        (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => Kind::Other("time".into()),
        (_, ConvertedType::TIMESTAMP_MILLIS | ConvertedType::TIMESTAMP_MICROS) | (Physical::INT96, _) => {
            Kind::Other("timestamp".into())
        }
        (Physical::BOOLEAN, _) => Kind::Bool,
        (Physical::INT32 | Physical::INT64, _) => Kind::Int,
        (Physical::FLOAT | Physical::DOUBLE, _) => Kind::Float,
        (Physical::FIXED_LEN_BYTE_ARRAY, _)
            if field.get_basic_info().logical_type_ref() == Some(&LogicalType::Float16) =>
        {
            Kind::Float
        }
        (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, _) => Kind::Bytes,
    }
}

fn group(field: &Type) -> Kind {
    let fields = field.get_fields();
    match field.get_basic_info().converted_type() {
        ConvertedType::LIST => match fields.first() {
            // The repeated group in between has one field, the item; older writers leave it out.
            Some(inner) if !inner.is_primitive() && inner.get_fields().len() == 1 => {
                Kind::List(Box::new(kind(&inner.get_fields()[0])))
            }
            Some(inner) if inner.is_primitive() => Kind::List(Box::new(primitive(inner))),
            Some(inner) => Kind::List(Box::new(group(inner))),
            None => Kind::Other("empty list type".into()),
        },
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
            let value = fields.first().filter(|f| !f.is_primitive()).and_then(|f| f.get_fields().get(1));
            Kind::Map(Box::new(value.map_or_else(|| Kind::Other("set".into()), |v| kind(v))))
        }
        _ if is_image(fields.iter().map(|f| f.name()))
            && fields.iter().any(|f| f.name() == "bytes" && kind(f) == Kind::Bytes) =>
        {
            Kind::Image
        }
        _ => Kind::Struct(fields.iter().map(|f| Column { name: f.name().to_owned(), kind: kind(f) }).collect()),
    }
}
