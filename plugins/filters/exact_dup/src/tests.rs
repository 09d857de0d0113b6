//! Which rows count as equal, in every entry; the harness saves and restores around every call.

use std::collections::HashSet;

use super::*;
use ovhost_sdk::testing;
use proptest::prelude::*;

fn kept<C: Content>(config: Json, rows: Json) -> Vec<bool> {
    let mut plugin = testing::stateful_filter::<ExactDup<C>>(config).unwrap();
    let mut kept = Vec::new();
    // One row a call: what is remembered must not depend on the cut.
    for row in rows.as_array().unwrap() {
        kept.extend(plugin.run(json!([row])).kept());
    }
    kept
}

#[test]
fn texts_are_equal_whatever_case_space_and_punctuation() {
    let rows = json!([
        { "text": "A dog." }, { "text": " a  DOG" }, { "text": "a dog, 2" }, { "text": "A dog 2!" }, { "text": "狗。" },
        { "text": "狗" }, { "text": "adog" },
    ]);
    assert_eq!(kept::<Text>(json!({}), rows.clone()), [true, false, true, false, true, false, true]);
    let strict = json!({ "ignore_case": false, "ignore_space": false, "ignore_punctuation": false });
    assert_eq!(kept::<Text>(strict, rows), [true; 7]);
}

#[test]
fn rows_with_nothing_to_compare_stay() {
    let nothing = json!([{ "text": "?!" }, { "text": null }, { "text": "" }, { "text": "..." }]);
    assert_eq!(kept::<Text>(json!({}), nothing), [true; 4]);
    assert_eq!(kept::<Picture>(json!({}), json!([{ "phash": "" }, { "phash": null }, { "phash": "" }])), [true; 3]);
    assert_eq!(
        kept::<Pair>(json!({}), json!([{ "text": "?", "phash": "" }, { "text": null, "phash": null }])),
        [true; 2]
    );
    assert_eq!(
        kept::<Record>(json!({}), json!([{ "record": "{}" }, { "record": null }, { "record": "{}" }])),
        [true; 3]
    );
}

#[test]
fn pictures_and_pairs() {
    let (a, b) = ("00ff00ff00ff00ff", "0123456789abcdef");
    let both = format!("{a}{b}");
    let rows =
        json!([{ "phash": a }, { "phash": b }, { "phash": a }, { "phash": both }, { "phash": format!("{b}{a}") }]);
    assert_eq!(kept::<Picture>(json!({}), rows), [true, true, false, true, true]);
    let rows = json!([
        { "text": "A dog", "phash": a }, { "text": "a dog", "phash": b }, { "text": "a dog!", "phash": a },
        { "text": "a dog", "phash": "" }, { "text": "A dog", "phash": "" }, { "phash": a }, { "text": "", "phash": a },
    ]);
    assert_eq!(kept::<Pair>(json!({}), rows), [true, true, false, true, false, true, false]);
    // A picture that cannot be decoded is neither no picture nor another such one, and is not remembered.
    let broken = json!([
        { "text": "a dog", "phash": null }, { "text": "a dog", "phash": null }, { "text": "a dog", "phash": "" },
        { "text": "a dog", "phash": null }, { "text": "a dog", "phash": "" },
    ]);
    assert_eq!(kept::<Pair>(json!({}), broken), [true, true, true, true, false]);
    let mut plugin = testing::stateful_filter::<ExactPicture>(json!({})).unwrap();
    let outcome = plugin.run(json!([{ "phash": "00ff" }, { "phash": a }]));
    assert_eq!(outcome.errors(), [(0, "column `phash` has 2 bytes; it must have 8 for each picture")]);
}

