//! The tasks' parsers, scores and aggregates.

use ovhost_eval_scoring::python::text as python;
use ovhost_eval_scoring::tasks::mmmu::{Choice, Value};
use ovhost_eval_scoring::tasks::{
    ai2d, chartqa, charxiv, mathvista, mmbench, mme, mmerealworld, mmmu, mmstar, scienceqa, vstar,
};
use ovhost_eval_scoring::{mcq, texts};
use serde_json::{Value as Json, json};

use super::super::{Answer, Vector};
use super::{as_text, float, number, result, text, texts as list, value};

fn letter(found: Option<char>) -> Json {
    found.map_or(Json::Null, |letter| letter.to_string().into())
}

fn values(found: &[Value]) -> Json {
    found
        .iter()
        .map(|one| match one {
            Value::Number(number) => float(*number),
            Value::Text(text) => json!(text),
        })
        .collect()
}

fn of_json(value: &Json) -> Value {
    match value {
        Json::String(word) if ["NaN", "Infinity", "-Infinity"].contains(&word.as_str()) => Value::Number(number(value)),
        Json::String(text) => Value::Text(text.clone()),
        other => Value::Number(number(other)),
    }
}

/// The score of one answer of a task that needs no judge.
pub fn score(task: &str, doc: &Json, said: &str, target: &str) -> Option<f64> {
    let gold = || doc.get("answer").map_or_else(|| target.to_owned(), as_text);
    let right = match task {
        "ai2d" | "ai2d_no_mask" => ai2d::IGNORE.same(said, target),
        "chartqa" => chartqa::is_right(said, &gold()),
        "mmstar" => mmstar::is_right(said, &gold()),
        "scienceqa" | "scienceqa_img" => scienceqa::is_right(said, target),
        _ => return None,
    };
    Some(f64::from(right))
}

