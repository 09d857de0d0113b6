//! Text → ids, word by word, with the words seen before remembered.
//!
//! ```text
//!  text ─ Qwen's word boundaries ─► word ─ table ─► ids        (ASCII)
//!    │                                └─ the tokenizer ─► ids  (a word not seen yet)
//!    └─ around characters beyond ASCII ─ the tokenizer ─► ids
//! ```
//! A byte-level BPE tokenizer turns each word by itself into ids, so the ids of a text are those of its words. The tokenizer
//! itself spends nearly all its time on keeping track of where each character came from, which nobody asks for here.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rustc_hash::FxBuildHasher;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::ChatError;
use crate::tokenizer_train::pre_tokenizer_json;

/// Words that are remembered; when there are more, all are forgotten.
const MOST_WORDS: usize = 1 << 16;
/// Bytes of a word that is remembered.
const LONGEST_WORD: usize = 32;

/// Words and their ids, of a tokenizer that cuts text as Qwen's does.
pub(super) struct Words {
    table: RwLock<Table>,
    /// Tokens that are found inside of text although they are not special.
    inside: Vec<String>,
}

type Table = HashMap<Box<str>, Box<[u32]>, FxBuildHasher>;

impl Words {
    /// None for tokenizers whose ids may depend on more than the word.
    pub fn of(tokenizer: &Tokenizer) -> Option<Words> {
        let normal = matches!(tokenizer.get_normalizer(), None | Some(NormalizerWrapper::NFC(_)));
        let model = matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.unwrap_or(0.0) == 0.0);
        let cuts = tokenizer.get_pre_tokenizer().is_some_and(cuts_as_qwen);
        if !(normal && model && cuts && tokenizer.get_added_vocabulary().get_encode_special_tokens()) {
            return None;
        }
        let added = tokenizer.get_added_tokens_decoder().into_values();
        let inside = added.filter(|token| !token.special && !token.content.is_empty()).map(|token| token.content);
        Some(Words { table: RwLock::default(), inside: inside.collect() })
    }

    /// The ids of `text`, as `tokenizer` gives them.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ChatError> {
        if self.inside.iter().any(|token| text.contains(token.as_str())) {
            return plain(tokenizer, text);
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut rest = text;
        while let Some(beyond) = rest.bytes().position(|b| !b.is_ascii()) {
            let from = (1..beyond).rev().find(|at| is_cut(rest, *at)).unwrap_or(0);
            let to = (beyond..rest.len()).find(|at| is_cut(rest, *at)).unwrap_or(rest.len());
            self.ascii(tokenizer, &rest[..from], &mut ids)?;
            ids.extend(plain(tokenizer, &rest[from..to])?);
            rest = &rest[to..];
        }
        self.ascii(tokenizer, rest, &mut ids)?;
        Ok(ids)
    }

    fn ascii(&self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<(), ChatError> {
        let mut rest = text;
        loop {
            let length = {
                let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
                loop {
                    if rest.is_empty() {
                        return Ok(());
                    }
                    let length = word(rest.as_bytes());
                    let Some(known) = table.get(&rest[..length]) else { break length };
                    ids.extend_from_slice(known);
                    rest = &rest[length..];
                }
            };
            let (new, after) = rest.split_at(length);
            let made = plain(tokenizer, new)?;
            ids.extend_from_slice(&made);
            if new.len() <= LONGEST_WORD {
                let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
                if table.len() >= MOST_WORDS {
                    table.clear();
                }
                table.insert(new.into(), made.into());
            }
            rest = after;
        }
    }
}

