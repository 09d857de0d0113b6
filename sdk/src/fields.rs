//! Some fields of a JSON object as they are written, without making values of the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

/// Most names that [`Fields`] can be asked for.
const MOST: usize = 16;

/// The fields of a record that a plugin names. What is no object has none of them.
///
/// ```
/// use ovhost_sdk::Fields;
///
/// let record = r#"{"caption": "a chair", "size": [640, 480], "long": "..."}"#;
/// let fields = Fields::parse(record, &["caption", "size", "url"]).unwrap();
/// assert_eq!(fields.text("caption").unwrap().as_deref(), Some("a chair"));
/// assert_eq!(fields.written("size"), Some("[640, 480]"));
/// assert_eq!(fields.value("url").unwrap(), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    names: &'a [&'a str],
    written: [Option<&'a RawValue>; MOST],
}

impl<'a> Fields<'a> {
    /// The fields of these names, at most sixteen; of fields with one name the last. The others are checked to be JSON and left
    /// out.
    ///
    /// # Errors
    /// The text is no JSON, or there are too many names.
    pub fn parse(text: &'a str, names: &'a [&'a str]) -> Result<Self, String> {
        if names.len() > MOST {
            return Err(format!("{} fields are asked for; at most {MOST} can be", names.len()));
        }
        let none = Fields { names, written: [None; MOST] };
        if !text.trim_start().starts_with('{') {
            return serde_json::from_str::<Json>(text).map(|_| none).map_err(|e| e.to_string());
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader.deserialize_map(Reader(none)).and_then(|fields| reader.end().map(|()| fields));
        fields.map_err(|e| e.to_string())
    }

    /// The field as it is written, without white space around it.
    pub fn written(&self, name: &str) -> Option<&'a str> {
        let at = self.names.iter().position(|n| *n == name)?;
        self.written[at].map(RawValue::get)
    }

    /// The field as a value.
    ///
    /// # Errors
    /// It is written as JSON, but stands for nothing: half of a surrogate pair, a number beyond all bounds.
    pub fn value(&self, name: &str) -> Result<Option<Json>, String> {
        let value = self.written(name).map(serde_json::from_str).transpose();
        value.map_err(|e| format!("the field `{name}` is not JSON: {e}"))
    }

    /// The field's text; `None` where it is not there, or no text.
    ///
    /// # Errors
    /// As of [`Self::value`].
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let Some(inner) = self.written(name).and_then(|w| w.strip_prefix('"')?.strip_suffix('"')) else {
            return Ok(None);
        };
        // Most texts have no escapes, and are what is written.
        if !inner.as_bytes().contains(&b'\\') {
            return Ok(Some(Cow::Borrowed(inner)));
        }
        Ok(self.value(name)?.and_then(|value| value.as_str().map(|text| Cow::Owned(text.to_owned()))))
    }

    /// An object of these fields.
    ///
    /// # Errors
    /// As of [`Self::value`].
    pub fn object(&self) -> Result<Json, String> {
        let mut object = Map::new();
        for name in self.names {
            if let Some(value) = self.value(name)? {
                object.insert((*name).to_owned(), value);
            }
        }
        Ok(object.into())
    }
}

struct Reader<'a>(Fields<'a>);

impl<'a> Visitor<'a> for Reader<'a> {
    type Value = Fields<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Reader(mut fields) = self;
        while let Some(found) = map.next_key_seed(Name(fields.names))? {
            match found {
                Some(at) => fields.written[at] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// Which of the names a field has.
struct Name<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        // The first letter decides mostly, and costs no call.
        let first = name.as_bytes().first();
        Ok(self.0.iter().position(|field| field.as_bytes().first() == first && *field == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_whole_object() {
        let whole =
            r#" {"a": 1, "long": ["x", {"a": 7}], "b\u00e9": "t\"\u00e9", "a": [2, null], "": {}, "c": "plain" } "#;
        let all: Json = serde_json::from_str(whole).unwrap();
        for names in [&["a"][..], &["c", "bé", "a"], &[""], &["none"], &[]] {
            let fields = Fields::parse(whole, names).unwrap();
            let mut wanted = all.clone();
            wanted.as_object_mut().unwrap().retain(|name, _| names.contains(&name.as_str()));
            assert_eq!(fields.object().unwrap(), wanted, "{names:?}");
            for name in names {
                assert_eq!(fields.value(name).unwrap().as_ref(), all.get(name));
                assert_eq!(fields.text(name).unwrap().as_deref(), all.get(name).and_then(Json::as_str));
            }
        }
        assert_eq!(Fields::parse(whole, &["a"]).unwrap().written("a"), Some("[2, null]"));
    }

    #[test]
    fn what_is_no_object_has_no_fields_and_what_is_no_json_is_refused() {
        for text in ["[1, 2]", " null", "\"x\""] {
            assert_eq!(Fields::parse(text, &["a"]).unwrap().written("a"), None);
        }
        for text in ["", "{", "{\"a\": 1} x", "{\"b\": tru}", "{\"b\": [1,]}", "{\"b\": \"\\x\"}", "{1: 2}", "[", "\"a"]
        {
            assert!(serde_json::from_str::<Json>(text).is_err());
            assert!(Fields::parse(text, &["a"]).is_err(), "{text}");
        }
        let half = Fields::parse(r#"{"a": "\ud800", "b": "\ud800"}"#, &["a"]).unwrap();
        assert!(half.text("a").unwrap_err().contains("`a`") && half.value("a").is_err() && half.object().is_err());
        assert!(Fields::parse("{}", &["x"; MOST + 1]).is_err());
    }
}
