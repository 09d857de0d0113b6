//! Row → sample: names for list rows, columns mapped, pictures found and checked.
//!
//! Pictures are found in the image columns, as file names, `data:` URIs or the bytes that came with the row; where those hold
//! none, in the parts of a conversation (`{"type": "image", "image": …}`, `{"type": "image_url", …}`). Their bytes are kept.

use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use ovhost_data::image::check;
use ovhost_data::image::decode::{EXTENSIONS, extension_of, header, is_picture_name};
use ovhost_data::record::kind_of;
use ovhost_hf::Blob;
use serde_json::{Map, Value};

use super::ConvertSettings;
use super::index::Entry;
use super::keys::{NUMBER, hash, key_of};

/// Columns with pictures where none are named: the first that holds any.
const IMAGE_COLUMNS: [&str; 2] = ["image", "images"];

/// A sample ready to be written, but for its key.
#[derive(Debug)]
pub(super) struct Draft {
    pub key: String,
    pub fields: Map<String, Value>,
    /// Part names and contents: pictures and other members.
    pub parts: Vec<(String, Vec<u8>)>,
    /// JSON pointers to the places in `fields` that get the name of a part: (pointer, number of the part).
    pub named: Vec<(String, usize)>,
}

impl Draft {
    /// Pictures among the parts.
    pub fn pictures(&self) -> u64 {
        self.parts.iter().filter(|(name, _)| is_picture_name(name)).count() as u64
    }

    /// All parts of the tar, `json` included.
    pub fn finish(self, key: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut fields = Value::Object(self.fields);
        for (pointer, part) in &self.named {
            if let Some(place) = fields.pointer_mut(pointer) {
                *place = Value::String(format!("{key}.{}", self.parts[*part].0));
            }
        }
        let json = serde_json::to_vec(&fields).map_err(|e| e.to_string())?;
        Ok(std::iter::once(("json".to_owned(), json)).chain(self.parts).collect())
    }
}

/// How rows of this run become samples.
pub(super) struct Shape<'a> {
    pub settings: &'a ConvertSettings,
    /// Columns with pictures; none: see [`IMAGE_COLUMNS`].
    pub image_columns: Option<Vec<String>>,
}

/// Where a picture's bytes are.
enum Picture {
    /// A file of the image folder.
    File(String),
    /// At a JSON pointer: a `data:` URI.
    Uri(String, String),
    /// Bytes that came with the row, by number.
    Blob(usize),
}

impl<'a> Shape<'a> {
    pub fn new(settings: &'a ConvertSettings, image_columns: Option<Vec<String>>) -> Self {
        Shape { settings, image_columns }
    }

    /// A row as an object: gives list rows their names.
    pub fn object(&self, row: Value) -> Result<Map<String, Value>, String> {
        match (row, &self.settings.fields) {
            (Value::Object(fields), None) => Ok(fields),
            (Value::Array(values), Some(names)) => {
                if values.len() != names.len() {
                    let (seen, named) = (values.len(), names.len());
                    return Err(format!("the row has {seen} values but {named} field names were given"));
                }
                Ok(names.iter().cloned().zip(values).collect())
            }
            (Value::Array(values), None) if !values.is_empty() && values.iter().all(Value::is_object) => {
                Ok(Map::from_iter([("messages".to_owned(), Value::Array(values))]))
            }
            (Value::Array(_), None) => {
                Err("the row is a list; name its positions with --fields, such as question,answer,image".into())
            }
            (Value::Object(_), Some(_)) => Err("the row is an object with names of its own; leave out --fields".into()),
            (other, _) => Err(format!("the row is {}; it must be an object or a list", kind_of(&other))),
        }
    }

    /// Columns that the first pass must see of a row.
    pub fn key_columns(&self) -> Vec<String> {
        let s = self.settings;
        let mut out: Vec<String> = s.group_by.iter().chain(&s.id_column).cloned().collect();
        if out.is_empty() {
            out.push("id".into());
        }
        if let Some(pattern) = self.settings.image_pattern.as_ref().filter(|_| self.groups_by_made_name()) {
            let names = pattern.split('{').skip(1).filter_map(|piece| piece.split_once('}'));
            out.extend(names.map(|(name, _)| name.to_owned()));
        }
        out
    }

