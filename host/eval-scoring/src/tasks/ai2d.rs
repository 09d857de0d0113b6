//! AI2D: the filter of its letters.

use crate::exact::Ignore;
use crate::python::text;

/// Case and punctuation do not count.
pub const IGNORE: Ignore = Ignore { case: true, punctuation: true, numbers: false };

/// The letter of an answer that begins with a capital and a full stop; else the answer as it is.
pub fn filter(answer: &str) -> &str {
    let begun = answer.trim_start_matches(text::is_space);
    let bytes = begun.as_bytes();
    if bytes.len() >= 2 && bytes[0].is_ascii_uppercase() && bytes[1] == b'.' { &begun[..1] } else { answer }
}

/// The letter of the gold option: `index` is a number as text.
pub fn target(index: &str, options: usize) -> Option<char> {
    index.trim().parse().ok().filter(|&index: &usize| index < options).map(text::letter)
}