pub fn answer(vector: &Vector, task: &str, name: &str) -> Answer {
    let (doc, said) = (vector.doc(), vector.response());
    match (task, name) {
        (_, "parse_multi_choice_response") => value(match mmmu::parse_choice(said, &list(&doc["options"])) {
            Choice::Letter(letter) => json!({ "parsed": letter.to_string(), "random": false }),
            Choice::Unread => json!({ "parsed": null, "random": true }),
        }),
        (_, "extract_numbers") => value(mmmu::extract_numbers(said)),
        (_, "normalize_str") => value(values(&mmmu::normalize(said))),
        (_, "parse_open_response") => value(values(&mmmu::parse_open(said))),
        (_, "eval_open") => {
            let golds = mmmu::golds(&doc["gold"]);
            let candidates: Vec<Value> = doc["parsed"].as_array().into_iter().flatten().map(of_json).collect();
            value(mmmu::open_is_right(golds.iter().map(String::as_str), &candidates))
        }
        (_, name) if name.starts_with("process_results+evaluate (open") => {
            let kept = mmmu::parse_open(said).first().map(Value::text).unwrap_or_default();
            let golds = mmmu::golds(&doc["answer"]);
            let right = mmmu::open_is_right_by_characters(golds.iter().map(String::as_str), &kept);
            value(json!({ "parsed_pred": [kept], "acc": f64::from(right) }))
        }
        (_, "extract_subset_name") => mmmu::subject(said).map_or_else(|| Answer::Error("no match".into()), value),
        ("mmmu_pro_composite", "process_results") => {
            let golds = ovhost_eval_scoring::python::literal::texts(&text(doc, "answer"));
            result(golds.map(|golds| mmmu::composite(said, golds.len()).into()))
        }
        (_, "eval_multi_choice") => {
            let (gold, parsed) = (&doc["gold"], &doc["parsed"]);
            value(gold.as_array().map_or_else(|| gold == parsed, |golds| golds.contains(parsed)))
        }
        ("mmbench", "can_infer_option") => value(letter(mmbench::option(said))),
        ("mmbench", "can_infer_text" | "can_infer") => {
            let choices: Vec<(char, String)> = doc["choices"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(key, choice)| Some((key.chars().next()?, as_text(choice))))
                .collect();
            let choices = choices.iter().map(|(letter, text)| (*letter, text.as_str()));
            value(letter(if name == "can_infer" {
                mmbench::infer(said, choices)
            } else {
                mmbench::option_text(said, choices)
            }))
        }
        (_, "eval_result(static)") => circular(doc),
        (_, name) if name.starts_with("extract_mcq_answer") => {
            let choices: Vec<char> = list(&doc["choices"]).iter().filter_map(|choice| choice.chars().next()).collect();
            let choices = if choices.is_empty() { mcq::DEFAULT_CHOICES.to_vec() } else { choices };
            value(mcq::extract(said, &choices).map(String::from).unwrap_or_default())
        }
        ("mmstar", "exact_match(paper-2025-09)") => value(f64::from(mmstar::is_right_2025_09(said, vector.target()))),
        ("mmstar", "exact_match") => value(f64::from(mmstar::is_right(said, vector.target()))),
        ("mmstar", "process_results") => {
            let score = f64::from(mmstar::is_right(said, &text(doc, "answer")));
            let record = json!({ "question_id": doc["index"], "l2_category": doc["l2_category"], "score": score });
            value(json!({ text(doc, "category"): record.clone(), "average": record }))
        }
        ("mmstar", "aggregate_results") => {
            let rows: Vec<(String, f64)> =
                rows(doc).map(|row| (text(row, "l2_category"), number(&row["score"]))).collect();
            value(float(mmstar::average(rows.iter().map(|(group, score)| (group.as_str(), *score)))))
        }
        ("mme", "parse_pred_ans") => value(mme::parse(said)),
        ("mme", "process_results") => {
            let (category, gold) = (text(doc, "category"), text(doc, "answer"));
            match mme::score(&gold, mme::parse(python::strip(said))) {
                Some(score) => value(json!({ mme::metric(&category):
                    { "question_id": doc["question_id"], "category": category, "score": score } })),
                None => Answer::Error("the answer is neither yes nor no".into()),
            }
        }
        ("mme", "aggregate_results") => {
            let rows: Vec<(String, String, f64)> =
                rows(doc).map(|row| (text(row, "category"), text(row, "question_id"), number(&row["score"]))).collect();
            let scores = mme::categories(
                rows.iter().map(|(category, image, score)| (category.as_str(), image.as_str(), *score)),
                true,
            );
            result(scores.map(|scores| float(scores.iter().map(|(_, score)| score).sum())))
        }
        (_, "extract_characters_regex") => value(mmerealworld::parse(said)),
        ("mmerealworld" | "mmerealworld_cn", "process_results") => {
            let category = text(doc, "category");
            value(json!({ "mme_realworld_score": {
                "question_id": doc["index"], "category": mmerealworld::kind(&category), "sub_category": mmerealworld::subtask(&category),
                "task_category": doc["l2-category"], "pred_answer": mmerealworld::parse(python::strip(said)), "answer": doc["answer"],
            } }))
        }
        ("mmerealworld" | "mmerealworld_cn", "aggregate_results") => {
            let all: Vec<&Json> = rows(doc).collect();
            if all.iter().any(|row| !mmerealworld::SUBTASKS.contains(&text(row, "sub_category").as_str()))
                || all.is_empty()
            {
                return Answer::Error("a subtask that the benchmark does not have".into());
            }
            let right = all
                .iter()
                .filter(|row| mmerealworld::is_right(&text(row, "pred_answer"), &text(row, "answer")))
                .count();
            value(float(right as f64 / all.len() as f64))
        }
        (_, "flexible-extract+exact_match") => {
            let filtered = ai2d::filter(said);
            value(json!({ "filtered": filtered, "score": f64::from(ai2d::IGNORE.same(filtered, vector.target())) }))
        }
        ("ai2d" | "ai2d_no_mask", "doc_to_target") => {
            let options = doc["options"].as_array().map_or(0, Vec::len);
            ai2d::target(&text(doc, "answer"), options)
                .map_or_else(|| Answer::Error("no such option".into()), |c| value(c.to_string()))
        }
        ("scienceqa" | "scienceqa_img", "doc_to_target") => {
            value(python::letter(doc["answer"].as_u64().unwrap_or(0) as usize).to_string())
        }
        (_, "extract_answer_letter") => value(letter(vstar::parse(said))),
        ("vstar_bench", "process_results") => {
            let parsed = letter(vstar::parse(said));
            let gold = python::upper(python::strip(&text(doc, "label")));
            let category = doc.get("category").map_or_else(|| "unknown".into(), as_text);
            let record = json!({ "question_id": doc["question_id"], "category": category,
                "score": f64::from(parsed == gold.as_str()), "prediction": parsed, "ground_truth": gold });
            value(json!({ format!("vstar_{category}_acc"): record.clone(), "vstar_overall_acc": record }))
        }
        ("vstar_bench", "aggregate_results") => {
            let scores: Vec<f64> = rows(doc).map(|row| number(&row["score"])).collect();
            value(float(if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 * 100.0 }))
        }
        (_, "relaxed_correctness") => value(chartqa::is_right(said, vector.target())),
        ("chartqa", "process_results") => {
            let score = f64::from(chartqa::is_right(said, &text(doc, "answer")));
            let split = if doc["type"] == "human_test" { "relaxed_human_split" } else { "relaxed_augmented_split" };
            value(json!({ "relaxed_overall": score, split: score }))
        }
        ("scienceqa" | "scienceqa_img", "process_results") => {
            let target = python::letter(doc["answer"].as_u64().unwrap_or(0) as usize).to_string();
            value(json!({ "exact_match": f64::from(scienceqa::is_right(said, &target)) }))
        }
        (_, "extract_answer") => {
            let extraction = mathvista::Question::of(doc).extract(said);
            value(json!({ "extraction": extraction, "needs_judge": extraction.is_none() }))
        }
        (_, "normalize_extracted_answer") => {
            let mut question = mathvista::Question::of(doc);
            if doc["precision_is_float"] == true {
                question.precision = mathvista::Precision::Float(number(&doc["precision"]));
            }
            let said = vector.get("response");
            if said.is_null() {
                return Answer::NotApplicable("an extraction that is no text".into());
            }
            result(question.normalize(&as_text(said)).map(|normal| json!(normal)))
        }
        (_, "safe_equal") => {
            let prediction = doc.get("prediction").filter(|one| !one.is_null()).map(as_text);
            let target = vector.get("target");
            let target = if target.is_null() { "None".into() } else { as_text(target) };
            value(mathvista::is_right(prediction.as_deref(), &target))
        }
        (task, "aggregate_results") if task.starts_with("mathvista") => {
            let right = rows(doc).filter(|row| row["true_false"] == true).count() as u64;
            value(json!(mathvista::percentage(right, rows(doc).count() as u64)))
        }
        ("charxiv", _) => charxiv_answer(vector, name),
        (task, name) if task.starts_with("mmmu") && name.contains("aggregate_results") => aggregate_mmmu(doc),
        (_, "calculate_ins_level_acc") => {
            let results = doc.get("results").unwrap_or(doc);
            let (sum, rows) = results.as_object().into_iter().flatten().fold((0.0, 0.0), |(sum, all), (_, one)| {
                (sum + number(&one["acc"]) * number(&one["num_example"]), all + number(&one["num_example"]))
            });
            value(float(if rows == 0.0 { 0.0 } else { sum / rows }))
        }
        _ => Answer::NotApplicable("not known".into()),
    }
}