#[test]
fn records_by_all_or_some_fields() {
    let rows = json!([
        { "record": { "id": 1, "q": "x", "a": ["y"] } }, { "record": { "id": 2, "a": ["y"], "q": "x" } },
        { "record": { "a": ["y"], "id": 1, "q": "x" } }, { "record": { "id": 3, "q": "x", "a": ["z"] } },
    ]);
    assert_eq!(kept::<Record>(json!({}), rows.clone()), [true, true, false, true]);
    assert_eq!(kept::<Record>(json!({ "ignore": ["id"] }), rows.clone()), [true, false, false, true]);
    assert_eq!(kept::<Record>(json!({ "fields": ["q"] }), rows), [true, false, false, false]);
    // Beyond 64 bits numbers are the nearest that an `f64` can be.
    let number = |digits: &str| json!({ "record": format!("{{\"n\": {digits}}}") });
    let numbers = ["18446744073709551615", "18446744073709551614", "18446744073709551617", "18446744073709551618"];
    assert_eq!(kept::<Record>(json!({}), numbers.map(number).into_iter().collect()), [true, true, true, false]);
    let mut plugin = testing::stateful_filter::<ExactRecord>(json!({})).unwrap();
    let outcome = plugin.run(json!([{ "record": "{" }, { "record": "[1]" }]));
    assert_eq!(outcome.errors().len(), 2);
}

#[test]
fn a_full_memory_is_an_error_for_new_rows_only() {
    let mut plugin = testing::stateful_filter::<ExactText>(json!({ "max_rows": 2 })).unwrap();
    let outcome =
        plugin.run(json!([{ "text": "a" }, { "text": "b" }, { "text": "c" }, { "text": "A" }, { "text": "" }]));
    assert_eq!(outcome.kept(), [true, true, false, false, true]);
    assert_eq!(outcome.reasons(), [None, None, None, Some("duplicate"), None]);
    let (row, message) = outcome.errors()[0];
    assert!(row == 2 && message.contains("max_rows") && message.contains("memory_mib"), "{message}");
}

#[test]
fn state_goes_on_under_the_same_rules_only() {
    let mut plugin = testing::stateful_filter::<ExactText>(json!({})).unwrap();
    plugin.run(json!([{ "text": "a dog" }]));
    let state = plugin.save();
    assert_eq!(
        plugin.restored(&state).unwrap().run(json!([{ "text": "A dog" }, { "text": "b" }])).kept(),
        [false, true]
    );
    let strict = testing::stateful_filter::<ExactText>(json!({ "ignore_case": false })).unwrap();
    assert!(strict.restored(&state).err().unwrap().message.contains("case ignored: true"));
    let pair = testing::stateful_filter::<ExactPair>(json!({})).unwrap();
    assert!(pair.restored(&state).err().unwrap().message.contains("exact_text"));
    // Names are told apart whatever is in them.
    let fields = |fields: Json| testing::stateful_filter::<ExactRecord>(json!({ "fields": fields })).unwrap();
    let one = fields(json!(["a,b"])).save();
    assert!(fields(json!(["a", "b"])).restored(&one).is_err() && fields(json!(["a,b"])).restored(&one).is_ok());
    assert!(fields(json!(["a", "b"])).restored(&fields(json!(["b", "a", "b"])).save()).is_ok());
    // More room is no other rule.
    assert!(testing::stateful_filter::<ExactText>(json!({ "max_rows": 9 })).unwrap().restored(&state).is_ok());
    assert!(plugin.restored(b"?").is_err());
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let error = testing::stateful_filter::<ExactText>(json!({ "max_rows": 0 })).err().unwrap();
    assert_eq!(error.findings[0].path, "/max_rows");
    let error = testing::stateful_filter::<ExactRecord>(json!({ "fields": ["a"], "ignore": ["b"] })).err().unwrap();
    assert_eq!(error.findings[0].path, "/ignore");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With nothing ignored the filter is a set of strings.
    #[test]
    fn it_keeps_the_first_of_equal_texts(texts in proptest::collection::vec("[ab]{1,3}", 0..60), cut in 1..20usize) {
        let mut plugin = testing::stateful_filter::<ExactText>(json!({})).unwrap();
        let mut seen = HashSet::new();
        for chunk in texts.chunks(cut) {
            let rows: Vec<_> = chunk.iter().map(|text| json!({ "text": text })).collect();
            let want: Vec<_> = chunk.iter().map(|text| seen.insert(text.clone())).collect();
            prop_assert_eq!(plugin.run(json!(rows)).kept(), want);
        }
    }
}
