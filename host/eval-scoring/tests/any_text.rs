//! Whatever a model says, nothing panics, and what must hold of every answer holds.

use ovhost_eval_scoring::prompts::{mmmu as mmmu_prompt, vstar as vstar_prompt};
use ovhost_eval_scoring::python::{literal, number, text};
use ovhost_eval_scoring::tasks::{
    ai2d, chartqa, charxiv, mathvista, mmbench, mme, mmerealworld, mmmu, mmstar, scienceqa, vstar,
};
use ovhost_eval_scoring::{distance, framework, judge, mcq, read, tags, texts};
use proptest::prelude::*;
use serde_json::json;

/// Texts of what parsers look for, and of anything.
fn said() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => proptest::sample::select(vec![
            "A", "B.", "(C)", "D)", "b", " ", "\n", "the answer is ", "Answer:", "\\boxed{", "}", "<think>", "</think>", "1,234", "-.5e3",
            "<image 2>", "<image ٣>", "is ", "=", "%", "ß", "İ", "'", "[", "\"", "{\"score\":1}", "nan", "_", "(", "½", "yes", "\u{1c}",
        ])
        .prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsers_take_any_text(a in said(), b in said()) {
        let options = [a.as_str(), "red", b.as_str(), ""];
        if let mmmu::Choice::Letter(letter) = mmmu::parse_choice(&a, &options) {
            prop_assert!(('A'..='D').contains(&letter));
        }
        prop_assert!(read::letter(&a, &options).is_none_or(|letter| ('A'..='D').contains(&letter)));
        prop_assert!(mcq::extract(&a, &mmstar::CHOICES).is_none_or(|letter| mmstar::CHOICES.contains(&letter)));
        prop_assert!(vstar::parse(&a).is_none_or(|letter| ('A'..='D').contains(&letter)));
        prop_assert!(mmerealworld::parse(&a).len() <= 1);
        prop_assert!(["yes", "no", "other"].contains(&mme::parse(&a)) && ["yes", "no", "other"].contains(&mme::parse_words(&a)));
        let candidates = mmmu::parse_open(&a);
        prop_assert!(!candidates.is_empty());
        mmmu::open_is_right([b.as_str()], &candidates);
        mmmu::composite(&a, 3);
        mmmu::subject(&a);
        mmbench::infer(&a, [('A', b.as_str())]);
        ai2d::filter(&a);
        chartqa::is_right(&a, &b);
        chartqa::is_right_mended(&a, &b);
        scienceqa::is_right(&a, &b);
        mmstar::is_right_2025_09(&a, &b);
        judge::json(&a);
        judge::binary_mended(&a);
        prop_assert!((1.0..=10.0).contains(&judge::score(&a, Some((1.0, 10.0)))));
        judge::comparative(&a);
        charxiv::reasoning_score(&a, true);
        charxiv::descriptive_scores(&a, 2);
        charxiv::number_instruction(&a);
        texts::fill(&a, &[&b]);
        framework::folder_name(&a, false);
        let _ = framework::arguments(&a);
        let _ = literal::parse(&a);
    }

    #[test]
    fn what_is_equal_is_right(a in said(), b in said()) {
        prop_assert_eq!(distance::levenshtein(&a, &b), distance::levenshtein(&b, &a));
        prop_assert_eq!(distance::levenshtein(&a, &a), 0);
        let score = distance::anls([b.as_str()], &a).unwrap();
        prop_assert!(score == 0.0 || (0.5..=1.0).contains(&score));
        prop_assert!(scienceqa::is_right(&a, text::strip(&a)));
        let stripped = tags::strip_reasoning(&a, tags::DEFAULT_PAIRS);
        prop_assert!(!(stripped.contains("<think>") && stripped.split("<think>").any(|part| part.contains("</think>")))
            || stripped.find("</think>") < stripped.find("<think>"));
    }

    #[test]
    fn numbers_go_there_and_back(value in any::<f64>(), places in -3i32..8) {
        let back = number::parse_float(&number::repr(value)).unwrap();
        prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        number::round(value, places);
        number::truncated(value);
    }

    #[test]
    fn prompts_take_any_record(a in said(), b in said()) {
        let record = json!({ "question": a, "options": b, "text": a, "question_type": "multiple-choice" });
        for style in [mmmu_prompt::Style::mmmu(), mmmu_prompt::Style::qwen()] {
            let _ = mmmu_prompt::interleaved(&record, &style);
            let _ = mmmu_prompt::in_place(&record, &style);
        }
        let _ = vstar_prompt::question(&record, "", "");
        let mut question = mathvista::Question { multiple_choice: true, choices: Some(vec![b.clone(), "x".into()]), ..Default::default() };
        prop_assert!(question.normalize(&a).unwrap().is_some());
        question.extract_mended(&a);
        question.multiple_choice = false;
        question.answer_type = "float".into();
        let _ = question.normalize(&a);
    }
}
