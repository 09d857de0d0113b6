//! A plugin's configuration against its JSON Schema.
//!
//! In: the schema from `describe` and the recipe's `config`. Out: every finding, each with the JSON pointer, what is wrong and
//! what is allowed, so that one look repairs the recipe.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, ValidationError};
use serde_json::Value;

use crate::error::{Diagnostic, clip};

/// Findings, none if the configuration is good. The error is what is wrong with the schema itself.
pub(crate) fn check(schema: &Value, config: &Value) -> Result<Vec<Diagnostic>, String> {
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .build(schema)
        .map_err(|e| format!("config-schema is not a valid JSON Schema (2020-12): {e}"))?;
    Ok(validator.iter_errors(config).take(20).map(|e| finding(schema, &e)).collect())
}

fn finding(schema: &Value, error: &ValidationError<'_>) -> Diagnostic {
    // The schema that holds the failed keyword: its path without the last step.
    let keyword = error.schema_path.as_str();
    let holder = keyword.rsplit_once('/').and_then(|(parent, _)| schema.pointer(parent)).unwrap_or(schema);
    let mut message = clip(&error.to_string(), 1024).to_owned();
    match &error.kind {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known: Vec<&str> = properties(holder).collect();
            let names: Vec<String> = unexpected.iter().map(|name| key_words(name, &known)).collect();
            message = names.join("; ");
            message.push_str(&match known.len() {
                0 => "; no keys are allowed here".to_owned(),
                _ => format!("; allowed: {}", known.join(", ")),
            });
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            message = format!("key \"{name}\" is missing");
            if let Some(words) = schema_words(holder.pointer(&format!("/properties/{name}"))) {
                message = format!("{message}: {words}");
            }
        }
        _ => {
            if let Some(words) = schema_words(Some(holder)) {
                message = format!("{message} ({words})");
            }
        }
    }
    Diagnostic { path: error.instance_path.as_str().to_owned(), message, fatal: true }
}

fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys().map(String::as_str))
}

fn key_words(name: &str, known: &[&str]) -> String {
    let shown = clip(name, 80);
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
    fn a_broken_schema_is_the_plugins_fault() {
        assert!(check(&json!({"type": "objekt"}), &json!({})).unwrap_err().contains("not a valid JSON Schema"));
        assert!(check(&json!({"$ref": "https://example.org/s.json"}), &json!({})).is_err(), "nothing is fetched");
    }
}
