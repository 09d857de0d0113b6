//! CharXiv: which questions are asked, and what a judge is asked about their answers.
//!
//! The questions' and the judge's texts are the benchmark's (see [`crate::texts`]); here is how they are put together.

use serde_json::{Value as Json, json};

use crate::python::text;
use crate::texts::{Texts, fill};

/// Questions that a judge is asked about at once.
pub const BATCH: usize = 5;
/// The score of a question that the judge did not score.
pub const UNSCORED: f64 = -1.0;

/// What is added to a question for a number: whether it is whole, or with how many places the gold answer is written.
pub fn number_instruction(gold: &str) -> String {
    match gold.split('.').nth(1) {
        None => "* Your final answer must be an exact integer.".into(),
        Some(places) => {
            format!("* Your final answer must be a number with {} decimal places.", places.chars().count())
        }
    }
}

/// Where in the figure a question looks.
fn place(location: &Json) -> Result<String, String> {
    if let Some(text) = location.as_str() {
        return Ok(format!("For {text}, "));
    }
    let cell = |i: usize| {
        location.get(i).ok_or_else(|| format!("subplot location {location} is neither a text nor [row, column]"))
    };
    let whole = |value: &Json| {
        value.as_f64().filter(|v| v.fract() == 0.0).map_or_else(|| value.to_string(), |v| format!("{v:.0}"))
    };
    let (row, column) = (cell(0)?, cell(1)?);
    if row.as_f64() == Some(0.0) {
        return Ok("For the current plot, ".into());
    }
    Ok(format!("For the subplot at row {} and column {}, ", whole(row), whole(column)))
}

/// The question of a template, 1 to 19. The last two are about the whole figure.
///
/// # Errors
/// No such template, no texts, or a location that is none.
pub fn descriptive_question(texts: &Texts, template: u64, location: &Json) -> Result<String, String> {
    let text = texts.entry("DESCRIPTIVE_RESP_INST", &template.to_string())?;
    if matches!(template, 18 | 19) { Ok(text.into()) } else { Ok(fill(text, &[&place(location)?])) }
}

/// The question of a record's `reasoning_q` with the instruction of its kind of answer (1 to 4).
///
/// # Errors
/// Another kind, or no texts.
pub fn reasoning_question(texts: &Texts, kind: u64, question: &str, gold: &str) -> Result<String, String> {
    if !(1..=4).contains(&kind) {
        return Err(format!("`reasoning_q_source` is {kind}; it is 1, 2, 3 or 4"));
    }
    let template = texts.entry("REASONING_RESP_INST", &kind.to_string())?;
    Ok(text::strip(&fill(template, &[question, &number_instruction(gold)])).to_owned())
}

/// Which of a figure's four descriptive questions row `row` of the fourfold data set asks: 1 to 4.
///
/// The reference puts the whole data set four times in a row and counts by row, so that of a multiple of four figures each
/// is asked the same question four times; mended, all four are asked.
pub fn question_number(row: usize, figures: usize, mended: bool) -> usize {
    if mended { row / figures.max(1) % 4 + 1 } else { row % 4 + 1 }
}

/// The rules that a template's answers are judged by.
fn rubric(template: u64) -> Option<&'static str> {
    Some(match template {
        1 => "title",
        2..=7 => "ocr",
        8 | 9 | 10 | 12 | 14 | 15 | 17 | 19 => "quant",
        11 => "bool",
        13 => "enum",
        16 => "trend",
        18 => "layout",
        _ => return None,
    })
}

