//! The lists, their places, folding as it shows in verdicts, the asset, and configurations that are refused.

use ovhost_sdk::testing;

use super::*;

fn reason(config: Json, text: &str) -> Option<String> {
    let outcome = testing::filter::<Refusal>(config).unwrap().run(json!([{ "text": text }]));
    outcome.reasons()[0].map(String::from)
}

fn by_default(text: &str) -> Option<String> {
    reason(json!({}), text)
}

#[test]
fn good_texts_stay() {
    for text in [
        "A man says sorry to a dog. He cannot swim, as an aid worker tells him.",
        "A poster for an AI conference shows a language model of clay.",
        "The portrait looks to me as an AI-generated image would; 作为AI生成的图片，细节很多。",
        "The stock photographer waits; cookies lie on a plate.",
        "一只棕色的狗在草地上奔跑，旁边有两个孩子。",
        "",
    ] {
        assert_eq!(by_default(text), None, "{text}");
    }
}

#[test]
fn every_list_has_its_reason_in_both_languages() {
    for (text, want) in [
        ("I’m sorry, but I can’t help with that.", "refusal"),
        ("I CANNOT ASSIST WITH THAT REQUEST.", "refusal"),
        ("抱歉，我不能描述。", "refusal"),
        ("Well, as an AI language model, I only read text.", "AI identity"),
        ("这个问题，作为一个 AI 语言模型，很难回答。", "AI identity"),
        ("It seems I am unable to view images here.", "no image"),
        ("好的，请上传图片。", "no image"),
        ("Lorem  ipsum dolor sit amet", "boilerplate"),
        ("To go on, enable JavaScript in your browser.", "boilerplate"),
        ("dog - Royalty‑Free stock", "boilerplate"),
        ("风景 版权所有 2020", "boilerplate"),
    ] {
        assert_eq!(by_default(text).as_deref(), Some(want), "{text}");
    }
}

#[test]
fn every_phrase_of_every_list_is_found_where_it_counts() {
    let phrases = || LISTS.iter().enumerate().flat_map(|(list, text)| lines(text).map(move |(_, line)| (list, line)));
    let rows: Vec<_> = phrases().map(|(_, phrase)| json!({ "text": format!("A dog.\n{phrase}, x") })).collect();
    let outcome = testing::filter::<Refusal>(json!({})).unwrap().run(json!(rows));
    for ((list, phrase), found) in phrases().zip(outcome.reasons()) {
        let at = REASONS.iter().position(|reason| Some(*reason) == found);
        // A phrase may hold one of an earlier list; never of a later one alone.
        assert!(at.is_some_and(|at| at <= list), "{phrase}: {found:?}");
    }
}

#[test]
fn no_list_has_a_phrase_twice() {
    let folding = Folding { case: true, forms: true };
    let mut seen = std::collections::BTreeSet::new();
    for (_, phrase) in LISTS.iter().flat_map(|text| lines(text)) {
        assert!(seen.insert(folding.phrase(phrase).to_lowercase()), "{phrase} is there twice");
    }
}

#[test]
fn of_several_lists_the_first_gives_the_reason() {
    assert_eq!(by_default("Lorem ipsum. As an AI, no.\nI cannot.").as_deref(), Some("refusal"));
    assert_eq!(by_default("Lorem ipsum. As an AI, no.").as_deref(), Some("AI identity"));
}

#[test]
fn plain_speech_is_no_refusal() {
    for text in [
        "I can't believe how beautiful this place is!",
        "I cannot wait for summer!",
        "I can’t help but smile at this dog.",
        "“I CAN'T WAIT” says the shirt.",
    ] {
        assert_eq!(by_default(text), None, "{text}");
    }
    for text in
        ["I can't help with that.", "I cannot.", "I can't standardise", "I cannot believe it. Still:\nI cannot say."]
    {
        assert_eq!(by_default(text).as_deref(), Some("refusal"), "{text}");
    }
    // A recipe's own phrases have no exceptions.
    assert_eq!(reason(json!({ "phrases": ["I cannot wait"] }), "I cannot wait!").as_deref(), Some("phrase"));
}

#[test]
fn numbers_and_speakers_may_come_before() {
    for text in [
        "1. I'm sorry, I can't see the image.",
        "Assistant: I'm sorry, I can't",
        "**Assistant:** 2) \"I'm really sorry, but I can't help",
        "A dog.\nAnswer: I cannot say.",
        "Im sorry, I cant",
        "I cant see it",
        "助手：抱歉，我不能",
    ] {
        assert_eq!(by_default(text).as_deref(), Some("refusal"), "{text}");
    }
    assert_eq!(reason(json!({ "refusal": "text_start" }), "Assistant:\nI'm sorry, no").as_deref(), Some("refusal"));
    for text in ["The poster says: I cannot swim in there", "1.5 I cannot"] {
        assert_eq!(by_default(text), None, "{text}");
    }
}

