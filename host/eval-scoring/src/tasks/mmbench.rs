//! MMBench: which option an answer means, and the circular score.

use std::collections::BTreeMap;

use crate::mcq;
use crate::python::text;

/// Indices from here on are copies of a question with its options turned round.
pub const COPY: i64 = 1_000_000;

/// Marks before and after a letter, in the order in which they are looked for.
const FORMS: [(&str, &str); 12] = [
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
];

/// The letter A to E that stands alone among the words of an answer, plain or with marks.
pub fn option(answer: &str) -> Option<char> {
    if answer.contains("Failed to obtain answer via API") {
        return None;
    }
    // Which letters stand alone in each form, as bits.
    let (mut plain, mut marked, mut words) = (0u8, [0u8; FORMS.len()], 0);
    for word in text::split(answer) {
        words += 1;
        // A letter has at most a mark before and two after it.
        if word.len() > 4 {
            continue;
        }
        let Some(at) = word.bytes().take(2).position(|b| (b'A'..=b'E').contains(&b)) else { continue };
        let (bit, marks) = (1 << (word.as_bytes()[at] - b'A'), (&word[..at], &word[at + 1..]));
        match FORMS.iter().position(|form| *form == marks) {
            Some(form) => marked[form] |= bit,
            None if marks == ("", "") => plain |= bit,
            None => {}
        }
    }
    let only = |letters: &u8| (letters.count_ones() == 1).then(|| char::from(b'A' + letters.trailing_zeros() as u8));
    // In a sentence "A" may be an article.
    let article = plain & 1 != 0 && words > 3;
    only(&plain).filter(|_| !article).or_else(|| marked.iter().find_map(only))
}

/// The letter of the one option whose text is in the answer, whatever the case.
pub fn option_text<'a>(answer: &str, choices: impl IntoIterator<Item = (char, &'a str)>) -> Option<char> {
    let answer = text::lower(answer);
    let mut found = choices.into_iter().filter(|(_, choice)| answer.contains(&text::lower(choice)));
    found.next().filter(|_| found.next().is_none()).map(|(letter, _)| letter)
}

/// The letter that an answer means: by letter, else by text.
pub fn infer<'a>(answer: &str, choices: impl IntoIterator<Item = (char, &'a str)>) -> Option<char> {
    option(answer).or_else(|| option_text(answer, choices))
}

/// One row: a question, or a copy of one.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row's index; copies have the same one modulo [`COPY`].
    pub index: i64,
    /// The gold letter.
    pub gold: String,
    /// What the model said.
    pub answer: String,
    /// Letters A to D with their texts; those that the record has.
    pub choices: Vec<(char, String)>,
    /// The record's `category`.
    pub category: String,
    /// The record's `L2-category`.
    pub group: String,
}

impl Row {
    /// The letter without asking anyone.
    pub fn inferred(&self) -> Option<char> {
        infer(&self.answer, self.choices.iter().map(|(letter, text)| (*letter, text.as_str())))
    }

    /// Whether the answer is right where no judge is asked: the letter that is inferred, else the shared reader's.
    pub fn is_right_statically(&self) -> bool {
        let letters: Vec<char> = self.choices.iter().map(|(letter, _)| *letter).collect();
        // The shared reader takes no choices for "any".
        let letters = if letters.is_empty() { mcq::DEFAULT_CHOICES.to_vec() } else { letters };
        let said = self.inferred().or_else(|| mcq::extract(&self.answer, &letters));
        said.is_some_and(|letter| self.gold == letter.to_string())
    }
}

/// Shares of right questions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Over all questions; NaN of none.
    pub overall: f64,
    /// By `category`.
    pub categories: BTreeMap<String, f64>,
    /// By `L2-category`.
    pub groups: BTreeMap<String, f64>,
}

/// The circular score: a question is right if all its copies are. `rows` are indices, whether the answer is right, category
/// and group; the question's own row says its category.
pub fn circular<'a>(rows: impl Iterator<Item = (i64, bool, &'a str, &'a str)> + Clone) -> Scores {
    let mut all_right: BTreeMap<i64, bool> = BTreeMap::new();
    for (index, right, ..) in rows.clone() {
        *all_right.entry(index.rem_euclid(COPY)).or_insert(true) &= right;
    }
    let mut overall = (0u64, 0u64);
    let mut categories: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut groups: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (index, _, category, group) in rows.filter(|&(index, ..)| index < COPY) {
        let right = u64::from(all_right.get(&index.rem_euclid(COPY)) == Some(&true));
        for (rows, hits) in
            [&mut overall, categories.entry(category.into()).or_default(), groups.entry(group.into()).or_default()]
        {
            *rows += 1;
            *hits += right;
        }
    }
    let share = |(rows, hits): (u64, u64)| if rows == 0 { f64::NAN } else { hits as f64 / rows as f64 };
    let shares =
        |map: BTreeMap<String, (u64, u64)>| map.into_iter().map(|(name, counts)| (name, share(counts))).collect();
    Scores { overall: share(overall), categories: shares(categories), groups: shares(groups) }
}
