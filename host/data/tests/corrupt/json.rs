//! Records whose fields hold anything at all: a sample, or a reject with a reason.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::targets::{Reached, chat, pack};

/// Every field that somebody in the program looks at.
const FIELDS: [&str; 26] = [
    "id",
    "image",
    "images",
    "conversations",
    "messages",
    "qa",
    "question",
    "answer",
    "answers",
    "caption",
    "captions",
    "text",
    "references",
    "prompts",
    "embedding",
    "from",
    "value",
    "role",
    "content",
    "type",
    "image_url",
    "ovhost_pack",
    "samples",
    "system",
    "tools",
    "url",
];

const WORDS: [&str; 16] = [
    "",
    "human",
    "gpt",
    "user",
    "assistant",
    "system",
    "<image>",
    "<image>\n<image>what?",
    "image",
    "text",
    "image_url",
    "a red square",
    "<|im_end|>",
    "\u{e000}0\u{e001}",
    "\u{0}\u{1b}[2J\u{202e}",
    "🟥",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        prop::sample::select(WORDS.as_slice()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop::sample::select(FIELDS.as_slice());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())
            }),
        ]
    })
}

/// Good records; one place in them is replaced.
pub fn good() -> Vec<Value> {
    let turn = |from: &str, value: &str| json!({ "from": from, "value": value });
    vec![
        json!({"conversations": [turn("human", "<image>\nWhat?"), turn("gpt", "red"), turn("human", "Sure?"), turn("gpt", "yes")]}),
        json!({"messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "red"},
        ]}),
        json!({"qa": [{"question": "a?", "answer": "b"}, {"question": "c?", "answers": ["d", "d", "e"]}]}),
        json!({"question": "a?", "answers": [{"answer": "b"}], "image": "x.png"}),
        json!({"caption": "a red square", "images": ["x.png"], "embedding": [0.5, 1]}),
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
    ]
}

/// A pack of ours of two samples, and one of the reference's.
pub fn packs() -> Vec<Value> {
    let sample = |key: &str, image: &str, record: Value| json!({"key": key, "source": "a.tar", "index": 0, "row": 1, "tokens": 9, "patches": 4, "images": [image], "record": record});
    let [first, second] = ["img0_0.png", "img1_0.png"];
    let samples = [
        sample("a", first, json!({"question": "<image>a?", "answer": "b"})),
        sample("b", second, json!({"caption": "c"})),
    ];
    vec![
        json!({
            "ovhost_pack": 1, "fingerprint": "f", "made_for": {"tokenizer": "t", "image_processor": {}, "prompt": {}},
            "seed": 1, "capacity": 20, "tokens": 18, "patches": 8, "samples": samples,
        }),
        json!({"prompts": ["<image>a?", "<image>b?"], "captions": ["c", "d"], "images": ["x", "y"]}),
    ]
}

/// Puts `value` at the `at`-th place of the tree.
fn replace(tree: &mut Value, at: &mut usize, value: &Value) {
    if *at == 0 {
        *tree = value.clone();
        *at = usize::MAX;
        return;
    }
    *at -= 1;
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, value)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, at, value)),
        _ => {}
    }
}

pub fn input(pictures: u8, record: &Value) -> Vec<u8> {
    [vec![pictures], record.to_string().into_bytes()].concat()
}

#[test]
fn good_records_work() {
    for record in good() {
        assert_eq!(chat(&input(1, &record)), Reached::Works, "{record}");
    }
    // A conversation that no template should be rendered over, and one that is nearly as long.
    let turns = |n: usize| -> Vec<Value> {
        (0..n)
            .flat_map(|_| [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"})])
            .collect()
    };
    assert_eq!(chat(&input(0, &json!(turns(4_000)))), Reached::Works);
    assert_eq!(chat(&input(0, &json!(turns(4_200)))), Reached::Partly);
    // Votes of a hundred thousand people are counted, not compared.
    let answers: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    assert_eq!(chat(&input(0, &json!({"question": "a?", "answers": answers}))), Reached::Works);
    for pack_json in packs() {
        assert_eq!(pack(pack_json.to_string().as_bytes()), Reached::Works, "{pack_json}");
    }
}

/// Words without end are tokenised in a time that grows with their length, not with its square.
#[test]
fn texts_of_megabytes() {
    for unit in ["a", " ", "\n", "7", "a b", "🟥", "<image>", "<|im_start|>", "\u{301}", "'"] {
        let time = |kilobytes: usize| {
            let text = unit.repeat((kilobytes << 10) / unit.len());
            let from = std::time::Instant::now();
            assert!(chat(&input(0, &json!({"question": "a?", "answer": text}))) >= Reached::Partly);
            from.elapsed().as_secs_f64()
        };
        let (one, eight) = (time(64), time(512));
        println!("{unit:?}: {one:.2} s for 64 KiB, {eight:.2} s for 512 KiB");
        assert!(eight < 20.0 * one + 3.0, "{unit:?}: {one} s, {eight} s");
    }
    // Longer than any model's context: refused, as an answer and as a part.
    let long = "word ".repeat(1 << 20);
    assert_eq!(chat(&input(0, &json!({"question": long, "answer": "a"}))), Reached::Partly);
    assert_eq!(chat(&input(0, &json!({"question": long.repeat(4), "answer": "a"}))), Reached::Refused);
}

#[test]
fn nested_without_end() {
    for depth in [100, 127, 128, 129, 100_000] {
        let nested = format!("\0{{\"caption\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(chat(nested.as_bytes()) < Reached::Works);
        assert_eq!(pack(&nested.as_bytes()[1..]), Reached::Refused);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_place_of_a_good_record_holds_anything(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value in any_json(),
        pictures in 0u8..4,
    ) {
        let records = good();
        let mut record = records[which.index(records.len())].clone();
        let places = record.to_string().matches([':', ',', '[', '{']).count();
        replace(&mut record, &mut at.index(places + 1), &value);
        chat(&input(pictures, &record));
    }

    #[test]
    fn one_place_of_a_good_pack_holds_anything(
        which in 0usize..2,
        at in any::<prop::sample::Index>(),
        value in any_json(),
    ) {
        let mut json = packs().swap_remove(which);
        let places = json.to_string().matches([':', ',', '[', '{']).count();
        replace(&mut json, &mut at.index(places + 1), &value);
        pack(json.to_string().as_bytes());
    }

    #[test]
    fn every_field_holds_anything(
        fields in prop::collection::vec((prop::sample::select(FIELDS.as_slice()), any_json()), 0..6),
        pictures in 0u8..4,
    ) {
        let record = Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        chat(&input(pictures, &record));
        pack(record.to_string().as_bytes());
    }
}
