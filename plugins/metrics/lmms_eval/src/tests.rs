//! Entries as a host runs them: configured, fed, split, merged.

use ovhost_sdk::prelude::*;
use ovhost_sdk::testing;
use proptest::prelude::*;

use super::*;

fn values(values: Vec<MetricValue>) -> Vec<(String, String)> {
    // As text, in which NaN equals itself and no digit is lost.
    values
        .into_iter()
        .map(|value| (value.name, format!("{:?} {} {:?}", value.value, value.count, value.stderr)))
        .collect()
}

fn row(prediction: &str, record: &Json) -> Json {
    json!({ "prediction": prediction, "record": record.to_string() })
}

/// The record's fields as an entry sees them.
fn fields<'a, T: Task>(setup: &Setup, text: &'a str) -> Fields<'a> {
    Fields::parse(text, T::fields(setup)).unwrap()
}

fn score<T: Task>(setup: &Setup, text: &str, answer: &str) -> Step {
    T::score(setup, &fields::<T>(setup, text), answer).unwrap()
}

fn run<T: Task>(profile: &str, answers: &[&str], record: &Json) -> (Vec<Json>, Vec<Json>, f64) {
    let mut metric = testing::metric::<Entry<T>>(json!({ "profile": profile })).unwrap();
    let rows: Vec<Json> = answers.iter().map(|answer| row(answer, record)).collect();
    let outcome = metric.update(json!(rows));
    assert_eq!(outcome.errors(), []);
    (outcome.column("score/lmms_eval"), outcome.column("read/lmms_eval"), metric.finalize()[0].value)
}

#[test]
fn profiles_differ_where_they_say() {
    let open = json!({ "id": "validation_Math_7", "question_type": "open", "answer": "24", "options": "[]" });
    assert_eq!(run::<Mmmu>("lmms-eval", &["The answer is 24"], &open).2, 0.0);
    assert_eq!(run::<Mmmu>("fixed", &["The answer is 24"], &open).2, 1.0);
    let zero = json!({ "answer": "0", "type": "human_test" });
    assert_eq!(run::<ChartQa>("lmms-eval", &["0.0"], &zero).0, [json!(0.0)]);
    assert_eq!(run::<ChartQa>("fixed", &["0.0"], &zero).0, [json!(1.0)]);
    let star = json!({ "answer": "D", "category": "math", "l2_category": "geometry" });
    assert_eq!(run::<MmStar>("paper-2025-09", &["Definitely A"], &star).2, 1.0);
    assert_eq!(run::<MmStar>("lmms-eval", &["Definitely A"], &star).2, 0.0);
    let real =
        json!({ "answer": "A", "category": "Perception/Monitoring", "multi-choice options": ["(A) x", "(B) y"] });
    assert_eq!(run::<MmeRealWorld>("lmms-eval", &["", "Answer: B"], &real).2, 1.0);
    assert_eq!(run::<MmeRealWorld>("fixed", &["", "Answer: B"], &real).2, 0.0);
    let ai2d = json!({ "answer": "1", "options": ["root", "stem", "leaf"] });
    assert_eq!(run::<Ai2d>("lmms-eval", &["<think>no</think>B. stem", "(B)"], &ai2d).0, [json!(0.0), json!(1.0)]);
    assert_eq!(run::<Ai2d>("fixed", &["<think>no</think>B. stem", "Stem."], &ai2d).2, 1.0);
    let star = json!({ "label": "b", "category": "direct_attributes" });
    assert_eq!(run::<VStar>("lmms-eval", &["Because"], &star).2, 100.0);
    assert_eq!(run::<VStar>("fixed", &["Because"], &star).1, [Json::Null]);
    let science = json!({ "choices": ["x", "y"], "answer": 1 });
    assert_eq!(run::<ScienceQa>("lmms-eval", &["(B)"], &science).2, 0.0);
    assert_eq!(run::<ScienceQa>("fixed", &["(B)"], &science).2, 1.0);
    let document = json!({ "answers": ["a    "] });
    assert!(run::<DocVqa>("lmms-eval", &["b"], &document).2 > run::<DocVqa>("fixed", &["b"], &document).2);
}

