//! Row → sample: names for list rows, grouping, keys, picture files found and checked.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::ConvertOptions;
use crate::image::decode::{decode_rgb, extension_of, header, is_picture_name};
use crate::record::{Reject, kind_of};

/// Longest key in bytes: a tar name holds 100, and the part needs its share.
const LONGEST_KEY: usize = 72;

/// A sample ready to be written.
pub(super) struct Draft {
    pub key: String,
    /// `json` first, then pictures.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// A row with names, and what its key is made of.
pub(super) struct Row {
    fields: Map<String, Value>,
    /// Value that the key is made of; none: the row's number.
    id: Option<Value>,
}

/// How rows of this run become samples.
pub(super) struct Shape<'a> {
    pub options: &'a ConvertOptions,
    /// Folder of the pictures.
    pub folder: PathBuf,
    /// The table, for error texts.
    pub file: String,
}

impl Shape<'_> {
    /// Gives list rows their field names, finds the key's value and makes the picture's name.
    pub fn named(&self, row: Value) -> Result<Row, String> {
        let mut fields = match (row, &self.options.fields) {
            (Value::Object(fields), None) => fields,
            (Value::Array(values), Some(names)) => {
                if values.len() != names.len() {
                    return Err(format!(
                        "the row has {} values but {} field names were given",
                        values.len(),
                        names.len()
                    ));
                }
                names.iter().cloned().zip(values).collect()
            }
            (Value::Array(values), None) if !values.is_empty() && values.iter().all(Value::is_object) => {
                Map::from_iter([("messages".to_owned(), Value::Array(values))])
            }
            (Value::Array(_), None) => {
                return Err("the row is a list; name its positions with fields, such as question,answer,image".into());
            }
            (Value::Object(_), Some(_)) => {
                return Err("the row is an object with names of its own; leave out the option fields".into());
            }
            (other, _) => return Err(format!("the row is {}; it must be an object or a list", kind_of(&other))),
        };
        let id_field = self.options.id_field.as_deref().or(self.options.group_by.as_deref());
        let id = match id_field {
            Some(name) => Some(
                fields.get(name).cloned().ok_or_else(|| format!("the row has no field \"{name}\"{}", have(&fields)))?,
            ),
            None => fields.get("id").filter(|id| id.is_string() || id.is_u64()).cloned(),
        };
        if let Some(pattern) = &self.options.image_pattern {
            let name = fill(pattern, &fields)?;
            fields.insert("image".into(), Value::String(name));
        }
        Ok(Row { fields, id })
    }

    /// Finds and checks the pictures of a sample. `number` is that of its first row.
    pub fn draft(&self, number: u64, row: Row) -> Result<Draft, Reject> {
        let key = match &row.id {
            Some(id) => key_of(id).unwrap_or_else(|| format!("{number:08}")),
            None => format!("{number:08}"),
        };
        let fail = |reason: String| Reject {
            key: key.clone(),
            shard: self.options.pattern.clone(),
            stage: "convert",
            reason: format!("{reason} (row {number} of {})", self.file),
        };
        let names = picture_names(&row.fields).map_err(fail)?;
        let mut pictures = Vec::with_capacity(names.len());
        for name in &names {
            let bytes = self.picture(name).map_err(fail)?;
            let extension = match Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase()) {
                Some(extension) if is_picture_name(&extension) => extension,
                // `picture` proved that the content is of a known kind.
                _ => extension_of(&bytes).map_err(|e| fail(e.to_string()))?.to_owned(),
            };
            let part = if names.len() == 1 { extension } else { format!("{}.{extension}", pictures.len()) };
            pictures.push((part, bytes));
        }
        let json = serde_json::to_vec(&Value::Object(row.fields)).map_err(|e| fail(e.to_string()))?;
        let parts = std::iter::once(("json".to_owned(), json)).chain(pictures).collect();
        Ok(Draft { key, parts })
    }

    pub fn reject(&self, number: u64, reason: String) -> Reject {
        Reject {
            key: format!("{number:08}"),
            shard: self.options.pattern.clone(),
            stage: "convert",
            reason: format!("{reason} (row {number} of {})", self.file),
        }
    }

    fn picture(&self, name: &str) -> Result<Vec<u8>, String> {
        let relative = Path::new(name);
        // A table from a stranger must not be able to pull in files from elsewhere.
        if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(format!(
                "image \"{name}\" does not lie in the image folder; names must be relative to it, without .."
            ));
        }
        let path = self.folder.join(relative);
        let bytes = std::fs::read(&path).map_err(|e| format!("image {} cannot be read: {e}", path.display()))?;
        let checked = if self.options.verify_images {
            decode_rgb(&bytes, self.options.max_pixels).map(|_| ())
        } else {
            header(&bytes, self.options.max_pixels).map(|_| ())
        };
        checked.map_err(|e| format!("image {}: {e}", path.display()))?;
        Ok(bytes)
    }
}

