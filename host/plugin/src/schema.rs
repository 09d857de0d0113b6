//! A plugin's configuration against its JSON Schema.
//!
//! In: the schema from `describe` and the recipe's `config`. Out: every finding, each with the JSON pointer, what is wrong and
//! what is allowed, so that one look repairs the recipe.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError};
use serde_json::Value;

use crate::error::{Diagnostic, clip, plain};
use crate::schema_bounds;

/// Stack of the validator, which recurses through schema and configuration.
const STACK: usize = 32 << 20;
/// Largest regular expression, compiled, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Findings, none if the configuration is good. The error is what is wrong with the schema itself.
pub(crate) fn check(schema: &Value, config: &Value) -> Result<Vec<Diagnostic>, String> {
    schema_bounds::check(schema, config).map_err(|rule| format!("config-schema: {rule}"))?;
    // A thread of its own: its stack is large enough for what the bounds allow, and a panic ends nothing else.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("schema".into()).stack_size(STACK);
        let check = thread.spawn_scoped(scope, || validate(schema, config));
        let check = check.map_err(|e| format!("config-schema was not checked: no thread could be started: {e}"))?;
        check.join().unwrap_or_else(|_| Err("config-schema is not a JSON Schema that the validator can use".into()))
    })
}

fn validate(schema: &Value, config: &Value) -> Result<Vec<Diagnostic>, String> {
    let patterns = PatternOptions::fancy_regex().backtrack_limit(100_000);
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns.size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES))
        .build(schema)
        .map_err(|e| format!("config-schema is not a valid JSON Schema (2020-12): {e}"))?;
    Ok(validator.iter_errors(config).take(20).map(|e| finding(schema, config, &e)).collect())
}

fn finding(schema: &Value, config: &Value, error: &ValidationError<'_>) -> Diagnostic {
    // The schema that holds the failed keyword: its path without the last step.
    let keyword = error.schema_path.as_str();
    let holder = keyword.rsplit_once('/').and_then(|(parent, _)| locate(schema, parent)).unwrap_or(schema);
    let mut message = plain(&error.to_string(), 1024);
    match &error.kind {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            message = unknown_keys(holder, unexpected.iter().map(String::as_str));
        }
        // What the validator says where no key at all is allowed: it names the value of one of them.
        ValidationErrorKind::FalseSchema if keyword.ends_with("/additionalProperties") => {
            let object = config.pointer(error.instance_path.as_str()).and_then(Value::as_object);
            message = unknown_keys(holder, object.into_iter().flat_map(|map| map.keys().map(String::as_str)));
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            message = format!("key \"{name}\" is missing");
            if let Some(words) = schema_words(holder.pointer(&format!("/properties/{name}"))) {
                message = format!("{message}: {words}");
            }
        }
        // A documented enum of schemars' is a list of constants, each with its words.
        ValidationErrorKind::OneOfNotValid | ValidationErrorKind::AnyOf if !choices(holder).is_empty() => {
            let value = config.pointer(error.instance_path.as_str()).map_or_else(String::new, Value::to_string);
            message =
                format!("{} is not allowed; allowed: {}", clip(&plain(&value, 200), 200), choices(holder).join(", "));
        }
        _ => {
            if let Some(words) = schema_words(Some(holder)) {
                message = format!("{message} ({words})");
            }
        }
    }
    Diagnostic { path: error.instance_path.as_str().to_owned(), message, fatal: true }
}

/// What a path of keywords leads to; references to places in the same schema are followed.
fn locate<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').skip(1).try_fold(schema, |at, step| {
        let step = step.replace("~1", "/").replace("~0", "~");
        match at {
            Value::Object(map) if step == "$ref" => schema.pointer(map.get("$ref")?.as_str()?.strip_prefix('#')?),
            Value::Object(map) => map.get(&step),
            Value::Array(list) => list.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    })
}

/// The values that a schema lists as alternatives; none where an alternative is anything but values.
fn choices(schema: &Value) -> Vec<String> {
    let list = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array());
    let values = |one: &Value| match (one.get("const"), one.get("enum").and_then(Value::as_array)) {
        (Some(value), _) => Some(vec![value.to_string()]),
        (None, Some(values)) => Some(values.iter().map(Value::to_string).collect()),
        (None, None) => None,
    };
    let all: Option<Vec<Vec<String>>> = list.into_iter().flatten().take(50).map(values).collect();
    all.unwrap_or_default().concat()
}

