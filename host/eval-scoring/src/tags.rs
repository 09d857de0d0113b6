//! Reasoning tags: what a model thinks aloud is taken out before an answer is read.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::python::text;

/// The pairs that are taken out where nothing else is said.
pub const DEFAULT_PAIRS: [(&str, &str); 2] = [("<think>", "</think>"), ("<analysis>", "</analysis>")];

/// Takes out what stands between the tags of each pair, the first opening one to the next closing one, until a pair is no
/// longer complete; where only closing tags are left (the prompt held the opening one), what follows the last stays. An
/// unclosed tag stays. The ends are stripped.
pub fn strip_reasoning<'a, 't>(answer: &'a str, pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Cow<'a, str> {
    // Every step takes out a closing tag; most answers have none.
    let mut pairs = pairs.into_iter().filter(|(open, close)| !open.is_empty() && !close.is_empty());
    // Looking for one byte is much cheaper than for several.
    let may_hold = |tag: &str| tag.bytes().next().is_some_and(|first| answer.as_bytes().contains(&first));
    let Some(first) = pairs.find(|(_, close)| may_hold(close) && answer.contains(close)) else {
        return text::strip(answer).into();
    };
    let mut rest = answer.to_owned();
    for (open, close) in std::iter::once(first).chain(pairs) {
        while let Some(start) = rest.find(open) {
            let Some(end) = rest[start..].find(close) else { break };
            rest.replace_range(start..start + end + close.len(), "");
        }
        if !rest.contains(open)
            && let Some(last) = rest.rfind(close)
        {
            rest = rest.split_off(last + close.len());
        }
    }
    text::strip(&rest).to_owned().into()
}

/// The pairs that a run uses: a task's own setting before the command line's. "none", `false` and nothing at all turn it
/// off; a text is JSON.
///
/// # Errors
/// The setting is no JSON list.
pub fn configured(command_line: &Json, task: &Json) -> Result<Json, String> {
    let setting = if task.is_null() { command_line } else { task };
    match setting {
        Json::Null | Json::Bool(false) => Ok(Json::Null),
        Json::String(text) if text == "none" => Ok(Json::Null),
        Json::String(text) => {
            serde_json::from_str(text).map_err(|e| format!("reasoning tags `{text}` are no JSON: {e}"))
        }
        other => Ok(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_lone_closing_tags_go() {
        for (answer, left) in [
            ("<think>a</think><think>b</think>D", "D"),
            ("so it is</think> B ", "B"),
            ("<think>no end", "<think>no end"),
            ("</think>x<think>y", "</think>x<think>y"),
            ("<analysis>A</analysis>\nC", "C"),
        ] {
            assert_eq!(strip_reasoning(answer, DEFAULT_PAIRS), left, "{answer}");
        }
    }
}
