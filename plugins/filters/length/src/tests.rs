//! Every bound with its edge, the measures, and configurations that make no sense.

use conversation as _;
use ovhost_sdk::testing;

use super::*;

fn judge(config: Json, row: Json) -> Result<Option<String>, String> {
    judge_by::<Length>(config, row)
}

fn judge_by<F: Filter>(config: Json, row: Json) -> Result<Option<String>, String> {
    let outcome = testing::filter::<F>(config).unwrap().run(json!([row]));
    match outcome.errors().first() {
        Some((_, message)) => Err((*message).to_owned()),
        None => Ok(outcome.reasons()[0].map(String::from)),
    }
}

/// The verdict with only the bounds of `config`.
fn alone(mut config: Json, row: Json) -> Option<String> {
    for off in ["min_chars", "min_words"] {
        if config.get(off).is_none() {
            config[off] = json!(0);
        }
    }
    judge(config, row).unwrap()
}

#[test]
fn defaults_are_the_datacomp_caption_rule() {
    let reason = |text: &str| judge(json!({}), json!({ "text": text })).unwrap();
    assert_eq!(reason("a b cd"), None);
    assert_eq!(reason("a b c").as_deref(), Some("too few characters"));
    assert_eq!(reason("shiny bicycle").as_deref(), Some("too few words"));
    assert_eq!(reason("一只棕色狗"), Some("too few characters".into()));
    assert_eq!(reason("一只棕色的狗"), None);
    assert_eq!(reason(""), Some("too few characters".into()));
}

#[test]
fn bounds_are_inclusive_and_have_their_reasons() {
    let three = "One dog runs.\n\nTwo cats sleep! A bird";
    let cases = [
        ("chars", 37, "too few characters", "too many characters"),
        ("words", 8, "too few words", "too many words"),
        ("lines", 2, "too few lines", "too many lines"),
        ("sentences", 3, "too few sentences", "too many sentences"),
    ];
    for (name, value, low, high) in cases {
        let with = |side: &str, bound: u32| {
            let key = format!("{side}_{name}");
            alone(json!({ (key.as_str()): bound }), json!({ "text": three }))
        };
        assert_eq!(with("min", value), None, "{name}");
        assert_eq!(with("max", value), None, "{name}");
        assert_eq!(with("min", value + 1).as_deref(), Some(low));
        assert_eq!(with("max", value - 1).as_deref(), Some(high));
    }
}

#[test]
fn sentences_and_words_of_several_scripts() {
    for (text, want) in [
        ("", 0),
        ("...", 0),
        ("no end", 1),
        ("It is 3.5 m. Really?! Yes…", 3),
        ("He said \"Go.\" She went.", 2),
        ("一只狗。两只猫！三只鸟", 3),
        ("title\nline", 2),
        ("see example.com now", 1),
    ] {
        assert_eq!(measure::sentences(text), want, "{text}");
    }
    assert_eq!(measure::mean_word("ab abcd"), Some(3.0));
    assert_eq!(measure::mean_word("这是 abcd 吗"), Some(4.0));
    assert_eq!(measure::mean_word("这是吗"), None);
    assert_eq!(measure::mean_word("สุนัข abcd"), Some(4.0));
    assert_eq!(measure::words("สุนัขสีน้ำตาล"), 9);
    let mean = |text: &str| alone(json!({ "min_mean_word": 3, "max_mean_word": 10 }), json!({ "text": text }));
    assert_eq!(mean("a b c d").as_deref(), Some("words too short"));
    assert_eq!(mean("abc abc"), None);
    assert_eq!(mean("incomprehensibilities abc").as_deref(), Some("words too long"));
    assert_eq!(mean("这是一只狗"), None);
}

#[test]
fn tokens_come_from_the_host() {
    let with = |config: Json, tokens: Json| judge_by::<LengthTokens>(config, json!({ "text-tokens": tokens }));
    let bounds = || json!({ "min_tokens": 2, "max_tokens": 4 });
    assert_eq!(with(bounds(), json!(1)).unwrap().as_deref(), Some("too few tokens"));
    assert_eq!((with(bounds(), json!(2)), with(bounds(), json!(4))), (Ok(None), Ok(None)));
    assert_eq!(with(bounds(), json!(5)).unwrap().as_deref(), Some("too many tokens"));
    assert!(with(bounds(), Json::Null).unwrap_err().contains("--tokenizer"));
    assert_eq!(with(json!({}), json!(0)).unwrap().as_deref(), Some("too few tokens"));
    assert_eq!(with(json!({}), json!(1)), Ok(None));
}

