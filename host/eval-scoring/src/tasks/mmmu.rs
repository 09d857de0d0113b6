//! MMMU and MMMU-Pro: letters of multiple-choice questions, candidates of open ones, subjects and domains.
//!
//! The rules are those of the benchmark's own evaluation (Yue et al., 2024) as the reference has them.

use std::cell::OnceCell;

use serde_json::Value as Json;

use crate::python::{number, text};

/// What a multiple-choice answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This letter.
    Letter(char),
    /// Nothing that can be read; the reference draws a letter.
    Unread,
}

/// Where candidates were found, which decides how one of several is chosen.
enum Found {
    Brackets,
    Letter,
    Words,
}

/// Reads a multiple-choice answer; the letters of `options` are A, B, C and so on.
pub fn parse_choice<S: AsRef<str>>(answer: &str, options: &[S]) -> Choice {
    let padded = format!(" {} ", text::strip_each(answer, &[',', '.', '!', '?', ';', ':', '\'']));
    let letters: Vec<char> = (0..options.len()).map(text::letter).collect();
    let lowered = OnceCell::new();
    let lowered = || lowered.get_or_init(|| text::lower(&padded)).as_str();
    // Where each letter last stands, found in one go: "(B)", "B ", "B." and " B ".
    let forms = Forms::of(&padded, &letters);
    let (mut found, mut candidates) = (Found::Brackets, forms.holding(|place| place.brackets));
    if candidates.is_empty() {
        found = Found::Letter;
        candidates = forms.holding(|place| place.before_space);
    }
    if candidates.is_empty() {
        candidates = forms.holding(|place| place.before_stop);
    }
    if candidates.is_empty() && text::split(&padded).count() > 5 {
        found = Found::Words;
        let said = |&i: &usize| lowered().contains(&text::lower(options[i].as_ref()));
        candidates = (0..options.len()).filter(said).collect();
    }
    // The last place wins, the first candidate among equals; a letter that is nowhere between spaces has none.
    let place = |i: usize| match found {
        Found::Brackets => forms.0[i].brackets,
        Found::Letter => forms.0[i].between_spaces,
        Found::Words => lowered().rfind(&text::lower(options[i].as_ref())),
    };
    let best = candidates.iter().copied().reduce(|best, i| if place(i) > place(best) { i } else { best });
    best.map_or(Choice::Unread, |i| Choice::Letter(letters[i]))
}

/// Where a letter last stands in each form.
#[derive(Clone, Default)]
struct Places {
    brackets: Option<usize>,
    before_space: Option<usize>,
    before_stop: Option<usize>,
    between_spaces: Option<usize>,
}

/// The places of all letters.
struct Forms(Vec<Places>);

impl Forms {
    fn of(padded: &str, letters: &[char]) -> Forms {
        let mut places = vec![Places::default(); letters.len()];
        let mut before = None;
        let mut chars = padded.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            // Letters go on from A without a gap.
            let index = (c as usize).wrapping_sub('A' as usize);
            if let (Some(place), Some(&(_, after))) = (places.get_mut(index), chars.peek()) {
                match after {
                    ')' if before == Some('(') => place.brackets = Some(at),
                    ' ' => {
                        place.before_space = Some(at);
                        if before == Some(' ') {
                            place.between_spaces = Some(at);
                        }
                    }
                    '.' => place.before_stop = Some(at),
                    _ => {}
                }
            }
            before = Some(c);
        }
        Forms(places)
    }

    fn holding(&self, form: fn(&Places) -> Option<usize>) -> Vec<usize> {
        (0..self.0.len()).filter(|&i| form(&self.0[i]).is_some()).collect()
    }
}

/// A candidate of an open answer, or a normalised reference.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, rounded to two places.
    Number(f64),
    /// A text in lower case.
    Text(String),
}

