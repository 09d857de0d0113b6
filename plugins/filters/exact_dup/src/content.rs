//! What makes two rows equal, per entry: a row in, the bytes that are compared out.

use std::collections::{BTreeMap, BTreeSet};

use ovhost_sdk::picture::phashes;
use ovhost_sdk::prelude::*;
use ovhost_sdk::text::fold_case;

use crate::normal::{self, Kind};

/// What one entry compares.
pub trait Content: Sized + 'static {
    /// The entry's configuration.
    type Config: Options;
    /// Name of the entry.
    const NAME: &'static str;
    /// One sentence on it.
    const SUMMARY: &'static str;
    /// Columns that it reads.
    const READS: &'static [Need];

    /// Appends what is compared to `key`, and says whether there is anything to compare.
    ///
    /// # Errors
    /// The row cannot be read; the message says why.
    fn key(config: &Self::Config, row: &Row<'_>, key: &mut Vec<u8>) -> Result<bool, String>;
}

/// What all entries' configurations have.
pub trait Options:
    Clone + Default + Serialize + for<'de> Deserialize<'de> + JsonSchema + std::fmt::Debug + 'static
{
    /// Most rows that are remembered.
    fn max_rows(&self) -> u32;
    /// Adds what is wrong with the values.
    fn check(&self, findings: &mut Findings);
    /// The values that the keys depend on, as text.
    fn rules(&self) -> String;
}

/// Rows that fit the default limits: 64 MiB for a saved state, at 16 bytes a row.
const DEFAULT_ROWS: u32 = 4_000_000;

/// How texts are compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct TextConfig {
    /// `A` equals `a`, in all scripts.
    pub ignore_case: bool,
    /// Runs of white space are one space, and none at the ends; invisible characters such as soft hyphens are nothing.
    pub ignore_space: bool,
    /// Punctuation counts as white space, except in numbers (`-5`, `1.5`, `1/2`) and `#`, `%`, `&`, `@`. Symbols and emoji are none.
    pub ignore_punctuation: bool,
    /// Most rows that are remembered, 16 bytes each and a little more; a row beyond is an error.
    pub max_rows: u32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self { ignore_case: true, ignore_space: true, ignore_punctuation: true, max_rows: DEFAULT_ROWS }
    }
}

impl Options for TextConfig {
    fn max_rows(&self) -> u32 {
        self.max_rows
    }

    fn check(&self, _findings: &mut Findings) {}

    fn rules(&self) -> String {
        let TextConfig { ignore_case, ignore_space, ignore_punctuation, .. } = self;
        format!("composed, case ignored: {ignore_case}, space: {ignore_space}, punctuation: {ignore_punctuation}")
    }
}

impl TextConfig {
    /// Appends the normal form of `text`; says whether anything is left of it.
    fn normalise(&self, text: &str, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut space = false;
        // What is left out never comes between two digits here.
        let mut last = ' ';
        let text = normal::composed(text);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let (kind, next) = (normal::kind(c), chars.as_str());
            let blank = match kind {
                Kind::Space => true,
                Kind::Invisible if self.ignore_space => continue,
                Kind::Punctuation => self.ignore_punctuation && !normal::in_number(last, c, next),
                _ => false,
            };
            last = c;
            if blank && self.ignore_space {
                space = true;
                continue;
            }
            if space && out.len() > start {
                out.push(b' ');
            }
            space = false;
            let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            match (c, blank && kind != Kind::Space, self.ignore_case) {
                (_, true, _) => push(' '),
                (c, _, true) => fold_case(c).for_each(push),
                (c, ..) => push(c),
            }
        }
        out.len() > start
    }
}

/// Rows with the same text.
pub struct Text;

impl Content for Text {
    type Config = TextConfig;
    const NAME: &'static str = "exact_text";
    const SUMMARY: &'static str = "Drops rows whose text was seen, whatever its case, white space and punctuation.";
    const READS: &'static [Need] = &[Need::utf8("text")];

    fn key(config: &TextConfig, row: &Row<'_>, key: &mut Vec<u8>) -> Result<bool, String> {
        Ok(row.str("text").is_some_and(|text| config.normalise(text, key)))
    }
}

/// How pictures are compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct PictureConfig {
    /// Most rows that are remembered, 16 bytes each and a little more; a row beyond is an error.
    pub max_rows: u32,
}

