//! A text's letters by script, and its words that mix scripts.

use ovhost_sdk::text::{Class, ascii_prefix, class, count_runs, is_ascii_letter, is_cjk, is_unspaced};
use unicode_script::{Script, UnicodeScript};

/// Counts of one text.
#[derive(Default)]
pub(crate) struct Counts {
    /// Scripts in order of first sight, with their letters. Few, so a list beats a table of all 170.
    scripts: Vec<(Script, u32)>,
    /// Words: runs of letters of scripts that put spaces between words.
    pub(crate) words: u32,
    /// Words with letters of scripts that look alike ([`looks_alike`]).
    pub(crate) mixed_words: u32,
}

impl Counts {
    /// Counts `text`, in place of any before; the words only if they are asked for.
    pub(crate) fn read(&mut self, text: &str, words: bool) {
        self.scripts.clear();
        (self.words, self.mixed_words) = (0, 0);
        let bytes = text.as_bytes();
        // The script of the word's first letter, and whether the word was counted as mixed.
        let mut word: Option<(Script, bool)> = None;
        let mut at = 0;
        loop {
            let ascii = &bytes[at..at + ascii_prefix(&bytes[at..])];
            self.read_ascii(ascii, words, &mut word);
            at += ascii.len();
            let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            at += c.len_utf8();
            match letter(c) {
                Letter::Of(script) => {
                    self.add(script, 1);
                    if !words || is_cjk(c) || is_unspaced(c) {
                        word = None;
                    } else {
                        self.step(&mut word, script);
                    }
                }
                Letter::Shared => {}
                Letter::No => word = None,
            }
        }
    }

    /// Counts a run of ASCII.
    fn read_ascii(&mut self, ascii: &[u8], words: bool, word: &mut Option<(Script, bool)>) {
        if words && word.is_some() && ascii.first().is_some_and(u8::is_ascii_alphabetic) {
            // A Latin letter goes on a word of another script; it does so once, whatever follows.
            self.step(word, Script::Latin);
        }
        let letters = count_runs(ascii, word.is_some(), is_ascii_letter);
        if letters.inside > 0 {
            self.add(Script::Latin, letters.inside as u32);
        }
        if words {
            self.words += letters.starts as u32;
            // The word that goes on after this run: a new one, or the one before it with no gap between.
            *word = match *word {
                _ if !letters.open => None,
                Some(before) if letters.inside == ascii.len() => Some(before),
                _ => Some((Script::Latin, false)),
            };
        }
    }

    /// Takes a letter of a word in.
    #[inline]
    fn step(&mut self, word: &mut Option<(Script, bool)>, script: Script) {
        match word {
            None => {
                self.words += 1;
                *word = Some((script, false));
            }
            Some((first, mixed @ false)) if is_mixture(*first, script) => {
                self.mixed_words += 1;
                *mixed = true;
            }
            // A letter that may be mixed with others takes the place of one that may not: "한Aа" is a mixture.
            Some((first, false)) if !looks_alike(*first) => *first = script,
            Some(_) => {}
        }
    }

    #[inline]
    fn add(&mut self, script: Script, letters: u32) {
        match self.scripts.iter_mut().find(|(known, _)| *known == script) {
            Some((_, count)) => *count += letters,
            None => self.scripts.push((script, letters)),
        }
    }

    /// Letters of all scripts.
    pub(crate) fn letters(&self) -> u32 {
        self.scripts.iter().map(|(_, count)| count).sum()
    }

    /// Each script with its letters, in order of first sight.
    pub(crate) fn by_script(&self) -> impl Iterator<Item = (Script, u32)> {
        self.scripts.iter().copied()
    }

    /// The script with most letters; of equal ones the first in the text.
    pub(crate) fn main(&self) -> Option<(Script, u32)> {
        // `max_by_key` takes the last of equals.
        self.scripts.iter().rev().copied().max_by_key(|(_, count)| *count)
    }
}

/// Whether letters of `script` look like those of another one: "а" and "a", "ο" and "o", "օ" and "o", "Ꭺ" and "A".
fn looks_alike(script: Script) -> bool {
    matches!(
        script,
        Script::Latin | Script::Cyrillic | Script::Greek | Script::Armenian | Script::Cherokee | Script::Coptic
    )
}

/// Whether a word with letters of both is a mixture. Others than those that look alike stand beside each other in plain
/// writing ("iPhone은", "الـPDF"), and so do Latin and Greek: units and formulae ("kΩ", "Δx").
fn is_mixture(a: Script, b: Script) -> bool {
    a != b
        && looks_alike(a)
        && looks_alike(b)
        && !matches!((a, b), (Script::Latin, Script::Greek) | (Script::Greek, Script::Latin))
}

/// What a character is to the count.
#[derive(Debug, PartialEq)]
enum Letter {
    /// A letter of a script.
    Of(Script),
    /// A letter, or a mark within a word, that belongs to no script of its own: it neither counts nor ends a word.
    Shared,
    /// No letter.
    No,
}

