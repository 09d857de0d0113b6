//! Where two JSON values differ: the places, each with both values, instead of two walls of text.
//!
//! In: expected and seen. Out: differences by path (`rows[2].set.score`). Numbers are compared by value (1 is 1.0), exactly.

use std::fmt;

use serde_json::Value;

use super::spaced;

/// A place where two values differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where, such as `[2].set.score`; empty for the whole.
    pub path: String,
    /// What was expected there; none: nothing.
    pub expected: Option<Value>,
    /// What is there; none: nothing.
    pub seen: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), |v| short(&spaced(v)));
        let path = if self.path.is_empty() { "the answer" } else { &self.path };
        write!(f, "{path}: expected {}, got {}", side(&self.expected), side(&self.seen))
    }
}

/// A long value, with its middle left out.
fn short(text: &str) -> String {
    const MOST: usize = 400;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let head: String = text.chars().take(MOST / 2).collect();
    let tail: Vec<char> = text.chars().rev().take(MOST / 2).collect();
    format!("{head} … {}", tail.into_iter().rev().collect::<String>())
}

/// Every place where `seen` is not as `expected`, in order; none if they are equal.
pub fn differences(expected: &Value, seen: &Value) -> Vec<Difference> {
    let mut out = Vec::new();
    walk(String::new(), expected, seen, &mut out);
    out
}

fn walk(path: String, expected: &Value, seen: &Value, out: &mut Vec<Difference>) {
    match (expected, seen) {
        (Value::Object(a), Value::Object(b)) => {
            let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            // Objects with nothing in common are two things, not one that changed everywhere.
            if !a.is_empty() && !b.is_empty() && !a.keys().any(|key| b.contains_key(key)) {
                return push(path, Some(expected), Some(seen), out);
            }
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => walk(at(key), value, other, out),
                    None => push(at(key), Some(value), None, out),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                push(at(key), None, Some(value), out);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                let at = format!("{path}[{i}]");
                match (a.get(i), b.get(i)) {
                    (Some(a), Some(b)) => walk(at, a, b, out),
                    (a, b) => push(at, a, b, out),
                }
            }
        }
        (a, b) if equal(a, b) => {}
        (a, b) => push(path, Some(a), Some(b), out),
    }
}

fn push(path: String, expected: Option<&Value>, seen: Option<&Value>, out: &mut Vec<Difference>) {
    out.push(Difference { path, expected: expected.cloned(), seen: seen.cloned() });
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // One of them with a decimal point: the same number all the same.
        (Value::Number(x), Value::Number(y)) if x.is_f64() != y.is_f64() => x.as_f64() == y.as_f64(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(expected: Value, seen: Value) -> Vec<String> {
        differences(&expected, &seen).iter().map(Difference::to_string).collect()
    }

    #[test]
    fn places_are_named() {
        let a = json!([{"keep": true}, {"drop": "too short"}, {"keep": true, "set": {"s": 1}}]);
        assert!(lines(a.clone(), a.clone()).is_empty());
        assert!(
            lines(a.clone(), json!([{"keep": true}, {"drop": "too short"}, {"set": {"s": 1.0}, "keep": true}]))
                .is_empty()
        );
        let b = json!([{"keep": true}, {"drop": "too long"}, {"keep": true, "set": {"s": 1.5}}, {"keep": true}]);
        let want = [
            "[1].drop: expected \"too short\", got \"too long\"",
            "[2].set.s: expected 1, got 1.5",
            "[3]: expected nothing, got {\"keep\": true}",
        ];
        assert_eq!(lines(a, b), want);
        assert_eq!(
            lines(json!([{"keep": true}]), json!([{"drop": "x"}])),
            ["[0]: expected {\"keep\": true}, got {\"drop\": \"x\"}"]
        );
        assert_eq!(
            lines(json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": null}})),
            ["a.c: expected nothing, got null"]
        );
        assert_eq!(lines(json!(1), json!("1")), ["the answer: expected 1, got \"1\""]);
    }

    #[test]
    fn numbers_are_exact() {
        assert!(lines(json!(0.1), json!(0.1)).is_empty());
        assert_eq!(lines(json!(0.1), json!(0.10000000000000002)).len(), 1);
        assert_eq!(lines(json!(9007199254740993u64), json!(9007199254740992u64)).len(), 1);
    }

    #[test]
    fn long_values_are_cut_in_the_middle() {
        let line = &lines(json!("a".repeat(5000)), json!(""))[0];
        assert!(line.len() < 600 && line.contains(" … "), "{line}");
    }
}
