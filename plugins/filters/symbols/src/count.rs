//! One pass over a text: how many characters of which kind, how many words, and whether it has what slower scans look for.

use ovhost_sdk::text::{Class, class, is_mark, is_unspaced};

/// What a text is made of. Characters are Unicode scalar values; white space is counted nowhere but in `line_breaks`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// Characters that are not white space.
    pub(crate) chars: u32,
    pub(crate) letters: u32,
    pub(crate) digits: u32,
    pub(crate) upper: u32,
    pub(crate) lower: u32,
    /// Control characters that are not white space.
    pub(crate) control: u32,
    /// U+FFFD.
    pub(crate) replacement: u32,
    pub(crate) emoji: u32,
    pub(crate) hashes: u32,
    /// Full stops, and three for every `…`: fewer than 3 are no ellipsis.
    pub(crate) dots: u32,
    /// What white space separates, and every letter of a script without spaces. Signs and marks beside such a letter belong to
    /// its word.
    pub(crate) words: u32,
    /// Words with a letter.
    pub(crate) alphabetic_words: u32,
    pub(crate) line_breaks: u32,
    /// Whether there is a `:`, an `@` or a `w.`, without which there is no link.
    pub(crate) link_mark: bool,
    /// Whether there is a `<` or a `&`, without which there is no markup.
    pub(crate) markup_mark: bool,
    /// Whether there is a letter that mojibake starts with.
    pub(crate) mojibake_lead: bool,
}

/// Kinds of characters to the machine that counts words.
const SPACE: u8 = 0;
const OTHER: u8 = 1;
const DIGIT: u8 = 2;
const LETTER: u8 = 3;
const CJK: u8 = 4;

/// The machine's state is the word that the next character may go on: none; one of marks alone, which is counted and which a
/// CJK character still takes; one with digits; one with letters; a CJK character, which marks may follow.
const STATES: usize = 5;
const NO_WORD: u8 = 0;

/// What a step does, by state and kind: the next state, and in bits 6 and 7 whether a word begins, and whether a word has its
/// first letter. A table, as in prose no branch on the kind of a character can be foreseen.
const STEPS: [u8; 64] = {
    const fn step(next: u8, word: bool, letter: bool) -> u8 {
        next << 3 | (word as u8) << 6 | (letter as u8) << 7
    }
    const MARKS: u8 = 1;
    const DIGITS: u8 = 2;
    const LETTERS: u8 = 3;
    const ONE_CJK: u8 = 4;
    let mut table = [0; 64];
    let mut state = 0;
    while state < STATES {
        let (here, no, cjk) = (state as u8, state == 0, state as u8 == ONE_CJK);
        let row = state << 3;
        table[row | SPACE as usize] = step(NO_WORD, false, false);
        table[row | OTHER as usize] = step(if no { MARKS } else { here }, no, false);
        let digits = if here == LETTERS { LETTERS } else { DIGITS };
        table[row | DIGIT as usize] = step(digits, no || cjk, false);
        table[row | LETTER as usize] = step(LETTERS, no || cjk, here != LETTERS);
        table[row | CJK as usize] = step(ONE_CJK, here != MARKS, true);
        state += 1;
    }
    table
};

/// Flag beside a byte's kind: [`Counts::count_mark`] is to see it.
const MARK: u8 = 8;

/// By byte: its kind, and [`MARK`]. Bytes above ASCII are never looked up.
const KINDS: [u8; 256] = {
    let mut table = [OTHER; 256];
    let mut i = 0;
    while i < 128 {
        let b = i as u8;
        table[i] = if b.is_ascii_alphabetic() {
            LETTER
        } else if b.is_ascii_digit() {
            DIGIT
        } else if b == b'\n' {
            SPACE | MARK
        } else if b == b' ' || (b >= 9 && b <= 13) {
            SPACE
        } else if b.is_ascii_control() || matches!(b, b'.' | b'#' | b':' | b'@' | b'<' | b'&') {
            OTHER | MARK
        } else {
            OTHER
        };
        i += 1;
    }
    table
};

