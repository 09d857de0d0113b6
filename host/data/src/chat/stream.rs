//! Text of ids that arrive one at a time: holds back what may still change.
//!
//! A character can be spread over several tokens, and some decoders join words only when they see the next token, so
//! the text of the last flushed ids is decoded again with each new one and only the difference is given out.

use super::{ChatError, ChatTokenizer};

/// Incremental decoder; see [`ChatTokenizer::stream_decoder`].
pub struct StreamDecoder<'t> {
    chat: &'t ChatTokenizer,
    skip_special: bool,
    /// Ids from `prefix` on matter; earlier ones are gone.
    ids: Vec<u32>,
    /// `ids[..read]` has been given out.
    read: usize,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(chat: &'t ChatTokenizer, skip_special: bool) -> Self {
        Self { chat, skip_special, ids: Vec::new(), read: 0 }
    }

    /// Adds an id; returns the text that is certain by now (often empty while a character is incomplete).
    pub fn push(&mut self, id: u32) -> Result<String, ChatError> {
        self.ids.push(id);
        self.emit(false)
    }

    /// The rest, incomplete characters as U+FFFD. The decoder is empty afterwards.
    pub fn finish(&mut self) -> Result<String, ChatError> {
        let rest = self.emit(true);
        self.ids.clear();
        self.read = 0;
        rest
    }

    fn emit(&mut self, last: bool) -> Result<String, ChatError> {
        let given = self.chat.decode(&self.ids[..self.read], self.skip_special)?;
        let all = self.chat.decode(&self.ids, self.skip_special)?;
        if !last && all.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        let new = all.get(given.len()..).unwrap_or_default().to_string();
        if !new.is_empty() {
            self.ids.drain(..self.read);
            self.read = self.ids.len();
        }
        Ok(new)
    }
}
