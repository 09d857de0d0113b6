//! MME-RealWorld: a letter A to E.

use std::borrow::Cow;

use crate::python::text;

/// What is deleted wherever it stands, in this order.
const PREFIXES: [&str; 8] = [
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
];

/// Names of the last part of `category` that the benchmark has.
pub const SUBTASKS: [&str; 5] =
    ["Monitoring", "Autonomous_Driving", "OCR with Complex Context", "Diagram and Table", "Remote Sensing"];

/// The first capital A to E anywhere; without one, the option that the text is a part of, so that an empty answer is "A".
/// "" where there is none.
pub fn parse(answer: &str) -> String {
    let mut rest = Cow::Borrowed(text::strip(answer));
    // Each of them holds one of these.
    if rest.as_bytes().windows(5).any(|part| part == b"nswer" || part == b"ption") {
        rest = PREFIXES.iter().fold(rest.into_owned(), |rest, prefix| rest.replace(prefix, "")).into();
    }
    if let Some(letter) = rest.chars().find(|c| ('A'..='E').contains(c)) {
        return letter.into();
    }
    if text::split(&rest).count() > 10 {
        return String::new();
    }
    let rest = text::lower(&rest);
    let part_of = |letter: &char| format!("({})", letter.to_ascii_lowercase()).contains(&rest);
    ('A'..='E').find(part_of).map(String::from).unwrap_or_default()
}

/// "Perception" or "Reasoning".
pub fn kind(category: &str) -> &'static str {
    const NAME: &str = "perception";
    let found = match category.is_ascii() {
        true => category.as_bytes().windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME.as_bytes())),
        false => text::lower(category).contains(NAME),
    };
    if found { "Perception" } else { "Reasoning" }
}

/// The last part of `category`.
pub fn subtask(category: &str) -> &str {
    category.rsplit('/').next().unwrap_or(category)
}

/// Whether the gold answer is within what was read, whatever the case.
pub fn is_right(parsed: &str, gold: &str) -> bool {
    if gold.len() == 1 && parsed.len() == 1 {
        return parsed.eq_ignore_ascii_case(gold);
    }
    text::lower(parsed).contains(&text::lower(gold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_holds_what_is_looked_for_first() {
        assert!(PREFIXES.iter().all(|prefix| prefix.contains("nswer") || prefix.contains("ption")));
        assert_eq!(parse("The best answer is C"), "C");
        assert_eq!(parse("Best option: (D)"), "D");
    }
}