    /// A row's key: its id column's value, that of the grouping column, or an `id`. None: its number is its key.
    pub fn key(&self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        let named = self.settings.id_column.as_deref().or(self.settings.group_by.as_deref());
        let id = match named {
            Some(name) => {
                Some(fields.get(name).ok_or_else(|| format!("the row has no field \"{name}\"{}", have(fields)))?)
            }
            None => fields.get("id").filter(|id| id.is_string() || id.is_u64()),
        };
        Ok(id.and_then(key_of))
    }

    /// The value that a row is grouped by.
    pub fn group(&self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        let Some(by) = &self.settings.group_by else { return Ok(None) };
        let value = fields.get(by).ok_or_else(|| format!("the row has no field \"{by}\"{}", have(fields)))?;
        Ok(Some(value.to_string()))
    }

    /// What the first pass notes of a row. One that cannot be used has no key and is a group of its own: the second pass says
    /// what is wrong with it.
    pub fn index(&self, fields: &mut Map<String, Value>) -> Entry {
        let entry = |fields: &mut Map<String, Value>| -> Result<Entry, String> {
            let key = self.key(fields)?.map_or(NUMBER, |key| hash(&key));
            if self.groups_by_made_name() {
                self.name_picture(fields)?;
            }
            let group = self.group(fields)?.map_or(0, |group| hash(&group));
            Ok(Entry { key, group, ..Entry::default() })
        };
        entry(fields).unwrap_or_default()
    }

    /// Whether rows are grouped by the picture's name that a pattern makes.
    pub fn groups_by_made_name(&self) -> bool {
        self.settings.image_pattern.is_some() && self.settings.group_by.as_deref() == Some("image")
    }

    /// Makes the picture's name where a pattern for it was given.
    pub fn name_picture(&self, fields: &mut Map<String, Value>) -> Result<(), String> {
        if let Some(pattern) = &self.settings.image_pattern {
            let name = fill(pattern, fields)?;
            fields.insert("image".into(), Value::String(name));
        }
        Ok(())
    }

    /// Columns that hold a sample's pictures.
    pub fn picture_columns(&self) -> Vec<String> {
        self.image_columns.clone().unwrap_or_else(|| IMAGE_COLUMNS.map(String::from).into())
    }

    /// The image folder, for a table in `beside`.
    pub fn folder(&self, beside: &Path) -> PathBuf {
        self.settings.image_dir.clone().unwrap_or_else(|| beside.to_owned())
    }

    /// Names the columns as prompts know them.
    pub fn rename(&self, fields: Map<String, Value>, blobs: &mut [Blob]) -> Result<Map<String, Value>, String> {
        let mut out = Map::with_capacity(fields.len());
        let text = self.settings.text_column.as_deref();
        if let Some(text) = text.filter(|text| !fields.contains_key(*text)) {
            return Err(format!("the row has no field \"{text}\"{}", have(&fields)));
        }
        for (name, value) in fields {
            let is_text = text == Some(name.as_str());
            let value = if is_text || TURNS.iter().any(|turns| turns.0 == name) { turns(value) } else { value };
            let new = if is_text { text_name(&value).to_owned() } else { name.clone() };
            for blob in blobs.iter_mut().filter(|blob| is_text && blob.column == name) {
                let rest = blob.pointer[1..].find('/').map_or("", |at| &blob.pointer[1 + at..]);
                blob.pointer = format!("/{new}{rest}");
            }
            if out.insert(new.clone(), value).is_some() {
                return Err(format!(
                    "the row has a field \"{new}\" beside \"{name}\"; drop one of them from the table"
                ));
            }
        }
        Ok(out)
    }

