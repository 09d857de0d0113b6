//! ChartQA: numbers within five percent, other answers the same (relaxed accuracy: Masry et al., 2022).

use crate::python::{number, text};

/// A number, or a percentage as the share that it is.
fn value(said: &str) -> Option<f64> {
    match said.strip_suffix('%') {
        Some(_) => number::parse_float(said.trim_end_matches('%')).map(|percent| percent / 100.0),
        None => number::parse_float(said),
    }
}

/// How far a number may be from the target, relative to it.
pub const TOLERANCE: f64 = 0.05;

/// Whether the answer is right. A target of zero is compared as text, as in the reference.
pub fn is_right(answer: &str, target: &str) -> bool {
    match (value(answer), value(target)) {
        (Some(said), Some(right)) if right != 0.0 => (said - right).abs() / right.abs() <= TOLERANCE,
        _ => text::lower(answer) == text::lower(target),
    }
}

/// The mended comparison: a full stop at the end, a currency sign before and commas between thousands do not count, and
/// zero is a number.
pub fn is_right_mended(answer: &str, target: &str) -> bool {
    let plain = |said: &str| {
        let said = text::strip(said);
        let said = said.strip_suffix('.').unwrap_or(said).trim_start_matches(['$', '€', '£']);
        if thousands(said) { said.replace(',', "") } else { said.to_owned() }
    };
    let (answer, target) = (plain(answer), plain(target));
    match (value(&answer), value(&target)) {
        (Some(said), Some(0.0)) => said == 0.0,
        _ => is_right(&answer, &target),
    }
}

/// Whether commas stand before groups of three digits, as in "1,234.5", and nowhere else.
fn thousands(said: &str) -> bool {
    let whole = said.split(['.', '%']).next().unwrap_or(said);
    let mut groups = whole.trim_start_matches(['-', '+']).split(',');
    let digits = |group: &str| group.bytes().all(|b| b.is_ascii_digit());
    let first = groups.next().unwrap_or_default();
    (1..=3).contains(&first.len()) && digits(first) && groups.all(|group| group.len() == 3 && digits(group))
}