impl Value {
    /// `str(value)`.
    pub fn text(&self) -> String {
        match self {
            Self::Number(value) => number::repr(*value),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Takes a text for a number if it is one, without its commas; else gives it in lower case. One character alone becomes
/// two texts with a space before and after, so that it is not found within every word.
pub fn normalize(raw: &str) -> Vec<Value> {
    let stripped = text::strip(raw);
    if let Some(value) = number::parse_float(&stripped.replace(',', "")) {
        return vec![Value::Number(number::round(value, 2))];
    }
    let lowered = text::lower(stripped);
    if text::len(&lowered) == 1 {
        return vec![Value::Text(format!(" {lowered}")), Value::Text(format!("{lowered} "))];
    }
    vec![Value::Text(lowered)]
}

/// Numbers in a text, in three passes that may find the same one again: with commas, with an exponent, plain.
pub fn extract_numbers(raw: &str) -> Vec<String> {
    let chars: Vec<char> = raw.chars().collect();
    let mut found = Vec::new();
    for end_at in [Numbers::commas, Numbers::exponent, Numbers::plain] {
        let numbers = Numbers { chars: &chars };
        let mut at = 0;
        while at < chars.len() {
            match end_at(&numbers, at) {
                Some(end) if end > at => {
                    found.push(chars[at..end].iter().collect());
                    at = end;
                }
                _ => at += 1,
            }
        }
    }
    found
}

/// Matchers: a start in, the end of the match out.
struct Numbers<'a> {
    chars: &'a [char],
}

impl Numbers<'_> {
    fn at(&self, i: usize) -> Option<char> {
        self.chars.get(i).copied()
    }

    fn is_digit(&self, i: usize) -> bool {
        self.at(i).is_some_and(|c| number::digit(c).is_some())
    }

    fn digits(&self, from: usize) -> usize {
        (from..).take_while(|&i| self.is_digit(i)).count() + from
    }

    fn boundary(&self, i: usize) -> bool {
        text::is_boundary(i.checked_sub(1).and_then(|i| self.at(i)), self.at(i))
    }

    fn after_sign(&self, start: usize) -> usize {
        start + usize::from(self.at(start) == Some('-'))
    }

    /// One to three digits, then groups of a comma and three digits, on word boundaries.
    fn commas(&self, start: usize) -> Option<usize> {
        let first = self.after_sign(start);
        if !self.boundary(first) {
            return None;
        }
        let head = (self.digits(first) - first).min(3);
        // Fewer digits of the head are tried last; only a head of all its digits can be followed by a comma.
        let mut end = first + head;
        if head == 0 || self.at(end) != Some(',') {
            return None;
        }
        let mut last = None;
        while self.at(end) == Some(',') && (1..=3).all(|i| self.is_digit(end + i)) {
            end += 4;
            if self.boundary(end) {
                last = Some(end);
            }
        }
        last
    }

    /// Digits, perhaps a fraction, then an exponent.
    fn exponent(&self, start: usize) -> Option<usize> {
        let first = self.after_sign(start);
        let whole = self.digits(first);
        if whole == first {
            return None;
        }
        let fraction = (self.at(whole) == Some('.')).then(|| self.digits(whole + 1)).filter(|&end| end > whole + 1);
        fraction.into_iter().chain([whole]).find_map(|end| self.exponent_part(end))
    }

    fn exponent_part(&self, at: usize) -> Option<usize> {
        let mark = matches!(self.at(at), Some('e' | 'E'));
        let digits = at + 1 + usize::from(matches!(self.at(at + 1), Some('+' | '-')));
        let end = self.digits(digits);
        (mark && end > digits).then_some(end)
    }

    /// A number that no exponent, comma or digit follows.
    fn plain(&self, start: usize) -> Option<usize> {
        let first = self.after_sign(start);
        let whole = self.digits(first);
        let ends = |end: usize| self.exponent_part(end).is_none() && self.at(end) != Some(',') && !self.is_digit(end);
        // Of a fraction as few digits as none may be left out, but then a digit follows; so only the whole of it matches.
        if whole > first && self.at(whole) == Some('.') && self.is_digit(whole + 1) && ends(self.digits(whole + 1)) {
            return Some(self.digits(whole + 1));
        }
        if self.at(first) == Some('.') && self.is_digit(first + 1) {
            return Some(self.digits(first + 1)).filter(|&end| ends(end));
        }
        (whole > first && self.boundary(whole) && ends(whole)).then_some(whole)
    }
}

/// What announces the end of a reasoning.
const INDICATORS: [&str; 8] = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "];
/// Tails that say nothing.
const TRIVIAL: [&str; 7] = [":", ",", ".", "!", "?", ";", "'"];

/// The tails of an open answer's lines that may be the answer; the whole of it where no line has one.
fn key_parts(answer: &str) -> Vec<String> {
    let lowered = text::lower(text::strip(answer).trim_matches('.'));
    let lines: Vec<&str> = lowered.split('\n').collect();
    let mut parts = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let equation = (i + 1 == lines.len()).then_some("=");
        let tails = INDICATORS.iter().copied().chain(equation).filter_map(|indicator| {
            line.rfind(indicator).map(|_| text::strip(line.rsplit(indicator).next().unwrap_or_default()))
        });
        // The first of the shortest; an empty one gives way to whatever comes next.
        let shortest =
            tails.fold("", |best, tail| if best.is_empty() || text::len(tail) < text::len(best) { tail } else { best });
        if !shortest.is_empty() && !TRIVIAL.contains(&shortest) {
            parts.push(shortest.to_owned());
        }
    }
    if parts.is_empty() { vec![lowered] } else { parts }
}