#[test]
fn no_entry_asks_for_more_than_it_judges() {
    // The host makes every column that is named, and tokens are costly to make.
    let names = |reads: &[Need]| reads.iter().map(|need| (need.name, need.required)).collect::<Vec<_>>();
    assert_eq!(names(Length::READS), [("text", true), ("widths", false), ("heights", false)]);
    assert_eq!(names(LengthTokens::READS), [("text-tokens", true)]);
    assert_eq!(names(LengthTurns::READS), [("record", true)]);
}

#[test]
fn turns_are_the_model_s_answers() {
    let turn = |role: &str| json!({ "from": role, "value": "x" });
    let chat = json!({ "conversations": [turn("system"), turn("human"), turn("gpt"), turn("human"), turn("gpt")] });
    let messages = json!({ "messages": [{ "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }] });
    for (record, want) in [
        (chat.clone(), 2),
        (messages, 1),
        (json!({ "qa": [{}, {}, {}] }), 3),
        (json!({ "caption": "c" }), 1),
        (json!({ "conversations": [] }), 0),
    ] {
        assert_eq!(measure::turns(&record), want, "{record}");
    }
    let with = |config: Json, record: Json| judge_by::<LengthTurns>(config, json!({ "record": record }));
    assert_eq!(with(json!({ "min_turns": 2, "max_turns": 2 }), chat.clone()), Ok(None));
    assert_eq!(with(json!({ "min_turns": 3 }), chat.clone()).unwrap().as_deref(), Some("too few turns"));
    assert_eq!(with(json!({ "max_turns": 1 }), chat).unwrap().as_deref(), Some("too many turns"));
    assert_eq!(with(json!({}), json!({ "messages": [] })).unwrap().as_deref(), Some("too few turns"));
    assert!(with(json!({}), Json::Null).unwrap_err().contains("no `record`"));
    assert!(with(json!({}), json!("{")).unwrap_err().contains("not JSON"));
}

#[test]
fn roles_are_those_of_the_conversation_prompt() {
    assert_eq!(measure::ASSISTANT_ROLES, conversation::ASSISTANT_ROLES);
}

#[test]
fn text_in_proportion_to_the_image() {
    let config = json!({ "min_chars_per_megapixel": 10, "max_chars_per_megapixel": 100 });
    let text = "x y ".repeat(10);
    let with = |widths: Json, heights: Json| {
        judge(config.clone(), json!({ "text": text, "widths": widths, "heights": heights }))
    };
    assert_eq!(with(json!([1000]), json!([1000])), Ok(None));
    assert_eq!(with(json!([1000, 1000]), json!([2000, 2000])), Ok(None));
    assert_eq!(
        with(json!([1000, 1000]), json!([2000, 2001])).unwrap().as_deref(),
        Some("too little text for the image")
    );
    assert_eq!(with(json!([400]), json!([1000])), Ok(None));
    assert_eq!(with(json!([399]), json!([1000])).unwrap().as_deref(), Some("too much text for the image"));
    assert_eq!(with(json!([]), json!([])), Ok(None), "no image, no proportion");
    assert_eq!(with(json!([5, 6]), json!([5])), Err("2 widths and 1 heights".into()));
    assert!(with(Json::Null, Json::Null).unwrap_err().contains("no `widths` and `heights`"));
    assert_eq!(with(json!([5]), Json::Null), Err("this row has no `heights`".into()));
    assert_eq!(
        with(json!([u32::MAX, u32::MAX]), json!([u32::MAX, u32::MAX])).unwrap().unwrap(),
        "too little text for the image"
    );
}

#[test]
fn rows_without_text() {
    let row = json!({ "text": null });
    assert_eq!(judge(json!({}), row.clone()), Ok(Some("no text".into())));
    assert_eq!(judge(json!({ "no_text": "keep" }), row.clone()), Ok(None));
    assert_eq!(judge(json!({ "no_text": "error" }), row), Err("no text".into()));
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({
        "min_words": 9, "max_words": 8, "min_mean_word": -1, "min_chars_per_megapixel": 2, "max_chars_per_megapixel": 1
    });
    let error = testing::filter::<Length>(bad).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/max_words", "/min_mean_word", "/max_chars_per_megapixel"]);
    assert!(error.findings[0].message.contains("min_words = 9"));
    let error = testing::filter::<Length>(json!({ "no_text": "ignore" })).err().unwrap();
    assert_eq!(error.findings[0].path, "/no_text");
    let path = |error: Option<ConfigError>| error.unwrap().findings[0].path.clone();
    let crossed = |name: &str| json!({ (format!("min_{name}").as_str()): 3, (format!("max_{name}").as_str()): 2 });
    assert_eq!(path(testing::filter::<LengthTokens>(crossed("tokens")).err()), "/max_tokens");
    assert_eq!(path(testing::filter::<LengthTurns>(crossed("turns")).err()), "/max_turns");
    assert_eq!(path(testing::filter::<Length>(json!({ "max_tokens": 9 })).err()), "/max_tokens");
}