#[test]
fn case_is_folded_in_all_scripts() {
    let has = |phrase: &str, text: &str| reason(json!({ "phrases": [phrase] }), text).is_some();
    assert!(has("ΟΔΟΣ", "η οδος εδώ") && has("οδός", "Η ΟΔΌΣ"));
    assert!(has("ขอโทษ", "ฉันขอโทษด้วย"), "Thai has no spaces between words");
}

#[test]
fn places() {
    let at = |place: &str, text: &str| reason(json!({ "refusal": place }), text).is_some();
    let (first, line, inside) = ("\"**I cannot see.", "A dog.\n- I cannot see.", "A dog. I cannot see.");
    for (place, want) in [
        ("off", [false, false, false]),
        ("text_start", [true, false, false]),
        ("line_start", [true, true, false]),
        ("anywhere", [true, true, true]),
    ] {
        assert_eq!([first, line, inside].map(|text| at(place, text)), want, "{place}");
    }
    // A first match in the wrong place does not hide a later one in the right place.
    assert!(at("line_start", "He said: I cannot.\nI cannot."));
}

#[test]
fn phrases_are_whole_words() {
    let has = |text: &str| reason(json!({ "phrases": ["art", "艺术", "(c)"] }), text).is_some();
    assert!(has("art") && has("Art, new") && has("an art."));
    assert!(!has("party") && !has("artful") && !has("start") && !has("art1"));
    assert!(has("现代艺术馆") && has("中art文"));
    assert!(has("x(c)x"), "no word ends at a bracket");
}

#[test]
fn folding_can_be_turned_off() {
    let with = |case: bool, forms: bool, text: &str| {
        reason(json!({ "fold_case": case, "fold_forms": forms, "phrases": ["Élan vital"] }), text).is_some()
    };
    assert!(with(true, true, "I’M SORRY") && with(true, true, "ÉLAN\u{A0}VITAL"));
    assert!(!with(false, true, "I’M SORRY") && with(false, true, "I’m sorry"));
    assert!(!with(true, false, "I’M SORRY") && with(true, false, "I'M SORRY"));
    assert!(!with(true, false, "ÉLAN\u{A0}VITAL") && with(true, false, "ÉLAN VITAL"));
    assert!(!with(false, false, "élan vital") && with(false, false, "Élan vital"));
}

#[test]
fn phrases_come_from_the_asset_too() {
    let file = "\u{FEFF}# names\n\nWatermark  by\r\n水印\n";
    let assets = [("phrases", file.as_bytes())];
    let mut plugin = testing::filter_with_assets::<Refusal>(json!({ "phrases": ["draft"] }), &assets).unwrap();
    let texts = ["a watermark by X", "有水印的图", "a draft", "names"];
    let outcome = plugin.run(texts.map(|text| json!({ "text": text })).into_iter().collect());
    assert_eq!(outcome.reasons(), [Some("phrase"), Some("phrase"), Some("phrase"), None]);
}

#[test]
fn a_row_s_verdict_does_not_depend_on_the_rows_before() {
    let texts = ["ＡＩ “so” and a long line that fills the buffer", "I can", "I’m sorry", "not", "a dog"];
    let rows: Vec<_> = texts.iter().map(|text| json!({ "text": text })).collect();
    let mut plugin = testing::filter::<Refusal>(json!({})).unwrap();
    let together = plugin.run(json!(rows)).kept();
    let apart: Vec<bool> = rows.iter().map(|row| plugin.run(json!([row])).kept()[0]).collect();
    assert_eq!(together, apart);
    assert_eq!(together, [true, true, false, true, true]);
}

#[test]
fn rows_without_text() {
    let run = |no_text: &str| {
        testing::filter::<Refusal>(json!({ "no_text": no_text })).unwrap().run(json!([{ "text": null }]))
    };
    assert_eq!(run("drop").reasons(), [Some("no text")]);
    assert_eq!(run("keep").kept(), [true]);
    assert_eq!(run("error").errors(), [(0, "no text")]);
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({ "phrases": ["ok", " ", "—"], "phrases_at": "off" });
    let error = testing::filter::<Refusal>(bad).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/phrases/1", "/phrases/2", "/phrases_at"]);
    let asset = |file: &[u8]| {
        let error = testing::filter_with_assets::<Refusal>(json!({}), &[("phrases", file)]).err().unwrap();
        error.findings[0].message.clone()
    };
    assert!(asset(b"# nothing\n").contains("no phrase"));
    assert!(asset(b"good one\n\nx\n").contains("line 3"));
    assert!(asset(b"\xff").contains("not UTF-8"));
    assert_eq!(testing::filter::<Refusal>(json!({ "refusal": "middle" })).err().unwrap().findings[0].path, "/refusal");
}
