//! What filters over text share: classes of characters, words of any script, and what to do with a row that has no text.
//!
//! Chinese and Japanese put no spaces between words, nor do Thai, Lao, Khmer and Myanmar, so there every letter with its
//! marks counts as a word of its own; all other scripts are cut at what is neither letter nor digit. Filters that count the
//! same way can be compared and chained.
//!
//! ```
//! use ovhost_sdk::text::words;
//!
//! assert_eq!(words("A dog, 2 cats.").collect::<Vec<_>>(), ["A", "dog", "2", "cats"]);
//! assert_eq!(words("两只猫和iPhone手机").collect::<Vec<_>>(), ["两", "只", "猫", "和", "iPhone", "手", "机"]);
//! assert_eq!(words("น้ำ 2").collect::<Vec<_>>(), ["น้", "ำ", "2"]);
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::char::is_combining_mark;

use crate::filter::Verdict;

mod ascii;

pub use ascii::{Runs, ascii_prefix, count_runs, is_ascii_letter};

/// What becomes of a row without the value that a filter judges (a text, for most).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It is dropped, with its own reason.
    #[default]
    Drop,
    /// It goes on unjudged.
    Keep,
    /// It is a row error: a reject of stage `filter-error`, which counts against the run's bound on rejects.
    Error,
}

impl Missing {
    /// The verdict for a row that lacks something; `reason` says what ("no text").
    pub fn verdict(self, reason: &'static str) -> Verdict {
        match self {
            Self::Drop => Verdict::drop(reason),
            Self::Keep => Verdict::Keep,
            Self::Error => Verdict::Error(reason.to_owned()),
        }
    }
}

/// What a character is to a filter that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// White space, line breaks included.
    Space,
    /// A character of a script without spaces between words: a word of its own. See [`is_cjk`].
    Cjk,
    /// Any other letter.
    Letter,
    /// A digit or another numeric character, of any script.
    Digit,
    /// Punctuation, symbols, marks, control characters.
    Other,
}

/// Class of every ASCII character: captions are mostly that.
const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut i = 0;
    while i < 128 {
        let b = i as u8;
        if b.is_ascii_alphabetic() {
            table[i] = Class::Letter;
        } else if b.is_ascii_digit() {
            table[i] = Class::Digit;
        } else if b == b' ' || (b >= 9 && b <= 13) {
            table[i] = Class::Space;
        }
        i += 1;
    }
    table
};

/// Class of `c`.
#[inline]
pub fn class(c: char) -> Class {
    match ASCII.get(c as usize) {
        Some(&class) => class,
        None => wide_class(c),
    }
}

fn wide_class(c: char) -> Class {
    match c {
        // Cheap answers for the blocks that text is made of; the standard library's tables answer the rest.
        _ if is_cjk(c) => Class::Cjk,
        '\u{C0}'..='\u{24F}' if c != '×' && c != '÷' => Class::Letter,
        '\u{400}'..='\u{481}' | '\u{AC00}'..='\u{D7A3}' => Class::Letter,
        '\u{2010}'..='\u{2027}' | '\u{3001}'..='\u{3003}' | '\u{FF01}'..='\u{FF0F}' => Class::Other,
        _ if c.is_whitespace() => Class::Space,
        _ if c.is_alphabetic() => Class::Letter,
        _ if c.is_numeric() => Class::Digit,
        _ => Class::Other,
    }
}

/// `c` without its case, for texts that count as equal whatever theirs: lower case, and of Greek's two small sigmas (`ς` ends
/// words) the one that stands inside them, as the capital `Σ` has one small form only.
///
/// ```
/// use ovhost_sdk::text::fold_case;
///
/// let fold = |text: &str| text.chars().flat_map(fold_case).collect::<String>();
/// assert_eq!(fold("ΟΔΟΣ"), fold("οδος"));
/// ```
#[inline]
pub fn fold_case(c: char) -> std::char::ToLowercase {
    if c == 'ς' { 'σ' } else { c }.to_lowercase()
}

