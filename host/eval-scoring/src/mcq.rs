//! The letter of a multiple-choice answer out of free text: the reader that several tasks share.

use crate::python::text;

/// Where a letter was found, the surest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Anywhere, where nothing better is.
    Anywhere,
    /// "B ".
    Space,
    /// "B)".
    RightParenthesis,
    /// "B:".
    Colon,
    /// "B.".
    Period,
    /// "(B)".
    Parentheses,
    /// Somewhere after "the answer is".
    Phrase,
    /// The last character.
    End,
    /// The first character.
    Start,
}

/// What announces an answer, in lower case.
const PHRASES: [&str; 27] = [
    "the answer is",
    "answer is",
    "the correct answer is",
    "correct answer is",
    "the best answer is",
    "best answer is",
    "the correct option is",
    "correct option is",
    "the best option is",
    "best option is",
    "the choice is",
    "choice is",
    "the correct choice is",
    "correct choice is",
    "i choose",
    "i select",
    "i pick",
    "my answer is",
    "my choice is",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
];

/// What is stripped off both ends, once each, in this order.
const PUNCTUATION: [char; 8] = [',', '.', '!', '?', ';', ':', '\'', '"'];

/// The letters that are looked for where a task names none.
pub const DEFAULT_CHOICES: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];

/// The letter that the text most likely gives; `None` if it holds none of the choices.
///
/// Every place is a candidate of a kind; the surest kind wins, within it the later place, within that the one that was
/// found first.
pub fn extract(answer: &str, choices: &[char]) -> Option<char> {
    let stripped = text::strip(answer);
    if stripped.is_empty() {
        return None;
    }
    // What most answers are. Nothing but "start" and "end" is surer than a letter's own place, and both are there.
    if let [letter] = stripped.as_bytes()
        && choices.contains(&char::from(*letter))
    {
        return Some(char::from(*letter));
    }
    let mut padded: Vec<char> = vec![' '];
    padded.extend(text::strip_each(stripped, &PUNCTUATION).chars());
    padded.push(' ');
    // The first of equals stays, so that the order of looking is the order of preference.
    let mut best: Option<(Kind, usize, char)> = None;
    let mut offer = |kind: Kind, at: usize, letter: char| {
        if best.is_none_or(|(k, place, _)| (kind, at) > (k, place)) {
            best = Some((kind, at, letter));
        }
    };
    // The last place of each letter in each form, found in one go.
    let mut places = vec![[None; 5]; choices.len()];
    for (at, pair) in padded.windows(2).enumerate() {
        let form = match pair[1] {
            '.' => 1,
            ':' => 2,
            ')' => 3,
            ' ' => 4,
            _ => continue,
        };
        for (_, places) in choices.iter().zip(&mut places).filter(|(choice, _)| **choice == pair[0]) {
            places[form] = Some(at);
            if form == 3 && at > 0 && padded[at - 1] == '(' {
                places[0] = Some(at - 1);
            }
        }
    }
    for (form, kind) in
        [Kind::Parentheses, Kind::Period, Kind::Colon, Kind::RightParenthesis, Kind::Space].into_iter().enumerate()
    {
        for (&letter, places) in choices.iter().zip(&places) {
            if let Some(at) = places[form] {
                offer(kind, at, letter);
            }
        }
    }
    // Lower case can be longer than the text; the position is used as it is, as the reference does.
    let lowered = text::lower(&padded.iter().collect::<String>());
    for (phrase, found) in PHRASES.iter().zip(first_phrases(&lowered)) {
        let Some(found) = found else { continue };
        let from = (text::len(&lowered[..found]) + text::len(phrase)).min(padded.len());
        for &letter in choices {
            if let Some(at) = padded[from..].iter().position(|&c| c == letter) {
                offer(Kind::Phrase, from + at, letter);
            }
        }
    }
    let whole: String = padded.iter().collect();
    let inner: Vec<char> = text::strip(&whole).chars().collect();
    let outside = |c: Option<&char>| c.is_none_or(|&c| !text::is_alpha(c));
    for &letter in choices {
        if inner.first() == Some(&letter) && outside(inner.get(1)) {
            offer(Kind::Start, 0, letter);
        }
    }
    for &letter in choices {
        if inner.last() == Some(&letter) && outside(inner.len().checked_sub(2).and_then(|at| inner.get(at))) {
            offer(Kind::End, padded.len() - 1, letter);
        }
    }
    if best.is_none() {
        for &letter in choices {
            if let Some(at) = padded.iter().rposition(|&c| c == letter) {
                best = best.filter(|&(_, place, _)| place >= at).or(Some((Kind::Anywhere, at, letter)));
            }
        }
    }
    best.map(|(.., letter)| letter)
}

/// Where each phrase first stands, in bytes. Those that end in "is", which are most, are looked for together.
fn first_phrases(lowered: &str) -> [Option<usize>; PHRASES.len()] {
    let mut first = [None; PHRASES.len()];
    for (at, _) in lowered.as_bytes().windows(3).enumerate().filter(|(_, part)| *part == b" is") {
        let so_far = &lowered[..at + 3];
        for (phrase, first) in PHRASES.iter().zip(&mut first) {
            if first.is_none() && so_far.ends_with(phrase) {
                *first = Some(so_far.len() - phrase.len());
            }
        }
    }
    let (ascii, chooses) = (lowered.is_ascii(), lowered.as_bytes().windows(2).any(|part| part == b"i "));
    for (phrase, first) in PHRASES.iter().zip(&mut first).filter(|(phrase, _)| !phrase.ends_with(" is")) {
        if if phrase.is_ascii() { chooses } else { !ascii } {
            *first = lowered.find(phrase);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_place_wins() {
        for (answer, letter) in [
            ("The correct answer is (B).", Some('B')),
            ("A. cat\nB. dog", Some('A')),
            ("B or C", Some('B')),
            ("The best option is A, because B is wrong", Some('B')),
            ("Because of the lack of light", Some('B')),
            ("AC/DC", Some('C')),
            ("b", None),
            (" ", None),
            ("...", None),
        ] {
            assert_eq!(extract(answer, &['A', 'B', 'C', 'D']), letter, "{answer}");
        }
        assert_eq!(extract("G.", &DEFAULT_CHOICES), Some('G'));
    }

    #[test]
    fn phrases_are_found_where_each_first_stands() {
        for text in [
            "the answer is a, no, the best answer is b. my answer is this",
            " is is answer is",
            "i pick it; the answer: i choose",
            "정답은 b, 답은 the choice is",
            "i select 答案是 i select",
            "",
        ] {
            assert_eq!(first_phrases(text), PHRASES.map(|phrase| text.find(phrase)), "{text}");
        }
    }
}