/// Words for keys that an object may not have.
fn unknown_keys<'a>(holder: &Value, unexpected: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = properties(holder).collect();
    let names: Vec<String> = unexpected.take(20).map(|name| key_words(name, &known)).collect();
    match known.len() {
        0 => format!("{}; no keys are allowed here", names.join("; ")),
        _ => format!("{}; allowed: {}", names.join("; "), known.join(", ")),
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys().map(String::as_str))
}

fn key_words(name: &str, known: &[&str]) -> String {
    let shown = plain(name, 80);
    let near = known.iter().map(|k| (strsim::jaro_winkler(name, k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, near)) if score > 0.8 => format!("key \"{shown}\" is not known, perhaps \"{near}\""),
        _ => format!("key \"{shown}\" is not known"),
    }
}

/// The author's description and the type, bounds and default of a value.
fn schema_words(schema: Option<&Value>) -> Option<String> {
    let schema = schema?.as_object()?;
    let mut words = Vec::new();
    for key in ["type", "enum", "minimum", "maximum", "default"] {
        if let Some(value) = schema.get(key) {
            words.push(format!("{key} {}", clip(&value.to_string(), 200)));
        }
    }
    if let Some(text) = schema.get("description").and_then(Value::as_str) {
        words.push(clip(text, 200).to_owned());
    }
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(config: Value) -> Vec<Diagnostic> {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["mode"],
            "properties": {
                "min_side": {"type": "integer", "minimum": 1, "description": "Shortest side in pixels."},
                "mode": {"enum": ["fast", "exact"]},
            },
        });
        check(&schema, &config).unwrap()
    }

    #[test]
    fn findings_name_the_path_and_the_allowed() {
        assert!(findings(json!({"mode": "fast", "min_side": 3})).is_empty());
        let unknown = &findings(json!({"mode": "fast", "min_sid": 3}))[0];
        assert_eq!(unknown.path, "");
        assert!(unknown.message.contains("\"min_sid\" is not known, perhaps \"min_side\""), "{}", unknown.message);
        assert!(unknown.message.contains("allowed: min_side, mode"), "{}", unknown.message);
        let low = &findings(json!({"mode": "fast", "min_side": 0}))[0];
        assert_eq!(low.path, "/min_side");
        assert!(low.message.contains("minimum 1") && low.message.contains("Shortest side"), "{}", low.message);
        let both = findings(json!({"mode": "slow", "min_side": "x"}));
        assert_eq!(both.len(), 2);
        assert!(both.iter().any(|d| d.path == "/mode" && d.message.contains("\"exact\"")));
        assert!(findings(json!({}))[0].message.contains("key \"mode\" is missing: enum [\"fast\",\"exact\"]"));
    }

    #[test]
    fn keys_where_none_are_allowed_are_named() {
        let schema = json!({"type": "object", "description": "Nothing to configure.", "additionalProperties": false});
        assert!(check(&schema, &json!({})).unwrap().is_empty());
        let findings = check(&schema, &json!({"window": 3, "mode": "x"})).unwrap();
        let want = "key \"window\" is not known; key \"mode\" is not known; no keys are allowed here";
        assert_eq!(findings.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(), [want]);
    }

    #[test]
    fn documented_alternatives_are_listed() {
        let schema = json!({
            "type": "object",
            "properties": {"mode": {"$ref": "#/$defs/Mode"}, "size": {"anyOf": [{"const": 1}, {"type": "string"}]}},
            "$defs": {"Mode": {"oneOf": [{"const": "fast", "description": "Quick."}, {"enum": ["exact", "slow"]}]}},
        });
        let findings = check(&schema, &json!({"mode": "quick", "size": 3})).unwrap();
        assert_eq!(findings[0].message, "\"quick\" is not allowed; allowed: \"fast\", \"exact\", \"slow\"");
        assert!(!findings[1].message.contains("allowed: 1"), "{}", findings[1].message);
    }

    #[test]
    fn a_broken_schema_is_the_plugins_fault() {
        assert!(check(&json!({"type": "objekt"}), &json!({})).unwrap_err().contains("not a valid JSON Schema"));
        assert!(check(&json!({"$ref": "https://example.org/s.json"}), &json!({})).is_err(), "nothing is fetched");
    }
}
