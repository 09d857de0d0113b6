//! Lines and paragraphs that a text has more than once.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use rustc_hash::FxHasher;

/// Lines of `text` that are not blank, trimmed; None where there is only one line, which cannot repeat.
pub(crate) fn lines(text: &str) -> Option<impl Iterator<Item = &str>> {
    text.contains('\n').then(|| text.lines().map(str::trim).filter(|line| !line.is_empty()))
}

/// Paragraphs of `text`: lines with no blank line between them, as one trimmed piece.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.split_inclusive('\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, *at, line.trim().is_empty()))
    });
    std::iter::from_fn(move || {
        let (start, mut end, _) = lines.find(|(_, _, blank)| !blank)?;
        for (_, line_end, blank) in lines.by_ref() {
            if blank {
                break;
            }
            end = line_end;
        }
        Some(text[start..end].trim())
    })
}

/// How much of some pieces came before among them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Duplicates {
    pieces: u32,
    chars: u32,
    duplicates: u32,
    duplicate_chars: u32,
}

impl Duplicates {
    /// Counts `pieces`; a piece that equals an earlier one is a duplicate.
    pub(crate) fn of<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        // Asked for membership alone, so its order never shows.
        let mut seen = HashSet::<&str, BuildHasherDefault<FxHasher>>::default();
        let mut counts = Self::default();
        for piece in pieces {
            let chars = piece.chars().count() as u32;
            counts.pieces += 1;
            counts.chars += chars;
            if !seen.insert(piece) {
                counts.duplicates += 1;
                counts.duplicate_chars += chars;
            }
        }
        counts
    }

    /// Duplicates ÷ pieces; 0 of none.
    pub(crate) fn share(&self) -> f64 {
        f64::from(self.duplicates) / f64::from(self.pieces.max(1))
    }

    /// Characters of duplicates ÷ characters of all pieces; 0 of none.
    pub(crate) fn char_share(&self) -> f64 {
        f64::from(self.duplicate_chars) / f64::from(self.chars.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_paragraphs() {
        let text = " a\nb \r\n\n \nc\n";
        assert_eq!(lines(text).unwrap().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(paragraphs(text).collect::<Vec<_>>(), ["a\nb", "c"]);
        assert!(lines("one").is_none());
        assert_eq!(paragraphs("\n\n").count(), 0);
        assert_eq!(paragraphs("x\n\ny").collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn duplicates_are_all_but_the_first() {
        let counts = Duplicates::of(["ab", "é", "ab", "ab", "c"].into_iter());
        assert_eq!(counts, Duplicates { pieces: 5, chars: 8, duplicates: 2, duplicate_chars: 4 });
        assert_eq!((counts.share(), counts.char_share()), (0.4, 0.5));
        assert_eq!(Duplicates::default().share(), 0.0);
    }
}
