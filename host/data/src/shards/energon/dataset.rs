//! `dataset.yaml`: which parts of a sample are which fields of its record.
//!
//! ```text
//!  field_map: {image: jpg, context: "json[question]", answers: "json[answers]"}
//!  parts jpg, json ─► parts jpg, json {"question": …, "answers": …} ─► Record::build
//! ```
//! A raw data set (`CrudeWebdataset`) has no map: its samples are read by what their parts are. A `sample_loader` is
//! Python and is not run; such samples are read by their parts too, which is right for the two that the reference
//! ships (packs and message lists) and said in the log for any other.

use std::path::Path;

use serde_json::{Map, Value};

use super::bad;
use crate::image::decode::is_picture_name;
use crate::shards::{RawSample, ShardError};

/// Fields of a record, and where each comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMap(Vec<(String, Vec<Source>)>);

/// A part, and the way into it where it is JSON: `json[a][0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    part: String,
    way: Vec<String>,
}

impl FieldMap {
    /// What a `dataset.yaml` says; none where it has no map.
    pub(super) fn of(config: &Value, path: &Path) -> Result<Option<FieldMap>, ShardError> {
        let map = match config.get("field_map") {
            Some(Value::Object(map)) => map,
            Some(other) => return Err(bad(path, format!("field_map is {other}; it must map fields to parts"))),
            None => {
                if let Some(loader) = config.get("sample_loader").and_then(Value::as_str) {
                    tracing::warn!(
                        "{}: sample_loader {loader} is Python and is not run; samples are read by what their parts are",
                        path.display()
                    );
                }
                return Ok(None);
            }
        };
        let class = config["sample_type"]["__class__"].as_str().or(config["__class__"].as_str()).unwrap_or_default();
        let mut fields = Vec::with_capacity(map.len());
        for (field, places) in map {
            let Value::String(places) = places else {
                return Err(bad(
                    path,
                    format!("field_map.{field} is {places}; it must name a part, as in jpg or json[text]"),
                ));
            };
            let sources = places.split(',').map(|place| source(place.trim()));
            let sources =
                sources.collect::<Result<_, _>>().map_err(|why| bad(path, format!("field_map.{field}: {why}")))?;
            fields.push((name(class, field).to_owned(), sources));
        }
        Ok(Some(FieldMap(fields)))
    }

    /// The sample with the mapped fields as its one `json` part, and the mapped pictures.
    ///
    /// # Errors
    /// A field none of whose parts is there, or JSON that has no such place.
    pub fn apply(&self, raw: RawSample) -> Result<RawSample, String> {
        let mut fields = Map::new();
        let mut pictures: Vec<usize> = Vec::new();
        let part = |wanted: &str| raw.parts.iter().position(|(part, _)| part.eq_ignore_ascii_case(wanted));
        for (field, sources) in &self.0 {
            let found = sources.iter().find_map(|source| part(&source.part).map(|at| (source, at)));
            let Some((source, at)) = found else {
                let names: Vec<&str> = sources.iter().map(|s| s.part.as_str()).collect();
                let there: Vec<&str> = raw.parts.iter().map(|(part, _)| part.as_str()).collect();
                return Err(format!(
                    "dataset.yaml takes {field} from part {}, and the sample has {}",
                    names.join(" or "),
                    there.join(", ")
                ));
            };
            let (part, bytes) = &raw.parts[at];
            if source.way.is_empty() && is_picture_name(part) {
                if !pictures.contains(&at) {
                    pictures.push(at);
                }
                continue;
            }
            fields.insert(field.clone(), value(part, bytes, &source.way)?);
        }
        let mut parts: Vec<(String, Vec<u8>)> = Vec::with_capacity(pictures.len() + 1);
        parts.push(("json".into(), Value::Object(fields).to_string().into_bytes()));
        parts.extend(raw.parts.into_iter().enumerate().filter(|(at, _)| pictures.contains(at)).map(|(_, part)| part));
        Ok(RawSample { key: raw.key, parts })
    }
}

/// Energon's names of fields are ours but for one: a VQA sample's question is its context.
fn name<'a>(class: &str, field: &'a str) -> &'a str {
    if class.contains("VQA") && field == "context" { "question" } else { field }
}

fn source(place: &str) -> Result<Source, String> {
    let advice = || format!("\"{place}\" is neither a part, as in jpg, nor a place in one, as in json[a][b]");
    let (part, mut rest) = place.split_at(place.find('[').unwrap_or(place.len()));
    if part.is_empty() {
        return Err(advice());
    }
    let mut way = Vec::new();
    while !rest.is_empty() {
        let (step, after) = rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(advice)?;
        way.push(step.trim().to_owned());
        rest = after;
    }
    Ok(Source { part: part.to_owned(), way })
}

fn value(part: &str, bytes: &[u8], way: &[String]) -> Result<Value, String> {
    let kind = part.rsplit('.').next().unwrap_or(part).to_ascii_lowercase();
    let mut value = match kind.as_str() {
        "json" | "jsn" => serde_json::from_slice(bytes).map_err(|e| format!("part {part} is not valid JSON: {e}"))?,
        "txt" | "text" | "transcript" => {
            let text = std::str::from_utf8(bytes).map_err(|e| format!("part {part} is not UTF-8: {e}"))?;
            Value::from(text.trim_end_matches(['\n', '\r']))
        }
        "cls" | "cls2" | "index" | "inx" | "id" => {
            let text = String::from_utf8_lossy(bytes);
            Value::from(text.trim().parse::<i64>().map_err(|e| format!("part {part} holds {:?}: {e}", text.trim()))?)
        }
        _ => {
            return Err(format!(
                "dataset.yaml takes a field from part {part}, whose kind is not read; json, txt, cls and pictures are"
            ));
        }
    };
    for step in way {
        let next = match &mut value {
            Value::Object(map) => map.remove(step),
            Value::Array(list) => step.parse::<usize>().ok().filter(|i| *i < list.len()).map(|i| list.swap_remove(i)),
            _ => None,
        };
        value = next.ok_or_else(|| format!("part {part} has nothing at [{}]", way.join("][")))?;
    }
    Ok(value)
}
