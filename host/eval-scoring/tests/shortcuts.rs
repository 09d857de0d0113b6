//! Rules that are written for speed say what the same rules say as the reference has them, step by step.

use ovhost_eval_scoring::python::{literal, text};
use ovhost_eval_scoring::tasks::mmmu::{self, Choice};
use ovhost_eval_scoring::tasks::{mmbench, mmerealworld, mmstar};
use ovhost_eval_scoring::{distance, mcq};
use proptest::prelude::*;

/// The shared reader: every place of every letter by itself.
fn extract(answer: &str, choices: &[char]) -> Option<char> {
    let stripped = text::strip(answer);
    if stripped.is_empty() {
        return None;
    }
    let padded: Vec<char> =
        format!(" {} ", text::strip_each(stripped, &[',', '.', '!', '?', ';', ':', '\'', '"'])).chars().collect();
    let whole: String = padded.iter().collect();
    let inner: Vec<char> = text::strip(&whole).chars().collect();
    let last = |pattern: &[char]| padded.windows(pattern.len()).rposition(|window| window == pattern);
    // The surer the kind the higher: of equals the first.
    let mut candidates: Vec<(u8, usize, char)> = Vec::new();
    candidates.extend(choices.iter().filter_map(|&c| last(&['(', c, ')']).map(|at| (6, at, c))));
    for (kind, mark) in [(5, '.'), (4, ':'), (3, ')'), (2, ' ')] {
        candidates.extend(choices.iter().filter_map(|&c| last(&[c, mark]).map(|at| (kind, at, c))));
    }
    let lowered: Vec<char> = text::lower(&whole).chars().collect();
    for phrase in PHRASES {
        let phrase: Vec<char> = phrase.chars().collect();
        let Some(found) = lowered.windows(phrase.len()).position(|window| window == phrase) else { continue };
        let from = (found + phrase.len()).min(padded.len());
        let after = |&c: &char| padded[from..].iter().position(|&p| p == c).map(|at| (7, from + at, c));
        candidates.extend(choices.iter().filter_map(after));
    }
    let outside = |c: Option<&char>| c.is_none_or(|&c| !text::is_alpha(c));
    let first = |c: &&char| inner.first() == Some(*c) && outside(inner.get(1));
    candidates.extend(choices.iter().filter(first).map(|&c| (10, 0, c)));
    let end = |c: &&char| inner.last() == Some(*c) && outside(inner.iter().rev().nth(1));
    candidates.extend(choices.iter().filter(end).map(|&c| (9, padded.len() - 1, c)));
    if candidates.is_empty() {
        candidates.extend(choices.iter().filter_map(|&c| padded.iter().rposition(|&p| p == c).map(|at| (0, at, c))));
    }
    candidates
        .into_iter()
        .reduce(|best, next| if (next.0, next.1) > (best.0, best.1) { next } else { best })
        .map(|b| b.2)
}

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

/// MMMU's reader: a search for each form of each letter.
fn parse_choice(answer: &str, options: &[&str]) -> Choice {
    let padded = format!(" {} ", text::strip_each(answer, &[',', '.', '!', '?', ';', ':', '\'']));
    let lowered = text::lower(&padded);
    let letters: Vec<char> = (0..options.len()).map(text::letter).collect();
    let holding = |form: fn(char) -> String| -> Vec<usize> {
        (0..letters.len()).filter(|&i| padded.contains(&form(letters[i]))).collect()
    };
    let mut candidates = holding(|c| format!("({c})"));
    let mut form: fn(char) -> String = |c| format!("({c})");
    if candidates.is_empty() {
        form = |c| format!(" {c} ");
        candidates = holding(|c| format!("{c} "));
    }
    if candidates.is_empty() {
        candidates = holding(|c| format!("{c}."));
    }
    let words = candidates.is_empty() && text::split(&padded).count() > 5;
    if words {
        candidates = (0..options.len()).filter(|&i| lowered.contains(&text::lower(options[i]))).collect();
    }
    let place = |i: usize| match words {
        true => lowered.rfind(&text::lower(options[i])),
        false => padded.rfind(&form(letters[i])),
    };
    let best = candidates.into_iter().reduce(|best, i| if place(i) > place(best) { i } else { best });
    best.map_or(Choice::Unread, |i| Choice::Letter(letters[i]))
}

/// MMBench's reader: every form of every letter looked for among the words.
fn option(answer: &str) -> Option<char> {
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
    let words: Vec<&str> = text::split(answer).collect();
    let only = |before: &str, after: &str| {
        let mut found = ('A'..='E').filter(|c| words.contains(&format!("{before}{c}{after}").as_str()));
        found.next().filter(|_| found.next().is_none())
    };
    let article = words.contains(&"A") && words.len() > 3;
    only("", "").filter(|_| !article).or_else(|| FORMS.iter().find_map(|(before, after)| only(before, after)))
}

