//! V*: options stand in the question as "(A) … (B) …" and are put on lines of their own.

use serde_json::Value as Json;

use super::field;
use crate::python::text;

/// The question with its options on lines; without options as it is.
///
/// # Errors
/// The record has no `text`.
pub fn question(record: &Json, before: &str, after: &str) -> Result<String, String> {
    let raw = field(record, "text")?;
    let options = options(raw);
    if options.is_empty() {
        return Ok(format!("{before}{raw}{after}"));
    }
    let stem = text::strip(raw.split("(A)").next().unwrap_or_default());
    let lines = text::options(options.iter().take(4).map(|option| text::strip(option)), "", ". ", "\n");
    Ok(format!("{before}{stem}\n{lines}{after}"))
}

/// The texts after "(A)" to "(D)", up to the next of these or the end; one that holds a parenthesis is none.
fn options(raw: &str) -> Vec<String> {
    let chars: Vec<char> = raw.chars().collect();
    let label = |at: usize| matches!(chars.get(at..at + 3), Some(['(', 'A'..='D', ')']));
    let (mut found, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        match label(at).then(|| option(&chars, at + 3, &label)).flatten() {
            Some(end) => {
                let start = at + 3;
                found.push(chars[start..end].iter().collect());
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

/// Where the option's text ends: at least one character, none of them a parenthesis, and then, past white space, a label or
/// the end (before a last newline, too).
fn option(chars: &[char], start: usize, label: &impl Fn(usize) -> bool) -> Option<usize> {
    let space = |at: usize| at + chars.iter().skip(at).take_while(|&&c| text::is_space(c)).count();
    let ends = |at: usize| {
        let past = space(at);
        label(past) || past == chars.len()
    };
    // White space before the text is not the text's, but gives way where nothing else is left.
    let first = space(start);
    let stop = start + chars.iter().skip(start).take_while(|c| !matches!(c, '(' | ')')).count();
    (first + 1..=stop)
        .find(|&end| ends(end))
        .or_else(|| (start < first && stop == first && ends(first)).then_some(first))
}
