//! MMStar: a letter A to D, and the mean over categories of the second level.

use crate::mcq;
use crate::python::text;

/// The categories.
pub const CATEGORIES: [&str; 6] = [
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "science & technology",
    "math",
];

/// The letters of every question.
pub const CHOICES: [char; 4] = ['A', 'B', 'C', 'D'];

/// Whether the letter that the shared reader finds is the gold one.
pub fn is_right(answer: &str, gold: &str) -> bool {
    let said = mcq::extract(answer, &CHOICES).map(String::from).unwrap_or_default();
    said == text::upper(text::strip(gold))
}

/// The rule of September 2025: the gold letter at one of four places of the answer in small letters.
pub fn is_right_2025_09(answer: &str, gold: &str) -> bool {
    let flat = |said: &str| text::strip(&text::lower(said).replace('\n', " ")).to_owned();
    let (answer, gold) = (flat(answer), flat(gold));
    let follows = |start: &str| answer.strip_prefix(start).is_some_and(|rest| !rest.is_empty() && first(rest) == gold);
    (!answer.is_empty() && first(&answer) == gold) || ["(", "option ", "the answer is "].into_iter().any(follows)
}

fn first(said: &str) -> String {
    said.chars().take(1).collect()
}

/// The unweighted mean of the groups' shares, summed in the order in which the groups first come; NaN of no rows. Rows are
/// group and score.
pub fn average<'a>(rows: impl IntoIterator<Item = (&'a str, f64)>) -> f64 {
    let mut groups: Vec<(&str, f64, u64)> = Vec::new();
    for (group, score) in rows {
        let at = groups.iter().position(|(name, ..)| *name == group).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push((group, 0.0, 0));
        }
        groups[at].1 += score;
        groups[at].2 += 1;
    }
    let sum: f64 = groups.iter().map(|(_, sum, rows)| sum / *rows as f64).sum();
    sum / groups.len() as f64
}
