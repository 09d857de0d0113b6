//! Every rule with its edge and its switch; shares against a slow reading of their definitions; several scripts.

use std::collections::BTreeMap;

use ovhost_sdk::testing;

use super::*;

const GOOD: &str = "A brown dog runs over a wet meadow while two children watch from a bench. Behind them stands an old \
    brick house with a red roof, and beside its door somebody has left three bicycles in the morning sun. Clouds gather \
    far away above the hills; nobody seems to mind, for the air is still warm and full of the sound of bees.";

fn reason(config: Json, text: &str) -> Option<String> {
    let outcome = testing::filter::<Repetition>(config).unwrap().run(json!([{ "text": text }]));
    outcome.reasons()[0].map(String::from)
}

/// A configuration with every rule off but those of `keep`.
fn only(keep: Json) -> Json {
    let mut config = json!({ "max_char_run": 0, "max_loop": 0, "min_words": 0 });
    let shares = Config::default();
    for (name, _) in shares.line_shares().into_iter().chain(shares.ngram_shares()) {
        config[name] = json!(1);
    }
    for (name, value) in keep.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

#[test]
fn good_texts_stay() {
    assert_eq!(reason(json!({}), GOOD), None);
    let chinese = "一只棕色的狗在湿漉漉的草地上奔跑，两个孩子坐在长椅上看着它。他们身后是一座红顶的老砖房，门边停着三辆自行车，\
        远处山丘上方聚起了云，但似乎没有人在意，因为空气依然温暖，满是蜜蜂的嗡嗡声。";
    assert_eq!(reason(json!({}), chinese), None);
    assert_eq!(reason(json!({}), "no\nno\nyes\nno"), None, "several short answers");
    assert_eq!(reason(json!({}), ""), None);
}

#[test]
fn runs_of_one_character() {
    let run = |c: &str, n: usize| reason(json!({}), &format!("a dog {} b", c.repeat(n)));
    assert_eq!(run("x", 100), None);
    assert_eq!(run("x", 101).as_deref(), Some("repeated character"));
    assert_eq!(run("é", 101).as_deref(), Some("repeated character"));
    assert_eq!(run(" ", 500), None, "white space is no character here");
    assert_eq!(reason(json!({ "max_char_run": 0 }), &"x".repeat(500)), None);
    assert_eq!(reason(json!({ "max_char_run": 2 }), "aabb"), None);
    assert_eq!(reason(json!({ "max_char_run": 2 }), "aabbb").as_deref(), Some("repeated character"));
}

#[test]
fn runs_of_a_few_characters() {
    for unit in ["- ", "😂 "] {
        assert_eq!(reason(json!({}), &unit.repeat(100)), None, "{unit}");
        assert_eq!(reason(json!({}), &unit.repeat(101)).as_deref(), Some("repeated character"), "{unit}");
    }
    for unit in ["❤️", "🇩🇪", "👍🏽", "e\u{301}", "ha", "👩🏽\u{200D}❤️\u{200D}💋\u{200D}👨🏽 ", "|-"]
    {
        assert_eq!(reason(json!({}), &format!("a dog {}", unit.repeat(100))), None, "{unit}");
        let text = format!("a dog {}", unit.repeat(101));
        assert_eq!(reason(json!({}), &text).as_deref(), Some("repeated characters"), "{unit}");
        assert_eq!(reason(json!({ "max_char_run": 0 }), &text), None, "{unit}");
    }
    assert_eq!(reason(json!({ "max_char_run": 2 }), "too old a banana"), None);
    assert_eq!(reason(json!({ "max_char_run": 2 }), "hahaha").as_deref(), Some("repeated characters"));
    assert_eq!(reason(json!({}), &"no ".repeat(200)).as_deref(), Some("repeated word"));
}

#[test]
fn scripts_without_spaces_loop_too() {
    assert_eq!(reason(json!({}), &"สุนัขวิ่งบนสนามหญ้า".repeat(6)).as_deref(), Some("top 2-gram"));
    assert_eq!(
        reason(json!({ "max_loop": 2, "loop_words": 12 }), &"ສະບາຍດີ".repeat(3)).as_deref(),
        Some("repeated phrase")
    );
    assert_eq!(reason(json!({}), "สุนัขวิ่งบนสนามหญ้าและเด็กนั่งดูอยู่ใกล้ต้นไม้ใหญ่ในสวนสาธารณะ"), None);
}

#[test]
fn loops_of_words_and_phrases() {
    let words = |n: usize| format!("A dog {}", "very, ".repeat(n));
    assert_eq!(reason(json!({}), &words(7)), None);
    assert_eq!(reason(json!({}), &words(8)).as_deref(), Some("repeated word"));
    assert_eq!(reason(json!({ "max_loop": 0 }), &words(8)), None);
    assert_eq!(reason(json!({}), &"Very very ".repeat(8)), None, "case counts");
    assert_eq!(reason(json!({}), &"哈".repeat(8)).as_deref(), Some("repeated word"));
    let phrase = |n: usize| format!("It shows {}the end", "a red hat and ".repeat(n));
    assert_eq!(reason(json!({}), &phrase(8)), None, "phrases are off");
    let three = |loop_words: u32, n: usize| reason(json!({ "max_loop": 2, "loop_words": loop_words }), &phrase(n));
    assert_eq!(three(4, 2), None);
    assert_eq!(three(4, 3).as_deref(), Some("repeated phrase"));
    assert_eq!(three(3, 3), None);
    assert_eq!(reason(json!({ "max_loop": 2, "loop_words": 2 }), "非常非常非常好").as_deref(), Some("repeated phrase"));
    assert_eq!(reason(json!({ "max_loop": 1 }), "the the").as_deref(), Some("repeated word"));
}

#[test]
fn duplicate_lines_and_paragraphs() {
    let lines = "one two\nthree\none two\nfour five six\n";
    let edge = |name: &str, text: &str, share: f64, want: &str| {
        assert_eq!(reason(only(json!({ (name): share })), text), None, "{name} at its bound");
        assert_eq!(reason(only(json!({ (name): share - 0.001 })), text).as_deref(), Some(want));
    };
    edge("max_duplicate_lines", lines, 0.25, "duplicate lines");
    // 7 of 7 + 5 + 7 + 13 characters.
    edge("max_duplicate_line_chars", lines, 7.0 / 32.0, "duplicate line characters");
    let paragraphs = "one\ntwo\n\nthree\n\none\ntwo\n \nfour";
    edge("max_duplicate_paragraphs", paragraphs, 0.25, "duplicate paragraphs");
    // "one\ntwo" has 7.
    edge("max_duplicate_paragraph_chars", paragraphs, 7.0 / 23.0, "duplicate paragraph characters");
}

#[test]
fn shares_of_ngrams_by_hand() {
    // "red hat" twice is 12 of 27 characters of the words.
    let text = "a red hat, the red hat; blue shoes on";
    let two = |most: f64| reason(only(json!({ "max_top_2gram": most })), text);
    assert_eq!(two(12.0 / 27.0), None);
    assert_eq!(two(12.0 / 27.0 - 0.001).as_deref(), Some("top 2-gram"));
    // Overlapping occurrences count each character once: all of it, not more.
    assert_eq!(reason(only(json!({ "max_top_2gram": 0.99 })), "x x x x x").as_deref(), Some("top 2-gram"));
    // Nothing comes twice.
    assert_eq!(reason(only(json!({ "max_top_2gram": 0 })), "a b c d"), None);
    // Five words that come again are half; the first time does not count.
    let text = "a b c d e, a b c d e";
    let five = |most: f64| reason(only(json!({ "max_duplicate_5grams": most })), text);
    assert_eq!(five(0.5), None);
    assert_eq!(five(0.49).as_deref(), Some("duplicate 5-grams"));
    assert_eq!(reason(only(json!({ "max_duplicate_6grams": 0 })), text), None);
}

#[test]
fn every_share_has_its_reason_in_order() {
    let keys = Config::default().ngram_shares().map(|(name, _)| name);
    let text = "a b c d e f g h i j ".repeat(2);
    for (key, want) in keys.iter().zip(NGRAM_REASONS) {
        assert_eq!(reason(only(json!({ (*key): 0.05 })), &text).as_deref(), Some(want), "{key}");
        assert!(want.contains(&key.chars().filter(char::is_ascii_digit).collect::<String>()));
    }
}

/// The shares as their definitions read, without any cleverness.
fn slow_shares(text: &str) -> Vec<f64> {
    let words: Vec<&str> = ovhost_sdk::text::words(text).collect();
    let length = |words: &[&str]| words.iter().map(|word| word.chars().count()).sum::<usize>();
    let all = length(&words).max(1) as f64;
    NS.map(|n| {
        if n <= MOST_TOP {
            let mut places = BTreeMap::<&[&str], Vec<usize>>::new();
            words.windows(n).enumerate().for_each(|(i, gram)| places.entry(gram).or_default().push(i));
            let most = places.values().map(Vec::len).max().unwrap_or(0);
            let longest = places.iter().filter(|(_, at)| at.len() == most).map(|(gram, _)| length(gram)).max();
            let mut best = places.iter().filter(|(gram, at)| at.len() == most && Some(length(gram)) == longest);
            let first = best.by_ref().min_by_key(|(_, at)| at[0]);
            let Some((_, at)) = first.filter(|_| most > 1) else { return 0.0 };
            let covered = (0..words.len()).filter(|i| at.iter().any(|at| (*at..at + n).contains(i)));
            covered.map(|i| length(&words[i..=i])).sum::<usize>() as f64 / all
        } else {
            let (mut seen, mut covered, mut i) = (Vec::new(), 0, 0);
            while i + n <= words.len() {
                let gram = &words[i..i + n];
                if seen.contains(&gram) {
                    covered += length(gram);
                    i += n;
                } else {
                    seen.push(gram);
                    i += 1;
                }
            }
            covered as f64 / all
        }
    })
    .collect()
}

#[test]
fn shares_are_those_of_their_definitions() {
    let mut rng = ovhost_sdk::Rng::new(7);
    let vocabulary = ["a", "bb", "ccc", "é", "的", "dog_1", "狗"];
    let (mut words, mut ngrams) = (Words::default(), NGrams::default());
    let mut repeated = 0;
    for _ in 0..400 {
        let (size, kinds) = (rng.below(60), 1 + rng.below(vocabulary.len() as u64));
        let text: String = (0..size).map(|_| format!("{} ", vocabulary[rng.below(kinds) as usize])).collect();
        words.read(&text);
        ngrams.start(&text, &words);
        let mut shares = vec![0.0; 9];
        for n in NS {
            if !ngrams.lengthen() {
                break;
            }
            shares[n - 2] = if n <= MOST_TOP { ngrams.top_share() } else { ngrams.duplicate_share() };
            repeated += 1;
        }
        assert_eq!(shares, slow_shares(&text), "{text}");
    }
    assert!(repeated > 1000, "the texts repeat themselves");
}

#[test]
fn shares_judge_long_texts_alone() {
    let twice = |n: usize| "one two three four five six seven eight nine ten ".repeat(n);
    assert_eq!(reason(json!({}), &twice(4)), None);
    assert_eq!(reason(json!({}), &twice(5)).as_deref(), Some("top 2-gram"));
    assert_eq!(reason(json!({ "min_words": 40 }), &twice(4)).as_deref(), Some("top 2-gram"));
    let loose = json!({ "max_top_2gram": 0.3, "max_top_3gram": 0.5, "max_top_4gram": 0.5 });
    assert_eq!(reason(loose, &twice(5)).as_deref(), Some("duplicate 5-grams"));
    let listed = format!("{GOOD}\n{GOOD}");
    assert_eq!(reason(json!({}), &listed).as_deref(), Some("duplicate lines"));
}

#[test]
fn verdicts_do_not_depend_on_the_rows_before() {
    let texts = [GOOD.repeat(3), "x".repeat(300), GOOD.into(), "a b ".repeat(200), "a b".into(), "very ".repeat(9)];
    let rows: Vec<_> = texts.iter().map(|text| json!({ "text": text })).collect();
    let mut plugin = testing::filter::<Repetition>(json!({})).unwrap();
    let together: Vec<_> = plugin.run(json!(rows)).reasons().into_iter().map(|r| r.map(String::from)).collect();
    let apart: Vec<_> = texts.iter().map(|text| reason(json!({}), text)).collect();
    assert_eq!(together, apart);
    assert_eq!(apart.iter().filter(|reason| reason.is_some()).count(), 4);
}

#[test]
fn rows_without_text() {
    let run = |no_text: &str| {
        testing::filter::<Repetition>(json!({ "no_text": no_text })).unwrap().run(json!([{ "text": null }]))
    };
    assert_eq!(run("drop").reasons(), [Some("no text")]);
    assert_eq!(run("keep").kept(), [true]);
    assert_eq!(run("error").errors(), [(0, "no text")]);
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({ "loop_words": 0, "max_duplicate_lines": 30, "max_top_3gram": -0.1 });
    let error = testing::filter::<Repetition>(bad).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/loop_words", "/max_duplicate_lines", "/max_top_3gram"]);
    let idle = testing::filter::<Repetition>(json!({ "loop_words": 4, "max_loop": 0 })).err().unwrap();
    assert_eq!(idle.findings[0].path, "/loop_words");
    assert_eq!(
        testing::filter::<Repetition>(json!({ "max_top_5gram": 1 })).err().unwrap().findings[0].path,
        "/max_top_5gram"
    );
}
