//! Writes what a plugin answers into the file of cases: for review by a person, who then keeps it.
//!
//! In: the file's text and the answers by line. Out: the same text, in which only the `expect` of those lines is another.

use std::fmt;
use std::io;

use anyhow::{Context, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use super::{Cases, Outcome, Verdict};
use crate::files;

/// Writes the answers of cases that differ or have no expectation yet; all else stays byte for byte. Cases in error and
/// unstable ones are left as they are: there is no answer to keep. Returns how many lines changed.
pub fn bless(cases: &Cases, outcomes: &[Outcome]) -> Result<usize> {
    let mut lines: Vec<String> = cases.text.lines().map(str::to_owned).collect();
    let mut changed = 0;
    for outcome in outcomes {
        let (Verdict::Differs(_) | Verdict::Open, Some(answer)) = (&outcome.verdict, &outcome.answer) else { continue };
        lines[outcome.line] = with_expect(&lines[outcome.line], answer)
            .with_context(|| format!("{} line {}", cases.path.display(), outcome.line + 1))?;
        changed += 1;
    }
    if changed > 0 {
        let mut text = lines.join("\n");
        text.push('\n');
        files::write(&cases.path, text.as_bytes())?;
    }
    Ok(changed)
}

/// The members of an object as they are written, in order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// The line with another `expect`, at its old place or at the end.
fn with_expect(line: &str, answer: &Value) -> Result<String> {
    let Members(members) = serde_json::from_str(line)?;
    let answer = spaced(answer);
    let mut out: Vec<String> = Vec::with_capacity(members.len() + 1);
    let mut placed = false;
    for (name, raw) in &members {
        let value = if name == "expect" {
            placed = true;
            &answer
        } else {
            raw.get()
        };
        out.push(format!("{}: {value}", Value::String(name.clone())));
    }
    if !placed {
        out.push(format!("\"expect\": {answer}"));
    }
    Ok(format!("{{{}}}", out.join(", ")))
}

/// JSON in one line with a space after each comma and colon, as people write it.
pub fn spaced(value: &Value) -> String {
    struct Spaced;
    impl Formatter for Spaced {
        fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }

        fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }

        fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Spaced);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // Writing a JSON value to memory has no way to fail; its plain form says the same.
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_expectation_changes() {
        let line = r#"{"name":"a",  "expect": [1,2], "rows": [ {"x":  1.50} ]}"#;
        let want = r#"{"name": "a", "expect": [{"keep": true}], "rows": [ {"x":  1.50} ]}"#;
        assert_eq!(with_expect(line, &json!([{"keep": true}])).unwrap(), want);
        assert_eq!(with_expect(r#"{"name": "a\"b"}"#, &json!(null)).unwrap(), r#"{"name": "a\"b", "expect": null}"#);
    }

    #[test]
    fn answers_go_in_and_other_lines_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cases.jsonl");
        let text = "{\"name\":\"a\",\"rows\":[]}\n\n{\"name\":\"b\",   \"expect\":0}\n{\"name\":\"c\",   \"expect\":0}\n{\"name\":\"d\"}";
        std::fs::write(&path, text).unwrap();
        let cases = Cases::read(&path).unwrap();
        let outcome = |line: usize, verdict: Verdict, answer: Option<Value>| Outcome {
            name: String::new(),
            line,
            verdict,
            answer,
        };
        let outcomes = [
            outcome(0, Verdict::Open, Some(json!([]))),
            outcome(2, Verdict::Pass, Some(json!(0))),
            outcome(3, Verdict::Differs(vec![]), Some(json!({"bins": [[1, 2]]}))),
            outcome(4, Verdict::Error("trap".into()), None),
        ];
        assert_eq!(bless(&cases, &outcomes).unwrap(), 2);
        let want = "{\"name\": \"a\", \"rows\": [], \"expect\": []}\n\n{\"name\":\"b\",   \"expect\":0}\n\
                    {\"name\": \"c\", \"expect\": {\"bins\": [[1, 2]]}}\n{\"name\":\"d\"}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
        assert_eq!(bless(&cases, &outcomes[1..2]).unwrap(), 0);
    }
}