fn letter(c: char) -> Letter {
    match c {
        // Cheap answers for the blocks that text is made of; the tables answer the rest.
        '\u{4E00}'..='\u{9FFF}' => Letter::Of(Script::Han),
        '\u{AC00}'..='\u{D7A3}' => Letter::Of(Script::Hangul),
        '\u{410}'..='\u{44F}' => Letter::Of(Script::Cyrillic),
        '\u{C0}'..='\u{24F}' if c != '×' && c != '÷' => Letter::Of(Script::Latin),
        '\u{2010}'..='\u{2027}' | '\u{3001}'..='\u{3003}' | '\u{FF01}'..='\u{FF0F}' => Letter::No,
        _ => match (class(c), c.script()) {
            (Class::Letter | Class::Cjk, Script::Common | Script::Inherited | Script::Unknown) => Letter::Shared,
            (Class::Letter | Class::Cjk, script) => Letter::Of(script),
            (Class::Other, Script::Inherited) => Letter::Shared,
            (Class::Other, script) if !matches!(script, Script::Common | Script::Unknown) && !c.is_ascii() => {
                // A mark of a script (an Indic vowel killer): part of the word, no letter.
                Letter::Shared
            }
            _ => Letter::No,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_answers_agree_with_the_tables() {
        for c in ('\u{80}'..=char::MAX).filter(|c| c.is_alphabetic()) {
            match (letter(c), c.script()) {
                (Letter::Of(script), table) => assert_eq!(script, table, "U+{:04X}", c as u32),
                (Letter::Shared, Script::Common | Script::Inherited | Script::Unknown) => {}
                (other, table) => panic!("U+{:04X}: {other:?}, {table:?}", c as u32),
            }
        }
        for c in "“”…、。！—×÷£ 1٣😀".chars() {
            assert_eq!(letter(c), Letter::No, "{c}");
        }
    }

    fn read(text: &str) -> Counts {
        let mut counts = Counts::default();
        counts.read(text, true);
        counts
    }

    #[test]
    fn letters_by_script() {
        let counts = read("Ein Café, Привет 日本のラーメン 한글 هلا 42!");
        let want = [
            (Script::Latin, 7),
            (Script::Cyrillic, 6),
            (Script::Han, 2),
            (Script::Hiragana, 1),
            (Script::Katakana, 3),
            (Script::Hangul, 2),
            (Script::Arabic, 3),
        ];
        assert_eq!(counts.by_script().collect::<Vec<_>>(), want);
        assert_eq!((counts.letters(), counts.main()), (24, Some((Script::Latin, 7))));
        assert_eq!(read("ab вг").main(), Some((Script::Latin, 2)), "of equal ones the first");
        assert_eq!(read("вг ab").main(), Some((Script::Cyrillic, 2)));
        assert_eq!(read("12 !?").main(), None);
    }

    const ALIKE: [Script; 3] = [Script::Latin, Script::Cyrillic, Script::Greek];

    /// Letter by letter, without the short way through ASCII.
    fn slow(text: &str) -> (Vec<(Script, u32)>, u32, u32) {
        let (mut scripts, mut words, mut mixed) = (Vec::<(Script, u32)>::new(), 0, 0);
        let mut word: Option<(Script, bool)> = None;
        for c in text.chars() {
            let Letter::Of(script) = (if c.is_ascii_alphabetic() { Letter::Of(Script::Latin) } else { letter(c) })
            else {
                word = word.filter(|_| !c.is_ascii() && letter(c) == Letter::Shared);
                continue;
            };
            match scripts.iter_mut().find(|(known, _)| *known == script) {
                Some((_, count)) => *count += 1,
                None => scripts.push((script, 1)),
            }
            word = match word {
                _ if is_cjk(c) || is_unspaced(c) => None,
                None => {
                    words += 1;
                    Some((script, false))
                }
                Some((first, false)) => {
                    let alike = ALIKE.contains(&first) && ALIKE.contains(&script) && first != script;
                    let formula = [first, script].contains(&Script::Latin) && [first, script].contains(&Script::Greek);
                    let mixture = alike && !formula;
                    mixed += u32::from(mixture);
                    Some((if ALIKE.contains(&first) { first } else { script }, mixture))
                }
                same => same,
            };
        }
        (scripts, words, mixed)
    }

    #[test]
    fn the_short_way_counts_the_same() {
        let mut rng = ovhost_sdk::Rng::new(5);
        let alphabet: Vec<char> = "aZ1 .\n狗のéЖжω한กهأ\u{301}\u{94D}ª…😀".chars().collect();
        for _ in 0..3000 {
            let len = rng.below(12);
            let text: String = (0..len).map(|_| alphabet[rng.below(alphabet.len() as u64) as usize]).collect();
            let counts = read(&text);
            let got = (counts.by_script().collect::<Vec<_>>(), counts.words, counts.mixed_words);
            assert_eq!(got, slow(&text), "{text:?}");
        }
    }

    #[test]
    fn words_that_mix() {
        let mixed = |text: &str| {
            let counts = read(text);
            (counts.words, counts.mixed_words)
        };
        assert_eq!(mixed("p\u{430}yp\u{430}l is good"), (3, 1));
        assert_eq!(mixed("кофе coffee"), (2, 0));
        assert_eq!(mixed("使用iPhone手机"), (1, 0));
        assert_eq!(mixed("5 kΩ of it's Δx"), (5, 0));
        assert_eq!(mixed("Δ\u{445}"), (1, 1));
        assert_eq!(mixed("cafe\u{301}s हिन्दी"), (2, 0));
        assert_eq!(mixed("x1y2"), (2, 0));
        for text in ["iPhone은 Apple이", "ใช้iPhoneถ่ายรูป", "الـPDF", "ה-PDFים PDFים", "हिन्दीPDF PDFका", "ბPDF"]
        {
            assert_eq!(mixed(text).1, 0, "{text}");
        }
        for text in ["p\u{430}y", "p\u{585}st", "\u{13AA}BC", "\u{43E}\u{3BF}", "한a\u{430}", "a한\u{430}"] {
            assert_eq!(mixed(text), (1, 1), "{text}");
        }
    }
}
