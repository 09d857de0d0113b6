//! MathVista: question, choices and a hint about the form of the answer, without examples.

use serde_json::Value as Json;

use super::{LETTER, field, list};
use crate::python::text;

/// The four forms of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shot {
    /// `mathvista_testmini_cot`.
    StepByStep,
    /// `mathvista_testmini_solution`.
    Solution,
    /// `mathvista_testmini_format`.
    Format,
    /// `mathvista_test`.
    ReasonFirst,
}

impl Shot {
    /// The form of the reference's name for it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "step-by-step" => Self::StepByStep,
            "solution" => Self::Solution,
            "format-prompt" => Self::Format,
            "reason-first" => Self::ReasonFirst,
            _ => return None,
        })
    }
}

/// The prompt of a record.
///
/// # Errors
/// A field is missing, or the answer is of a kind that has no hint.
pub fn question(record: &Json, shot: Shot) -> Result<String, String> {
    let brief = shot == Shot::Format;
    let unit = record.get("unit").and_then(Json::as_str).filter(|unit| !unit.is_empty());
    let unit = unit.map(|unit| format!(" (Unit: {unit})")).unwrap_or_default();
    let label = if brief { "" } else { "Question: " };
    let question = format!("{label}{}{unit}", field(record, "question")?);
    let choices = match record.get("choices") {
        None | Some(Json::Null) => Vec::new(),
        Some(_) => list(record, "choices")?,
    };
    let texts = choices.iter().map(String::as_str);
    let choices = match choices.is_empty() {
        true => String::new(),
        false if brief => text::options(texts, "", ". ", "\n"),
        false => format!("Choices:\n{}", text::options(texts, "(", ") ", "\n")),
    };
    let hint = hint(record, shot)?;
    let parts = match shot {
        Shot::ReasonFirst => [hint, question, choices, String::new()],
        Shot::Solution => [question, choices, hint, "Solution: ".into()],
        Shot::StepByStep | Shot::Format => [question, choices, hint, String::new()],
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    Ok(text::strip(&parts.join("\n")).to_owned())
}

/// How the answer is to be written.
fn hint(record: &Json, shot: Shot) -> Result<String, String> {
    let multiple_choice = field(record, "question_type")? == "multi_choice";
    let answer_type = field(record, "answer_type")?;
    let precision = record.get("precision").and_then(Json::as_f64).unwrap_or(0.0);
    // What kind of answer, and examples of it.
    let (what, brief, examples) = match answer_type {
        _ if multiple_choice => ("", LETTER, ""),
        "integer" => (
            "an integer answer",
            "Answer the question using a single integer number.",
            "the final value, e.g., 1, 2, 3",
        ),
        "float" if precision == 1.0 => (
            "a floating-point number with one decimal place",
            "Answer the question using a single floating-point number with one decimal place.",
            "the final value, e.g., 1.2, 1.3, 1.4",
        ),
        "float" if precision == 2.0 => (
            "a floating-point number with two decimal places",
            "Answer the question using a single floating-point number with two decimal places.",
            "the final value, e.g., 1.23, 1.34, 1.45",
        ),
        "list" => (
            "a Python list as an answer",
            "Answer the question using a Python list.",
            "the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]",
        ),
        other => return Err(format!("an answer of type `{other}` with precision {precision} has no hint")),
    };
    Ok(match (shot, multiple_choice) {
        (Shot::Format, _) => brief.into(),
        (Shot::ReasonFirst, true) => {
            "First perform reasoning, then finally select the question from the choices in the following format: Answer: xxx.".into()
        }
        (Shot::ReasonFirst, false) => format!(
            "First perform reasoning, then finally answer the question requiring {what} and provide {examples}, at the end in the \
             following format: Answer: xxx."
        ),
        (_, true) => {
            "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.".into()
        }
        (_, false) => format!("Hint: Please answer the question requiring {what} and provide {examples}, at the end."),
    })
}
