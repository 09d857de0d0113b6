//! What judges say, read.

use serde_json::Value as Json;

use crate::python::{number, text};
use crate::texts::{Texts, fill_names};

/// A yes-or-no judgement as the reference reads it: in the format "0/1" any digit 1 anywhere, so that "Score: 10" is a yes;
/// else whether the reply begins with "yes".
pub fn binary(reply: &str, digits: bool) -> bool {
    let reply = text::lower(text::strip(reply));
    if digits { reply.contains('1') } else { reply.starts_with("yes") }
}

/// The mended reading: the first word is the judgement; `None` if it is none.
pub fn binary_mended(reply: &str) -> Option<bool> {
    let reply = text::lower(reply);
    let first = reply.split(|c: char| !c.is_alphanumeric() && c != '.').find(|word| !word.is_empty())?;
    match first.trim_end_matches('.') {
        "1" | "yes" | "correct" | "true" => Some(true),
        "0" | "no" | "incorrect" | "false" | "wrong" => Some(false),
        _ => None,
    }
}

/// The numbers of a text: an optional minus, digits, perhaps a fraction.
fn numbers(raw: &str) -> Vec<f64> {
    let chars: Vec<char> = raw.chars().collect();
    let digits = |from: usize| from + chars.iter().skip(from).take_while(|&&c| number::digit(c).is_some()).count();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let first = at + usize::from(chars[at] == '-');
        let whole = digits(first);
        if whole == first {
            at += 1;
            continue;
        }
        let fraction = (chars.get(whole) == Some(&'.')).then(|| digits(whole + 1)).filter(|&end| end > whole + 1);
        let end = fraction.unwrap_or(whole);
        found.extend(number::parse_float(&chars[at..end].iter().collect::<String>()));
        at = end;
    }
    found
}

/// The first number, held within the range; without one the lowest score, 0 where there is no range.
pub fn score(reply: &str, range: Option<(f64, f64)>) -> f64 {
    match (numbers(reply).first(), range) {
        (Some(&score), Some((low, high))) => score.min(high).max(low),
        (Some(&score), None) => score,
        (None, Some((low, _))) => low,
        (None, None) => 0.0,
    }
}

/// The first two numbers of the first line; −1 twice where there are fewer.
pub fn comparative(reply: &str) -> (f64, f64) {
    let line = text::strip(reply).split('\n').next().unwrap_or_default().replace([',', ';'], " ");
    match numbers(&line)[..] {
        [first, second, ..] => (first, second),
        _ => (-1.0, -1.0),
    }
}

/// The JSON object from the first opening to the last closing brace; empty where there is none.
pub fn json(reply: &str) -> Json {
    let part = reply.find('{').zip(reply.rfind('}')).filter(|(start, end)| start < end);
    let object = part.and_then(|(start, end)| serde_json::from_str(&reply[start..=end]).ok());
    object.unwrap_or_else(|| Json::Object(serde_json::Map::new()))
}

/// The reference's question to a judge whether an answer is right.
///
/// # Errors
/// The text is not among `texts`.
pub fn binary_request(texts: &Texts, question: &str, gold: &str, answer: &str, digits: bool) -> Result<String, String> {
    let (positive, negative) = if digits { ("1", "0") } else { ("Yes", "No") };
    let values = [
        ("question", question),
        ("answer", gold),
        ("prediction", answer),
        ("positive", positive),
        ("negative", negative),
    ];
    Ok(fill_names(texts.text("BINARY_JUDGE_PROMPT")?, &values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        assert!(binary(" 1 ", true) && binary("Score: 10", true) && !binary("Correct", true) && binary("YES!", false));
        assert_eq!(binary_mended("Score: 10"), None);
        assert_eq!((binary_mended("1."), binary_mended("No, it is not 1")), (Some(true), Some(false)));
        assert_eq!(score("it is 12 of 10", Some((1.0, 10.0))), 10.0);
        assert_eq!(score("none", Some((1.0, 10.0))), 1.0);
        assert_eq!(comparative("7,8.5\nbecause"), (7.0, 8.5));
        assert_eq!(comparative("7\n8"), (-1.0, -1.0));
        assert_eq!(json("so {\"a\": {\"b\": 1}} end"), serde_json::json!({"a": {"b": 1}}));
        assert_eq!(json("} {"), serde_json::json!({}));
    }
}