/// By byte: what it adds to `chars`, `letters`, `digits` and `upper`, 16 bits each from the low end.
const ADDS: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 128 {
        let b = i as u8;
        let [shown, letter] = [KINDS[i] & 7 != SPACE, KINDS[i] == LETTER];
        table[i] = shown as u64
            | (letter as u64) << 16
            | (b.is_ascii_digit() as u64) << 32
            | (b.is_ascii_uppercase() as u64) << 48;
        i += 1;
    }
    table
};
/// Bytes after which a sum of [`ADDS`] is taken apart, before its 16 bits overflow.
const BLOCK: usize = 1 << 15;

impl Counts {
    /// Counts `text`.
    pub(crate) fn of(text: &str) -> Self {
        let mut counts = Self::default();
        let (mut state, mut at) = (NO_WORD, 0);
        loop {
            if text.as_bytes().get(at).is_some_and(u8::is_ascii) {
                at += counts.read_ascii(text.as_bytes(), at, &mut state);
            }
            let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { return counts };
            if !c.is_ascii() {
                at += c.len_utf8();
                counts.read_wide(c, &mut state);
            }
        }
    }

    /// Counts the ASCII of `bytes` from `at`, at most a block of it; gives how much that was.
    fn read_ascii(&mut self, bytes: &[u8], at: usize, state: &mut u8) -> usize {
        let block = &bytes[at..bytes.len().min(at + BLOCK)];
        let (mut adds, mut words, mut alphabetic, mut run) = (0, 0, 0, 0);
        for &byte in block {
            if byte >= 128 {
                break;
            }
            let kind = KINDS[byte as usize];
            adds += ADDS[byte as usize];
            let step = STEPS[usize::from(*state | kind & 7) & 63];
            words += u32::from(step >> 6 & 1);
            alphabetic += u32::from(step >> 7);
            *state = step & 0x38;
            if kind & MARK != 0 {
                let last = if run > 0 { block[run - 1] } else { b' ' };
                self.count_mark(char::from(byte), char::from(last));
            }
            run += 1;
        }
        let [chars, letters, digits, upper] = [0, 16, 32, 48].map(|shift| (adds >> shift) as u32 & 0xFFFF);
        self.chars += chars;
        self.letters += letters;
        self.digits += digits;
        self.upper += upper;
        self.lower += letters - upper;
        self.words += words;
        self.alphabetic_words += alphabetic;
        run
    }

    /// Counts a character that is not ASCII.
    fn read_wide(&mut self, c: char, state: &mut u8) {
        let kind = match class(c) {
            Class::Space => SPACE,
            Class::Other => OTHER,
            Class::Digit => DIGIT,
            Class::Letter => LETTER,
            Class::Cjk => CJK,
        };
        let step = match kind {
            LETTER if is_unspaced(c) => {
                if is_mark(c) {
                    OTHER
                } else {
                    CJK
                }
            }
            kind => kind,
        };
        let step = STEPS[usize::from(*state | step) & 63];
        self.words += u32::from(step >> 6 & 1);
        self.alphabetic_words += u32::from(step >> 7);
        *state = step & 0x38;
        self.chars += u32::from(kind != SPACE);
        self.letters += u32::from(kind == LETTER || kind == CJK);
        self.digits += u32::from(kind == DIGIT);
        match kind {
            LETTER => {
                self.upper += u32::from(c.is_uppercase());
                self.lower += u32::from(c.is_lowercase());
                self.mojibake_lead |= ('\u{C2}'..='\u{F4}').contains(&c);
            }
            OTHER => self.count_mark(c, ' '),
            _ => {}
        }
    }

    #[inline]
    fn count_mark(&mut self, c: char, last: char) {
        match c {
            '\n' => self.line_breaks += 1,
            '.' => {
                self.dots += 1;
                self.link_mark |= last == 'w' || last == 'W';
            }
            '#' => self.hashes += 1,
            ':' | '@' => self.link_mark = true,
            '<' | '&' => self.markup_mark = true,
            '…' => self.dots += 3,
            '\u{FFFD}' => self.replacement += 1,
            _ if c.is_control() => self.control += 1,
            _ if !c.is_ascii() && is_emoji(c) => self.emoji += 1,
            _ => {}
        }
    }
}

