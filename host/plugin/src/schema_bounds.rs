//! What checking a configuration against a plugin's schema may cost, found before it is done.
//!
//! ```text
//!  schema, configuration ──► walk as a validator would, each pair of (subschema, value) once ──► steps, depth ──► fine, or the rule
//! ```
//! A schema is a plugin's word like any other. One of a few lines can refer to itself without end (the validator would
//! run out of stack and take the host along) or double its work with every line. Recursion that goes down into the
//! configuration, as in a tree of rules, is fine.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::error::plain;

/// Subschemas applied to values.
const STEPS: u64 = 1_000_000;
/// Of these, through `$ref` into a schema of this many keys in all: the validator compiles what a reference leads to
/// again and again.
const REFERRED_KEYS: u64 = 10_000_000;
/// Subschemas inside of each other, references followed.
const DEPTH: usize = 500;
/// Regular expressions.
const PATTERNS: usize = 64;
/// As many keys as a regular expression takes the time of to compile.
const PATTERN_KEYS: u64 = 100;

/// A name of a property, for `propertyNames`.
static NAME: Value = Value::String(String::new());

/// To what a keyword applies the schemas that it holds.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// The same value.
    Same,
    /// Every value in it.
    Inside,
    /// The names of its properties.
    Names,
    /// The property of the schema's own name.
    Property,
    /// Nothing, unless referred to.
    Nothing,
}

/// Which keywords hold schemas: one, a list or a map of them, whichever is there.
fn applies(keyword: &str) -> Option<To> {
    Some(match keyword {
        "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" | "dependentSchemas" | "dependencies" => To::Same,
        "properties" => To::Property,
        "propertyNames" => To::Names,
        "patternProperties"
        | "additionalProperties"
        | "unevaluatedProperties"
        | "items"
        | "prefixItems"
        | "additionalItems"
        | "unevaluatedItems"
        | "contains" => To::Inside,
        "$defs" | "definitions" | "contentSchema" => To::Nothing,
        _ => return None,
    })
}

/// Keywords whose value is a map from names to schemas.
fn is_map(keyword: &str) -> bool {
    matches!(
        keyword,
        "properties" | "patternProperties" | "dependentSchemas" | "dependencies" | "$defs" | "definitions"
    )
}

/// The schemas of an object, each with the keyword's reach and its name in a map of schemas.
fn parts<'s>(object: &'s Map<String, Value>) -> impl Iterator<Item = (To, &'s str, &'s Value)> {
    object.iter().filter_map(|(keyword, held)| Some((keyword, held, applies(keyword)?))).flat_map(
        |(keyword, held, to)| -> Box<dyn Iterator<Item = (To, &'s str, &'s Value)>> {
            match held {
                Value::Object(map) if is_map(keyword) => Box::new(map.iter().map(move |(k, s)| (to, k.as_str(), s))),
                Value::Array(list) => Box::new(list.iter().map(move |s| (to, "", s))),
                one => Box::new(std::iter::once((to, "", one))),
            }
        },
    )
}

/// Refuses a schema that no validator should be given with this configuration. The error is the broken rule.
pub(crate) fn check(schema: &Value, config: &Value) -> Result<(), String> {
    let mut form = Form::default();
    form.walk(schema, true)?;
    if form.patterns > PATTERNS {
        return Err(format!("it has {} regular expressions, at most {PATTERNS} are allowed", form.patterns));
    }
    let mut walk = Walk { root: schema, schemas: form.schemas, seen: HashMap::new(), keys: form.keys };
    walk.cost(schema, config, 0).map(|_| ())
}

/// What can be said of a schema by itself.
#[derive(Default)]
struct Form {
    /// By their places in memory.
    schemas: HashSet<*const Value>,
    keys: u64,
    patterns: usize,
}

impl Form {
    fn walk(&mut self, schema: &Value, root: bool) -> Result<(), String> {
        let Value::Object(object) = schema else { return Ok(()) };
        self.schemas.insert(std::ptr::from_ref(schema));
        self.keys += object.len() as u64;
        for keyword in ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "$id", "id"] {
            // A part with an identity of its own would change what `#` means in it. A property may have any name: those are
            // in maps, which are not walked as schemas.
            if object.get(keyword).is_some_and(Value::is_string) && !(root && matches!(keyword, "$id" | "id")) {
                return Err(format!("{keyword} is not supported; refer to parts by $ref: \"#/$defs/NAME\""));
            }
        }
        if let Some(reference) = object.get("$ref").and_then(Value::as_str)
            && !(reference == "#" || reference.starts_with("#/"))
        {
            let shown = plain(reference, 100);
            return Err(format!("$ref \"{shown}\" leads out of it; refer to parts of it as \"#/$defs/NAME\""));
        }
        let keyed = object.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        let patterns = keyed + usize::from(object.contains_key("pattern"));
        self.patterns += patterns;
        self.keys += PATTERN_KEYS * patterns as u64;
        parts(object).try_for_each(|(_, _, part)| self.walk(part, false))
    }
}