fn have(fields: &Map<String, Value>) -> String {
    format!("; it has {}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// The pictures that a sample names, in order.
fn picture_names(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut names = vec![];
    for field in ["image", "images"] {
        match fields.get(field) {
            None | Some(Value::Null) => continue,
            Some(Value::String(name)) if !name.is_empty() => names.push(name.clone()),
            Some(Value::Array(list)) => {
                for item in list {
                    match item {
                        Value::String(name) if !name.is_empty() => names.push(name.clone()),
                        other => {
                            return Err(format!(
                                "field \"{field}\" lists {}; only file names are possible",
                                kind_of(other)
                            ));
                        }
                    }
                }
            }
            Some(Value::String(_)) => return Err(format!("field \"{field}\" is an empty name")),
            Some(other) => {
                return Err(format!(
                    "field \"{field}\" holds {}; it must be a file name or a list of them (image_pattern makes a name from a number, such as {{image}}.png)",
                    kind_of(other)
                ));
            }
        }
        break;
    }
    if names.is_empty() && fields.get("video").is_some_and(|v| !v.is_null()) {
        return Err("the sample has a video; videos are not supported".into());
    }
    Ok(names)
}

/// A key that survives as a tar member name: folders and dots become `_`, numbers get eight digits.
fn key_of(id: &Value) -> Option<String> {
    let text = match id {
        Value::Number(n) => {
            return Some(n.as_u64().map_or_else(|| n.to_string().replace('.', "_"), |n| format!("{n:08}")));
        }
        Value::String(text) => text,
        _ => return None,
    };
    let safe: String = text
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '+' | '=' | '@' | '~') { c } else { '_' })
        .collect();
    if safe.is_empty() {
        return None;
    }
    // `__x__` is reserved by every reader.
    let safe = if safe.starts_with("__") { format!("k{safe}") } else { safe };
    if safe.len() <= LONGEST_KEY {
        return Some(safe);
    }
    let digest = Sha256::digest(text.as_bytes());
    let tail: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    let mut end = LONGEST_KEY - tail.len() - 1;
    while !safe.is_char_boundary(end) {
        end -= 1;
    }
    Some(format!("{}-{tail}", &safe[..end]))
}

/// Replaces `{field}` by the field's value.
fn fill(pattern: &str, fields: &Map<String, Value>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let close =
            rest[open..].find('}').ok_or_else(|| format!("image_pattern \"{pattern}\" has a {{ without a }}"))?;
        let name = &rest[open + 1..open + close];
        match fields.get(name) {
            Some(Value::String(text)) => out.push_str(text),
            Some(Value::Number(number)) => out.push_str(&number.to_string()),
            Some(other) => {
                return Err(format!(
                    "field \"{name}\" holds {}; image_pattern needs a string or a number",
                    kind_of(other)
                ));
            }
            None => return Err(format!("image_pattern names the field \"{name}\"{}", have(fields))),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Finds mistakes in `image_pattern` before the first row is read.
pub(super) fn check_image_pattern(pattern: &str, fields: Option<&[String]>) -> Result<(), String> {
    let mut names = pattern.split('{').skip(1).peekable();
    if names.peek().is_none() {
        return Err(format!("\"{pattern}\" names no field; write one in braces, such as {{image}}.png"));
    }
    for piece in names {
        let (name, _) = piece.split_once('}').ok_or_else(|| format!("\"{pattern}\" has a {{ without a }}"))?;
        if let Some(fields) = fields
            && !fields.iter().any(|f| f == name)
        {
            return Err(format!("\"{name}\" is not among the fields {}", fields.join(", ")));
        }
    }
    Ok(())
}

/// Rows held in memory, grouped by a field in order of first appearance (or not at all).
pub(super) struct Groups<'a> {
    by: Option<&'a str>,
    places: HashMap<String, usize>,
    list: Vec<(u64, Row, Vec<Value>)>,
}

impl<'a> Groups<'a> {
    pub fn new(by: Option<&'a str>) -> Self {
        Self { by, places: HashMap::new(), list: vec![] }
    }

    /// Adds a row. Its fields other than the grouping field, `image` and `id` become an entry of the group's `qa`.
    pub fn add(&mut self, number: u64, mut row: Row) -> Result<(), String> {
        let Some(by) = self.by else {
            self.list.push((number, row, vec![]));
            return Ok(());
        };
        let value = row.fields.get(by).ok_or_else(|| format!("the row has no field \"{by}\"{}", have(&row.fields)))?;
        let group = value.to_string();
        let mut shared = Map::new();
        for name in ["id", by, "image", "images"] {
            if let Some(value) = row.fields.shift_remove(name) {
                shared.insert(name.to_owned(), value);
            }
        }
        if row.fields.is_empty() {
            return Err(format!("the row has nothing but \"{by}\" to put into the group's list qa"));
        }
        let entry = Value::Object(std::mem::replace(&mut row.fields, shared));
        match self.places.get(&group) {
            Some(place) => {
                let (_, first, entries) = &mut self.list[*place];
                let differs = ["image", "images"].into_iter().find(|n| first.fields.get(*n) != row.fields.get(*n));
                if let Some(name) = differs {
                    return Err(format!(
                        "the row's {name} {} differs from that of the first row of its group",
                        row.fields.get(name).unwrap_or(&Value::Null)
                    ));
                }
                entries.push(entry);
            }
            None => {
                self.places.insert(group, self.list.len());
                self.list.push((number, row, vec![entry]));
            }
        }
        Ok(())
    }

    /// The samples: (number of the first row, the sample).
    pub fn into_samples(self) -> Vec<(u64, Row)> {
        let grouped = self.by.is_some();
        self.list
            .into_iter()
            .map(|(number, mut row, entries)| {
                if grouped {
                    row.fields.insert("qa".into(), Value::Array(entries));
                }
                (number, row)
            })
            .collect()
    }
}