impl Default for PictureConfig {
    fn default() -> Self {
        Self { max_rows: DEFAULT_ROWS }
    }
}

impl Options for PictureConfig {
    fn max_rows(&self) -> u32 {
        self.max_rows
    }

    fn check(&self, _findings: &mut Findings) {}

    fn rules(&self) -> String {
        "pictures in order".into()
    }
}

/// Rows with the same pictures in the same order.
pub struct Picture;

impl Content for Picture {
    type Config = PictureConfig;
    const NAME: &'static str = "exact_picture";
    const SUMMARY: &'static str = "Drops rows whose pictures were seen, by their perceptual hashes.";
    const READS: &'static [Need] = &[Need::bytes("phash")];

    fn key(_: &PictureConfig, row: &Row<'_>, key: &mut Vec<u8>) -> Result<bool, String> {
        key.extend_from_slice(phashes(row)?.unwrap_or_default().as_flattened());
        Ok(!key.is_empty())
    }
}

/// Rows with the same text and the same pictures.
pub struct Pair;

impl Content for Pair {
    type Config = TextConfig;
    const NAME: &'static str = "exact_pair";
    const SUMMARY: &'static str = "Drops rows whose text was seen together with the same pictures.";
    const READS: &'static [Need] = &[Need::utf8("text"), Need::bytes("phash")];

    fn key(config: &TextConfig, row: &Row<'_>, key: &mut Vec<u8>) -> Result<bool, String> {
        // A picture that cannot be decoded is like no other, so the row is not either: not even like one without pictures.
        let Some(hashes) = phashes(row)?.map(<[_]>::as_flattened) else { return Ok(false) };
        // The count keeps pictures and text apart.
        key.extend_from_slice(&(hashes.len() as u64).to_le_bytes());
        key.extend_from_slice(hashes);
        let text = row.str("text").is_some_and(|text| config.normalise(text, key));
        Ok(text || !hashes.is_empty())
    }
}

/// How records are compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct RecordConfig {
    /// Fields that are compared. Empty: all.
    pub fields: Vec<String>,
    /// Fields that are not, such as a number or an address that every record has of its own.
    pub ignore: Vec<String>,
    /// Most rows that are remembered, 16 bytes each and a little more; a row beyond is an error.
    pub max_rows: u32,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { fields: Vec::new(), ignore: Vec::new(), max_rows: DEFAULT_ROWS }
    }
}

impl Options for RecordConfig {
    fn max_rows(&self) -> u32 {
        self.max_rows
    }

    fn check(&self, findings: &mut Findings) {
        findings.require(self.fields.is_empty() || self.ignore.is_empty(), "/ignore", || {
            "fields already says what is compared; give one of the two".into()
        });
    }

    fn rules(&self) -> String {
        // As JSON writes them: a name may have any sign in it.
        let sorted = |names: &[String]| json!(names.iter().collect::<BTreeSet<_>>()).to_string();
        format!("fields {} without {}", sorted(&self.fields), sorted(&self.ignore))
    }
}

/// Rows with the same JSON, whatever the order of its fields.
pub struct Record;

impl Content for Record {
    type Config = RecordConfig;
    const NAME: &'static str = "exact_record";
    const SUMMARY: &'static str = "Drops rows whose record was seen: all of its fields, or the ones that are named.";
    const READS: &'static [Need] = &[Need::utf8("record")];

    fn key(config: &RecordConfig, row: &Row<'_>, key: &mut Vec<u8>) -> Result<bool, String> {
        let Some(record) = row.json("record")? else { return Ok(false) };
        let Some(fields) = record.as_object() else { return Err("column `record` is no JSON object".into()) };
        let compared = |name: &str| {
            let named = |names: &[String]| names.iter().any(|other| other == name);
            (config.fields.is_empty() || named(&config.fields)) && !named(&config.ignore)
        };
        let fields: BTreeMap<_, _> = fields.iter().filter(|(name, _)| compared(name)).collect();
        for (name, value) in &fields {
            string(name, key);
            canonical(value, key);
        }
        Ok(!fields.is_empty())
    }
}