#[test]
fn unreadable_letters_are_drawn_as_python_draws_them() {
    let record =
        json!({ "id": "t", "subject": "Math", "answer": "G", "options": "['a','b','c','d','e','f','g','h','i','j']" });
    let answers = ["?"; 12];
    // The stream of seed 0 over ten letters: G G A E I H G E H F J D.
    let (scores, read, value) = run::<MmmuPro>("lmms-eval", &answers, &record);
    assert_eq!(value, 0.25);
    assert!(scores.iter().chain(&read).all(Json::is_null));
    assert_eq!(run::<MmmuPro>("fixed", &answers, &record).2, 0.0);
    let mut metric = testing::metric::<Entry<MmmuPro>>(json!({})).unwrap();
    metric.update(json!([row("?", &record), row("G", &record)]));
    let all = metric.finalize();
    assert_eq!(all.last().map(|value| (value.name.as_str(), value.value, value.count)), Some(("unread", 1.0, 2)));
}

#[test]
fn questions_of_mmbench_need_all_their_copies() {
    let mut metric = testing::metric::<Entry<MmBench>>(json!({ "profile": "lmms-eval", "judge": false })).unwrap();
    let record = |index: u64, gold: &str| {
        json!({ "index": index, "answer": gold, "question": "Q?", "A": "cat", "B": "dog", "C": "cow", "D": "pig", "category": "ocr",
            "L2-category": "coarse_perception" })
    };
    metric.update(json!([row("A", &record(1, "A")), row("B", &record(1_000_001, "C")), row("dog", &record(2, "B"))]));
    let all = metric.finalize();
    assert_eq!((all[0].value, all[0].count), (50.0, 3));
}

/// A fifth option is E, and so is the reference's word for "none of them".
#[test]
fn a_judge_that_finds_no_option_of_mmbench_says_so() {
    let record = json!({ "index": 1, "question": "Which?", "answer": "E", "A": "a cup", "B": "a dog", "C": "x1", "D": "x2", "E": "x3" });
    let text = record.to_string();
    let setup = |profile| Setup { config: Config { profile, ..Config::default() }, texts: Default::default() };
    let asked = |profile, answer: &str| match score::<MmBench>(&setup(profile), &text, answer) {
        Step::Ask(words) => words,
        Step::Done(outcome) => panic!("read as {:?}", outcome.read),
    };
    assert!(asked(Profile::Fixed, "I cannot tell").contains("reply with none."));
    assert!(asked(Profile::LmmsEval, "I cannot tell").contains("reply with E."));
    let judged = |profile, reply: &str| {
        let setup = setup(profile);
        MmBench::judged(&setup, &fields::<MmBench>(&setup, &text), "I cannot tell", reply)
            .map(|outcome| (outcome.read, outcome.row.score))
    };
    assert_eq!(judged(Profile::Fixed, " **None.**"), Ok((None, 0.0)), "which is unread, and wrong");
    assert_eq!(judged(Profile::Fixed, "E"), Ok((Some("E".into()), 1.0)));
    assert!(judged(Profile::Fixed, "who knows").is_err());
    // An article is no letter; a text within the answer is an option.
    assert!(asked(Profile::Fixed, "A big one").contains("Answer: A big one"));
    let read = |profile, answer: &str| match score::<MmBench>(&setup(profile), &text, answer) {
        Step::Done(outcome) => outcome.read,
        Step::Ask(_) => None,
    };
    assert_eq!(read(Profile::Fixed, "A dog"), Some("B".into()));
    assert_eq!(read(Profile::Fixed, "It is a dog!"), Some("B".into()));
    assert_eq!(read(Profile::LmmsEval, "A big one"), Some("A".into()));
}

#[test]
fn an_empty_answer_is_unread() {
    let chart = json!({ "answer": "5", "type": "human_test" });
    for profile in ["fixed", "lmms-eval"] {
        let mut metric = testing::metric::<Entry<ChartQa>>(json!({ "profile": profile })).unwrap();
        let outcome = metric.update(json!([row(" ", &chart), row("5", &chart)]));
        assert_eq!(outcome.column("read/lmms_eval"), [Json::Null, json!("5")]);
        let values = metric.finalize();
        assert_eq!((values[0].value, values.last().map(|value| value.value)), (0.5, Some(1.0)));
    }
}