    /// Finds and checks the pictures of a sample.
    pub fn draft(
        &self,
        key: String,
        fields: Map<String, Value>,
        blobs: Vec<Blob>,
        beside: &Path,
    ) -> Result<Draft, String> {
        let pictures = self.pictures(&fields, &blobs)?;
        let mut used = vec![false; blobs.len()];
        let mut draft = Draft { key, fields, parts: Vec::with_capacity(pictures.len()), named: Vec::new() };
        let many = pictures.len() > 1;
        let mut blobs: Vec<Option<Blob>> = blobs.into_iter().map(Some).collect();
        for picture in pictures {
            let (name, bytes, pointer) = match picture {
                Picture::File(name) => {
                    let bytes = self.file(&name, beside)?;
                    (name, bytes, None)
                }
                Picture::Uri(pointer, uri) => (String::new(), data_uri(&uri)?, Some(pointer)),
                Picture::Blob(number) => {
                    used[number] = true;
                    let Some(blob) = blobs[number].take() else { continue };
                    match (blob.bytes, blob.path) {
                        (Some(bytes), Some(path)) => (path, bytes, None),
                        (Some(bytes), None) => (String::new(), bytes, Some(blob.pointer)),
                        (None, Some(path)) => {
                            let bytes = self.file(&path, beside)?;
                            (path, bytes, None)
                        }
                        (None, None) => continue,
                    }
                }
            };
            let shown = || if name.is_empty() { pointer.clone().unwrap_or_default() } else { name.clone() };
            self.check(&bytes).map_err(|e| format!("image {}: {e}", shown()))?;
            let extension = match Path::new(&name).extension().map(|e| e.to_string_lossy().to_lowercase()) {
                Some(extension) if EXTENSIONS.contains(&extension.as_str()) => extension,
                _ => extension_of(&bytes).map_err(|e| format!("image {}: {e}", shown()))?.to_owned(),
            };
            let part = if many { format!("{}.{extension}", draft.parts.len()) } else { extension };
            draft.named.extend(pointer.map(|pointer| (pointer, draft.parts.len())));
            draft.parts.push((part, bytes));
        }
        // Bytes of other columns are members too: nothing of a row is lost.
        for blob in blobs.into_iter().flatten() {
            let Some(bytes) = blob.bytes else { continue };
            let place = blob.pointer[1..].replace(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-'), "_");
            draft.named.push((blob.pointer, draft.parts.len()));
            draft.parts.push((format!("{place}.bin"), bytes));
        }
        Ok(draft)
    }

    /// The pictures of a sample, in order.
    fn pictures(&self, fields: &Map<String, Value>, blobs: &[Blob]) -> Result<Vec<Picture>, String> {
        let mut out = Vec::new();
        let mut from = |name: &str| -> Result<bool, String> {
            let Some(value) = fields.get(name) else { return Ok(false) };
            let before = out.len();
            column(value, &format!("/{}", escape(name)), name, blobs, &mut out)?;
            Ok(out.len() > before)
        };
        match &self.image_columns {
            Some(columns) => {
                for name in columns {
                    from(name)?;
                }
            }
            None => {
                for name in IMAGE_COLUMNS {
                    if from(name)? {
                        break;
                    }
                }
            }
        }
        if out.is_empty() {
            for (name, _, content) in TURNS {
                let turns = fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for (i, turn) in turns.iter().enumerate() {
                    let parts = turn[content].as_array().map(Vec::as_slice).unwrap_or_default();
                    for (k, part) in parts.iter().enumerate() {
                        part_picture(part, &format!("/{name}/{i}/{content}/{k}"), blobs, &mut out)?;
                    }
                }
            }
        }
        if out.is_empty() && fields.get("video").is_some_and(|v| !v.is_null()) {
            return Err("the sample has a video; videos are not supported".into());
        }
        Ok(out)
    }

    fn file(&self, name: &str, beside: &Path) -> Result<Vec<u8>, String> {
        let relative = Path::new(name);
        // A table from a stranger must not be able to pull in files from elsewhere.
        if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            let what = if name.contains("://") { "is not fetched" } else { "does not lie in the image folder" };
            return Err(format!("image \"{name}\" {what}; names must be relative to the image folder, without .."));
        }
        if name.contains("://") {
            return Err(format!("image \"{name}\" is not fetched; download it and name the file"));
        }
        let path = self.folder(beside).join(relative);
        std::fs::read(&path).map_err(|e| format!("image {} cannot be read: {e}", path.display()))
    }

    /// Whether a picture can be used.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let most = self.settings.max_pixels;
        let checked = if self.settings.verify_images { check(bytes, most) } else { header(bytes, most).map(|_| ()) };
        checked.map_err(|e| e.to_string())
    }
}

/// Fields that are conversations: their name, the key of a turn's role and of its content.
const TURNS: [(&str, &str, &str); 2] = [("conversations", "from", "value"), ("messages", "role", "content")];

/// What prompts call a column of such values.
fn text_name(value: &Value) -> &'static str {
    let turn = value.as_array().and_then(|turns| turns.first());
    TURNS.iter().find(|(_, role, _)| turn.is_some_and(|t| t.get(*role).is_some())).map_or("caption", |turns| turns.0)
}

