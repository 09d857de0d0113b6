//! Folding: text in, the same text with one spelling for what looks alike out.
//!
//! Most captions are plain ASCII with single spaces and need no folding; they pass through uncopied. ASCII letters keep
//! their case here, as the automaton ignores it at no cost.

use ovhost_sdk::text::{fold_case, is_cjk, plain_form};

/// What is folded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folding {
    /// Letters lose their case, by [`fold_case`] (ASCII ones: see [`Folding::phrase`]).
    pub(crate) case: bool,
    /// Apostrophes, quotes, dashes, full-width forms, spaces and invisible characters.
    pub(crate) forms: bool,
}

impl Folding {
    /// A phrase as it is looked for. ASCII case is the finder's business, in phrases and texts alike.
    pub(crate) fn phrase(&self, text: &str) -> String {
        let mut buffer = String::new();
        self.text(text, &mut buffer).trim().to_owned()
    }

    /// `text` folded: itself where nothing changes, else `buffer`.
    pub(crate) fn text<'a>(&self, text: &'a str, buffer: &'a mut String) -> &'a str {
        if !self.changes(text) {
            return text;
        }
        buffer.clear();
        buffer.reserve(text.len());
        // What the last character was: one space stands for several, and none stands beside Chinese, where spaces are a matter
        // of taste ("作为 AI").
        let (mut space, mut cjk) = (false, false);
        for c in text.chars() {
            if is_cjk(c) {
                if space && self.forms {
                    buffer.pop();
                }
                (space, cjk) = (false, true);
                buffer.push(c);
                continue;
            }
            let c = if self.forms { plain_form(c) } else { Some(c) };
            let Some(c) = c else { continue };
            if c == ' ' && self.forms && (space || cjk) {
                continue;
            }
            (space, cjk) = (c == ' ', false);
            if self.case && !c.is_ascii() {
                buffer.extend(fold_case(c));
            } else {
                buffer.push(c);
            }
        }
        buffer
    }

    /// Whether folding may change `text`.
    fn changes(&self, text: &str) -> bool {
        if !self.forms {
            return self.case && !text.is_ascii();
        }
        let mut last = 0;
        for &byte in text.as_bytes() {
            if SPECIAL[byte as usize] || (byte == b' ' && last == b' ') {
                return true;
            }
            last = byte;
        }
        false
    }
}

/// Bytes that [`plain_form`] may change: white space but the space and the line feed, the backtick, all that is not ASCII.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 128;
    while i < 256 {
        table[i] = true;
        i += 1;
    }
    table[b'\t' as usize] = true;
    table[b'\r' as usize] = true;
    table[0x0B] = true;
    table[0x0C] = true;
    table[b'`' as usize] = true;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(case: bool, forms: bool, text: &str) -> String {
        Folding { case, forms }.text(text, &mut String::new()).to_owned()
    }

    #[test]
    fn forms_become_plain() {
        assert_eq!(fold(false, true, "I’m “so–so”\u{A0} now"), "I'm \"so-so\" now");
        assert_eq!(fold(false, true, "ＡＩ，ok"), "AI,ok");
        assert_eq!(fold(false, true, "a\t b\r\nc\u{200B}d"), "a b\n\ncd");
        assert_eq!(fold(false, true, "作为 一个 AI 语言模型 x y"), "作为一个AI语言模型x y");
        assert_eq!(fold(false, false, "I’m\t作 AI"), "I’m\t作 AI");
    }

    #[test]
    fn case_goes_beyond_ascii_only_here() {
        assert_eq!(fold(true, true, "ÜBER Ünd"), "üBER ünd");
        assert_eq!(fold(true, false, "ÜBER  Uns"), "üBER  Uns");
        assert_eq!(fold(false, true, "ÜBER Uns"), "ÜBER Uns");
        assert_eq!(fold(true, true, "Η ΟΔΟΣ"), fold(true, true, "η οδος"));
    }

    #[test]
    fn plain_text_is_not_copied() {
        let text = "A dog's bowl.\nTwo cats.\n\nThree birds.";
        let mut buffer = String::new();
        assert_eq!(Folding { case: true, forms: true }.text(text, &mut buffer).as_ptr(), text.as_ptr());
        // And whatever is passed through is what the long way would have made of it.
        for c in (0..128u8).map(char::from) {
            let text = format!("a {c}b");
            let folding = Folding { case: true, forms: true };
            if !folding.changes(&text) {
                let forced = fold(true, true, &format!("é{text}"));
                assert_eq!(forced.strip_prefix('é'), Some(text.as_str()), "{c:?}");
            }
        }
    }

    #[test]
    fn folding_twice_changes_nothing_more() {
        let text = "Ｉ’ｍ  “sorry” — 作为 AI\u{2028}\tÉTÉ";
        let once = fold(true, true, text);
        assert_eq!(fold(true, true, &once), once);
    }
}
