//! The functions that vectors name, and ours.

use ovhost_eval_scoring::distance;
use ovhost_eval_scoring::exact::Ignore;
use ovhost_eval_scoring::python::random::Random;
use ovhost_eval_scoring::tags;
use serde_json::{Map, Value as Json, json};

use super::{Answer, Vector};

mod framework;
mod prompts;
mod scores;

/// A float as vectors write it.
pub fn float(value: f64) -> Json {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    json!(value)
}

pub fn floats(list: &Json) -> Vec<f64> {
    list.as_array().into_iter().flatten().map(number).collect()
}

pub fn number(value: &Json) -> f64 {
    match value {
        Json::Bool(value) => f64::from(*value),
        Json::String(word) if word == "Infinity" => f64::INFINITY,
        Json::String(word) if word == "-Infinity" => f64::NEG_INFINITY,
        other => other.as_f64().unwrap_or(f64::NAN),
    }
}

pub fn text(doc: &Json, key: &str) -> String {
    as_text(&doc[key])
}

pub fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn texts(list: &Json) -> Vec<String> {
    list.as_array().into_iter().flatten().map(as_text).collect()
}

pub fn value(value: impl Into<Json>) -> Answer {
    Answer::Value(value.into())
}

pub fn result(found: Result<Json, String>) -> Answer {
    match found {
        Ok(value) => Answer::Value(value),
        Err(message) if message.contains("not among the texts") => Answer::NotApplicable(message),
        Err(message) => Answer::Error(message),
    }
}

/// Answers a vector.
pub fn answer(vector: &Vector, task: &str, name: &str) -> Answer {
    let (doc, said) = (vector.doc(), vector.response());
    match (task, name) {
        (_, "python_random_choice_stream") => {
            let choices = texts(&doc["choices"]);
            let mut random = Random::new(doc["seed"].as_u64().unwrap_or(0));
            let drawn = vector.get("expected").as_array().map_or(0, Vec::len);
            value((0..drawn).filter_map(|_| random.choice(&choices).cloned()).collect::<Vec<_>>())
        }
        (_, "levenshtein_distance") => value(distance::levenshtein(&text(doc, "a"), &text(doc, "b"))),
        (_, "anls") => {
            let golds = texts(&doc["answers"]);
            let score = distance::anls(golds.iter().map(String::as_str), said);
            score.map_or_else(|| Answer::Error("no references".into()), |score| value(float(score)))
        }
        ("metrics", "exact_match") => {
            let on = |key: &str| doc["kwargs"][key] == true;
            if doc["kwargs"].get("regexes_to_ignore").is_some_and(|list| !list.is_null()) {
                let cut = |said: &str| {
                    texts(&doc["kwargs"]["regexes_to_ignore"]).iter().fold(said.to_owned(), |said, pattern| {
                        regex::Regex::new(pattern).map_or(said.clone(), |one| one.replace_all(&said, "").into_owned())
                    })
                };
                let ignore = Ignore {
                    case: on("ignore_case"),
                    punctuation: on("ignore_punctuation"),
                    numbers: on("ignore_numbers"),
                };
                return value(f64::from(ignore.same(&cut(said), &cut(vector.target()))));
            }
            let ignore = Ignore {
                case: on("ignore_case"),
                punctuation: on("ignore_punctuation"),
                numbers: on("ignore_numbers"),
            };
            value(f64::from(ignore.same(said, vector.target())))
        }
        (_, name) if name.starts_with("pipeline(") => pipeline(vector, task),
        ("framework" | "stats" | "llm_judge", _) => framework::answer(vector, name),
        (_, name) if name.contains("doc_to_text") || name.contains("doc_to_messages") => {
            prompts::answer(vector, task, name)
        }
        _ => scores::answer(vector, task, name),
    }
}

/// Filter, tags, strip, score: in the order of a run.
fn pipeline(vector: &Vector, task: &str) -> Answer {
    use ovhost_eval_scoring::tasks::ai2d;
    let doc = vector.doc();
    let pairs: Vec<[String; 2]> = match doc.get("reasoning_tags") {
        None => tags::DEFAULT_PAIRS.iter().map(|(open, close)| [(*open).into(), (*close).into()]).collect(),
        Some(list) => serde_json::from_value(list.clone()).unwrap_or_default(),
    };
    let filtered = if task.starts_with("ai2d") { ai2d::filter(vector.response()) } else { vector.response() };
    let tagless = if doc.get("reasoning_tags").is_some_and(Json::is_null) {
        filtered.to_owned()
    } else {
        tags::strip_reasoning(filtered, pairs.iter().map(|[open, close]| (open.as_str(), close.as_str()))).into_owned()
    };
    let scored = ovhost_eval_scoring::python::text::strip(&tagless).to_owned();
    let Some(score) = scores::score(task, doc, &scored, vector.target()) else {
        return Answer::NotApplicable("a pipeline of another task".into());
    };
    let mut out = Map::new();
    for key in vector.get("expected").as_object().into_iter().flatten().map(|(key, _)| key) {
        let value = match key.as_str() {
            "filtered" => json!(filtered),
            "scored_text" => json!(scored),
            "score" => json!(score),
            other => return Answer::NotApplicable(format!("`{other}` of a pipeline")),
        };
        out.insert(key.clone(), value);
    }
    value(Json::Object(out))
}
