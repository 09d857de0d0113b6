//! CharXiv: a judge scores every answer.

use std::borrow::Cow;

use ovhost_eval_scoring::stats;
use ovhost_eval_scoring::tasks::charxiv::{self, UNSCORED};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field};
use crate::rows::{self, Row, Spec};
use crate::setup::Setup;

/// `charxiv_reasoning`.
pub struct CharXivReasoning;
/// `charxiv_descriptive`: as the prompt of the same name, rows say in `descriptive_number` which of the figure's four questions
/// is meant, or have its template in `qid` and its answer in `descriptive_a`.
pub struct CharXivDescriptive;

/// The share of right answers; the reference counts a failed judgement as −1.
fn spec(name: &str) -> Vec<Spec> {
    vec![Spec { low: -1.0, ..Spec::all(name, 1.0) }]
}

fn request(
    setup: &Setup,
    question: &str,
    gold: &str,
    answer: &str,
    theirs: Result<String, String>,
) -> Result<String, String> {
    if !setup.texts.is_empty() {
        return theirs;
    }
    Ok(format!(
        "Judge an answer about a chart by the right answer. It is right if it says the same: capitals, punctuation and notation do \
         not count, numbers must have the same value, lists the same items, and \"Not Applicable\" is only right for itself.\n\n\
         Question: {question}\nRight answer: {gold}\nAnswer: {answer}\n\nReply with JSON and nothing else: \
         {{\"extracted_answer\": \"what the answer says\", \"score\": 1 if it is right, else 0}}"
    ))
}

fn scored(setup: &Setup, score: Option<f64>, answer: &str, item: String, reply: &str) -> Result<Outcome, String> {
    let score = match score {
        Some(score) => score,
        None if setup.mended() => return Err(format!("the judge's reply has no score: {reply}")),
        None => UNSCORED,
    };
    let mut outcome = Outcome::read(Some(answer.into()), false).of("", "", item);
    outcome.row.score = score;
    Ok(outcome)
}

/// The field of the question that is meant: `whole` where the row has that, else `numbered` with the question's number.
fn meant<'a>(record: &Fields<'a>, whole: &str, numbered: &str) -> Result<Cow<'a, str>, String> {
    match record.written(whole) {
        Some(_) => field(record, whole),
        None => field(record, &format!("{numbered}{}", field(record, "descriptive_number")?)),
    }
}

fn template(record: &Fields<'_>) -> Result<u64, String> {
    let template = meant(record, "qid", "descriptive_q")?;
    template.parse().map_err(|_| format!("the question's template is {template}; it should be a number from 1 to 19"))
}

/// The last score of a chart (and question) counts, where the reference asks several times.
fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
    if setup.mended() {
        return rows::mean(rows, spec.scale);
    }
    let mean = charxiv::mean_of_last(rows.iter().map(|row| (row.item.as_str(), row.score)));
    let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
    (mean, Some(stats::mean_stderr(&scores)).filter(|error| error.is_finite()))
}

impl Task for CharXivReasoning {
    const NAME: &'static str = "charxiv_reasoning";
    const SUMMARY: &'static str = "CharXiv: reasoning questions, scored by a judge.";
    const JUDGED: bool = true;

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["figure_path", "reasoning_q", "reasoning_a", "reasoning_q_source"]
    }

    fn specs() -> Vec<Spec> {
        spec("reasoning_acc")
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let (question, gold) = (field(record, "reasoning_q")?, field(record, "reasoning_a")?);
        let kind = record.value("reasoning_q_source")?.as_ref().and_then(Json::as_u64).unwrap_or(0);
        let theirs = charxiv::reasoning_request(&setup.texts, kind, &question, &gold, answer);
        request(setup, &question, &gold, answer, theirs).map(Step::Ask)
    }

    fn judged(setup: &Setup, record: &Fields<'_>, answer: &str, reply: &str) -> Result<Outcome, String> {
        let score = charxiv::reasoning_score(reply, setup.mended());
        scored(setup, score, answer, field(record, "figure_path")?.into_owned(), reply)
    }

    fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        value(setup, spec, rows)
    }
}

impl Task for CharXivDescriptive {
    const NAME: &'static str = "charxiv_descriptive";
    const SUMMARY: &'static str = "CharXiv: descriptive questions, scored by a judge.";
    const JUDGED: bool = true;

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &[
            "figure_path",
            "qid",
            "descriptive_q",
            "descriptive_a",
            "descriptive_number",
            "descriptive_q1",
            "descriptive_q2",
            "descriptive_q3",
            "descriptive_q4",
            "descriptive_a1",
            "descriptive_a2",
            "descriptive_a3",
            "descriptive_a4",
        ]
    }

    fn specs() -> Vec<Spec> {
        spec("descriptive_acc")
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let gold = meant(record, "descriptive_a", "descriptive_a")?;
        let question = field(record, "descriptive_q").unwrap_or_else(|_| "a question about the chart".into());
        let theirs = charxiv::descriptive_request(&setup.texts, template(record)?, &[(answer, &gold)]);
        request(setup, &question, &gold, answer, theirs).map(Step::Ask)
    }

    fn judged(setup: &Setup, record: &Fields<'_>, answer: &str, reply: &str) -> Result<Outcome, String> {
        let figure = field(record, "figure_path")?;
        let ours = || setup.texts.is_empty().then(|| charxiv::reasoning_score(reply, true)).flatten();
        let score = charxiv::descriptive_scores(reply, 1).and_then(|scores| scores.first().copied()).or_else(ours);
        // One chart is one cluster; the reference keeps one score per chart and template.
        let item = if setup.mended() { figure.into_owned() } else { format!("{figure}_{}", template(record)?) };
        scored(setup, score, answer, item, reply)
    }

    fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        value(setup, spec, rows)
    }
}
