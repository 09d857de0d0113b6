//! What a run is made of besides scores: which samples, which names, which settings decide an answer.

use serde_json::{Map, Number, Value as Json};

use crate::python::{number, text};
use crate::texts::sha256;

/// The documents of one of several workers: from `offset + rank` on every `workers`th one, before `offset + limit`.
///
/// # Errors
/// A negative offset or limit, or a limit that is no whole number.
pub fn documents(
    documents: u64,
    rank: u64,
    workers: u64,
    limit: Option<f64>,
    offset: i64,
) -> Result<impl Iterator<Item = u64>, String> {
    let offset = u64::try_from(offset).map_err(|_| format!("offset is {offset}; it is 0 or more"))?;
    let stop = match limit {
        None => documents,
        Some(limit) if limit.fract() != 0.0 || limit.is_nan() => {
            return Err(format!("limit is {limit}; here it is a whole number"));
        }
        Some(limit) if limit < 0.0 => return Err(format!("limit is {limit}; it is 0 or more")),
        Some(limit) => documents.min(offset.saturating_add(limit as u64)),
    };
    let first = offset.saturating_add(rank);
    Ok((first..stop).step_by(usize::try_from(workers.max(1)).unwrap_or(usize::MAX)))
}

/// How many samples `--limit` means of a task's: a part below 1 is a share, rounded up; −1 is all.
///
/// # Errors
/// Another negative limit.
pub fn sample_size(documents: u64, limit: Option<f64>) -> Result<Option<u64>, String> {
    match limit {
        None | Some(-1.0) => Ok(None),
        Some(limit) if limit < 0.0 => Err(format!("limit is {limit}; it is −1 or not negative")),
        Some(limit) if limit > 0.0 && limit < 1.0 => Ok(Some((documents as f64 * limit).ceil() as u64)),
        Some(limit) => Ok(Some(limit as u64)),
    }
}

/// A model's name as a folder: its last two parts (or all of it), with "__" for each stretch that file names cannot have.
pub fn folder_name(model: &str, whole: bool) -> String {
    let start = model.rmatch_indices('/').nth(1).filter(|_| !whole).map_or(0, |(at, _)| at + 1);
    let bad = |c: char| matches!(c, '"' | '<' | '>' | ':' | '/' | '|' | '\\' | '?' | '*' | '[' | ']');
    let mut name = String::new();
    let mut before = false;
    for c in model[start..].chars() {
        if !bad(c) {
            name.push(c);
        } else if !before {
            name.push_str("__");
        }
        before = bad(c);
    }
    name
}

