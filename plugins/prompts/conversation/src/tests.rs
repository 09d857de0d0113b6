//! Golden conversations of every shape, in a short notation: `user[I0 "text"] | assistant*["text"]`, `*` is learnt.

use super::*;
use ovhost_sdk::testing;

fn show(rendered: &Rendered) -> String {
    let Rendered::Conversation(messages) = rendered else { panic!("segments") };
    let part = |part: &Part| match part {
        Part::Text(text) => format!("{text:?}"),
        Part::Image(i) => format!("I{i}"),
        Part::Video(i) => format!("V{i}"),
    };
    let message = |m: &Message| {
        let parts: Vec<_> = m.parts.iter().map(part).collect();
        format!("{}{}[{}]", m.role, if m.train { "*" } else { "" }, parts.join(" "))
    };
    messages.iter().map(message).collect::<Vec<_>>().join(" | ")
}

fn render(config: Json, mode: Mode, images: u32, record: Json) -> Result<String, String> {
    let mut prompt = testing::prompt::<Conversation>(config).unwrap();
    let row = json!([{ "record": record.to_string(), "num-images": images }]);
    prompt.run(mode, row).remove(0).map(|rendered| show(&rendered))
}

fn both(config: Json, images: u32, record: Json) -> [String; 2] {
    [Mode::Train, Mode::Generate].map(|mode| render(config.clone(), mode, images, record.clone()).unwrap())
}

