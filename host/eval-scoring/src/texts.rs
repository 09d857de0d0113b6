//! Texts that belong to a benchmark or to the reference, and that a user brings: they are not part of this project.
//!
//! CharXiv's questions are templates, and judges are told how to judge; both are prose of others. They come as one JSON
//! object of the reference's own constants, each under its name there:
//!
//! ```json
//! { "DESCRIPTIVE_RESP_INST": { "1": "…{}…" }, "REASONING_GRADING_PREFIX": "…", "BINARY_JUDGE_PROMPT": "…" }
//! ```
//!
//! [`Texts::check`] compares what is there with the hashes of the texts at 75571cfe.

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// The first 16 hexadecimal digits of the texts' SHA-256, by constant and entry ("" for a constant that is a text).
const HASHES: &[(&str, &[(&str, &str)])] = &[
    ("DESCRIPTIVE_GRADING_PREFIX", &[("", "ba327fcf86cae9ac")]),
    ("REASONING_GRADING_PREFIX", &[("", "3f0fb962dac58b7c")]),
    (
        "DESCRIPTIVE_GRADING_ICL",
        &[
            ("title", "40fcb166f6b28e29"),
            ("ocr", "df657b132fa89bda"),
            ("quant", "b1ed175314bec29c"),
            ("bool", "6e9703853747c62c"),
            ("enum", "6b73413c2f4f88a4"),
            ("trend", "4f93d47383960bc9"),
            ("layout", "44eb22fcf54f0d64"),
        ],
    ),
    (
        "REASONING_GRADING_INST",
        &[("1", "bd403f59a8aef286"), ("2", "f42428130d3558de"), ("3", "df0e3a2b5bbc8272"), ("4", "df0e3a2b5bbc8272")],
    ),
    (
        "REASONING_RESP_INST",
        &[("1", "5748a9b44b3e4dfe"), ("2", "332b74188cd9a760"), ("3", "e528a5a6acc95509"), ("4", "a1008c519343d06c")],
    ),
    (
        "DESCRIPTIVE_RESP_INST",
        &[
            ("1", "00a487ea019eb4a3"),
            ("2", "ad620faace0b286b"),
            ("3", "6461c573385e3dad"),
            ("4", "9f4629d218691a8d"),
            ("5", "f9dd406442f0bbce"),
            ("6", "30d9a11230cf317a"),
            ("7", "2d1284308203f98f"),
            ("8", "fc895c871cde5f94"),
            ("9", "40047df5fa18ed47"),
            ("10", "5597ea31c76f2146"),
            ("11", "38f6c1469128ba8c"),
            ("12", "2eb48dc94d7d07f6"),
            ("13", "0f61bd7f681de15d"),
            ("14", "6474e3d82a7509ec"),
            ("15", "62676a0508fc894e"),
            ("16", "c96140d354b25185"),
            ("17", "686fe21af0599b62"),
            ("18", "92d12d5d4a7cbaa8"),
            ("19", "df82a046f594ebd9"),
        ],
    ),
];

/// The texts.
#[derive(Clone, Debug, Default)]
pub struct Texts(Json);

impl Texts {
    /// Reads the file's contents.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn parse(json: &str) -> Result<Self, String> {
        match serde_json::from_str(json) {
            Ok(texts @ Json::Object(_)) => Ok(Self(texts)),
            Ok(_) => Err("the texts are no JSON object".into()),
            Err(e) => Err(format!("the texts are no JSON: {e}")),
        }
    }

    /// Whether any text is there.
    pub fn is_empty(&self) -> bool {
        self.0.as_object().is_none_or(serde_json::Map::is_empty)
    }

    /// A constant that is a text.
    ///
    /// # Errors
    /// It is not there.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).and_then(Json::as_str).ok_or_else(|| missing(name))
    }

    /// An entry of a constant that is a table.
    ///
    /// # Errors
    /// It is not there.
    pub fn entry(&self, name: &str, key: &str) -> Result<&str, String> {
        let entry = self.0.get(name).and_then(|table| table.get(key)).and_then(Json::as_str);
        entry.ok_or_else(|| missing(&format!("{name}/{key}")))
    }

    /// Compares every text that is there and whose hash is known.
    ///
    /// # Errors
    /// A text is another one than that of 75571cfe.
    pub fn check(&self) -> Result<(), String> {
        for (name, entries) in HASHES {
            for (key, want) in *entries {
                let found = if key.is_empty() { self.text(name) } else { self.entry(name, key) };
                let Ok(text) = found else { continue };
                let digest = sha256(text);
                if !digest.starts_with(want) {
                    return Err(format!(
                        "the text {name}/{key} has the SHA-256 {}…; that of the reference is {want}…: take it from lmms-eval 75571cfe, \
                         or use another profile",
                        &digest[..16]
                    ));
                }
            }
        }
        Ok(())
    }
}

fn missing(name: &str) -> String {
    format!(
        "the text {name} is not among the texts; bring a file of lmms-eval's constants (the plugin's page says how)"
    )
}

/// The SHA-256 of a text in hexadecimal digits.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `template.format(*values)`: `{}` is the next value, `{{` and `}}` are braces. A place without a value stays empty.
pub fn fill(template: &str, values: &[&str]) -> String {
    let mut values = values.iter();
    substitute(template, |name| name.is_empty().then(|| values.next().copied().unwrap_or_default().to_owned()))
}

/// `template.format(**values)`: `{name}` is the value of that name; other places stay as they are.
pub fn fill_names(template: &str, values: &[(&str, &str)]) -> String {
    substitute(template, |name| values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

fn substitute(template: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let brace = &rest[..1];
        if rest[1..].starts_with(brace) {
            out.push_str(brace);
            rest = &rest[2..];
            continue;
        }
        let found = rest[1..].find('}').filter(|_| brace == "{").and_then(|end| Some((end, value(&rest[1..=end])?)));
        if let Some((end, value)) = found {
            out.push_str(&value);
            rest = &rest[end + 2..];
        } else {
            out.push_str(brace);
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_as_by_format() {
        assert_eq!(fill("{}a{{b}}{}c", &["1", "{2}"]), "1a{b}{2}c");
        assert_eq!(fill_names("{q} {p} { }} é{", &[("q", "Q"), ("p", "{q}")]), "Q {q} { } é{");
        assert_eq!(fill("{}{}", &["1"]), "1");
    }

    #[test]
    fn a_text_of_another_version_is_refused() {
        let texts = Texts::parse(r#"{"REASONING_GRADING_PREFIX": "Judge it."}"#).unwrap();
        assert!(texts.check().unwrap_err().contains("3f0fb962dac58b7c"));
        assert!(texts.entry("DESCRIPTIVE_RESP_INST", "1").is_err() && Texts::parse("[]").is_err());
        assert!(Texts::default().check().is_ok() && Texts::default().is_empty());
    }
}
