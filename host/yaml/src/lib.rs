//! YAML text → a JSON value: the metadata of Megatron-Energon and of Hugging Face's data sets is YAML, everything else here is
//! JSON.
//!
//! Bounded, because metadata comes with data that others made: nesting, and what aliases expand to.

use saphyr::{Scalar, Yaml, YamlLoader};
use saphyr_parser::{Event, Parser, SpannedEventReceiver};
use serde_json::{Map, Number, Value};

/// Deeper than any metadata; the parser's tree is dropped and converted by recursion.
const DEEPEST: usize = 64;

/// Tags that say what a plain value is anyway.
const PLAIN: [&str; 7] = ["str", "int", "float", "bool", "null", "seq", "map"];

/// Reads one YAML document. No document is null.
///
/// # Errors
/// What is wrong and where: no YAML, a key twice, several documents, nesting beyond a bound, tags of one's own.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut loader = YamlLoader::<Yaml>::default();
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| format!("it is not valid YAML: {e}"))?;
        let tag = match &event {
            Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                depth += 1;
                tag
            }
            Event::Scalar(_, _, _, tag) => tag,
            Event::SequenceEnd | Event::MappingEnd => {
                depth = depth.saturating_sub(1);
                &None
            }
            _ => &None,
        };
        // Not `!!python/object`, nor any other type that a reader would have to make up.
        if let Some(tag) =
            tag.as_ref().filter(|tag| !(tag.is_yaml_core_schema() && PLAIN.contains(&tag.suffix.as_str())))
        {
            return Err(format!("line {}: it uses the tag {tag}; only plain values are read", span.start.line()));
        }
        if depth > DEEPEST {
            return Err(format!("line {}: it is nested more than {DEEPEST} levels deep", span.start.line()));
        }
        loader.on_event(event, span);
        if let Some(error) = loader.error() {
            return Err(format!("it is not valid YAML: {error}"));
        }
    }
    let mut documents = loader.into_documents();
    match (documents.pop(), documents.len()) {
        (None, _) => Ok(Value::Null),
        (Some(one), 0) => convert(one),
        (Some(_), more) => Err(format!("it holds {} YAML documents; one is expected", more + 1)),
    }
}

fn convert(node: Yaml<'_>) -> Result<Value, String> {
    Ok(match node {
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => Value::Bool(value),
            Scalar::Integer(value) => Value::Number(value.into()),
            Scalar::FloatingPoint(value) => Number::from_f64(value.0).map_or(Value::Null, Value::Number),
            Scalar::String(text) => Value::String(text.into_owned()),
        },
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(pairs) => {
            let mut map = Map::new();
            for (key, value) in pairs {
                let key = match convert(key)? {
                    Value::String(text) => text,
                    Value::Array(_) | Value::Object(_) => return Err("a key of it is a list or a mapping".into()),
                    scalar => scalar.to_string(),
                };
                if map.insert(key.clone(), convert(value)?).is_some() {
                    return Err(format!("its key {key} occurs twice"));
                }
            }
            Value::Object(map)
        }
        Yaml::Tagged(tag, _) => return Err(format!("it uses the tag {tag}; only plain values are read")),
        Yaml::Representation(text, ..) => Value::String(text.into_owned()),
        // An empty document, or an alias without its anchor.
        Yaml::BadValue => Value::Null,
        Yaml::Alias(_) => return Err("an alias of it could not be resolved".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_energon_writes() {
        let text = "split_parts:\n  train:\n  - pretrain-{0..3}.tar\n  - 'a: b.tar'\n  val: []\nexclude: []\n";
        let expected = json!({"split_parts": {"train": ["pretrain-{0..3}.tar", "a: b.tar"], "val": []}, "exclude": []});
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(
            parse("shard_counts:\n  a.tar: 12\n  b.tar: 0x10\n").unwrap()["shard_counts"],
            json!({"a.tar": 12, "b.tar": 16})
        );
        assert_eq!(
            parse("- &a {weight: 0.25, on: true}\n- *a\n- ~\n- 'x'").unwrap()[1],
            json!({"weight": 0.25, "on": true})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
        // JSON is YAML.
        assert_eq!(parse(&expected.to_string()).unwrap(), expected);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let says = |text: &str, words: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        says(&"- ".repeat(100_000), "levels deep");
        says(&"[".repeat(100_000), "limit");
        says(&"[".repeat(100), "levels deep");
        says("a: 1\na: 2", "duplicated key");
        says("1: a\n\"1\": b", "occurs twice");
        says("a: b: c", "not valid YAML");
        says("--- 1\n--- 2", "2 YAML documents");
        says("a: !!python/object:os.system [x]", "tag");
        says("{[1]: 2}", "a list or a mapping");
        let bomb: String =
            (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))).collect();
        says(&format!("a0: &a0 [x]\n{bomb}"), "alias");
    }
}
