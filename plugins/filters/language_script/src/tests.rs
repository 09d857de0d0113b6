//! Every rule with its edge, the added columns, names of scripts, and configurations that are refused.

use ovhost_sdk::testing;

use super::*;

fn reason(config: Json, text: &str) -> Option<String> {
    let outcome = testing::filter::<LanguageScript>(config).unwrap().run(json!([{ "text": text }]));
    outcome.reasons()[0].map(String::from)
}

#[test]
fn by_default_texts_are_named_and_kept() {
    let mut plugin = testing::filter::<LanguageScript>(json!({})).unwrap();
    let outcome = plugin.run(json!([
        { "text": "A dog. 一只狗" }, { "text": "一只棕色的狗 runs" }, { "text": "42" }, { "text": null }, { "text": "p\u{430}ypal" }
    ]));
    assert_eq!(outcome.reasons(), [None, None, None, Some("no text"), Some("mixed words")]);
    let want = [json!("Latin"), json!("Han"), Json::Null, Json::Null, json!("Latin")];
    assert_eq!(outcome.column("script"), want);
    assert_eq!(outcome.column("script-share"), vec![Json::Null; 5]);
}

#[test]
fn shares_are_added_on_request() {
    let mut plugin = testing::filter::<LanguageScript>(json!({ "add_share": true })).unwrap();
    let outcome = plugin.run(json!([{ "text": "abc 狗" }, { "text": "!" }]));
    assert_eq!(outcome.column("script-share"), [json!(0.75), Json::Null]);
}

#[test]
fn allowed_scripts_need_their_share() {
    let with =
        |allowed: &[&str], least: f64, text: &str| reason(json!({ "allowed": allowed, "min_allowed": least }), text);
    assert_eq!(with(&["Latin"], 0.75, "abc 狗"), None);
    assert_eq!(with(&["Latin"], 0.76, "abc 狗").as_deref(), Some("script not allowed"));
    assert_eq!(with(&["Latin", "Han"], 1.0, "abc 狗"), None);
    assert_eq!(with(&["Chinese"], 0.9, "今日は犬").as_deref(), Some("script not allowed"));
    assert_eq!(with(&["Japanese"], 1.0, "今日は犬とラーメン"), None);
    assert_eq!(with(&["Korean"], 1.0, "강아지 犬"), None);
    assert_eq!(with(&["latn"], 1.0, "1234"), None, "no letter is no wrong letter");
    assert_eq!(with(&["old italic", "LATIN"], 1.0, "abc"), None);
}

#[test]
fn forbidden_scripts_have_a_bound() {
    let with = |most: f64, text: &str| reason(json!({ "forbidden": ["Cyrl", "Arabic"], "max_forbidden": most }), text);
    assert_eq!(with(0.0, "a dog"), None);
    assert_eq!(with(0.0, "a dog, собака").as_deref(), Some("forbidden script"));
    assert_eq!(with(0.25, "abc б"), None);
    assert_eq!(with(0.24, "abc б").as_deref(), Some("forbidden script"));
}

#[test]
fn what_one_name_allows_another_does_not_forbid() {
    let with =
        |text: &str| reason(json!({ "allowed": ["Japanese"], "forbidden": ["Korean"], "min_allowed": 0.5 }), text);
    assert_eq!(with("今日は犬とラーメン"), None);
    assert_eq!(with("今日は犬と 한").as_deref(), Some("forbidden script"));
    assert_eq!(reason(json!({ "forbidden": ["Korean"] }), "今日は犬と").as_deref(), Some("forbidden script"));
}

#[test]
fn scripts_that_do_not_look_alike_are_no_mixture() {
    for text in ["iPhone은 Apple이", "ใช้iPhoneถ่ายรูป", "الـPDF", "ה-PDF PDFים", "हिन्दीPDF"]
    {
        assert_eq!(reason(json!({}), text), None, "{text}");
    }
}

#[test]
fn mixed_texts_and_words() {
    let text = "abcd 狗狗 где";
    let scripts = |most: u32, floor: f64| reason(json!({ "max_scripts": most, "script_floor": floor }), text);
    assert_eq!(scripts(0, 0.05), None);
    assert_eq!(scripts(2, 0.05).as_deref(), Some("too many scripts"));
    assert_eq!(scripts(3, 0.05), None);
    assert_eq!(scripts(2, 0.3), None, "Han has only two of nine");
    let words = |most: f64| reason(json!({ "max_mixed_words": most }), "p\u{430}ypal is here now");
    assert_eq!(words(0.25), None);
    assert_eq!(words(0.24).as_deref(), Some("mixed words"));
    assert_eq!(reason(json!({ "max_mixed_words": 1 }), "p\u{430}y"), None);
}

#[test]
fn rows_without_text_or_letters() {
    let run = |config: Json, text: Json| {
        let outcome = testing::filter::<LanguageScript>(config).unwrap().run(json!([{ "text": text }]));
        match outcome.errors().first() {
            Some((_, message)) => format!("error: {message}"),
            None => outcome.reasons()[0].unwrap_or("kept").to_owned(),
        }
    };
    assert_eq!(run(json!({ "no_text": "keep" }), Json::Null), "kept");
    assert_eq!(run(json!({ "no_text": "error" }), Json::Null), "error: no text");
    assert_eq!(run(json!({ "no_letters": "drop" }), json!("42 !")), "no letters");
    assert_eq!(run(json!({ "no_letters": "error" }), json!("")), "error: no letters");
    assert_eq!(run(json!({ "allowed": ["Han"] }), json!("42")), "kept");
}

#[test]
fn verdicts_do_not_depend_on_the_rows_before() {
    let texts = ["где狗", "a", "狗狗狗", "1", "p\u{430}", "abc"];
    let mut plugin = testing::filter::<LanguageScript>(json!({ "allowed": ["Latin"] })).unwrap();
    let together = plugin.run(texts.map(|text| json!({ "text": text })).into_iter().collect());
    let apart: Vec<_> = texts.iter().map(|text| reason(json!({ "allowed": ["Latin"] }), text)).collect();
    assert_eq!(together.reasons(), apart.iter().map(Option::as_deref).collect::<Vec<_>>());
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({
        "allowed": ["Latin", "English"], "forbidden": ["Common", "latn"], "min_allowed": 95, "max_mixed_words": -1
    });
    let error = testing::filter::<LanguageScript>(bad).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/min_allowed", "/max_mixed_words", "/allowed/1", "/forbidden/0", "/forbidden/1"]);
    assert!(error.findings[2].message.contains("\"English\" is no script"));
    assert!(error.findings[4].message.contains("`allowed` too"));
    let idle = json!({ "min_allowed": 0.5, "max_forbidden": 0.1, "script_floor": 0.2 });
    let error = testing::filter::<LanguageScript>(idle).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/min_allowed", "/max_forbidden", "/script_floor"]);
    let used = json!({ "min_allowed": 0.5, "allowed": ["Latin"], "script_floor": 0.2, "max_scripts": 2 });
    assert!(testing::filter::<LanguageScript>(used).is_ok());
}