/// Work of a subschema on a value.
#[derive(Clone, Copy, Default)]
struct Cost {
    steps: u64,
    references: u64,
}

impl Cost {
    /// Adds another's; refuses at once what comes to too much, so that the walk itself is bounded by what it allows.
    fn add(&mut self, other: Cost, times: u64, keys: u64) -> Result<(), String> {
        self.steps = self.steps.saturating_add(other.steps.saturating_mul(times));
        self.references = self.references.saturating_add(other.references.saturating_mul(times));
        if self.steps <= STEPS && self.references.saturating_mul(keys) <= REFERRED_KEYS {
            return Ok(());
        }
        Err(format!(
            "to check this configuration would take {} steps or more, {} of them through $ref; allowed are {STEPS}, and \
             {} through $ref",
            self.steps,
            self.references,
            REFERRED_KEYS / keys.max(1)
        ))
    }
}

struct Walk<'s> {
    root: &'s Value,
    schemas: HashSet<*const Value>,
    /// By the places in memory of subschema and value; none while it is being found.
    seen: HashMap<(*const Value, *const Value), Option<Cost>>,
    keys: u64,
}

impl<'s> Walk<'s> {
    fn cost(&mut self, schema: &'s Value, value: &Value, depth: usize) -> Result<Cost, String> {
        let Value::Object(object) = schema else { return Ok(Cost { steps: 1, references: 0 }) };
        if depth > DEPTH {
            return Err(format!("its parts are nested more than {DEPTH} deep"));
        }
        let pair = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        match self.seen.get(&pair) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err("a $ref leads back to itself without going into the configuration".into()),
            None => _ = self.seen.insert(pair, None),
        }
        let keys = self.keys;
        let mut cost = Cost { steps: 1, references: 0 };
        // These look at everything else of the object a second time.
        let again = u64::from(object.contains_key("unevaluatedProperties"))
            + u64::from(object.contains_key("unevaluatedItems"))
            + 1;
        for (to, name, part) in parts(object) {
            match to {
                To::Nothing => {}
                To::Same => cost.add(self.cost(part, value, depth + 1)?, again, keys)?,
                To::Property => {
                    if let Some(inside) = value.get(name) {
                        cost.add(self.cost(part, inside, depth + 1)?, again, keys)?;
                    }
                }
                To::Names => {
                    let names = value.as_object().map_or(0, Map::len) as u64;
                    if names > 0 {
                        cost.add(self.cost(part, &NAME, depth + 1)?, names, keys)?;
                    }
                }
                To::Inside => {
                    let list = value.as_array().into_iter().flatten();
                    let values = value.as_object().into_iter().flat_map(|map| map.values());
                    for inside in list.chain(values) {
                        cost.add(self.cost(part, inside, depth + 1)?, again, keys)?;
                    }
                }
            }
        }
        if let Some(reference) = object.get("$ref").and_then(Value::as_str)
            // One that leads nowhere is for the validator to name.
            && let Some(part) = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
        {
            if part.is_object() && !self.schemas.contains(&std::ptr::from_ref(part)) {
                return Err(format!("$ref \"{}\" leads to no schema; those in $defs are", plain(reference, 100)));
            }
            cost.references += 1;
            cost.add(self.cost(part, value, depth + 1)?, again, keys)?;
        }
        self.seen.insert(pair, Some(cost));
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Schemas of a few parts that refer to each other at random, many of them without end.
    fn schemas() -> impl Strategy<Value = Value> {
        let reference =
            prop::sample::select(vec!["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/$defs/a/not", "#/none"]);
        let leaf = prop_oneof![
            3 => reference.prop_map(|at| json!({ "$ref": at })),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => Just(json!({"type": "object", "minProperties": 1})),
            1 => Just(json!({"pattern": "^(a|b)*$"})),
        ];
        let part = leaf.prop_recursive(4, 24, 3, |part| {
            let of = |keyword: &'static str| move |inside: Value| json!({ keyword: inside });
            let list = |keyword: &'static str| move |inside: Vec<Value>| json!({ keyword: inside });
            let some = prop::collection::vec(part.clone(), 1..3);
            prop_oneof![
                some.clone().prop_map(list("allOf")),
                some.clone().prop_map(list("anyOf")),
                some.clone().prop_map(list("oneOf")),
                some.prop_map(list("prefixItems")),
                part.clone().prop_map(of("not")),
                part.clone().prop_map(of("items")),
                part.clone().prop_map(of("contains")),
                part.clone().prop_map(of("additionalProperties")),
                part.clone().prop_map(of("propertyNames")),
                part.clone().prop_map(|inside| json!({"properties": {"a": inside}})),
                part.clone().prop_map(|inside| json!({"dependentSchemas": {"a": inside}})),
                part.clone().prop_map(|inside| json!({"allOf": [inside], "unevaluatedProperties": false})),
                part.clone().prop_map(|inside| json!({"prefixItems": [inside], "unevaluatedItems": false})),
                (part.clone(), part.clone())
                    .prop_map(|(a, b)| json!({"if": a, "then": b, "else": {"$ref": "#/$defs/b"}})),
                (part.clone(), part).prop_map(|(a, b)| json!({"$ref": "#/$defs/a", "properties": {"a": a, "b": b}})),
            ]
        });
        (part.clone(), part.clone(), part).prop_map(|(mut root, a, b)| {
            if let Some(root) = root.as_object_mut() {
                root.insert("$defs".into(), json!({"a": a, "b": b}));
            }
            root
        })
    }

