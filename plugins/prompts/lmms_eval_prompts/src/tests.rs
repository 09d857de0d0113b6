//! Entries as a host runs them.

use ovhost_sdk::prelude::*;
use ovhost_sdk::testing;

use super::*;

fn ask<T: Task>(config: Json, record: &Json, images: u32) -> Result<Vec<Message>, String> {
    let mut prompt = testing::prompt::<Entry<T>>(config).unwrap();
    let rows = json!([{ "record": record.to_string(), "num-images": images }]);
    match prompt.run(Mode::Generate, rows).remove(0)? {
        Rendered::Conversation(messages) => Ok(messages),
        Rendered::Segments(_) => panic!("a conversation was meant"),
    }
}

fn parts(messages: &[Message]) -> Vec<String> {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(index) => format!("#{index}"),
        other => format!("{other:?}"),
    };
    messages.last().unwrap().parts.iter().map(part).collect()
}

#[test]
fn pictures_come_first_and_wordings_are_the_benchmarks() {
    let record = json!({ "question": "Which?", "options": ["x", "y"], "choices": ["x", "y"], "hint": "Look.", "A": "x", "B": "y",
        "text": "Which (small) cup? (A) left (B) right", "multi-choice options": ["(A) x", "(B) y"] });
    for (got, want) in [
        (ask::<Ai2d>(json!({}), &record, 1), format!("Which?\nA. x\nB. y\n{LETTER}")),
        (ask::<ChartQa>(json!({}), &record, 1), format!("Which?\n{WORD}")),
        (ask::<DocVqa>(json!({}), &record, 1), format!("Which?\n{PHRASE}")),
        (ask::<Mme>(json!({}), &record, 1), format!("Which?\n{PHRASE}")),
        (
            ask::<MmStar>(json!({}), &record, 1),
            "Which?\nAnswer with the option's letter from the given choices directly".into(),
        ),
        (
            ask::<MmStar>(json!({ "qwen3_vl": true }), &record, 1),
            "Question: Which?Answer with the option letter only.".into(),
        ),
        (ask::<ScienceQa>(json!({}), &record, 1), format!("Context: Look.\nWhich?\nA. x\nB. y\n{LETTER}")),
        (
            ask::<MmBench>(json!({}), &record, 1),
            format!("Look. Which? There are several options:\nA. x\nB. y\n\n{LETTER}"),
        ),
        (ask::<VStar>(json!({}), &record, 1), format!("Which (small) cup?\nA. left\nB. right\n{LETTER}")),
    ] {
        assert_eq!(parts(&got.unwrap()), ["#0".to_owned(), want]);
    }
    let chinese = parts(&ask::<MmeRealWorldCn>(json!({}), &record, 1).unwrap());
    assert!(
        chinese[1].starts_with("Which? 选项如下所示:\n(A) x\n(B) y\n根据图像") && chinese[1].ends_with("最佳答案为： ")
    );
    let english = parts(&ask::<MmeRealWorld>(json!({}), &record, 0).unwrap());
    assert!(english[0].ends_with("\nThe best answer is: "));
}

#[test]
fn mmmus_pictures_stand_where_the_profile_says() {
    let record = json!({ "id": "validation_Art_1", "question_type": "multiple-choice", "options": "['<image 1>', 'none']",
        "question": "Is <image 2> like" });
    let end = format!("B. none\n\n{LETTER}");
    assert_eq!(parts(&ask::<Mmmu>(json!({}), &record, 2).unwrap()), ["Is", "#1", "like\nA.", "#0", &end]);
    // The reference swaps them: the sorted pictures go into the places in turn.
    let theirs = ask::<Mmmu>(json!({ "profile": "lmms-eval" }), &record, 2).unwrap();
    assert_eq!(parts(&theirs), ["Is", "#0", "like\nA.", "#1", &end]);
    let paper = ask::<Mmmu>(json!({ "profile": "paper-2025-09" }), &record, 2).unwrap();
    assert_eq!(parts(&paper), ["#0", "#1", &format!("Is <image 2> like\nA. <image 1>\n{end}")]);
    assert_eq!((paper.len(), paper[0].role.as_str()), (2, "system"));
    assert!(ask::<Mmmu>(json!({}), &record, 1).unwrap_err().contains("image_2"));
    let pro = ask::<MmmuPro>(json!({ "profile": "lmms-eval" }), &record, 2).unwrap();
    assert!(parts(&pro)[2].ends_with("Answer with the option letter from the given choices directly."));
}

#[test]
fn what_is_missing_is_said() {
    let no = testing::prompt::<Entry<CharXivDescriptive>>(json!({})).err().unwrap();
    assert!(no.findings[0].message.contains("`texts`"));
    // Which of a chart's four questions is meant is said, never guessed.
    let setup = Setup { config: Config::default(), shot: Shot::StepByStep, texts: Texts::default() };
    let chart = json!({ "descriptive_q1": 8, "subplot_row": 0, "subplot_col": 0 });
    let error = ask_descriptive(&setup, &chart).err().unwrap();
    assert!(error.contains("descriptive_number"), "{error}");
    let shot = testing::prompt::<Entry<MathVista>>(json!({ "shot": "x" })).err().unwrap();
    assert_eq!(shot.findings[0].path, "/shot");
    assert_eq!(ask::<ChartQa>(json!({}), &json!({}), 1).unwrap_err(), "the record has no field `question`");
    let record = json!({ "question": "How many?", "unit": "years", "choices": null, "question_type": "free_form", "answer_type": "integer" });
    let solution = parts(&ask::<MathVista>(json!({ "shot": "solution" }), &record, 0).unwrap()).remove(0);
    assert!(solution.starts_with("Question: How many? (Unit: years)\nHint: ") && solution.ends_with("\nSolution:"));
    let mut prompt = testing::prompt::<Entry<ChartQa>>(json!({})).unwrap();
    assert!(prompt.run(Mode::Train, json!([{ "record": "{}", "num-images": 0 }]))[0].is_err());
}
