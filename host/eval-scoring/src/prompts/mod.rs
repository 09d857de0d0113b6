//! What a model is asked: a record in, text and pictures out.
//!
//! The wordings are the benchmarks' and the reference's own short instructions, without which no score could be compared.

use serde_json::Value as Json;

use crate::python::text;

pub mod mathvista;
pub mod mmmu;
pub mod vstar;

/// The instruction of most multiple-choice tasks.
pub const LETTER: &str = "Answer with the option's letter from the given choices directly.";
/// The instruction of tasks with short answers.
pub const PHRASE: &str = "Answer the question using a single word or phrase.";
/// The instruction of ChartQA.
pub const WORD: &str = "Answer the question with a single word.";
/// The instruction of MMMU-Pro.
pub const OPTION_LETTER: &str = "Answer with the option letter from the given choices directly.";
/// The instruction of Qwen3-VL's own prompts.
pub const QWEN_LETTER: &str = "Answer with the option letter only.";

/// What some data sets end their questions with, and what is taken out before another instruction comes.
const YES_OR_NO: &str = " Please answer yes or no.";

/// A part of a user's turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// The picture of this field of the record.
    Picture(String),
}

/// A text field.
///
/// # Errors
/// It is not there, or no text.
pub fn field<'a>(record: &'a Json, key: &str) -> Result<&'a str, String> {
    let value = record.get(key).ok_or_else(|| format!("the record has no field `{key}`"))?;
    value.as_str().ok_or_else(|| format!("the record's `{key}` is {}; it should be text", kind(value)))
}

/// A field that is a list, its items as texts.
///
/// # Errors
/// It is not there, or no list.
pub fn list(record: &Json, key: &str) -> Result<Vec<String>, String> {
    let value = record.get(key).ok_or_else(|| format!("the record has no field `{key}`"))?;
    let items =
        value.as_array().ok_or_else(|| format!("the record's `{key}` is {}; it should be a list", kind(value)))?;
    Ok(items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect())
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// `A. first\nB. second`.
pub fn lettered(options: &[String]) -> String {
    text::options(options.iter().map(String::as_str), "", ". ", "\n")
}

/// A question before and after which something is said: ChartQA and DocVQA.
///
/// # Errors
/// The record has no question.
pub fn question(record: &Json, before: &str, after: &str) -> Result<String, String> {
    Ok(format!("{before}{}{after}", field(record, "question")?))
}

/// MME's and MMStar's question: stripped, and without its own instruction where another comes.
///
/// # Errors
/// The record has no question.
pub fn bare_question(record: &Json, before: &str, after: &str) -> Result<String, String> {
    let question = text::strip(field(record, "question")?);
    let plain =
        if before.is_empty() && after.is_empty() { question.to_owned() } else { question.replace(YES_OR_NO, "") };
    Ok(format!("{before}{plain}{after}"))
}

/// AI2D: the question and its options.
///
/// # Errors
/// A field is missing.
pub fn ai2d(record: &Json, before: &str, after: &str) -> Result<String, String> {
    Ok(format!("{before}{}\n{}{after}", field(record, "question")?, lettered(&list(record, "options")?)))
}

/// ScienceQA: the hint if there is one, the question, its choices.
///
/// # Errors
/// A field is missing.
pub fn scienceqa(record: &Json, before: &str, after: &str) -> Result<String, String> {
    let hint = record.get("hint").and_then(Json::as_str).filter(|hint| !hint.is_empty());
    let hint = hint.map(|hint| format!("Context: {hint}\n")).unwrap_or_default();
    Ok(format!("{before}{hint}{}\n{}{after}", field(record, "question")?, lettered(&list(record, "choices")?)))
}

/// MMBench: hint, question and the options that are there; absent ones are null, "" or "nan".
///
/// # Errors
/// The record has no question.
pub fn mmbench(record: &Json, after: &str) -> Result<String, String> {
    let there = |key: &str| record.get(key).and_then(Json::as_str).filter(|said| *said != "nan");
    let hint = there("hint").map(|hint| format!("{hint} ")).unwrap_or_default();
    let options: String = ["A", "B", "C", "D", "E"]
        .into_iter()
        .filter_map(|letter| there(letter).filter(|said| !said.is_empty()).map(|said| format!("\n{letter}. {said}")))
        .collect();
    let body = format!("There are several options:{options}");
    Ok(format!("{hint}{} {}\n{after}", field(record, "question")?, body.trim_end_matches('\n')))
}

/// MME-RealWorld, in English or Chinese.
///
/// # Errors
/// A field is missing.
pub fn mmerealworld(record: &Json, chinese: bool) -> Result<String, String> {
    let (question, options) = (field(record, "question")?, list(record, "multi-choice options")?.join("\n"));
    Ok(if chinese {
        format!(
            "{question} 选项如下所示:\n{options}\n根据图像选择上述多项选择题的最佳答案。只需回答正确选项的字母（A, B, C, D 或 E）。\n\
             最佳答案为： "
        )
    } else {
        format!(
            "{question} The choices are listed below:\n{options}\nSelect the best answer to the above multiple-choice question \
             based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option.\nThe best answer is: "
        )
    })
}