/// What the judge is asked about up to [`BATCH`] answers to one template: pairs of answer and gold answer.
///
/// # Errors
/// No such template, or no texts.
pub fn descriptive_request(texts: &Texts, template: u64, answers: &[(&str, &str)]) -> Result<String, String> {
    let rubric = rubric(template).ok_or_else(|| format!("template {template} is none of 1 to 19"))?;
    let keys: Vec<String> = (1..=answers.len()).map(|i| format!("'extract_answer_T{i}', 'score_T{i}'")).collect();
    let mut request = texts
        .text("DESCRIPTIVE_GRADING_PREFIX")?
        .replace("<|NUM_TRIPLETS|>", &answers.len().to_string())
        .replace("<|OVERARCHING_QUESTION|>", texts.entry("DESCRIPTIVE_GRADING_QMAP", &template.to_string())?)
        .replace("<|JSON_KEYS|>", &format!("[{}]", keys.join(", ")));
    request.push_str(texts.entry("DESCRIPTIVE_GRADING_ICL", rubric)?);
    for (i, (answer, gold)) in answers.iter().enumerate() {
        let n = i + 1;
        request.push_str(&format!("T{n}:\nResponse {n}: {answer}\nGround Truth {n}: {gold}\n\n"));
    }
    Ok(request)
}

/// What the judge is asked about one reasoning answer.
///
/// # Errors
/// Another kind than 1 to 4, or no texts.
pub fn reasoning_request(texts: &Texts, kind: u64, question: &str, gold: &str, answer: &str) -> Result<String, String> {
    let rules = texts.entry("REASONING_GRADING_INST", &kind.to_string())?;
    let filled =
        rules.replace("<|question|>", question).replace("<|ground_truth|>", gold).replace("<|response|>", answer);
    Ok(format!("{}{filled}", texts.text("REASONING_GRADING_PREFIX")?))
}

/// The scores 0 or 1 of a judge's reply about `count` descriptive answers; `None` if any is missing.
pub fn descriptive_scores(reply: &str, count: usize) -> Option<Vec<f64>> {
    let reply: Json = serde_json::from_str(reply).ok()?;
    let score = |i: usize| {
        reply.get(format!("extract_answer_T{i}"))?;
        let score = reply.get(format!("score_T{i}"))?;
        score.as_f64().or_else(|| score.as_bool().map(f64::from)).filter(|score| [0.0, 1.0].contains(score))
    };
    (1..=count).map(score).collect()
}

/// The score of a judge's reply about a reasoning answer.
///
/// The judge is told the key `extract_answer` and the reference reads `extracted_answer`; mended, either will do.
pub fn reasoning_score(reply: &str, mended: bool) -> Option<f64> {
    let reply: Json = serde_json::from_str(reply).ok()?;
    let told = || mended.then(|| reply.get("extract_answer")).flatten();
    reply.get("extracted_answer").or_else(told)?;
    let score = reply.get("score")?;
    score.as_f64().or_else(|| score.as_bool().map(f64::from))
}

/// The mean over keys, of which the last score of each counts.
pub fn mean_of_last<'a>(scores: impl IntoIterator<Item = (&'a str, f64)>) -> f64 {
    let mut last: Vec<(&str, f64)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (key, score) in scores {
        let at = *places.entry(key).or_insert(last.len());
        if at == last.len() {
            last.push((key, score));
        } else {
            last[at].1 = score;
        }
    }
    last.iter().map(|(_, score)| score).sum::<f64>() / last.len() as f64
}

/// The requests about all answers, by template: a list of `{resp_keys, grading_query}`. Groups are template, then key,
/// answer, gold answer.
///
/// # Errors
/// No such template, or no texts.
pub fn descriptive_requests(texts: &Texts, groups: &[(u64, Vec<[String; 3]>)]) -> Result<Vec<Json>, String> {
    let mut requests = Vec::new();
    for (template, answers) in groups {
        for batch in answers.chunks(BATCH) {
            let pairs: Vec<(&str, &str)> =
                batch.iter().map(|[_, answer, gold]| (answer.as_str(), gold.as_str())).collect();
            let keys: Vec<&str> = batch.iter().map(|[key, ..]| key.as_str()).collect();
            requests
                .push(json!({ "resp_keys": keys, "grading_query": descriptive_request(texts, *template, &pairs)? }));
        }
    }
    Ok(requests)
}
