//! Whether two texts are the same once case, punctuation or digits are left out.

use crate::python::text;

/// What is left out before texts are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore {
    /// Capitals are small letters.
    pub case: bool,
    /// ASCII punctuation is not there.
    pub punctuation: bool,
    /// ASCII digits are not there.
    pub numbers: bool,
}

impl Ignore {
    /// Whether the texts are the same.
    pub fn same(self, one: &str, other: &str) -> bool {
        self.normal(one) == self.normal(other)
    }

    fn normal(self, text: &str) -> String {
        // A fixed-width array of texts does not keep NULs at the end.
        let text = text.trim_end_matches('\0');
        let mut text = if self.case { text::lower(text) } else { text.to_owned() };
        text.retain(|c| !(self.punctuation && c.is_ascii_punctuation() || self.numbers && c.is_ascii_digit()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_does_not_count() {
        let letters = Ignore { case: true, punctuation: true, numbers: false };
        assert!(letters.same("**d**", "D"));
        assert!(!letters.same("C。", "C"));
        assert!(!letters.same("C) stem", "C"));
        assert!(Ignore { numbers: true, ..Ignore::default() }.same("a1b2", "ab"));
        assert!(!Ignore::default().same("a", "A"));
    }
}
