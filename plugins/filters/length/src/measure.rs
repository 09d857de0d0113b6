//! Measures: a row's text, record and image sizes in, one number out of each function.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::{self, Class, class, is_cjk, is_unspaced};

/// Roles of turns that are the model's: the prompt `conversation`'s.
pub const ASSISTANT_ROLES: [&str; 6] = ["assistant", "gpt", "chatgpt", "model", "bot", "chatbot"];

/// Words of `text`, as [`text::words`] cuts them.
pub fn words(text: &str) -> usize {
    text::count_words(text)
}

/// Lines of `text` that are not blank.
pub fn lines(text: &str) -> usize {
    text.lines().filter(|line| !line.trim().is_empty()).count()
}

/// Mean characters of a word, over the words of scripts that have spaces (in the others a word is one letter). None where
/// there is no such word.
pub fn mean_word(text: &str) -> Option<f64> {
    let (mut words, mut chars) = (0u64, 0u64);
    for word in text::words(text).filter(|word| !word.starts_with(|c| is_cjk(c) || is_unspaced(c))) {
        words += 1;
        chars += word.chars().count() as u64;
    }
    (words > 0).then(|| chars as f64 / words as f64)
}

/// Sentences of `text`: stretches with at least one letter or digit that end in `。！？`, in `.!?…` before a space, a
/// closing quote or bracket or the end, in a line break, or at the end. There is no list of abbreviations: "Dr. Who" is two.
pub fn sentences(text: &str) -> usize {
    let (mut count, mut open) = (0, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ends = match c {
            '。' | '！' | '？' | '\n' => true,
            '.' | '!' | '?' | '…' => chars.peek().is_none_or(|&next| {
                class(next) == Class::Space || class(next) == Class::Cjk || "\"')]}”’»」』）".contains(next)
            }),
            _ => {
                open |= !matches!(class(c), Class::Space | Class::Other);
                false
            }
        };
        if ends && open {
            count += 1;
            open = false;
        }
    }
    count + usize::from(open)
}

/// Answers of the model in a record: the assistant's turns of `conversations` or `messages`, else the pairs of `qa`, else 1
/// (an answer, a caption, plain text).
pub fn turns(record: &Json) -> usize {
    let is_answer = |turn: &&Json| {
        let role = turn.get("role").or_else(|| turn.get("from")).and_then(Json::as_str);
        role.is_some_and(|role| ASSISTANT_ROLES.contains(&role))
    };
    if let Some(turns) = ["conversations", "messages"].iter().find_map(|name| record.get(*name)?.as_array()) {
        return turns.iter().filter(is_answer).count();
    }
    record.get("qa").and_then(Json::as_array).map_or(1, Vec::len)
}

/// Pixels of all the row's images; None where the host does not know the sizes of this row's images, or it has none.
///
/// # Errors
/// There are not as many widths as heights, or one of the columns alone.
pub fn pixels(row: &Row) -> Result<Option<u64>, String> {
    let (widths, heights) = match (row.u32_list("widths"), row.u32_list("heights")) {
        (Some(widths), Some(heights)) => (widths, heights),
        (None, None) => {
            return Err("min_chars_per_megapixel or max_chars_per_megapixel is set and this row has no `widths` and \
                        `heights`; set both to 0, or give the columns"
                .into());
        }
        (widths, _) => {
            let missing = if widths.is_none() { "widths" } else { "heights" };
            return Err(format!("this row has no `{missing}`"));
        }
    };
    if widths.len() != heights.len() {
        return Err(format!("{} widths and {} heights", widths.len(), heights.len()));
    }
    if widths.is_empty() {
        return Ok(None);
    }
    let area = |(&width, &height): (&u32, &u32)| u64::from(width) * u64::from(height);
    Ok(Some(widths.iter().zip(heights).map(area).fold(0, u64::saturating_add)))
}
