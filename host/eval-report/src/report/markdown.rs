//! Texts within Markdown that mean themselves.

/// A text in one line: marks escaped, line ends as spaces.
pub fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '[' | ']' | '#' | '~' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    // Within words an underscore is itself.
    let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let chars: Vec<char> = out.chars().collect();
    let escaped = |at: usize| {
        let around = apart(at.checked_sub(1).map(|i| chars[i])) || apart(chars.get(at + 1).copied());
        chars[at] == '_' && around
    };
    (0..chars.len()).flat_map(|at| escaped(at).then_some('\\').into_iter().chain([chars[at]])).collect()
}

/// A block that shows a text as it is: its fence is longer than any within.
pub fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}text\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_mean_themselves() {
        assert_eq!(
            cell("a|b\n<b> `x` *y* [z] mmmu_val _v_"),
            "a\\|b &lt;b&gt; \\`x\\` \\*y\\* \\[z\\] mmmu_val \\_v\\_"
        );
        assert_eq!(fence("a"), "```text\na\n```");
        assert_eq!(fence("```` out"), "`````text\n```` out\n`````");
    }
}
