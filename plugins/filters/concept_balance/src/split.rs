//! A text as the symbols that entries are matched in: words between single spaces, or characters.
//!
//! Words are those of MetaCLIP's matching: tab, line feed and carriage return are spaces, `, . ; : ? ! `` ` `` ` have one
//! put before and after them, and an entry matches where it stands between two spaces. Cutting the text at every space,
//! with an empty word between two of them, gives words such that an entry matches exactly where its own words follow one
//! another.

use ovhost_sdk::prelude::*;
use twox_hash::XxHash3_64;

/// Where entries match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Match {
    /// Between two spaces, after punctuation was given spaces of its own.
    #[default]
    Words,
    /// At any place, for scripts without spaces.
    Anywhere,
}

/// How entries and texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where entries match.
    pub place: Match,
    /// `A` equals `a`.
    pub ignore_case: bool,
}

const PUNCTUATION: [u8; 7] = *b",.;:?!`";

/// Calls `each` with every word of `text`, which may be empty.
pub fn each_word<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        // All of these are ASCII: never a part of another character.
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            each(&text[start..at]);
            start = at + 1;
        } else if PUNCTUATION.contains(&byte) {
            each(&text[start..at]);
            each(&text[at..=at]);
            start = at + 1;
        }
    }
    each(&text[start..]);
}

/// The words of all entries, numbered by first use.
#[derive(Debug, Default)]
pub struct WordList {
    text: String,
    /// Where each word ends in `text`.
    ends: Vec<u32>,
    /// A hash table of word numbers plus one; 0 is a free place. At most half full.
    slots: Vec<u32>,
}

impl WordList {
    fn word(&self, number: u32) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize] as usize);
        &self.text[start..self.ends[number as usize] as usize]
    }

    /// The place of `word`, or the free one where it belongs. There must be places.
    fn slot(&self, word: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = XxHash3_64::oneshot(word.as_bytes()) as usize & mask;
        while self.slots[at] != 0 && self.word(self.slots[at] - 1) != word {
            at = (at + 1) & mask;
        }
        at
    }

    /// Number of `word`, if an entry has it.
    pub fn find(&self, word: &str) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.slot(word)].checked_sub(1)
    }

    /// Number of `word`, which is new if need be.
    pub fn add(&mut self, word: &str) -> u32 {
        if 2 * (self.ends.len() + 1) > self.slots.len() {
            self.slots = vec![0; (self.slots.len() * 2).max(64)];
            for number in 0..self.ends.len() as u32 {
                let at = self.slot(self.word(number));
                self.slots[at] = number + 1;
            }
        }
        let at = self.slot(word);
        if let Some(number) = self.slots[at].checked_sub(1) {
            return number;
        }
        let number = self.ends.len() as u32;
        self.text.push_str(word);
        self.ends.push(self.text.len() as u32);
        self.slots[at] = number + 1;
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_between_single_spaces() {
        let words = |text: &'static str| {
            let mut words = Vec::new();
            each_word(text, |word| words.push(word));
            words
        };
        assert_eq!(words("a red, dog"), ["a", "red", ",", "", "dog"]);
        assert_eq!(words("a  b\tc"), ["a", "", "b", "c"]);
        assert_eq!(words("é?!"), ["é", "?", "", "!", ""]);
        assert_eq!(words(""), [""]);
    }

    #[test]
    fn words_have_one_number_each() {
        let mut list = WordList::default();
        assert_eq!(list.find("a"), None);
        for number in 0..1000 {
            assert_eq!(list.add(&format!("word{number}")), number);
        }
        assert_eq!(
            (list.add(""), list.add(""), list.find("word517"), list.find("word")),
            (1000, 1000, Some(517), None)
        );
    }
}
