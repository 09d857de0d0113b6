//! MathVista.

use ovhost_eval_scoring::python::{number, text};
use ovhost_eval_scoring::tasks::mathvista::{self, Precision, Question};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, list};
use crate::rows::{self, Row, Spec};
use crate::setup::Setup;

/// `mathvista`.
pub struct MathVista;

fn question(setup: &Setup, record: &Fields<'_>) -> Result<Question, String> {
    let precision = record.value("precision")?.map_or(Precision::Places(0), |value| Precision::of(&value));
    Ok(Question {
        multiple_choice: record.text("question_type")?.is_some_and(|kind| kind == "multi_choice"),
        answer_type: record.text("answer_type")?.unwrap_or_default().into_owned(),
        choices: record.written("choices").filter(|w| w.starts_with('[')).and_then(|_| list(record, "choices").ok()),
        precision: if setup.mended() { precision.mended() } else { precision },
    })
}

fn outcome(question: &Question, record: &Fields<'_>, extracted: &str) -> Result<Outcome, String> {
    let value = question.normalize(extracted)?;
    let right = mathvista::is_right(value.as_deref(), &field(record, "answer")?);
    Ok(Outcome::read(value, right))
}

impl Task for MathVista {
    const NAME: &'static str = "mathvista";
    const SUMMARY: &'static str = "MathVista: a value extracted (by a judge where need be) and compared.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["question_type", "answer_type", "choices", "precision", "answer", "query", "question"]
    }

    fn specs() -> Vec<Spec> {
        vec![Spec::all("llm_as_judge_eval", 100.0)]
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let question = question(setup, record)?;
        let extracted = if setup.mended() { question.extract_mended(answer) } else { question.extract(answer) };
        match extracted {
            // An empty answer is the shortest choice to the reference; mended, it is unread.
            Some(text) if text.is_empty() && setup.mended() => Ok(Step::Done(Outcome::read(None, false))),
            Some(text) => outcome(&question, record, &text).map(Step::Done),
            None if setup.config.judge => Ok(Step::Ask(request(setup, record, answer))),
            None => Ok(Step::Done(Outcome::read(None, false))),
        }
    }

    fn judged(setup: &Setup, record: &Fields<'_>, _answer: &str, reply: &str) -> Result<Outcome, String> {
        let reply = text::strip(reply);
        if reply.is_empty() && setup.mended() {
            return Err("the judge's reply is empty".into());
        }
        outcome(&question(setup, record)?, record, reply)
    }

    fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        let (mean, error) = rows::mean(rows, spec.scale);
        (if setup.mended() { mean } else { number::round(mean, 2) }, error)
    }
}

fn request(setup: &Setup, record: &Fields<'_>, answer: &str) -> String {
    let query = field(record, "query").or_else(|_| field(record, "question")).unwrap_or_default();
    let words = setup.texts.text("DEMO_PROMPT").map_or(
        "Read the question and the response, and write the answer that the response gives, and nothing else: of a question with \
         choices the letter of the choice, as in B; of others the number or the list in the form that the question asks for, as in \
         14, 0.6, 1.45 or [2007, 2008].",
        text::strip,
    );
    format!("{words}\n\n{query}\n\n{answer}\n\nExtracted answer: ")
}
