//! What characters are to a comparison of texts: a text or a character in, its composed form or its kind out.

use std::borrow::Cow;

use ovhost_sdk::text::{Class, class, is_mark};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// What a character is to a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Space,
    /// Punctuation (Unicode's category P, control characters, and the two quotes that Unicode calls symbols).
    Punctuation,
    /// Soft hyphens, zero-width spaces, marks of direction: nothing is seen of them. The joiners are none, see [`is_mark`].
    Invisible,
    /// Letters, digits, their marks, symbols, emoji.
    Solid,
}

/// Kind of `c`.
#[inline]
pub fn kind(c: char) -> Kind {
    match class(c) {
        Class::Space => Kind::Space,
        Class::Cjk | Class::Letter | Class::Digit => Kind::Solid,
        Class::Other => other(c),
    }
}

fn other(c: char) -> Kind {
    match c {
        // Part of what a word means: "C#", "5 %", "R&D", "@name".
        '#' | '%' | '&' | '@' | '＃' | '％' | '＆' | '＠' | '٪' | '‰' | '‱' => Kind::Solid,
        '`' | '´' => Kind::Punctuation,
        _ if is_mark(c) => Kind::Solid,
        _ => match c.general_category_group() {
            GeneralCategoryGroup::Punctuation => Kind::Punctuation,
            // Control characters, or what only guides the layout.
            GeneralCategoryGroup::Other if c.is_control() => Kind::Punctuation,
            GeneralCategoryGroup::Other if is_format(c) => Kind::Invisible,
            _ => Kind::Solid,
        },
    }
}

fn is_format(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Whether punctuation `c` is part of a number: a sign or operator before a digit (`-5`, `2*3`, `1/2`), or one of `.,:` between
/// two digits. `last` is the character before it, and `next` the text after it.
pub fn in_number(last: char, c: char, next: &str) -> bool {
    let sign = matches!(c, '-' | '*' | '/' | '－' | '＊' | '／');
    let point = matches!(c, '.' | ',' | ':') && class(last) == Class::Digit;
    (sign || point) && {
        let mut next = next.chars().filter(|&c| kind(c) != Kind::Invisible);
        next.next().is_some_and(|c| class(c) == Class::Digit)
    }
}

/// `text` in Unicode's form NFC: one spelling for what is the same, such as `é` and `e` with an accent after it.
pub fn composed(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_composed) { text.into() } else { text.nfc().collect::<String>().into() }
}

/// Whether `c` is certain to stay as it is in NFC. Cheap answers for the blocks that most text is made of.
fn is_composed(c: char) -> bool {
    matches!(c, '\0'..'\u{300}' | '\u{388}'..='\u{482}' | '\u{E01}'..='\u{E37}' | '\u{2010}'..='\u{2027}'
        | '\u{3001}'..='\u{3029}' | '\u{3041}'..='\u{3098}' | '\u{309B}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' | '\u{FF01}'..='\u{FF9D}' | '\u{1F300}'..='\u{1FAFF}')
}

#[cfg(test)]
mod tests {
    use unicode_normalization::{IsNormalized, is_nfc_quick};

    use super::*;

    #[test]
    fn what_is_taken_for_composed_is() {
        for c in ('\0'..=char::MAX).filter(|&c| is_composed(c)) {
            // Also behind a letter that an accent would join.
            assert!(matches!(is_nfc_quick(['a', c].into_iter()), IsNormalized::Yes), "U+{:04X}", c as u32);
        }
        assert!(matches!(composed("cafe\u{301}"), Cow::Owned(text) if text == "café"));
        assert!(matches!(composed("犬とlaéЖ한"), Cow::Borrowed(_)));
    }

    #[test]
    fn kinds() {
        let all = |kind_: Kind, text: &str| text.chars().for_each(|c| assert_eq!(kind(c), kind_, "{c:?}"));
        all(Kind::Punctuation, ".,-—…!?“”'`´()「」。、·*/\\_;:\u{7}");
        all(Kind::Solid, "aé犬1٣+<>=$€|~^°©→👍❤\u{FE0F}\u{301}\u{200D}#%&@ก");
        all(Kind::Invisible, "\u{AD}\u{200B}\u{FEFF}\u{2060}\u{200E}");
        all(Kind::Space, " \t\n\u{A0}\u{3000}");
    }

    #[test]
    fn punctuation_in_numbers() {
        for (last, c, next) in [(' ', '-', "5"), ('2', '-', "3"), ('1', '.', "5"), ('1', ':', "5x"), ('1', '/', "2")] {
            assert!(in_number(last, c, next), "{last}{c}{next}");
        }
        for (last, c, next) in [('a', '-', "b"), ('1', '.', " 5"), ('a', '.', "5"), ('1', '-', ""), ('(', '(', "5")] {
            assert!(!in_number(last, c, next), "{last}{c}{next}");
        }
    }
}