#[test]
fn mme_sums_its_categories() {
    let mut metric = testing::metric::<Entry<Mme>>(json!({})).unwrap();
    let record = |category: &str| json!({ "question_id": "1", "category": category, "answer": "Yes" });
    metric.update(json!([
        row("Yes", &record("count")),
        row("no", &record("count")),
        row("The answer is yes", &record("code_reasoning")),
        row("Yes", &record("code_reasoning")),
    ]));
    let all = metric.finalize();
    assert_eq!((all[0].value, all[1].value), (50.0, 200.0));
}

#[test]
fn judges_are_asked_and_read() {
    let record = json!({ "figure_path": "f", "qid": 8, "descriptive_a": "5", "descriptive_q": "How many?", "reasoning_q": "Why?",
        "reasoning_a": "so", "reasoning_q_source": 1 });
    let asked = testing::metric::<Entry<CharXivReasoning>>(json!({})).unwrap().update(json!([row("because", &record)]));
    assert!(asked.0.needs_judge[0].messages[0].1.contains("Right answer: so"));
    let refused = testing::metric::<Entry<CharXivReasoning>>(json!({ "profile": "lmms-eval" })).err().unwrap();
    assert_eq!(refused.findings[0].path, "/profile");
    // A benchmark's own record, with the question that is meant.
    let four = json!({ "figure_path": "f", "descriptive_number": 3, "descriptive_q3": 8, "descriptive_a3": "seven", "descriptive_a1": "x" });
    let asked = testing::metric::<Entry<CharXivDescriptive>>(json!({})).unwrap().update(json!([row("7", &four)]));
    assert!(asked.0.needs_judge[0].messages[0].1.contains("Right answer: seven"));
    let none = json!({ "figure_path": "f", "descriptive_q3": 8, "descriptive_a3": "seven" });
    let refused = testing::metric::<Entry<CharXivDescriptive>>(json!({})).unwrap().update(json!([row("7", &none)]));
    assert_eq!(refused.errors().len(), 1);
    let setup = |profile| Setup { config: Config { profile, ..Config::default() }, texts: Default::default() };
    let judged = |profile, reply: &str| {
        let (setup, text) = (setup(profile), record.to_string());
        CharXivReasoning::judged(&setup, &fields::<CharXivReasoning>(&setup, &text), "x", reply)
            .map(|outcome| outcome.row.score)
    };
    assert_eq!(judged(Profile::Fixed, r#"{"extract_answer": "x", "score": 1}"#), Ok(1.0));
    assert_eq!(judged(Profile::LmmsEval, r#"{"extract_answer": "x", "score": 1}"#), Ok(-1.0));
    assert!(judged(Profile::Fixed, "no JSON").is_err());
    let reply = r#"{"extract_answer_T1": "7", "score_T1": 1}"#;
    let (theirs, four) = (setup(Profile::LmmsEval), four.to_string());
    let judged =
        CharXivDescriptive::judged(&theirs, &fields::<CharXivDescriptive>(&theirs, &four), "7", reply).unwrap();
    assert_eq!((judged.row.score, judged.row.item.as_str()), (1.0, "f_8"));
    let question = json!({ "question_type": "multi_choice", "answer_type": "text", "choices": ["Yes", "No"], "answer": "No", "query": "Q" });
    let question = question.to_string();
    let step = |profile, answer| score::<MathVista>(&setup(profile), &question, answer);
    assert!(matches!(step(Profile::LmmsEval, "B"), Step::Ask(_)));
    assert!(matches!(step(Profile::Fixed, "B"), Step::Done(outcome) if outcome.row.score == 1.0));
    let fixed = setup(Profile::Fixed);
    let judged = MathVista::judged(&fixed, &fields::<MathVista>(&fixed, &question), "it is no", "(B) No").unwrap();
    assert_eq!((judged.row.score, judged.read.as_deref()), (1.0, Some("No")));
}

#[test]
fn configurations_are_checked() {
    for (config, path) in
        [(json!({ "reasoning_tags": [["", "x"]] }), "/reasoning_tags/0"), (json!({ "judge": false }), "/judge")]
    {
        assert_eq!(testing::metric::<Entry<CharXivReasoning>>(config).err().unwrap().findings[0].path, path);
    }
    let broken = testing::metric::<Entry<Ai2d>>(json!({}))
        .unwrap()
        .update(json!([row("A", &json!({ "options": ["x"], "answer": "3" }))]));
    assert_eq!(broken.errors().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_in_any_order_changes_nothing(
        answers in proptest::collection::vec((0..6usize, 0..4usize), 1..40),
        cut in 1..8usize,
        turn in 0..8usize,
    ) {
        let said = ["A", "(B)", "?", "the answer is C", "<think>D</think>D", ""];
        let rows: Vec<Json> = answers.iter().enumerate().map(|(i, &(answer, subject))| {
            let record = json!({ "id": i.to_string(), "subject": (["Art", "Math", "Music", "other"][subject]), "answer": "B",
                "options": "['x', 'y', 'z', 'w']" });
            row(said[answer], &record)
        }).collect();
        let config = json!({ "profile": "lmms-eval" });
        let mut whole = testing::metric::<Entry<MmmuPro>>(config.clone()).unwrap();
        whole.update(json!(rows));
        // One stream, its state taken and put back at every cut, the parts merged in another order.
        let mut parts = Vec::new();
        let mut before = 0;
        for part in rows.chunks(cut) {
            let mut one = testing::metric::<Entry<MmmuPro>>(config.clone()).unwrap();
            // Rows before these, which cannot be scored, move the stream on.
            one.update(json!(vec![json!({ "prediction": "x", "record": "{}" }); before]));
            one.update(json!(part));
            parts.push(one.save());
            before += part.len();
        }
        let turn = turn % parts.len();
        parts.rotate_left(turn);
        let mut merged = testing::metric::<Entry<MmmuPro>>(config).unwrap();
        for part in &parts {
            merged.merge(part).unwrap();
        }
        prop_assert_eq!(values(merged.finalize()), values(whole.finalize()));
    }
}

/// What a golden case's entry says, as `ovhost plugin test` writes it.
fn play(case: &Json) -> Json {
    fn of<T: Task>(case: &Json) -> Json {
        let config = case.get("config").cloned().unwrap_or_else(|| json!({}));
        let mut metric = match testing::metric::<Entry<T>>(config) {
            Ok(metric) => metric,
            Err(refused) => {
                let findings = refused.findings.iter().map(|f| json!({ "path": f.path, "message": f.message }));
                return json!({ "refused": findings.collect::<Vec<_>>() });
            }
        };
        let given = case["rows"].as_array().unwrap();
        let rows: Vec<Json> =
            given.iter().map(|one| row(one["prediction"].as_str().unwrap(), &one["record"])).collect();
        let outcome = metric.update(json!(rows));
        let columns = ["score/lmms_eval", "read/lmms_eval"].map(|name| (name, outcome.column(name)));
        let mut out: Vec<Json> = (0..rows.len())
            .map(|i| {
                columns.iter().filter(|(_, c)| !c[i].is_null()).map(|(n, c)| ((*n).to_owned(), c[i].clone())).collect()
            })
            .collect();
        for (i, message) in outcome.errors() {
            out[i as usize] = json!({ "error": message });
        }
        let number = |x: f64| if x.is_finite() { json!(x) } else { Json::Null };
        let value = |v: MetricValue| {
            (
                v.name,
                json!({ "value": number(v.value), "count": v.count, "stderr": v.stderr.map_or(Json::Null, number) }),
            )
        };
        let values: std::collections::BTreeMap<_, _> = metric.finalize().into_iter().map(value).collect();
        json!({ "rows": out, "values": values })
    }
    match case["entry"].as_str().unwrap() {
        "ai2d" => of::<Ai2d>(case),
        "chartqa" => of::<ChartQa>(case),
        "charxiv_reasoning" => of::<CharXivReasoning>(case),
        "docvqa" => of::<DocVqa>(case),
        "mathvista" => of::<MathVista>(case),
        "mmstar" => of::<MmStar>(case),
        "scienceqa" => of::<ScienceQa>(case),
        "vstar" => of::<VStar>(case),
        other => panic!("no entry {other}"),
    }
}

#[test]
fn golden_cases_are_what_entries_say() {
    let cases: Vec<Json> = include_str!("../cases.jsonl").lines().map(|line| line.parse().unwrap()).collect();
    for case in &cases {
        assert_eq!(play(case), case["expect"], "{}\nnow: {}", case["name"], play(case));
    }
    assert!(cases.len() >= 8);
}
