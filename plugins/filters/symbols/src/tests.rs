//! Every rule with its edge and its switch, several scripts, short texts, and configurations that are refused.

use ovhost_sdk::testing;

use super::*;

const GOOD: &str = "A brown dog runs over a wet meadow while two children watch from a bench.";

fn reason(config: Json, text: &str) -> Option<String> {
    let outcome = testing::filter::<Symbols>(config).unwrap().run(json!([{ "text": text }]));
    outcome.reasons()[0].map(String::from)
}

fn by_default(text: &str) -> Option<String> {
    reason(json!({}), text)
}

#[test]
fn good_texts_stay() {
    for text in [
        GOOD,
        "一只棕色的狗在湿漉漉的草地上奔跑，“旁边”有两个孩子坐在长椅上看着。",
        "Собака бежит по мокрому лугу, двое детей смотрят на неё со скамейки.",
        "Price: $5 & up (50% off), see menu <image> for the rest of our offers, A/B.",
        "42",
        "USA",
        "",
        "   ",
    ] {
        assert_eq!(by_default(text), None, "{text}");
    }
}

/// A text that breaks the rule, the key that turns the rule off, and the value that does.
const BROKEN: [(&str, &str, &str, f64); 14] = [
    ("control characters", "A dog\u{1} on grass", "max_control", 1.0),
    ("replacement characters", "A caf\u{FFFD} on the corner", "max_replacement", 1.0),
    ("mojibake", "A dog that doesnâ€™t run", "max_mojibake", 1.0),
    ("too few letters and digits", "~~~~~~~ ***** ab", "min_alphanumeric", 0.0),
    ("too much URL", "dog https://example.com/pictures/dog/1234", "max_url", 1.0),
    ("too much HTML", "<p>A dog</p><br/><br/>", "max_html", 1.0),
    ("too many emoji", "love 😍😍😍😍 it", "max_emoji", 1.0),
    ("too few alphabetic words", "a b c d e f g 1 2 3", "min_alphabetic_words", 0.0),
    ("too many hashes", "#dog #cat a b c d e f g h i j", "max_hashes", 1.0),
    ("too many ellipses", "a dog... and a cat… and then the end of it all", "max_ellipses", 1.0),
    ("too many digits", "a1111 b2222 c3333 d4444 e55 f66 g77 h88 i99 j00", "max_digits", 1.0),
    ("too many capitals", "A BROWN DOG RUNS OVER A WET MEADOW AND BARKS AT CATs", "max_capitals", 1.0),
    ("too many bullet lines", "• a dog\n• a cat\n- a bird", "max_bullet_lines", 1.0),
    ("too many ellipsis lines", "A dog runs...\nA cat sleeps…\nA bird sings.", "max_ellipsis_lines", 1.0),
];

#[test]
fn every_rule_has_its_reason_and_its_switch() {
    for (want, text, key, off) in BROKEN {
        assert_eq!(by_default(text).as_deref(), Some(want), "{text}");
        assert_eq!(reason(json!({ (key): off }), text), None, "{text}");
    }
}

#[test]
fn every_rule_of_the_configuration_is_tested() {
    let keys: Vec<_> = BROKEN.iter().map(|(_, _, key, _)| *key).collect();
    assert_eq!(keys, Config::default().shares().map(|(key, _)| key));
}

#[test]
fn a_run_of_dots_is_one_ellipsis() {
    for (text, want) in
        [("a... b", 1), ("a...... b", 1), ("好……", 1), ("……。…", 2), ("a.. b.", 0), ("a…... b ....", 2), ("", 0)]
    {
        assert_eq!(count::ellipses(text), want, "{text}");
    }
    for ellipsis in ["...", "......", "…", "……"] {
        assert_eq!(by_default(&format!("一只棕色的狗在草地上{ellipsis}")), None, "{ellipsis}");
        assert_eq!(
            by_default(&format!("一只{ellipsis}棕色的狗在草地上{ellipsis}")).as_deref(),
            Some("too many ellipses"),
            "{ellipsis}"
        );
    }
}

