//! Vectors: what the original functions answered, against what these functions answer.
//!
//! ```text
//! cargo test --release -p ovhost-eval-scoring --test vectors -- --nocapture
//! OVHOST_EVAL_VECTORS=file.jsonl OVHOST_EVAL_TEXTS=texts.json cargo test …
//! ```
//!
//! A line is `{id, task, fn, doc, response, target, expected, kwargs?, unordered?}`. A function that is not known here, and
//! one that needs a text that was not brought (see `texts`), is not applicable and named; anything else must be equal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ovhost_eval_scoring::texts::Texts;
use serde_json::Value as Json;

mod answers;

/// One line.
pub struct Vector {
    line: Json,
    texts: Texts,
}

impl Vector {
    fn get(&self, key: &str) -> &Json {
        self.line.get(key).unwrap_or(&Json::Null)
    }

    fn doc(&self) -> &Json {
        self.get("doc")
    }

    fn response(&self) -> &str {
        self.get("response").as_str().unwrap_or_default()
    }

    fn target(&self) -> &str {
        self.get("target").as_str().unwrap_or_default()
    }
}

/// What a function of ours says of a vector.
pub enum Answer {
    /// A value to compare.
    Value(Json),
    /// The function refuses the input.
    Error(String),
    /// The vector is of something that this crate does not have, or cannot have without a text.
    NotApplicable(String),
}

/// Equal values; floats to the last digits, since the order of a sum and a library's function may differ in them.
fn same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Number(a), Json::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1e-3)
        }
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Equal as sets.
fn same_set(ours: &Json, theirs: &Json) -> bool {
    let (Some(ours), Some(theirs)) = (ours.as_array(), theirs.as_array()) else { return same(ours, theirs) };
    let within = |all: &Vec<Json>, one: &Json| all.iter().any(|other| same(one, other));
    ours.len() == theirs.len()
        && ours.iter().all(|one| within(theirs, one))
        && theirs.iter().all(|one| within(ours, one))
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    not_applicable: u32,
}

#[test]
fn vectors() {
    let from_env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let built_in = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eval_vectors.jsonl");
    let path = from_env("OVHOST_EVAL_VECTORS").unwrap_or_else(|| built_in.clone());
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let texts = from_env("OVHOST_EVAL_TEXTS").map_or_else(Texts::default, |path| {
        let json = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let texts = Texts::parse(&json).unwrap();
        texts.check().unwrap();
        texts
    });
    let mut counts: BTreeMap<(String, String), Counts> = BTreeMap::new();
    let (mut failures, mut reasons) = (Vec::new(), BTreeMap::<String, u32>::new());
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let vector = Vector { line: serde_json::from_str(line).unwrap(), texts: texts.clone() };
        let (task, name) = (vector.get("task").as_str().unwrap_or("?"), vector.get("fn").as_str().unwrap_or("?"));
        let count = counts.entry((task.into(), name.into())).or_default();
        let expected = vector.get("expected");
        let compare = if vector.get("unordered") == true { same_set } else { same };
        let (ours, good) = match answers::answer(&vector, task, name) {
            Answer::NotApplicable(reason) => {
                count.not_applicable += 1;
                *reasons.entry(format!("{task} / {name}: {reason}")).or_default() += 1;
                continue;
            }
            // How an exception is worded is Python's matter.
            Answer::Error(message) => (message.into(), expected.get("error").is_some()),
            Answer::Value(value) => {
                let good = compare(&value, expected);
                (value, good)
            }
        };
        if good {
            count.passed += 1;
        } else {
            count.failed += 1;
            failures
                .push(format!("{} {name}\n   expected {expected}\n   got      {ours}\n   of {line}", vector.get("id")));
        }
    }
    let (mut passed, mut failed, mut not_applicable) = (0, 0, 0);
    println!("{:<24} {:<52} {:>6} {:>6} {:>6}", "task", "function", "passed", "failed", "n.a.");
    for ((task, name), count) in &counts {
        println!("{task:<24} {name:<52} {:>6} {:>6} {:>6}", count.passed, count.failed, count.not_applicable);
        passed += count.passed;
        failed += count.failed;
        not_applicable += count.not_applicable;
    }
    println!("{:<77} {passed:>6} {failed:>6} {not_applicable:>6}", "all");
    for (reason, times) in &reasons {
        println!("not applicable, {times}: {reason}");
    }
    assert!(failures.is_empty(), "{failed} of {} vectors fail:\n{}", passed + failed, failures.join("\n"));
    assert!(passed > 0, "{} has no vector that applies", path.display());
    if path == built_in {
        // Only texts that are not part of this project may be missing.
        assert!(not_applicable <= 6, "more vectors than before do not apply: {reasons:?}");
    }
}