/// `datasets` before 4 stored a list of objects as an object of lists: turned back.
fn turns(value: Value) -> Value {
    let lists = match &value {
        Value::Object(fields) if !fields.is_empty() => fields.values().map(Value::as_array).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let Some(length) = lists.and_then(|lists| {
        let length = lists.first()?.len();
        lists.iter().all(|list| list.len() == length).then_some(length)
    }) else {
        return value;
    };
    let Value::Object(fields) = value else { return value };
    let mut out = vec![Map::new(); length];
    for (name, list) in fields {
        let Value::Array(list) = list else { continue };
        for (turn, item) in out.iter_mut().zip(list) {
            turn.insert(name.clone(), item);
        }
    }
    Value::Array(out.into_iter().map(Value::Object).collect())
}

pub(super) fn have(fields: &Map<String, Value>) -> String {
    format!("; it has {}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A name, or the bytes that stand behind it.
fn picture(name: &str, pointer: &str, blobs: &[Blob]) -> Picture {
    match blobs.iter().position(|blob| blob.pointer == pointer) {
        Some(number) => Picture::Blob(number),
        None if name.starts_with("data:") => Picture::Uri(pointer.to_owned(), name.to_owned()),
        None => Picture::File(name.to_owned()),
    }
}

/// The pictures of an image column.
fn column(value: &Value, pointer: &str, field: &str, blobs: &[Blob], out: &mut Vec<Picture>) -> Result<(), String> {
    match value {
        Value::Null => {}
        Value::String(name) if !name.is_empty() => out.push(picture(name, pointer, blobs)),
        Value::String(_) => return Err(format!("field \"{field}\" is an empty name")),
        Value::Array(list) => {
            for (i, item) in list.iter().enumerate() {
                match item {
                    Value::Null => {}
                    Value::String(name) if !name.is_empty() => {
                        out.push(picture(name, &format!("{pointer}/{i}"), blobs));
                    }
                    other => {
                        return Err(format!(
                            "field \"{field}\" lists {}; only file names are possible",
                            kind_of(other)
                        ));
                    }
                }
            }
        }
        other => {
            return Err(format!(
                "field \"{field}\" holds {}; it must be a file name or a list of them (--image-pattern makes a name from a number, such as {{image}}.png)",
                kind_of(other)
            ));
        }
    }
    Ok(())
}

/// The picture of one part of a turn's content, if it is one and names it.
fn part_picture(part: &Value, pointer: &str, blobs: &[Blob], out: &mut Vec<Picture>) -> Result<(), String> {
    if !matches!(part["type"].as_str(), Some("image" | "image_url" | "input_image")) {
        return Ok(());
    }
    for name in ["image", "image_url", "url", "path"] {
        let (value, pointer) = match &part[name] {
            Value::Null => continue,
            Value::Object(fields) => match fields.get("url") {
                Some(url) => (url, format!("{pointer}/{name}/url")),
                None => continue,
            },
            value => (value, format!("{pointer}/{name}")),
        };
        return match value {
            Value::String(text) if !text.is_empty() => {
                out.push(picture(text, &pointer, blobs));
                Ok(())
            }
            other => Err(format!("{pointer} is {}; it must be a file name or a data: URI", kind_of(other))),
        };
    }
    // A place for a picture, which comes from elsewhere.
    Ok(())
}

/// The bytes of `data:image/png;base64,…`.
fn data_uri(uri: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| format!("the picture is a data: URI that cannot be read: {why}");
    let (head, data) = uri.split_once(',').ok_or_else(|| wrong("it has no comma"))?;
    if !head.ends_with(";base64") {
        return Err(wrong("only base64 is possible"));
    }
    base64::engine::general_purpose::STANDARD.decode(data.trim()).map_err(|e| wrong(&e.to_string()))
}

/// File names of a JSON row's pictures.
pub(super) fn picture_names(shape: &Shape<'_>, fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let file = |picture| if let Picture::File(name) = picture { name } else { String::new() };
    Ok(shape.pictures(fields, &[])?.into_iter().map(file).collect())
}

/// Replaces `{field}` by the field's value.
fn fill(pattern: &str, fields: &Map<String, Value>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let close =
            rest[open..].find('}').ok_or_else(|| format!("--image-pattern \"{pattern}\" has a {{ without a }}"))?;
        let name = &rest[open + 1..open + close];
        match fields.get(name) {
            Some(Value::String(text)) => out.push_str(text),
            Some(Value::Number(number)) => out.push_str(&number.to_string()),
            Some(other) => {
                let kind = kind_of(other);
                return Err(format!("field \"{name}\" holds {kind}; --image-pattern needs a string or a number"));
            }
            None => return Err(format!("--image-pattern names the field \"{name}\"{}", have(fields))),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Finds mistakes in the pattern before the first row is read.
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