#[test]
fn scripts_without_spaces_have_as_many_words_as_letters() {
    let thai = "สุนัขวิ่งบนสนามหญ้า... เด็กนั่งดู... 2 3";
    assert_eq!(by_default(thai), None);
    assert_eq!(Counts::of("กิน้ข้าว x").words, 6);
}

#[test]
fn bounds_are_inclusive() {
    let hashes = |most: f64| reason(json!({ "max_hashes": most }), "#a b c d e f g h i j");
    assert_eq!(hashes(0.1), None);
    assert_eq!(hashes(0.099).as_deref(), Some("too many hashes"));
    let digits = |most: f64| reason(json!({ "max_digits": most, "min_words": 0 }), "ab12");
    assert_eq!(digits(0.5), None);
    assert_eq!(digits(0.49).as_deref(), Some("too many digits"));
    assert_eq!(digits(0.0).as_deref(), Some("too many digits"), "0 is none allowed");
    let letters = |least: f64| reason(json!({ "min_alphanumeric": least }), "ab !!");
    assert_eq!(letters(0.5), None);
    assert_eq!(letters(0.51).as_deref(), Some("too few letters and digits"));
}

#[test]
fn short_texts_are_not_judged_by_shares_of_words() {
    let ten = |text: &str, words: u32| reason(json!({ "min_words": words }), text);
    assert_eq!(ten("1 2 3", 4), None);
    assert_eq!(ten("1 2 3", 3).as_deref(), Some("too few alphabetic words"));
    assert_eq!(ten("WOW A DOG", 4), None);
    assert_eq!(ten("WOW A DOG", 3).as_deref(), Some("too many capitals"));
    assert_eq!(by_default("- one line"), None);
    assert_eq!(reason(json!({ "min_lines": 1 }), "- one line").as_deref(), Some("too many bullet lines"));
    assert_eq!(reason(json!({ "min_lines": 3 }), "- a dog\n\n- a cat\n"), None, "blank lines are no lines");
}

#[test]
fn words_of_chinese_take_their_marks() {
    let words = |text: &str| {
        let counts = Counts::of(text);
        (counts.words, counts.alphabetic_words)
    };
    assert_eq!(words("「你好」，世界。"), (4, 4));
    assert_eq!(words("使用iPhone 手机"), (5, 5));
    assert_eq!(words("图2中"), (3, 2));
    assert_eq!(words("(hello) - 5% x1"), (4, 2));
    assert_eq!(words(""), (0, 0));
}

#[test]
fn counts_of_a_text() {
    let counts = Counts::of("Él dijo: \"#1…\" ❤️🇩🇪\n");
    let want = Counts {
        chars: 16,
        letters: 6,
        digits: 1,
        upper: 1,
        lower: 5,
        emoji: 3,
        hashes: 1,
        dots: 3,
        words: 4,
        alphabetic_words: 2,
        line_breaks: 1,
        link_mark: true,
        mojibake_lead: true,
        ..Counts::default()
    };
    assert_eq!(counts, want);
}

#[test]
fn tabs_and_line_breaks_are_no_control_characters() {
    assert_eq!(by_default("A dog\truns.\r\nA cat\u{A0}sleeps."), None);
    assert_eq!(by_default("A dog\u{85}runs"), None);
    assert_eq!(by_default("A dog\u{9B}runs").as_deref(), Some("control characters"));
}

#[test]
fn rows_without_text() {
    let run = |no_text: &str| {
        testing::filter::<Symbols>(json!({ "no_text": no_text })).unwrap().run(json!([{ "text": null }]))
    };
    assert_eq!(run("drop").reasons(), [Some("no text")]);
    assert_eq!(run("keep").kept(), [true]);
    assert_eq!(run("error").errors(), [(0, "no text")]);
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let error = testing::filter::<Symbols>(json!({ "max_url": 1.5, "min_alphanumeric": -0.1 })).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/min_alphanumeric", "/max_url"]);
    assert!(error.findings[0].message.contains("0 to 1"));
    assert_eq!(testing::filter::<Symbols>(json!({ "max_urls": 1 })).err().unwrap().findings[0].path, "/max_urls");
}
