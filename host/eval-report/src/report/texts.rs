//! Values as texts, and texts that can be shown.

use serde_json::Value;

/// Digits after the point that a value of this size is shown with.
fn places(value: f64) -> usize {
    match value.abs() {
        large if large >= 200.0 => 1,
        middle if middle > 1.5 => 2,
        _ => 4,
    }
}

/// A value of a metric.
pub fn number(value: f64) -> String {
    alike(value, value)
}

/// A number with as many digits as another is shown with: an error beside its value.
pub fn alike(number: f64, value: f64) -> String {
    format!("{number:.*}", places(value))
}

/// A count with thin groups of three digits.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        // Digits alone are text.
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// A JSON value in a line: texts as they are, hashes shortened, objects as `key value, key value`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let hash = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            let words = text.split(' ').map(|word| if hash(word) { &word[..12] } else { word });
            words.collect::<Vec<_>>().join(" ")
        }
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A text that a page can hold: control characters as their pictures.
pub fn visible(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => c,
        // U+2400 and on are the pictures of the first 32.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        c if c.is_control() || ('\u{fdd0}'..='\u{fdef}').contains(&c) || u32::from(c) & 0xfffe == 0xfffe => {
            char::REPLACEMENT_CHARACTER
        }
        c => c,
    };
    text.chars().map(visible).collect()
}

/// A text no longer than `limit` characters; what is cut is said.
pub fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}… ({} characters more)", &text[..at], count(text[at..].chars().count() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!((number(0.66), number(74.333), number(1623.456), number(1.0)), {
            ("0.6600".into(), "74.33".into(), "1623.5".into(), "1.0000".into())
        });
        assert_eq!((alike(0.5, 74.0), count(7), count(100_000), count(1000)), {
            ("0.50".into(), "7".into(), "100,000".into(), "1,000".into())
        });
    }

    #[test]
    fn texts_are_cut_and_visible() {
        assert_eq!(visible("a\0b\u{1b}\nc\u{85}\u{ffff}"), "a␀b␛\nc\u{fffd}\u{fffd}");
        assert_eq!((cut("äöü", 2), cut("äöü", 3)), ("äö… (1 characters more)".into(), "äöü".into()));
        assert_eq!(plain(&serde_json::json!({"a": "b", "n": 1})), "a b, n 1");
        assert_eq!(plain(&format!("answers {}", "0f".repeat(32)).into()), "answers 0f0f0f0f0f0f");
    }
}