/// How many ellipses `text` has: runs of full stops and `…`, of three stops or one `…` at least. A run is one however long.
pub(crate) fn ellipses(text: &str) -> u32 {
    let (mut count, mut dots) = (0, 0);
    for c in text.chars().chain([' ']) {
        match c {
            '.' => dots += 1,
            '…' => dots += 3,
            _ => {
                count += u32::from(dots >= 3);
                dots = 0;
            }
        }
    }
    count
}

/// Whether `c` is a picture character: the emoji blocks, dingbats, signs that are shown in colour, and regional letters (two
/// make a flag). Joiners and variation selectors are not counted beside the picture that they change.
pub(crate) fn is_emoji(c: char) -> bool {
    matches!(c,
        '\u{1F300}'..='\u{1F64F}'
        | '\u{1F680}'..='\u{1F6FF}'
        | '\u{1F7E0}'..='\u{1F7EB}'
        | '\u{1F900}'..='\u{1F9FF}'
        | '\u{1FA70}'..='\u{1FAFF}'
        | '\u{1F1E6}'..='\u{1F1FF}'
        | '\u{1F004}'
        | '\u{1F0CF}'
        | '\u{2600}'..='\u{27BF}'
        | '\u{2B50}'
        | '\u{2B55}'
        | '\u{231A}'..='\u{231B}'
        | '\u{23E9}'..='\u{23FA}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts of words and ASCII, character by character and rule by rule.
    fn slow(text: &str) -> [u32; 6] {
        let [mut chars, mut letters, mut digits, mut upper, mut words, mut alphabetic] = [0; 6];
        // Whether there is a word, whether it has a digit or letter, a letter, and whether it is a CJK character.
        let (mut word, mut solid, mut letter, mut cjk) = (false, false, false, false);
        for c in text.chars() {
            let class = class(c);
            if class == Class::Space {
                (word, solid, letter, cjk) = (false, false, false, false);
                continue;
            }
            chars += 1;
            digits += u32::from(class == Class::Digit);
            letters += u32::from(class == Class::Letter || class == Class::Cjk);
            upper += u32::from(class == Class::Letter && c.is_uppercase());
            let unit = class == Class::Cjk || is_unspaced(c) && !is_mark(c);
            let solid_c = class != Class::Other && !(is_unspaced(c) && is_mark(c));
            let after_cjk = cjk && solid_c;
            let before_cjk = unit && solid;
            if !word || after_cjk || before_cjk {
                words += 1;
                (word, solid, letter, cjk) = (true, false, false, false);
            }
            solid |= solid_c;
            cjk |= unit;
            if !letter && solid_c && (class == Class::Letter || class == Class::Cjk) {
                alphabetic += 1;
                letter = true;
            }
        }
        [chars, letters, digits, upper, words, alphabetic]
    }

    #[test]
    fn the_machine_counts_as_the_rules_read() {
        let mut rng = ovhost_sdk::Rng::new(11);
        let alphabet: Vec<char> = "aZ1.# -\n狗の。éЖ한…\u{A0}😀\u{FFFD}²ก\u{E49}\u{E34}".chars().collect();
        for _ in 0..4000 {
            let len = rng.below(14);
            let text: String = (0..len).map(|_| alphabet[rng.below(alphabet.len() as u64) as usize]).collect();
            let c = Counts::of(&text);
            let got = [c.chars, c.letters, c.digits, c.upper, c.words, c.alphabetic_words];
            assert_eq!(got, slow(&text), "{text:?}");
            assert_eq!(c.line_breaks as usize, text.matches('\n').count());
            assert_eq!(c.hashes as usize, text.matches('#').count());
        }
    }

    #[test]
    fn long_texts_do_not_overflow_a_block() {
        let counts = Counts::of(&format!("{}é{}", "A".repeat(100_000), "1 ".repeat(70_000)));
        assert_eq!([counts.chars, counts.letters, counts.upper, counts.digits], [170_001, 100_001, 100_000, 70_000]);
        assert_eq!((counts.words, counts.alphabetic_words), (70_000, 1));
    }
}