/// The whole table of the edit distance.
fn levenshtein(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut table = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            table[i][j] = match (i, j) {
                (i, 0) => i,
                (0, j) => j,
                _ => {
                    let kept = table[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
                    kept.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1)
                }
            };
        }
    }
    table[one.len()][other.len()]
}

/// The similarity of document questions with every step on text.
fn anls(reference: &str, answer: &str) -> f64 {
    let normal = |said: &str| text::split(&text::lower(said)).collect::<Vec<_>>().join(" ");
    let length = text::len(&text::upper(reference)).max(text::len(&text::upper(answer)));
    let share = if length == 0 { 0.0 } else { levenshtein(&normal(reference), &normal(answer)) as f64 / length as f64 };
    if 1.0 - share < distance::ANLS_THRESHOLD { 0.0 } else { 1.0 - share }
}

/// MME-RealWorld's category: whether it says perception in any case.
fn kind(category: &str) -> &'static str {
    if text::lower(category).contains("perception") { "Perception" } else { "Reasoning" }
}

/// The value as the whole reader of literals has it.
fn texts(said: &str) -> Result<Vec<String>, String> {
    match literal::parse(said)? {
        literal::Literal::List(items) => Ok(items.iter().map(literal::Literal::text).collect()),
        other => Err(format!("`{}` is no list", other.text())),
    }
}

/// Texts of the pieces that the rules look for.
fn of(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        5 => proptest::sample::select(pieces).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

const SAID: &[&str] = &[
    "A",
    "B",
    "C",
    "D",
    "E",
    "a",
    "(A)",
    "(B)",
    "(C",
    "B)",
    "C.",
    "D:",
    "E,",
    ":A",
    ":B).",
    " ",
    " ",
    " ",
    "\n",
    "\u{a0}",
    "\u{1c}",
    ".",
    "'",
    "\"",
    "!",
    "the answer is ",
    "My answer is",
    "answer is:",
    "The best option is ",
    "i choose ",
    "I pick",
    "is ",
    "i ",
    "답은",
    "选",
    "ß",
    "İ",
    "red",
    "Red car",
    "no",
    "Ａ",
    "（A）",
    "AB",
    "the sky over ",
];
const LIST: &[&str] = &[
    "[", "]", "['a", "'", "\"", "', '", "'a b'", "\"it's\"", ",", ", ", " ", "\\'", "\\n", "\n", "1", "-2.5", "None",
    "''", "'''", "(", ")", "é", "r'", "u'",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn letters_are_those_of_the_plain_rules(said in of(SAID), option_text in of(SAID)) {
        let options = ["red", "Red car", option_text.as_str(), "no", ""];
        prop_assert_eq!(mmmu::parse_choice(&said, &options), parse_choice(&said, &options));
        prop_assert_eq!(mcq::extract(&said, &mmstar::CHOICES), extract(&said, &mmstar::CHOICES));
        prop_assert_eq!(mcq::extract(&said, &mcq::DEFAULT_CHOICES), extract(&said, &mcq::DEFAULT_CHOICES));
        prop_assert_eq!(mmbench::option(&said), option(&said));
    }

    #[test]
    fn lists_are_those_of_the_whole_reader(said in of(LIST)) {
        prop_assert_eq!(literal::texts(&said), texts(&said));
        let listed = format!("[{said}]");
        prop_assert_eq!(literal::texts(&listed), texts(&listed));
    }

    #[test]
    fn distances_are_those_of_the_whole_table(a in of(SAID), b in of(SAID)) {
        prop_assert_eq!(distance::levenshtein(&a, &b), levenshtein(&a, &b));
        prop_assert_eq!(distance::anls([a.as_str()], &b), Some(anls(&a, &b)));
    }

    #[test]
    fn kinds_are_those_in_any_case(before in of(SAID), name in proptest::sample::select(vec!["perception", "PerCeption", "PERCEPTİON", "percept"])) {
        let category = format!("{before}{name}/x");
        prop_assert_eq!(mmerealworld::kind(&category), kind(&category));
    }

    #[test]
    fn what_is_read_holds_the_gold_in_any_case(read in of(SAID), gold in proptest::sample::select(vec!["A", "b", "E", "", "AB", "ß"])) {
        let plain = |read: &str| text::lower(read).contains(&text::lower(gold));
        for read in [read.as_str(), "A", "B", "E", ""] {
            prop_assert_eq!(mmerealworld::is_right(read, gold), plain(read));
        }
    }
}
