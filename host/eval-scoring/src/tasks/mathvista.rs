//! MathVista: what an answer says, made a value of the answer's type.

use serde_json::Value as Json;

use crate::distance;
use crate::python::{number, text};

/// What is known of a question.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whether it is of the type `multi_choice`.
    pub multiple_choice: bool,
    /// `text`, `integer`, `float` or `list`.
    pub answer_type: String,
    /// The choices' texts; `None` where the record has none.
    pub choices: Option<Vec<String>>,
    /// Decimal places of a float.
    pub precision: Precision,
}

/// How many decimal places a float has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Precision {
    /// The record says nothing: the float becomes a whole number.
    #[default]
    None,
    /// This many.
    Places(i32),
    /// The record says it as a float (1.0), with which Python's `round` fails.
    Float(f64),
}

impl Precision {
    /// The record's `precision`.
    pub fn of(value: &Json) -> Self {
        match (value.as_i64(), value.as_f64()) {
            (Some(places), _) => Self::Places(i32::try_from(places).unwrap_or(i32::MAX)),
            (None, Some(places)) => Self::Float(places),
            _ => Self::None,
        }
    }

    /// The mended precision: a float without fraction is as good as an integer.
    #[must_use]
    pub fn mended(self) -> Self {
        match self {
            Self::Float(places) if places == places.trunc() => Self::Places(places as i32),
            other => other,
        }
    }
}

impl Question {
    /// What a record says; missing fields are as nothing.
    pub fn of(record: &Json) -> Self {
        let field = |key: &str| record.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let texts = |list: &Vec<Json>| {
            list.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), Into::into)).collect()
        };
        Self {
            multiple_choice: field("question_type") == "multi_choice",
            answer_type: field("answer_type"),
            choices: record.get("choices").and_then(Json::as_array).map(texts),
            precision: record.get("precision").map_or(Precision::Places(0), Precision::of),
        }
    }

    /// The answer as far as it can be read without a judge; `None` where the reference asks one.
    pub fn extract(&self, answer: &str) -> Option<String> {
        let chosen = || self.choices.iter().flatten().any(|choice| choice == answer);
        if answer.is_empty() || (self.multiple_choice && chosen()) {
            return Some(answer.to_owned());
        }
        match self.answer_type.as_str() {
            "integer" => number::parse_int(answer),
            "float" => number::parse_float(answer).map(number::repr),
            _ => None,
        }
    }

    /// The mended reading before a judge is asked: also a letter alone, with its marks.
    pub fn extract_mended(&self, answer: &str) -> Option<String> {
        let letter = || {
            let inner = text::strip(answer).trim_matches(|c: char| c.is_ascii_punctuation());
            let mut chars = inner.chars();
            let letter = chars.next().filter(|c| c.is_ascii_uppercase() && chars.next().is_none())?;
            let within = (letter as usize - 'A' as usize) < self.choices.as_ref().map_or(0, Vec::len);
            within.then(|| letter.to_string())
        };
        self.extract(answer).or_else(|| self.multiple_choice.then(letter).flatten())
    }

    /// The value that an extracted answer means; `None` if it is none of the answer's type.
    ///
    /// # Errors
    /// A multiple-choice question without choices.
    pub fn normalize(&self, extracted: &str) -> Result<Option<String>, String> {
        if self.multiple_choice {
            let choices = self.choices.as_deref().filter(|choices| !choices.is_empty());
            return choice(extracted, choices.ok_or("a multiple-choice question has no `choices`")?).map(Some);
        }
        Ok(match self.answer_type.as_str() {
            "integer" => number::parse_float(extracted).and_then(number::truncated),
            "float" => number::parse_float(extracted).and_then(|value| self.rounded(value)),
            _ => Some(extracted.to_owned()),
        })
    }

    fn rounded(&self, value: f64) -> Option<String> {
        match self.precision {
            Precision::Places(places) => Some(number::repr(number::round(value, places))),
            Precision::None => number::truncated(value.round_ties_even()),
            Precision::Float(_) => None,
        }
    }
}

/// The choice of the first "(x)", or of a letter alone, else the one at the smallest edit distance, the first of equals.
fn choice(extracted: &str, choices: &[String]) -> Result<String, String> {
    let chars: Vec<char> = text::strip(extracted).chars().collect();
    let bracketed = chars.windows(3).find(|w| w[0] == '(' && w[1].is_ascii_alphabetic() && w[2] == ')');
    let said = bracketed.map_or_else(|| chars.iter().collect::<String>(), |w| w[1].to_ascii_uppercase().to_string());
    let lettered = (0..choices.len()).find(|&i| said == text::letter(i).to_string());
    let same = || choices.iter().position(|choice| *choice == said);
    let nearest =
        || choices.iter().enumerate().min_by_key(|(_, choice)| distance::levenshtein(&said, choice)).map(|(i, _)| i);
    lettered.or_else(same).or_else(nearest).and_then(|i| choices.get(i)).cloned().ok_or_else(|| "no choices".into())
}

/// Whether a value is the gold one, as texts without white space at the ends.
pub fn is_right(value: Option<&str>, gold: &str) -> bool {
    text::strip(value.unwrap_or("None")) == text::strip(gold)
}

/// The percentage of right answers to two places; `None` of none right, which the reference reports as nothing.
pub fn percentage(right: u64, rows: u64) -> Option<f64> {
    let share = number::round(right as f64 / rows as f64 * 100.0, 2);
    (rows > 0 && share != 0.0).then_some(share)
}