/// Cuts `a=1,b={"c":2,"d":3}` at commas outside quotes and brackets.
fn parts(arguments: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quote, mut before) = (0i64, None, None);
    for c in arguments.chars() {
        if matches!(c, '"' | '\'') && before != Some('\\') {
            quote = match quote {
                None => Some(c),
                Some(open) if open == c => None,
                open => open,
            };
        } else if quote.is_none() {
            depth += i64::from(matches!(c, '{' | '[')) - i64::from(matches!(c, '}' | ']'));
        }
        before = Some(c);
        if c == ',' && quote.is_none() && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.iter().map(|part| text::strip(part).to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `--model_args`: names with values, which become truth values, whole numbers, floats or stay text.
///
/// # Errors
/// A part without `=`, or digits that are no number.
pub fn arguments(arguments: &str) -> Result<Map<String, Json>, String> {
    let mut map = Map::new();
    for part in parts(text::strip(arguments)) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`"))?;
        map.insert(name.into(), argument(value)?);
    }
    Ok(map)
}

fn argument(value: &str) -> Result<Json, String> {
    if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
        return Ok(Json::Bool(value.eq_ignore_ascii_case("true")));
    }
    if !value.is_empty() && value.chars().all(char::is_numeric) {
        let digits = number::parse_int(value).ok_or_else(|| format!("`{value}` is no number"))?;
        return digits.parse::<Number>().map(Json::Number).map_err(|e| format!("`{value}`: {e}"));
    }
    let word = |value: f64| {
        if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
    };
    Ok(match number::parse_float(value) {
        Some(float) => Number::from_f64(float).map_or_else(|| word(float).into(), Json::Number),
        None => value.into(),
    })
}

/// The settings of generation that decide an answer.
const DECISIVE: [&str; 12] = [
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "max_gen_toks",
    "do_sample",
    "num_beams",
    "until",
    "repetition_penalty",
    "n",
    "best_of",
    "num_return_sequences",
];

/// The settings of generation that decide an answer, as one text: sorted, whole floats as integers.
pub fn canonical_settings(settings: Option<&Map<String, Json>>) -> String {
    let mut kept: Vec<(&String, Json)> = settings
        .into_iter()
        .flatten()
        .filter(|(name, _)| DECISIVE.contains(&name.as_str()))
        .map(|(name, value)| (name, whole(value)))
        .collect();
    kept.sort_by_key(|(name, _)| *name);
    dump(&Json::Object(kept.into_iter().map(|(name, value)| (name.clone(), value)).collect()))
}

fn whole(value: &Json) -> Json {
    let float = value.as_number().filter(|n| n.is_f64()).and_then(Number::as_f64).filter(|v| v.fract() == 0.0);
    let digits = float.and_then(number::truncated).and_then(|digits| digits.parse().ok());
    digits.map_or_else(|| value.clone(), Json::Number)
}

/// Whether the same request gives the same answer: no sampling, one answer.
pub fn is_deterministic(request: &str, settings: Option<&Map<String, Json>>) -> bool {
    let get = |name: &str| settings.and_then(|settings| settings.get(name));
    let value = |name: &str| get(name).and_then(|value| value.as_f64().or_else(|| value.as_bool().map(f64::from)));
    let samples = match get("do_sample") {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::Number(n)) => n.as_f64() != Some(0.0),
        Some(Json::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    let several = ["n", "best_of", "num_return_sequences"].into_iter().any(|name| value(name).is_some_and(|n| n > 1.0));
    request == "loglikelihood" || !(samples || several || value("temperature").is_some_and(|t| t > 0.0))
}

/// What the reference's response cache knows an answer by.
#[derive(Clone, Debug, Default)]
pub struct CacheKey<'a> {
    /// `generate_until` or another kind.
    pub request: &'a str,
    /// The task.
    pub task: &'a str,
    /// The document: a number or a text.
    pub document: Json,
    /// The answer's number of the document.
    pub index: i64,
    /// Settings of generation.
    pub settings: Option<&'a Map<String, Json>>,
    /// Hash of the text, for log-likelihoods.
    pub content: &'a str,
    /// Hash of the task's definition.
    pub task_hash: &'a str,
    /// Hash of the model's name and arguments.
    pub model_hash: &'a str,
    /// The program's commit.
    pub version: &'a str,
}

impl CacheKey<'_> {
    /// The key: SHA-256 in hexadecimal digits.
    pub fn hash(&self) -> String {
        let mut fields: Vec<(&str, Json)> = vec![
            ("did", self.document.clone()),
            ("gk", canonical_settings(self.settings).into()),
            ("idx", self.index.into()),
            ("rt", self.request.into()),
            ("tn", self.task.into()),
            ("v", 3.into()),
        ];
        let more = [("ch", self.content), ("tf", self.task_hash), ("mfh", self.model_hash), ("ev", self.version)];
        fields
            .extend(more.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.into())));
        fields.sort_by_key(|(name, _)| *name);
        sha256(&dump(&Json::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())))
    }
}

/// `json.dumps` with sorted keys, no spaces and nothing but ASCII.
pub fn dump(value: &Json) -> String {
    match value {
        Json::Number(n) if n.is_f64() => n.as_f64().map_or_else(String::new, number::repr),
        Json::String(text) => dump_text(text),
        Json::Array(items) => format!("[{}]", items.iter().map(dump).collect::<Vec<_>>().join(",")),
        Json::Object(map) => {
            let mut entries: Vec<(&String, &Json)> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            let entries: Vec<String> =
                entries.iter().map(|(name, value)| format!("{}:{}", dump_text(name), dump(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}

fn dump_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn workers_take_turns() {
        let of = |rank, limit, offset| documents(10, rank, 4, limit, offset).map(Iterator::collect::<Vec<_>>);
        assert_eq!(of(0, None, 0).unwrap(), [0, 4, 8]);
        assert_eq!(of(2, Some(2.0), 0).unwrap(), Vec::<u64>::new());
        assert_eq!(of(1, Some(5.0), 3).unwrap(), [4]);
        assert!(of(0, Some(0.5), 0).is_err() && of(0, None, -1).is_err() && of(0, Some(-2.0), 0).is_err());
        assert_eq!(sample_size(7, Some(0.5)), Ok(Some(4)));
    }

    #[test]
    fn arguments_have_types() {
        let got = arguments("a=True,b=3,c=-3,d=x=y,e={\"f\":1,\"g\":[1,2]},h='p,q',").unwrap();
        let want = json!({"a": true, "b": 3, "c": -3.0, "d": "x=y", "e": "{\"f\":1,\"g\":[1,2]}", "h": "'p,q'"});
        assert_eq!(Json::Object(got), want);
        assert!(arguments("a").is_err());
    }

    #[test]
    fn json_is_pythons() {
        assert_eq!(
            dump(&json!({"b": 1e-5, "a": ["é😀\u{7f}", null, true]})),
            r#"{"a":["\u00e9\ud83d\ude00\u007f",null,true],"b":1e-05}"#
        );
        assert_eq!(folder_name("a/b/c:?d", false), "b__c__d");
        assert_eq!(folder_name("a/b/c", true), "a__b__c");
    }
}
