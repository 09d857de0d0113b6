//! `str` methods: text in, text out.

/// Whether `str.isspace` holds of the character: white space of Unicode and the four separators U+001C to U+001F.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`: the runs between white space.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|part| !part.is_empty())
}

/// `str.upper()`, in which a letter may become two.
pub fn upper(text: &str) -> String {
    text.to_uppercase()
}

/// `str.lower()`.
pub fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// `len(text)`: code points.
pub fn len(text: &str) -> usize {
    text.chars().count()
}

/// Whether `str.isalpha` holds of the character: letters, not the letter-like numerals that Unicode calls alphabetic.
pub fn is_alpha(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric()
}

/// `re.split` of nothing but the characters of `chars`, stripped once each in this order from both ends.
pub fn strip_each<'a>(text: &'a str, chars: &[char]) -> &'a str {
    chars.iter().fold(text, |text, &c| text.trim_matches(c))
}

/// The letter of option `index`: A, B, C and so on as `chr(ord("A") + index)` continues.
pub fn letter(index: usize) -> char {
    u32::try_from(index).ok().and_then(|index| char::from_u32(65 + index)).unwrap_or('?')
}

/// `A. first\nB. second`, with `form` around letter and text and `joint` between options.
pub fn options<'a>(texts: impl Iterator<Item = &'a str>, before: &str, after: &str, joint: &str) -> String {
    let lines: Vec<String> = texts.enumerate().map(|(i, text)| format!("{before}{}{after}{text}", letter(i))).collect();
    lines.join(joint)
}

/// Whether the character is a word character of a `str` pattern: `\w`.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Positions of all `\b` are where this changes; `before` and `after` are the neighbours, `None` at the ends.
pub fn is_boundary(before: Option<char>, after: Option<char>) -> bool {
    before.is_some_and(is_word) != after.is_some_and(is_word)
}

/// Every maximal stretch that `[A-Z]` between word boundaries matches: `re.findall(r"\b[A-Z]\b", text)`.
pub fn single_capitals(text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied();
    let alone = |i: usize| {
        let before = if i == 0 { None } else { at(i - 1) };
        is_boundary(before, at(i)) && is_boundary(at(i), at(i + 1))
    };
    (0..chars.len()).filter(|&i| chars[i].is_ascii_uppercase() && alone(i)).map(|i| chars[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_pythons() {
        assert_eq!(strip("\u{1c} a b\u{a0}\n"), "a b");
        assert_eq!(split(" a\u{1f}b \u{3000}c ").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(strip("\u{200b}x"), "\u{200b}x");
        assert_eq!(strip_each("B!?;:,.", &[',', '.', '!', '?', ';', ':', '\'']), "B!?;:,");
        assert_eq!(upper("ß"), "SS");
    }

    #[test]
    fn capitals_stand_alone() {
        assert_eq!(single_capitals("No: 1\nAnswer: A, b C_ (D)"), ['A', 'D']);
        assert_eq!(options(["x", "y"].into_iter(), "(", ") ", "\n"), "(A) x\n(B) y");
    }
}
