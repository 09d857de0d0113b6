//! Puts data into a plan and tokenises: marks and segments in, ids and labels out.
//!
//! Text collects in one buffer while it touches; the buffer goes to the tokenizer when a special token, an image, or
//! the beginning or end of a learnt span comes.

use super::plan::{Mark, MarkKind};
use super::{ChatError, ChatTokenizer, Encoded, IGNORE, Special};

pub(super) struct Fill<'a> {
    chat: &'a ChatTokenizer,
    image_tokens: &'a [usize],
    run: String,
    run_learn: bool,
    strip_next: bool,
    out: Encoded,
}

impl<'a> Fill<'a> {
    pub fn new(chat: &'a ChatTokenizer, image_tokens: &'a [usize]) -> Self {
        Self { chat, image_tokens, run: String::new(), run_learn: false, strip_next: false, out: Encoded::default() }
    }

    /// Every placeholder has an image and every image a placeholder.
    pub fn check_images(&self, placeholders: &[u32]) -> Result<(), ChatError> {
        let have = self.image_tokens.len();
        if let Some(beyond) = placeholders.iter().find(|i| **i as usize >= have) {
            return Err(ChatError::Sample(format!(
                "the prompt has {} image placeholders and the record {have} images: there is no image {beyond} (counted from 0)",
                placeholders.len()
            )));
        }
        let mut shown = vec![false; have];
        placeholders.iter().for_each(|i| shown[*i as usize] = true);
        if let Some(unused) = shown.iter().position(|shown| !shown) {
            return Err(ChatError::Sample(format!(
                "the record has {have} images and the prompt {} image placeholders: nothing shows image {unused} (counted from 0)",
                placeholders.len()
            )));
        }
        Ok(())
    }

    pub fn mark(&mut self, mark: &Mark, texts: &[&str], images: &[u32]) -> Result<(), ChatError> {
        match &mark.kind {
            MarkKind::Special(special) => self.special(special, mark.learn),
            MarkKind::Markup(text) => self.text(text, mark.learn, mark.cut),
            // Plans are checked against their shape, so these lookups cannot miss; a miss would be empty, never a panic.
            MarkKind::Data(i) => self.text(texts.get(*i).copied().unwrap_or_default(), mark.learn, mark.cut),
            MarkKind::Image(i) => self.image(images.get(*i).copied().unwrap_or(u32::MAX)),
        }
    }

    pub fn text(&mut self, text: &str, learn: bool, cut: bool) -> Result<(), ChatError> {
        if cut || learn != self.run_learn {
            self.flush()?;
        }
        self.run_learn = learn;
        let text = if self.strip_next && self.run.is_empty() { text.trim_start() } else { text };
        self.run.push_str(text);
        Ok(())
    }

    pub fn special(&mut self, special: &Special, learn: bool) -> Result<(), ChatError> {
        if special.lstrip {
            self.run.truncate(self.run.trim_end().len());
        }
        self.flush()?;
        self.strip_next = special.rstrip;
        self.token(special.id, learn);
        Ok(())
    }

    pub fn image(&mut self, index: u32) -> Result<(), ChatError> {
        self.flush()?;
        let pad = self.chat.specials.image_pad.ok_or_else(|| {
            ChatError::Sample(format!("the prompt has an image, and the tokenizer no token {}", super::IMAGE_PAD))
        })?;
        let tokens = self.image_tokens.get(index as usize).copied();
        let tokens = tokens.ok_or_else(|| ChatError::Sample(format!("the record has no image {index}")))?;
        self.out.input_ids.extend(std::iter::repeat_n(pad, tokens));
        self.out.labels.extend(std::iter::repeat_n(IGNORE, tokens));
        self.out.image_order.push(index as usize);
        Ok(())
    }

    pub fn finish(mut self) -> Result<Encoded, ChatError> {
        self.flush()?;
        Ok(self.out)
    }

    fn token(&mut self, id: u32, learn: bool) {
        self.out.input_ids.push(id);
        self.out.labels.push(if learn { id as i32 } else { IGNORE });
    }

    fn flush(&mut self) -> Result<(), ChatError> {
        if !self.run.is_empty() {
            let ids = self.chat.encode_text(&self.run)?;
            let learn = self.run_learn;
            ids.into_iter().for_each(|id| self.token(id, learn));
            self.run.clear();
            self.strip_next = false;
        }
        Ok(())
    }
}
