//! Some fields of a JSON object, without making values of the others.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value as Json};

/// The object of `text` with those fields alone, in the text's order; the last of fields with one name. What is no object comes
/// whole.
pub(crate) fn parse(text: &str, fields: &[&str]) -> Result<Json, serde_json::Error> {
    if !text.trim_start().starts_with('{') {
        return serde_json::from_str(text);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let object = reader.deserialize_map(Fields(fields))?;
    reader.end()?;
    Ok(Json::Object(object))
}

struct Fields<'a>(&'a [&'a str]);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Map<String, Json>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::with_capacity(self.0.len());
        while let Some(found) = map.next_key_seed(Name(self.0))? {
            match found {
                Some(name) => drop(object.insert(name.to_owned(), map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(object)
    }
}

/// A field's name, if it is one of these.
struct Name<'a>(&'a [&'a str]);

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Name<'a> {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|field| **field == name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_whole_object() {
        let whole = r#" {"a": 1, "long": ["x", {"a": 7}], "b\u00e9": "t\"", "a": [2, null], "": {}} "#;
        let all: Json = serde_json::from_str(whole).unwrap();
        for fields in [&["a"][..], &["bé", "a"], &[""], &["none"], &[]] {
            let mut wanted = all.clone();
            wanted.as_object_mut().unwrap().retain(|name, _| fields.contains(&name.as_str()));
            assert_eq!(parse(whole, fields).unwrap(), wanted, "{fields:?}");
        }
    }

    #[test]
    fn what_is_no_object_comes_whole_and_what_is_no_json_is_refused() {
        for text in ["[1, 2]", " null", "\"x\""] {
            assert_eq!(parse(text, &["a"]).unwrap(), serde_json::from_str::<Json>(text).unwrap());
        }
        for text in ["", "{", "{\"a\": 1} x", "{\"b\": tru}", "{\"b\": [1,]}", "{\"b\": \"\\x\"}", "{1: 2}"] {
            assert!(serde_json::from_str::<Json>(text).is_err());
            assert!(parse(text, &["a"]).is_err(), "{text}");
        }
    }
}