/// Ids by the tokenizer itself, special tokens disabled.
pub(super) fn plain(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ChatError> {
    let encoding = tokenizer.encode_fast(text, false);
    let encoding = encoding.map_err(|e| ChatError::Sample(format!("the tokenizer failed: {e}")))?;
    Ok(encoding.get_ids().to_vec())
}

fn cuts_as_qwen(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let Ok(mut it) = serde_json::to_value(pre_tokenizer) else { return false };
    let mut ours = pre_tokenizer_json();
    // Moves offsets, not ids.
    for value in [&mut it, &mut ours] {
        if let Some(byte_level) = value["pretokenizers"].get_mut(1).and_then(|v| v.as_object_mut()) {
            byte_level.remove("trim_offsets");
        }
    }
    it == ours
}

/// Whether a word ends before byte `at` whatever comes before and after: a letter, a space, a letter.
fn is_cut(text: &str, at: usize) -> bool {
    let byte = |at: usize| text.as_bytes().get(at).copied().unwrap_or(0);
    at > 0 && byte(at) == b' ' && byte(at - 1).is_ascii_alphabetic() && byte(at + 1).is_ascii_alphabetic()
}

/// Length of the first word of ASCII `text`, which is not empty: the alternatives of Qwen's expression, in its order.
fn word(text: &[u8]) -> usize {
    let is_space = |b: &u8| matches!(b, b'\t'..=b'\r' | b' ');
    let is_line_end = |b: &u8| matches!(b, b'\r' | b'\n');
    let is_sign = |b: &u8| !b.is_ascii_alphanumeric() && !is_space(b);
    let run = |from: usize, of: &dyn Fn(&u8) -> bool| text[from..].iter().take_while(|b| of(b)).count();
    let first = text[0];
    // (?i:'s|'t|'re|'ve|'m|'ll|'d)
    if first == b'\'' {
        let letter = |at: usize| text.get(at).map_or(0, u8::to_ascii_lowercase);
        match (letter(1), letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => return 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => return 3,
            _ => {}
        }
    }
    // [^\r\n\p{L}\p{N}]?\p{L}+
    let lead = usize::from(!first.is_ascii_alphanumeric() && !is_line_end(&first));
    let letters = run(lead, &u8::is_ascii_alphabetic);
    if letters > 0 {
        return lead + letters;
    }
    // \p{N}
    if first.is_ascii_digit() {
        return 1;
    }
    // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
    let lead = usize::from(first == b' ');
    let signs = run(lead, &is_sign);
    if signs > 0 {
        return lead + signs + run(lead + signs, &is_line_end);
    }
    // \s*[\r\n]+
    let spaces = run(0, &is_space);
    if let Some(last) = text[..spaces].iter().rposition(is_line_end) {
        return last + 1;
    }
    // \s+(?!\S)|\s+
    if spaces == text.len() || spaces == 1 { spaces } else { spaces - 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::AddedToken;

    use super::super::tests::chat;
    use super::*;

    #[test]
    fn words_are_cut_as_the_expression_cuts_them() {
        let cut = |text: &str| {
            let (mut rest, mut words) = (text, vec![]);
            while !rest.is_empty() {
                let (word, after) = rest.split_at(word(rest.as_bytes()));
                words.push(word.to_owned());
                rest = after;
            }
            words.join("|")
        };
        assert_eq!(cut("It's 12 o'clock, they'LL  see"), "It|'s| |1|2| o|'clock|,| they|'LL| | see");
        assert_eq!(cut("a\n\n b  \n  c \t\n"), "a|\n\n| b|  \n| | c| \t\n");
        assert_eq!(cut("  ...\r\nx!\n(y) "), " | ...\r\n|x|!\n|(y|)| ");
        assert_eq!(cut("'rest 'v\x00\x1c\x0b3"), "'re|st| '|v|\x00\x1c|\x0b|3");
    }

    #[test]
    fn other_tokenizers_are_left_alone() {
        let chat = chat();
        assert!(chat.words.is_some());
        let mut other = chat.tokenizer.clone();
        other.set_encode_special_tokens(false);
        assert!(Words::of(&other).is_none());
        let mut other = chat.tokenizer.clone();
        other.with_pre_tokenizer(None::<PreTokenizerWrapper>);
        assert!(Words::of(&other).is_none());
        let mut other = chat.tokenizer.clone();
        let lower = serde_json::from_str::<NormalizerWrapper>(r#"{"type": "Lowercase"}"#).unwrap();
        other.with_normalizer(Some(lower));
        assert!(Words::of(&other).is_none());
        // A token that is not special is found inside of text, in the middle of a word too.
        let mut other = chat.tokenizer.clone();
        other.add_tokens(&[AddedToken::from("quare", false)]);
        let words = Words::of(&other).unwrap();
        for text in ["a red square", "a red circle"] {
            assert_eq!(words.encode(&other, text).unwrap(), plain(&other, text).unwrap());
        }
        assert_ne!(words.encode(&other, "square").unwrap(), chat.encode_text("square").unwrap());
    }

    #[test]
    fn no_more_words_are_kept_than_the_bound() {
        let chat = chat();
        let words = chat.words.as_ref().unwrap();
        let text: String = (0..3000)
            .map(|i| format!(" w{}", char::from(b'a' + (i % 26) as u8).to_string().repeat(i / 26 % 40 + 1)))
            .collect();
        assert_eq!(words.encode(&chat.tokenizer, &text).unwrap(), plain(&chat.tokenizer, &text).unwrap());
        let table = words.table.read().unwrap();
        assert!(table.len() > 500 && table.keys().all(|word| word.len() <= LONGEST_WORD));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn ids_are_those_of_the_tokenizer(
            ascii in "[ \\t\\r\\n\\x00-\\x7fa-eA-E0-3'.,!]{0,60}",
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    " ", "  ", "\n", "\r\n", "\t", "'s", "'Ll", "'", "the", " red", "Square", "7", "42", "...", " (", "é", "e\u{301}",
                    "\u{301}", "—", "你好", "。", "\u{a0}", "\u{2003}", "ſ", "’t", "😀", "<|im_end|>", "a", "b c", "d e f",
                ]),
                0..30,
            ),
        ) {
            thread_local!(static CHAT: super::super::ChatTokenizer = chat());
            CHAT.with(|chat| {
                for text in [ascii.as_str(), &pieces.concat(), &[ascii.as_str(), &pieces.concat(), &ascii].concat()] {
                    let expected = plain(&chat.tokenizer, text).unwrap();
                    // The second time every word is known.
                    for _ in 0..2 {
                        prop_assert_eq!(chat.encode_text(text).unwrap(), expected.clone(), "{:?}", text);
                    }
                }
                Ok(())
            })?;
        }
    }
}