/// Appends a string so that no other bytes can look like it.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a value: equal values give equal bytes, whatever the order of their keys. As deep as the parser lets values be.
/// Numbers are what the parser makes of them, as in the host's own records: whole ones of up to 64 bits as they are, all
/// others (fractions, exponents, larger ones) the nearest `f64`.
fn canonical(value: &Json, out: &mut Vec<u8>) {
    match value {
        Json::Null => out.push(b'n'),
        Json::Bool(value) => out.push(if *value { b't' } else { b'f' }),
        Json::Number(number) => {
            out.push(b'0');
            string(&number.to_string(), out);
        }
        Json::String(text) => string(text, out),
        Json::Array(items) => {
            out.push(b'[');
            items.iter().for_each(|item| canonical(item, out));
            out.push(b']');
        }
        Json::Object(fields) => {
            out.push(b'{');
            for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                string(name, out);
                canonical(value, out);
            }
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(config: &TextConfig, text: &str) -> String {
        let mut out = Vec::new();
        config.normalise(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn normal_forms() {
        let all = TextConfig::default();
        assert_eq!(normal(&all, "  A dog,  2\tcats — ÉTÉ!\n"), "a dog 2 cats été");
        assert_eq!(normal(&all, "राजस्थान में"), "राजस्थान में");
        assert_eq!(normal(&all, "…!? "), "");
        assert_eq!(normal(&all, "Η ΟΔΟΣ, ΟΔΟΣ."), normal(&all, "η οδος οδοσ"));
        let none = TextConfig { ignore_case: false, ignore_space: false, ignore_punctuation: false, ..all.clone() };
        assert_eq!(normal(&none, " A dog,\t2 "), " A dog,\t2 ");
        let space = TextConfig { ignore_space: true, ..none.clone() };
        assert_eq!(normal(&space, " A dog,\t2 "), "A dog, 2");
        let punctuation = TextConfig { ignore_punctuation: true, ..none };
        assert_eq!(normal(&punctuation, "A, b\t"), "A  b\t");
    }

    /// Whether `a` and `b` are equal to the defaults.
    fn equal(a: &str, b: &str) -> bool {
        let all = TextConfig::default();
        normal(&all, a) == normal(&all, b)
    }

    #[test]
    fn marks_and_symbols_tell_texts_apart() {
        let apart = [
            ("か\u{3099}き", "かき"),
            ("e\u{20DD}", "e"),
            ("a\u{1DD7}", "a"),
            ("葛\u{E0100}", "葛"),
            ("2+3", "2-3"),
            ("2+3", "2 3"),
            ("2-3", "2 3"),
            ("2*3", "2/3"),
            ("-5 degrees", "5 degrees"),
            ("1.5", "1:5"),
            ("1.5", "1 5"),
            ("5 > 3", "5 < 3"),
            ("$5", "€5"),
            ("5%", "5"),
            ("C++", "C#"),
            ("C#", "C"),
            ("👍", "👎"),
            ("👍🏽", "👍🏿"),
            ("I ❤ it", "I 💔 it"),
        ];
        for (a, b) in apart {
            assert!(!equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn spellings_of_the_same_are_equal() {
        let equals = [
            ("cafe\u{301}", "CAFÉ"),
            ("か\u{3099}き", "がき"),
            ("\u{1112}\u{1161}\u{11AB}", "한"),
            ("auto\u{AD}matic", "automatic"),
            ("auto\u{200B}matic\u{FEFF}", "automatic"),
            ("a well-known `dog`", "a “well known” dog…"),
            ("Rows 1, 2 and 3.", "rows 1 2 and (3)"),
            ("page -\u{200B}5", "page -5"),
        ];
        for (a, b) in equals {
            assert!(equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn canonical_forms_tell_values_apart() {
        let bytes = |value: Json| {
            let mut out = Vec::new();
            canonical(&value, &mut out);
            out
        };
        assert_eq!(bytes(json!({ "a": 1, "b": [true, null] })), bytes(json!({ "b": [true, null], "a": 1 })));
        let all = [
            json!("a"),
            json!(["a"]),
            json!([["a"]]),
            json!({ "a": "a" }),
            json!(1),
            json!("1"),
            json!([1, 2]),
            json!([[1], 2]),
            json!(null),
            json!(true),
            json!("t"),
            json!([]),
            json!({}),
            json!(["a", "b"]),
            json!(["a\"b"]),
            json!(12),
            json!([1, [2]]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(bytes(a.clone()), bytes(b.clone()), "{a} and {b}");
            }
        }
    }
}