/// `c` in its plain form, for texts that count as equal however they were typed: one apostrophe, quote and dash for all of
/// their kinds, ASCII for full-width letters, a space for white space, a line feed for other ends of lines. None for what is
/// invisible.
///
/// ```
/// use ovhost_sdk::text::plain_form;
///
/// assert_eq!("I’m\u{A0}“so–so”，\u{AD}ＡＩ".chars().filter_map(plain_form).collect::<String>(), "I'm \"so-so\",AI");
/// ```
#[inline]
pub fn plain_form(c: char) -> Option<char> {
    Some(match c {
        'a'..='z' | 'A'..='Z' | ' ' | '\n' => c,
        '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '`' | '´' | 'ʹ' | 'ʼ' | '‘' | '’' | '‛' | '′' | '＇' => '\'',
        '“' | '”' | '„' | '‟' | '″' | '＂' => '"',
        '‐' | '‑' | '‒' | '–' | '—' | '―' | '−' => '-',
        '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FE0F}' | '\u{FEFF}' => return None,
        // Full-width ASCII lies at a fixed distance.
        '\u{FF01}'..='\u{FF5E}' => char::from((u32::from(c) - 0xFF01 + 0x21) as u8),
        _ if c.is_whitespace() => ' ',
        _ => c,
    })
}

/// Whether `c` belongs to a script that puts no spaces between words and whose characters are counted as words: Han
/// ideographs, hiragana, katakana, bopomofo. Korean has spaces, so hangul is not among them.
#[inline]
pub fn is_cjk(c: char) -> bool {
    matches!(c,
        '\u{4E00}'..='\u{9FFF}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3041}'..='\u{3096}'
        | '\u{309D}'..='\u{309F}'
        | '\u{30A1}'..='\u{30FA}'
        | '\u{30FC}'..='\u{30FF}'
        | '\u{3105}'..='\u{312F}'
        | '\u{31A0}'..='\u{31BF}'
        | '\u{31F0}'..='\u{31FF}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{FF66}'..='\u{FF9D}'
        | '\u{20000}'..='\u{323AF}')
}

/// Whether `c` belongs to a script other than Chinese and Japanese that puts no spaces between words: a letter or mark of
/// Thai, Lao, Khmer or Myanmar. A letter of those with its marks is counted as a word ([`words`]).
#[inline]
pub fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{E01}'..='\u{E3A}'
        | '\u{E40}'..='\u{E4E}'
        | '\u{E81}'..='\u{ECE}'
        | '\u{EDC}'..='\u{EDF}'
        | '\u{1000}'..='\u{103F}'
        | '\u{1050}'..='\u{108F}'
        | '\u{109A}'..='\u{109D}'
        | '\u{1780}'..='\u{17D3}'
        | '\u{17D7}'
        | '\u{17DC}'..='\u{17DD}'
        | '\u{A9E0}'..='\u{A9EF}'
        | '\u{A9FA}'..='\u{A9FE}'
        | '\u{AA60}'..='\u{AA76}'
        | '\u{AA7A}'..='\u{AA7F}')
}

/// Whether `c` belongs to the character before it: what Unicode calls marks (general categories Mn, Mc and Me: accents, vowel
/// signs, enclosing circles, variation selectors), and the two joiners. Some marks are letters to [`class`], most are not.
#[inline]
pub fn is_mark(c: char) -> bool {
    match c {
        // Cheap answers for the blocks that text is made of; the table answers the rest.
        '\0'..'\u{300}' | '\u{370}'..'\u{483}' | '\u{2010}'..='\u{2027}' | '\u{3001}'..='\u{3029}' => false,
        '\u{3030}'..='\u{3098}' | '\u{309B}'..='\u{A66E}' | '\u{AC00}'..='\u{D7FF}' => false,
        '\u{200C}' | '\u{200D}' => true,
        _ => is_combining_mark(c),
    }
}

/// The words of `text`: runs of letters, digits and underscores; in scripts without spaces ([`is_cjk`], [`is_unspaced`]) every
/// letter with its marks.
pub fn words(text: &str) -> Words<'_> {
    Words { text, at: 0 }
}

/// See [`words`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    at: usize,
}

/// What a byte tells of the character that it starts.
#[derive(Clone, Copy, PartialEq)]
enum Byte {
    Gap,
    Word,
    /// It is not ASCII: the character decides.
    Wide,
}

const BYTES: [Byte; 256] = {
    let mut table = [Byte::Wide; 256];
    let mut i = 0;
    while i < 128 {
        let word = (i as u8).is_ascii_alphanumeric() || i as u8 == b'_';
        table[i] = if word { Byte::Word } else { Byte::Gap };
        i += 1;
    }
    table
};

impl Words<'_> {
    /// The character at byte `at`, which is not ASCII.
    #[inline]
    fn wide(&self, at: usize) -> Option<char> {
        self.text.get(at..)?.chars().next()
    }

    /// The end of the word that goes on at byte `at`.
    #[inline]
    fn end(&self, mut at: usize) -> usize {
        let bytes = self.text.as_bytes();
        loop {
            while bytes.get(at).is_some_and(|&byte| BYTES[byte as usize] == Byte::Word) {
                at += 1;
            }
            if bytes.get(at).is_none_or(u8::is_ascii) {
                return at;
            }
            match self.wide(at) {
                Some(c) if is_mark(c) => at += c.len_utf8(),
                Some(c) if matches!(wide_class(c), Class::Letter | Class::Digit) && !is_unspaced(c) => {
                    at += c.len_utf8()
                }
                _ => return at,
            }
        }
    }

    /// The end of the marks from byte `at` on.
    #[inline]
    fn end_of_marks(&self, mut at: usize) -> usize {
        while let Some(c) = self.text.get(at..).and_then(|rest| rest.chars().next()).filter(|&c| is_mark(c)) {
            at += c.len_utf8();
        }
        at
    }

    /// The next word's place: the bytes where it starts and ends. For those who keep places, not texts.
    #[inline]
    pub fn next_place(&mut self) -> Option<(usize, usize)> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        loop {
            while bytes.get(at).is_some_and(|&byte| BYTES[byte as usize] == Byte::Gap) {
                at += 1;
            }
            let start = at;
            if bytes.get(at)?.is_ascii() {
                self.at = self.end(at + 1);
                return Some((start, self.at));
            }
            let c = self.wide(at)?;
            at += c.len_utf8();
            let class = wide_class(c);
            if class == Class::Cjk || (class == Class::Letter && is_unspaced(c)) {
                self.at = self.end_of_marks(at);
                return Some((start, self.at));
            }
            if matches!(class, Class::Letter | Class::Digit) {
                self.at = self.end(at);
                return Some((start, self.at));
            }
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        self.next_place().map(|(start, end)| &self.text[start..end])
    }
}

/// How many characters `text` has: `text.chars().count()`, quicker where most of it is ASCII.
pub fn count_chars(text: &str) -> usize {
    let ascii = ascii_prefix(text.as_bytes());
    ascii + text.get(ascii..).map_or(0, |rest| rest.chars().count())
}

/// How many [`words`] `text` has; quicker than counting what that gives.
pub fn count_words(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut count, mut at) = (0, 0);
    // Whether the last character was inside a word that may go on, and whether it was of one that only marks go on.
    let (mut inside, mut unit) = (false, false);
    loop {
        let ascii = &bytes[at..at + ascii_prefix(&bytes[at..])];
        let runs = count_runs(ascii, inside, is_word);
        count += runs.starts;
        inside = runs.open;
        unit &= ascii.is_empty();
        at += ascii.len();
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { return count };
        at += c.len_utf8();
        match wide_class(c) {
            Class::Letter | Class::Digit | Class::Other if (inside || unit) && is_mark(c) => {}
            Class::Cjk => {
                count += 1;
                (inside, unit) = (false, true);
            }
            Class::Letter if is_unspaced(c) => {
                count += 1;
                (inside, unit) = (false, true);
            }
            Class::Letter | Class::Digit => {
                count += usize::from(!inside);
                (inside, unit) = (true, false);
            }
            Class::Space | Class::Other => (inside, unit) = (false, false),
        }
    }
}

/// Whether an ASCII byte belongs to a word. Digits by one comparison of signed bytes, as [`is_ascii_letter`] does letters.
#[inline]
fn is_word(byte: u8) -> bool {
    let digit = (byte.wrapping_add(0x80 - b'0') as i8) < i8::MIN + 10;
    is_ascii_letter(byte) | digit | (byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<&str> {
        let all: Vec<&str> = words(text).collect();
        assert_eq!(count_words(text), all.len(), "{text}");
        assert_eq!(count_chars(text), text.chars().count(), "{text}");
        all
    }

    #[test]
    fn words_of_several_scripts() {
        assert_eq!(all("It's snake_case, x2 — ok"), ["It", "s", "snake_case", "x2", "ok"]);
        assert_eq!(all("Müller läuft"), ["Müller", "läuft"]);
        assert_eq!(all("Привет, мир"), ["Привет", "мир"]);
        assert_eq!(all("강아지가 달린다"), ["강아지가", "달린다"]);
        assert_eq!(all("犬が、走る。"), ["犬", "が", "走", "る"]);
        assert_eq!(all("图2中的cat"), ["图", "2", "中", "的", "cat"]);
        assert_eq!(all(""), Vec::<&str>::new());
        assert_eq!(all(" …!? "), Vec::<&str>::new());
        assert_eq!(all("हिन्दी में।"), ["हिन्दी", "में"]);
        assert_eq!(all("cafe\u{301}s"), ["cafe\u{301}s"]);
    }

    #[test]
    fn scripts_without_spaces_are_cut_by_letters_with_their_marks() {
        assert_eq!(all("ใช้iPhone ๑๒"), ["ใ", "ช้", "iPhone", "๑๒"]);
        assert_eq!(all("ພາສາລາວ"), ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ"]);
        assert_eq!(all("ភាសាខ្មែរ។"), ["ភា", "សា", "ខ្", "មែ", "រ"]);
        assert_eq!(all("မြန်မာစာ"), ["မြ", "န်", "မာ", "စာ"]);
        // Marks stay with their letter in all scripts, also where they are letters to the standard library.
        assert_eq!(all("か\u{3099}き"), ["か\u{3099}", "き"]);
        assert_eq!(all("葛\u{E0100}城"), ["葛\u{E0100}", "城"]);
        assert_eq!(all("a\u{1DD7}b e\u{20DD}"), ["a\u{1DD7}b", "e\u{20DD}"]);
        assert_eq!(all("\u{E49} \u{301}a"), ["a"]);
    }

    #[test]
    fn marks_are_unicodes() {
        for c in '\0'..=char::MAX {
            let joiner = c == '\u{200C}' || c == '\u{200D}';
            assert_eq!(is_mark(c), is_combining_mark(c) || joiner, "U+{:04X}", c as u32);
        }
        assert!("\u{301}\u{3099}\u{20DD}\u{1DD7}\u{E0100}\u{FE0F}\u{94D}ा".chars().all(is_mark));
        assert!(!"aé犬한กา゛ー1_ ".chars().any(is_mark));
    }

    #[test]
    fn counting_words_is_cutting_them() {
        let mut rng = crate::Rng::new(3);
        let alphabet: Vec<char> =
            "aZ_0 .,\n狗の。éЖ한\u{301}\u{94D}\u{3099}…\u{A0}😀ก\u{E49}\u{E34}๑काမ".chars().collect();
        for _ in 0..2000 {
            let len = rng.below(12);
            let text: String = (0..len).map(|_| alphabet[rng.below(alphabet.len() as u64) as usize]).collect();
            all(&text);
        }
    }

    #[test]
    fn quick_answers_agree_with_the_tables() {
        for c in '\0'..=char::MAX {
            let slow = if is_cjk(c) {
                Class::Cjk
            } else if c.is_whitespace() {
                Class::Space
            } else if c.is_alphabetic() {
                Class::Letter
            } else if c.is_numeric() {
                Class::Digit
            } else {
                Class::Other
            };
            assert_eq!(class(c), slow, "U+{:04X}", c as u32);
        }
    }

    #[test]
    fn cjk_is_what_has_no_spaces() {
        assert!("漢字ひらカター々〇ㄅ𠀀豈".chars().all(is_cjk));
        assert!(!"a1é한가，「。、 !".chars().any(is_cjk));
    }

    #[test]
    fn rows_without_a_value() {
        assert_eq!(Missing::default().verdict("no text"), Verdict::drop("no text"));
        assert_eq!(Missing::Keep.verdict("no text"), Verdict::Keep);
        assert_eq!(Missing::Error.verdict("no text"), Verdict::Error("no text".into()));
    }
}