fn rows(doc: &Json) -> impl Iterator<Item = &Json> {
    doc["results"].as_array().into_iter().flatten()
}

fn circular(doc: &Json) -> Answer {
    let all: Vec<mmbench::Row> = doc["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| mmbench::Row {
            index: row["index"].as_i64().unwrap_or(0),
            gold: text(row, "answer"),
            answer: text(row, "prediction"),
            choices: ['A', 'B', 'C', 'D']
                .into_iter()
                .filter_map(|c| Some((c, as_text(row.get(c.to_string()).filter(|v| !v.is_null())?))))
                .collect(),
            category: text(row, "category"),
            group: text(row, "L2-category"),
        })
        .collect();
    let right = all.iter().map(|row| (row.index, row.is_right_statically(), row.category.as_str(), row.group.as_str()));
    let scores = mmbench::circular(right);
    value(json!({ "overall_acc": scores.overall, "category_acc": scores.categories, "l2_category_acc": scores.groups,
        "reported": scores.overall * 100.0 }))
}

/// Subjects in the order in which they come; several predictions of a row are right if any is.
fn aggregate_mmmu(doc: &Json) -> Answer {
    let mut subjects: Vec<(String, u64, u64)> = Vec::new();
    for row in rows(doc) {
        let subject = row.get("subdomain").or_else(|| row.get("subject")).map(as_text).unwrap_or_default();
        let at = subjects.iter().position(|(name, ..)| *name == subject).unwrap_or(subjects.len());
        if at == subjects.len() {
            subjects.push((subject, 0, 0));
        }
        let golds = mmmu::golds(&row["answer"]);
        let open = row.get("question_type").is_some_and(|kind| kind != "multiple-choice");
        let said = match &row["parsed_pred"] {
            Json::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        let right = said.iter().any(|one| {
            if open {
                mmmu::open_is_right_by_characters(golds.iter().map(String::as_str), &as_text(one))
            } else {
                golds.contains(&as_text(one))
            }
        });
        subjects[at].1 += u64::from(right);
        subjects[at].2 += 1;
    }
    value(json!(mmmu::accuracy(subjects.iter().map(|(_, right, rows)| (*right, *rows))).unwrap_or(0.0)))
}

fn charxiv_answer(vector: &Vector, name: &str) -> Answer {
    let doc = vector.doc();
    match name {
        "get_number_instruction" => value(charxiv::number_instruction(vector.response())),
        "descriptive_query_helper" => {
            let template = doc["qid"].as_u64().unwrap_or(0);
            result(charxiv::descriptive_question(&vector.texts, template, &doc["subplot_loc"]).map(Json::from))
        }
        "build_descriptive_grading_queries" => {
            let groups: Vec<(u64, Vec<[String; 3]>)> = doc["groups"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(template, rows)| {
                    (template.parse().unwrap_or(0), serde_json::from_value(rows.clone()).unwrap_or_default())
                })
                .collect();
            let requests = charxiv::descriptive_requests(&vector.texts, &groups);
            result(requests.map(|requests| requests.iter().map(|request| {
                let query = text(request, "grading_query");
                json!({ "resp_keys": request["resp_keys"], "sha256": texts::sha256(&query), "len": query.chars().count() })
            }).collect()))
        }
        "descriptive_process_docs" => {
            let figures = doc["n_docs"].as_u64().unwrap_or(0) as usize;
            let asked = |figure: usize| -> Vec<String> {
                (0..4)
                    .map(|copy| format!("a{}", charxiv::question_number(copy * figures + figure, figures, false)))
                    .collect()
            };
            let mut out = json!({ "n_rows": 4 * figures });
            for key in vector.get("expected").as_object().into_iter().flatten().map(|(key, _)| key) {
                let digits: String = key.chars().filter(char::is_ascii_digit).collect();
                if let Ok(figure) = digits.parse() {
                    out[key] = json!(asked(figure));
                }
            }
            value(out)
        }
        "verify_grading_output" => {
            let count = doc["length"].as_u64().or_else(|| doc["n"].as_u64()).unwrap_or(0) as usize;
            value(charxiv::descriptive_scores(vector.response(), count).is_some())
        }
        _ => Answer::NotApplicable("not known".into()),
    }
}
