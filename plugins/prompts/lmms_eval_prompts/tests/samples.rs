//! Every row of the tasks' samples, in its data set's own form, is a question in every profile; in `lmms-eval` the one that
//! the reference asks (`tests/fixtures/eval/make_expected.py`).

#[path = "../../../../tests/fixtures/eval/rows.rs"]
mod rows;

use lmms_eval_prompts::*;
use ovhost_sdk::prelude::*;
use ovhost_sdk::testing;
use rows::Task as File;

fn ask<T: Task>(config: Json, texts: &[u8], rows: Json) -> Vec<Vec<Message>> {
    let assets: &[(&str, &[u8])] = if T::NEEDS_TEXTS { &[("texts", texts)] } else { &[] };
    let mut prompt = testing::prompt_with_assets::<Entry<T>>(config, assets).unwrap();
    let conversation =
        |rendered: Result<Rendered, String>| match rendered.unwrap_or_else(|e| panic!("{}: {e}", T::NAME)) {
            Rendered::Conversation(messages) => messages,
            Rendered::Segments(_) => panic!("a conversation was meant"),
        };
    prompt.run(Mode::Generate, rows).into_iter().map(conversation).collect()
}

fn questions(name: &str, profile: &str) -> Vec<Vec<Message>> {
    let texts = std::fs::read(rows::root().join("tests/fixtures/eval/texts.json")).unwrap();
    let file = File::named(name);
    let samples = file.samples(profile);
    let rows = samples.iter().map(|sample| json!({ "record": sample.record.to_string(), "num-images": sample.images }));
    let (rows, config) = (rows.collect::<Json>(), File::config(&file.0["prompt"], profile));
    macro_rules! entries {
        ($($name:literal $entry:ty),+) => {
            match file.0["prompt"]["entry"].as_str().unwrap() {
                $($name => ask::<$entry>(config, &texts, rows),)+
                other => panic!("no entry {other}"),
            }
        };
    }
    entries! {
        "ai2d" Ai2d, "chartqa" ChartQa, "charxiv_descriptive" CharXivDescriptive, "charxiv_reasoning" CharXivReasoning,
        "docvqa" DocVqa, "mathvista" MathVista, "mmbench" MmBench, "mme" Mme, "mmerealworld" MmeRealWorld,
        "mmerealworld_cn" MmeRealWorldCn, "mmmu" Mmmu, "mmmu_pro" MmmuPro, "mmstar" MmStar, "scienceqa" ScienceQa, "vstar" VStar
    }
}

fn text(messages: &[Message]) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(index) => format!("#{index} "),
        other => panic!("{other:?}"),
    };
    messages.last().unwrap().parts.iter().map(part).collect()
}

#[test]
fn every_row_is_a_question_in_every_profile() {
    let names = File::all();
    assert_eq!(names.len(), 22);
    for name in names {
        // The other profiles want the reference's own texts.
        let profiles =
            if name.starts_with("charxiv") { &["fixed"][..] } else { &["fixed", "lmms-eval", "paper-2025-09"] };
        for profile in profiles {
            let asked = questions(&name, profile);
            assert!(!asked.is_empty(), "{name}");
            for messages in asked {
                assert_eq!(messages.len(), 1 + usize::from(*profile == "paper-2025-09"), "{name}");
                assert!(text(&messages).trim_start_matches(['#', '0', ' ']).len() > 20, "{name}: {}", text(&messages));
            }
        }
    }
}

#[test]
fn questions_of_the_profile_lmms_eval_are_the_references_own() {
    let text = std::fs::read_to_string(rows::root().join("tests/fixtures/eval/expected.json")).unwrap();
    let expected: Json = text.parse().unwrap();
    // Pictures by their numbers from 0; a task whose questions are texts has its pictures first.
    let part = |part: &Part| match part {
        Part::Text(text) => json!(text),
        Part::Image(index) => json!({ "picture": format!("image_{}", index + 1) }),
        other => panic!("{other:?}"),
    };
    let mut compared = 0;
    for (name, task) in expected["tasks"].as_object().unwrap() {
        let Some(want) = task.get("prompts").and_then(Json::as_array) else { continue };
        let asked = questions(name, "lmms-eval");
        assert_eq!(asked.len(), want.len(), "{name}");
        for (row, (messages, want)) in asked.iter().zip(want).enumerate() {
            let got: Vec<Json> = messages.last().unwrap().parts.iter().map(part).collect();
            let got = if want.is_string() { got.last().unwrap().clone() } else { json!(got) };
            assert_eq!(got, *want, "{name}, row {row}");
            compared += 1;
        }
    }
    assert!(compared > 130, "{compared}");
}

#[test]
fn pictures_of_mmmu_stand_where_the_profile_puts_them() {
    let of = |profile| text(&questions("mmmu_val", profile)[1]);
    assert!(of("fixed").starts_with("Is the number in#1 larger than that in#0 ?"), "{}", of("fixed"));
    assert!(of("lmms-eval").starts_with("Is the number in#0 larger than that in#1 ?"), "{}", of("lmms-eval"));
    assert!(of("paper-2025-09").starts_with("#0 #1 Is the number in <image 2> larger"), "{}", of("paper-2025-09"));
    // The first picture is absent, and the second one keeps its name.
    assert!(text(&questions("mmmu_val", "fixed")[7]).starts_with("What does#1 show?"));
}

#[test]
fn a_charts_four_questions_follow_one_another() {
    let asked: Vec<String> =
        questions("charxiv_val_descriptive", "fixed").iter().map(|messages| text(messages)).collect();
    assert_eq!(asked.len(), 32);
    assert_eq!(asked[3], "#0 what does question 19 ask?");
    assert_eq!(asked[4], "#0 For the subplot at row 1 and column 2, what does question 2 ask?");
    assert_eq!(asked[12], "#0 For the left chart, what does question 3 ask?");
}