#[test]
fn llava_conversations() {
    let record = json!({ "id": 1, "conversations": [
        { "from": "human", "value": "<image>\nWhat is it?" }, { "from": "gpt", "value": "A <image> tag." },
        { "from": "human", "value": "Sure?" }, { "from": "gpt", "value": "Yes." },
    ]});
    let start = r#"user[I0 "\nWhat is it?"] | assistant*["A <image> tag."] | user["Sure?"]"#;
    assert_eq!(both(json!({}), 1, record), [format!(r#"{start} | assistant*["Yes."]"#), start.to_owned()]);
}

#[test]
fn openai_messages_with_parts_and_a_system_message() {
    let record = json!({ "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [
            { "type": "text", "text": "Compare " }, { "type": "image_url", "image_url": { "url": "0.png" } },
            { "type": "text", "text": " and " }, { "type": "image" }, { "type": "text", "text": ". Not <image>." },
        ]},
        { "role": "assistant", "content": "Same." },
    ]});
    let start = r#"system["Be brief."] | user["Compare " I0 " and " I1 ". Not <image>."]"#;
    let config = json!({ "system": "Unused: the record has its own." });
    assert_eq!(both(config, 2, record), [format!(r#"{start} | assistant*["Same."]"#), start.to_owned()]);
}

#[test]
fn captions() {
    let record = json!({ "caption": "A red square." });
    let want = [r#"user[I0] | assistant*["A red square."]"#, "user[I0]"];
    assert_eq!(both(json!({}), 1, record.clone()), want);
    let config = json!({ "caption_prompt": "Describe it.", "system": "You see." });
    let want = [
        r#"system["You see."] | user[I0 "Describe it."] | assistant*["A red square."]"#,
        r#"system["You see."] | user[I0 "Describe it."]"#,
    ];
    assert_eq!(both(config, 1, record), want);
    let prompt = json!({ "caption_prompt": "Look: <image> What?" });
    let want = r#"user["Look: " I0 " What?"] | assistant*["T"]"#;
    assert_eq!(render(prompt, Mode::Train, 1, json!({ "text": "T", "caption": null })).unwrap(), want);
}

#[test]
fn questions() {
    let config = json!({ "instruction": "One word." });
    let record = json!({ "question": "What color?", "answer": "red" });
    let want = [r#"user[I0 "What color?\nOne word."] | assistant*["red"]"#, r#"user[I0 "What color?\nOne word."]"#];
    assert_eq!(both(config, 1, record), want);
    // The majority of `answers`; the earliest of several.
    for (answers, want) in [
        (json!(["blue", "red", "red"]), "red"),
        (json!(["blue", "red"]), "blue"),
        (json!([{ "answer": "no", "answer_id": 1 }]), "no"),
        (json!([4, 4.5, 4.5]), "4.5"),
    ] {
        let record = json!({ "question": "Q", "answers": answers });
        let want = format!(r#"user["Q"] | assistant*["{want}"]"#);
        assert_eq!(render(json!({}), Mode::Train, 0, record).unwrap(), want);
    }
    // Asking needs no answer.
    assert_eq!(render(json!({}), Mode::Generate, 0, json!({ "question": "Q" })).unwrap(), r#"user["Q"]"#);
}

fn qa(count: usize) -> Json {
    json!({ "qa": (0..count).map(|i| json!({ "question": format!("q{i}"), "answer": i })).collect::<Vec<_>>() })
}

#[test]
fn pairs_become_one_conversation() {
    let want = [r#"user[I0 "q0"] | assistant*["0"] | user["q1"] | assistant*["1"]"#, r#"user[I0 "q0"]"#];
    assert_eq!(both(json!({}), 1, qa(2)), want);
    let two = render(json!({ "max_turns": 2 }), Mode::Train, 1, qa(9)).unwrap();
    assert_eq!(two, r#"user[I0 "q0"] | assistant*["0"] | user["q1"] | assistant*["1"]"#);
    // What is asked does not depend on shuffling.
    assert_eq!(render(json!({ "shuffle_turns": true }), Mode::Generate, 1, qa(9)).unwrap(), r#"user[I0 "q0"]"#);
}

#[test]
fn shuffling_is_seeded_by_the_row_alone() {
    let mut prompt = testing::prompt::<Conversation>(json!({ "shuffle_turns": true })).unwrap();
    let rows = |n: usize| json!(vec![json!({ "record": qa(6).to_string(), "num-images": 1 }); n]);
    let mut run = |n: usize| -> Vec<String> {
        prompt.run(Mode::Train, rows(n)).iter().map(|r| show(r.as_ref().unwrap())).collect()
    };
    let cut = [run(1), run(3)].concat();
    let mut fresh = testing::prompt::<Conversation>(json!({ "shuffle_turns": true })).unwrap();
    let whole: Vec<_> = fresh.run(Mode::Train, rows(4)).iter().map(|r| show(r.as_ref().unwrap())).collect();
    assert_eq!(cut, whole);
    assert!(whole.windows(2).any(|pair| pair[0] != pair[1]), "rows differ in order");
    for text in whole {
        assert!(text.starts_with("user[I0 \"q"), "the image stays in the first turn: {text}");
        (0..6).for_each(|i| assert_eq!(text.matches(&format!(r#""q{i}"] | assistant*["{i}"]"#)).count(), 1));
    }
}

#[test]
fn places_and_images_must_agree() {
    let ask =
        |text: &str, images: u32| render(json!({}), Mode::Train, images, json!({ "question": text, "answer": "a" }));
    assert_eq!(ask("no place", 3).unwrap(), r#"user[I0 I1 I2 "no place"] | assistant*["a"]"#);
    assert_eq!(ask("<image><image>", 2).unwrap(), r#"user[I0 I1] | assistant*["a"]"#);
    let error = ask("<image> and <image>", 1).unwrap_err();
    assert!(error.contains("2 <image> placeholders") && error.contains("1 image;"), "{error}");
    let error = ask("<image>", 0).unwrap_err();
    assert!(error.contains("1 <image> placeholder,") && error.contains("0 images"), "{error}");
}

#[test]
fn rows_that_are_none_of_this_say_why() {
    let cases = [
        (json!({ "url": "x", "size": 3 }), "it has: url, size"),
        (json!([1]), "no JSON object"),
        (json!({ "conversations": [{ "from": "bing", "value": "x" }] }), "`conversations[0].from` is \"bing\""),
        (json!({ "messages": [{ "role": "user", "content": 3 }] }), "`messages[0].content` is 3"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "audio" }] }] }),
            "content[0].type` is \"audio\"",
        ),
        (json!({ "messages": [{ "role": "user", "content": "x" }] }), "ends with a user's turn"),
        (json!({ "messages": [{ "role": "assistant", "content": "x" }] }), "before any user's turn"),
        (json!({ "messages": [{ "role": "system", "content": "x" }] }), "no user's turn"),
        (json!({ "messages": [] }), "no turn"),
        (json!({ "question": "q" }), "`answer` and `answers` are missing"),
        (json!({ "question": "q", "answer": " " }), "the answer in turn 1 is empty"),
        (json!({ "question": "q", "answers": [] }), "`answers` is []"),
        (json!({ "qa": [{ "question": "q", "answer": "a" }, { "answer": "a" }] }), "`qa[1].question` is missing"),
        (json!({ "qa": [] }), "`qa` is an empty list"),
        (json!({ "caption": 3 }), "`caption` is 3"),
        (json!({ "text": "no image, no question" }), "needs `caption_prompt`"),
    ];
    for (record, want) in cases {
        let error = render(json!({}), Mode::Train, 0, record.clone()).unwrap_err();
        assert!(error.contains(want), "{record}: {error}");
    }
    let placed = json!({ "qa": [{ "question": "<image>q", "answer": "a" }] });
    assert!(render(json!({ "shuffle_turns": true }), Mode::Train, 1, placed).unwrap_err().contains("shuffle_turns"));
}
