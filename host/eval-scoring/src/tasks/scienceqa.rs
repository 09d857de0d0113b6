//! ScienceQA: the letter alone, or the letter and a full stop at the beginning.

use crate::python::text;

/// Whether the answer is the target's letter.
pub fn is_right(answer: &str, target: &str) -> bool {
    let (answer, target) = (text::strip(answer), text::lower(text::strip(target)));
    if text::lower(answer) == target {
        return true;
    }
    let mut chars = answer.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some('.')) if first.is_uppercase() => text::lower(&first.to_string()) == target,
        _ => false,
    }
}
