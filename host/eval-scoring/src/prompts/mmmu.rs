//! MMMU and MMMU-Pro: `<image 2>` in question and options names the record's field `image_2`.

use serde_json::Value as Json;

use super::{LETTER, OPTION_LETTER, PHRASE, Part, QWEN_LETTER, field, lettered};
use crate::python::{literal, number, text};

/// What is said after a question.
#[derive(Clone, Debug)]
pub struct Style {
    /// After the options of a multiple-choice question.
    pub choice: String,
    /// After an open question.
    pub open: String,
    /// Qwen3-VL's form, and what is said before the question in it.
    pub qwen: Option<String>,
}

impl Style {
    /// MMMU's.
    pub fn mmmu() -> Self {
        Self { choice: LETTER.into(), open: PHRASE.into(), qwen: None }
    }

    /// MMMU-Pro's, which has no open questions.
    pub fn pro() -> Self {
        Self { choice: OPTION_LETTER.into(), open: String::new(), qwen: None }
    }

    /// Qwen3-VL's.
    pub fn qwen() -> Self {
        let open = "Please select the correct answer from the options above.";
        Self { choice: QWEN_LETTER.into(), open: open.into(), qwen: Some("Question: ".into()) }
    }
}

/// The texts of `options`, a Python list as text; a list of JSON will do, too.
///
/// # Errors
/// It is neither.
pub fn options(record: &Json) -> Result<Vec<String>, String> {
    match record.get("options") {
        Some(Json::Array(_)) => super::list(record, "options"),
        _ => literal::texts(field(record, "options")?).map_err(|e| format!("the record's `options`: {e}")),
    }
}

/// Whether the question is open; a record without `question_type` has options.
pub fn is_open(record: &Json) -> bool {
    record.get("question_type").and_then(Json::as_str).is_some_and(|kind| kind != "multiple-choice")
}

/// The question as one text, places of pictures as they are.
///
/// # Errors
/// A field is missing.
pub fn plain(record: &Json, style: &Style) -> Result<String, String> {
    let question = field(record, "question")?;
    let open = is_open(record);
    let instruction = if open { &style.open } else { &style.choice };
    if let Some(before) = &style.qwen {
        return Ok(format!("{before}{question}\nOptions:\n{}\n{instruction}", lettered(&options(record)?)));
    }
    if open {
        return Ok(format!("{question}\n\n{instruction}"));
    }
    Ok(format!("{question}\n{}\n\n{instruction}", lettered(&options(record)?)))
}

/// `<image k>` of any digits: where each begins and ends, and its digits.
fn places(question: &str) -> Vec<(usize, usize, &str)> {
    let mut found = Vec::new();
    for (start, opening) in question.match_indices("<image ") {
        let rest = &question[start + opening.len()..];
        let digits = rest.find(|c: char| number::digit(c).is_none()).unwrap_or(rest.len());
        if digits > 0 && rest[digits..].starts_with('>') {
            found.push((start, start + opening.len() + digits + 1, &rest[..digits]));
        }
    }
    found
}

/// The fields of the pictures that a record's question and options name, sorted, each once.
///
/// # Errors
/// A field is missing.
pub fn pictures(record: &Json) -> Result<Vec<String>, String> {
    let question = plain(record, &Style { choice: String::new(), open: String::new(), qwen: None })?;
    let mut names: Vec<String> = places(&question).iter().map(|(.., digits)| format!("image_{digits}")).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The chat form: pictures where they are named, as the reference does it, which puts the *sorted* pictures into the places
/// one after the other and leaves out what stands between places for which no picture is left.
///
/// # Errors
/// A field is missing.
pub fn interleaved(record: &Json, style: &Style) -> Result<Vec<Part>, String> {
    let pictures = pictures(record)?;
    let mut question = plain(record, style)?;
    if style.qwen.is_some() {
        let mut parts: Vec<Part> = pictures.into_iter().map(Part::Picture).collect();
        parts.push(Part::Text(question));
        return Ok(parts);
    }
    for k in 1..=7 {
        question = question.replace(&format!("<image {k}>"), "<image>");
    }
    let segments: Vec<&str> = question.split("<image>").collect();
    let last = segments.len() - 1;
    let mut parts = Vec::new();
    for (i, picture) in pictures.into_iter().enumerate() {
        let before = if i < last { text::strip(segments[i]) } else { "" };
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(Part::Picture(picture));
    }
    parts.push(Part::Text(text::strip(segments[last]).into()));
    Ok(parts)
}

/// The mended chat form: every place has the picture that it names, and no text is left out.
///
/// # Errors
/// A field is missing.
pub fn in_place(record: &Json, style: &Style) -> Result<Vec<Part>, String> {
    let question = plain(record, style)?;
    let mut parts = Vec::new();
    let mut from = 0;
    let text = |said: &str| Some(text::strip(said)).filter(|said| !said.is_empty()).map(|said| Part::Text(said.into()));
    for (start, end, digits) in places(&question) {
        parts.extend(text(&question[from..start]));
        parts.push(Part::Picture(format!("image_{digits}")));
        from = end;
    }
    parts.extend(text(&question[from..]));
    Ok(parts)
}
