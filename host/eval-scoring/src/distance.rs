//! Edit distance, and the score of document questions that is made of it (ANLS: Biten et al., "Scene Text Visual Question
//! Answering", 2019).

use crate::python::text;

/// Insertions, deletions and replacements of code points that make one text of the other (Levenshtein).
pub fn levenshtein(one: &str, other: &str) -> usize {
    if one.is_ascii() && other.is_ascii() {
        return edits(one.as_bytes(), other.as_bytes());
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    edits(&one, &other)
}

fn edits<C: Copy + PartialEq>(one: &[C], other: &[C]) -> usize {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    // What is the same at the ends costs nothing.
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[same..], &long[same..]);
    let same = short.iter().rev().zip(long.iter().rev()).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[..short.len() - same], &long[..long.len() - same]);
    if short.is_empty() {
        return long.len();
    }
    let mut row: Vec<usize> = (0..=short.len()).collect();
    for (i, &c) in long.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &d) in short.iter().enumerate() {
            let kept = corner + usize::from(c != d);
            corner = row[j + 1];
            row[j + 1] = kept.min(corner + 1).min(row[j] + 1);
        }
    }
    row[short.len()]
}

/// In lower case, with single spaces.
fn normal(text: &str) -> String {
    if !text.is_ascii() {
        return text::split(&text::lower(text)).collect::<Vec<_>>().join(" ");
    }
    let mut normal = String::with_capacity(text.len());
    let mut space = false;
    for c in text.bytes().map(char::from) {
        if text::is_space(c) {
            space = !normal.is_empty();
            continue;
        }
        if std::mem::take(&mut space) {
            normal.push(' ');
        }
        normal.push(c.to_ascii_lowercase());
    }
    normal
}

/// The length in capitals, which can be longer: "ß" is "SS".
fn capitals(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text::len(&text::upper(text)) }
}

/// Below this similarity an answer is worth nothing.
pub const ANLS_THRESHOLD: f64 = 0.5;

/// The best similarity of an answer to one of the references, 0 to 1: 1 − distance / length, 0 below [`ANLS_THRESHOLD`].
///
/// The distance is that of the texts in lower case with single spaces; the length is that of the longer one *before* that,
/// in capitals (which can be longer: "ß" is "SS"). That is the reference's way, and what published numbers mean. `None`
/// without references.
pub fn anls<'a>(references: impl IntoIterator<Item = &'a str>, answer: &str) -> Option<f64> {
    let (said, said_length) = (normal(answer), capitals(answer));
    let worst_first = references.into_iter().map(|reference| {
        let length = capitals(reference).max(said_length);
        if length == 0 { 0.0 } else { levenshtein(&normal(reference), &said) as f64 / length as f64 }
    });
    let least =
        worst_first.fold(None, |least: Option<f64>, share| Some(least.map_or(share, |least| least.min(share))))?;
    let score = 1.0 - least;
    Some(if score < ANLS_THRESHOLD { 0.0 } else { score })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_code_points() {
        for (one, other, distance) in
            [("flaw", "lawn", 2), ("", "abc", 3), ("kitten", "sitting", 3), ("东京", "东京都", 1), ("a", "a", 0)]
        {
            assert_eq!(levenshtein(one, other), distance);
            assert_eq!(levenshtein(other, one), distance);
        }
    }

    #[test]
    fn half_right_is_the_least_that_counts() {
        assert_eq!(anls(["ab"], "ax"), Some(0.5));
        assert_eq!(anls(["abc"], "axy"), Some(0.0));
        assert_eq!(anls(["x", "hello"], "Hello "), Some(1.0));
        assert_eq!(anls([""], ""), Some(1.0));
        assert_eq!(anls([], "a"), None);
    }
}