/// The candidates of an open answer, each once, in the order in which they are found.
pub fn parse_open(answer: &str) -> Vec<Value> {
    let parts = key_parts(answer);
    let numbers: Vec<String> = parts.iter().flat_map(|part| extract_numbers(part)).collect();
    let mut candidates: Vec<Value> = Vec::new();
    for value in parts.iter().chain(&numbers).flat_map(|part| normalize(part)) {
        if !candidates.contains(&value) {
            candidates.push(value);
        }
    }
    candidates
}

/// Whether a candidate is right: a text that holds a reference's text, or a number that is a reference's.
pub fn open_is_right<'a>(references: impl IntoIterator<Item = &'a str>, candidates: &[Value]) -> bool {
    let right: Vec<Value> = references.into_iter().flat_map(normalize).collect();
    candidates.iter().any(|candidate| match candidate {
        Value::Text(said) => right.iter().any(|one| matches!(one, Value::Text(one) if said.contains(one.as_str()))),
        Value::Number(_) => right.contains(candidate),
    })
}

/// The reference's way at 75571cfe: only the first candidate is kept, as text, and then each of its *characters* is taken
/// for a candidate, so that no open answer is right unless a reference is empty.
pub fn open_is_right_by_characters<'a>(references: impl IntoIterator<Item = &'a str>, kept: &str) -> bool {
    let characters: Vec<Value> = kept.chars().map(|c| Value::Text(c.into())).collect();
    open_is_right(references, &characters)
}

/// The gold answers of a record's field: one text, or a list of them.
pub fn golds(answer: &Json) -> Vec<String> {
    match answer {
        Json::Array(list) => list.iter().map(as_text).collect(),
        other => vec![as_text(other)],
    }
}

fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The subject within an id: "dev_Basic_Medical_Science_3" is of "Basic_Medical_Science".
pub fn subject(id: &str) -> Option<&str> {
    let rest = id.split_once('_')?.1;
    let (subject, count) = rest.rsplit_once('_')?;
    let counted = !count.is_empty() && count.chars().all(|c| number::digit(c).is_some());
    (counted && !subject.is_empty() && !subject.contains('\n')).then_some(subject)
}

/// Of a record with several images (the composite questions of MMMU-Pro): as many letters as there are golds, the first
/// that stand alone, "" where there are fewer.
pub fn composite(answer: &str, golds: usize) -> Vec<String> {
    let letters = text::single_capitals(answer).into_iter().map(String::from);
    letters.chain(std::iter::repeat_n(String::new(), golds)).take(golds).collect()
}

/// Domains and their subjects.
pub const DOMAINS: [(&str, &[&str]); 6] = [
    ("Art and Design", &["Art", "Art_Theory", "Design", "Music"]),
    ("Business", &["Accounting", "Economics", "Finance", "Manage", "Marketing"]),
    ("Science", &["Biology", "Chemistry", "Geography", "Math", "Physics"]),
    (
        "Health and Medicine",
        &[
            "Basic_Medical_Science",
            "Clinical_Medicine",
            "Diagnostics_and_Laboratory_Medicine",
            "Pharmacy",
            "Public_Health",
        ],
    ),
    ("Humanities and Social Science", &["History", "Literature", "Sociology", "Psychology"]),
    (
        "Tech and Engineering",
        &[
            "Agriculture",
            "Architecture_and_Engineering",
            "Computer_Science",
            "Electronics",
            "Energy_and_Power",
            "Materials",
            "Mechanical_Engineering",
        ],
    ),
];

/// Share of right answers, weighted by subject size, to five places: what the reference reports. `None` of no rows.
pub fn accuracy(subjects: impl IntoIterator<Item = (u64, u64)>) -> Option<f64> {
    // The product and the quotient of each subject are the reference's: they round as it does.
    let (sum, rows) = subjects
        .into_iter()
        .filter(|&(_, rows)| rows > 0)
        .fold((0.0, 0), |(sum, all), (right, rows)| (sum + right as f64 / rows as f64 * rows as f64, all + rows));
    (rows > 0).then(|| number::round(sum / rows as f64, 5))
}