    fn configs() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!("ab")), Just(json!({}))];
        let values = leaf.prop_recursive(5, 40, 3, |inside| {
            prop_oneof![
                prop::collection::vec(inside.clone(), 0..3).prop_map(Value::Array),
                (inside.clone(), inside).prop_map(|(a, b)| json!({"a": a, "b": b})),
            ]
        });
        values.prop_map(|value| json!({ "a": value }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// What the bounds let through, the validator comes to the end of, in little time and stack.
        #[test]
        fn what_passes_is_safe_to_check(schema in schemas(), config in configs()) {
            let start = Instant::now();
            let _ = crate::schema::check(&schema, &config);
            prop_assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        }
    }

    fn rule(schema: Value, config: Value) -> String {
        check(&schema, &config).unwrap_err()
    }

    #[test]
    fn a_tree_of_rules_is_fine() {
        let schema = json!({
            "$id": "https://example.org/rules",
            "$defs": {"rule": {
                "type": "object",
                "properties": {
                    "all": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
                    "not": {"$ref": "#/$defs/rule"},
                    "$id": {"type": "string", "pattern": "^a"},
                },
                "unevaluatedProperties": false,
            }},
            "$ref": "#/$defs/rule",
        });
        let config = json!({"all": [{"not": {"$id": "a"}}, {"all": [{}, {"not": {}}]}]});
        check(&schema, &config).unwrap();
    }

    #[test]
    fn endless_references_are_found() {
        let loops = [
            json!({"$ref": "#"}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            json!({"allOf": [{"not": {"anyOf": [{"$ref": "#"}]}}]}),
            json!({"properties": {"x": {"$ref": "#/properties/x"}}}),
        ];
        for schema in loops {
            assert!(rule(schema, json!({"x": 1})).contains("leads back to itself"));
        }
    }

    #[test]
    fn work_that_doubles_with_every_line_is_found() {
        let mut defs = Map::new();
        for i in 0..40 {
            let next = json!({"$ref": format!("#/$defs/a{}", i + 1)});
            defs.insert(format!("a{i}"), json!({"allOf": [next, next]}));
        }
        defs.insert("a40".into(), json!({}));
        assert!(rule(json!({"$defs": defs, "$ref": "#/$defs/a0"}), json!({})).contains("steps"));

        let down = json!({"additionalProperties": {"allOf": vec![json!({"$ref": "#"}); 30]}});
        let mut config = json!({});
        check(&down, &json!({"a": {"b": 1}})).unwrap();
        for _ in 0..20 {
            config = json!({ "a": config });
        }
        assert!(rule(down, config).contains("steps"));

        let mut nested = json!({});
        for _ in 0..30 {
            nested = json!({"allOf": [nested], "unevaluatedProperties": false});
        }
        assert!(rule(nested, json!({"a": 1})).contains("steps"));
    }

    #[test]
    fn a_long_chain_is_found() {
        let mut defs = Map::new();
        for i in 0..600 {
            defs.insert(format!("a{i}"), json!({"$ref": format!("#/$defs/a{}", i + 1)}));
        }
        assert!(rule(json!({"$defs": defs, "$ref": "#/$defs/a0"}), json!({})).contains("nested more than 500 deep"));
    }

    #[test]
    fn references_stay_inside() {
        let outside = "https://example.org/s.json";
        assert!(rule(json!({"properties": {"x": {"$ref": outside}}}), json!({})).contains(outside));
        assert!(rule(json!({"$defs": {"x": {"$anchor": "here"}}}), json!({})).contains("$anchor"));
        assert!(rule(json!({"allOf": [{"$id": "other"}]}), json!({})).contains("$id"));
        let hidden = json!({"default": {"a": {"$id": "other"}}, "$ref": "#/default/a"});
        assert!(rule(hidden, json!({})).contains("leads to no schema"));
        let patterns: Vec<Value> = (0..65).map(|_| json!({"pattern": "a"})).collect();
        assert!(rule(json!({"anyOf": patterns}), json!({})).contains("65 regular expressions"));
    }
}
