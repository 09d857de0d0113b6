//! Conversations to token ids and back: the tokenizer folder's own tokenizer and its own Jinja chat template.
//!
//! ```text
//!  Rendered (prompt plugin) ──► shape (roles, kinds of parts) ──► template with sentinels ──► plan   (cached per shape)
//!        │                                                                                  │
//!        └────────────── data text, image token counts ─────────────────────────────► fill ─┴─► Encoded {ids, labels}
//! ```
//!
//! The template never sees data: every text part is a private-use sentinel while it renders, so nothing in a caption can
//! steer the markup. Markup is cut at special tokens, which become their ids; data text is tokenised with special tokens
//! disabled. Text is cut only there and where an answer begins, because generation starts at that very point; everything
//! else that touches is one string for the tokenizer.

mod fill;
mod folder;
mod plan;
mod stream;
mod template;
mod words;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use ovhost_plugin::{Message, Part, Piece, Rendered};
use tokenizers::Tokenizer;

use plan::{Plan, Shape};
pub use stream::StreamDecoder;
use template::ChatTemplate;
use words::Words;

/// Label of a position that the loss does not cover.
pub const IGNORE: i32 = -100;

/// Shapes kept rendered; a shape is roles and part kinds, so real data has few.
const PLAN_CACHE: usize = 4096;

/// Most texts and images of a conversation. Each costs a token at least, and a template is rendered over all of them.
const MOST_PARTS: usize = 8192;

/// Longest text that is tokenised, in bytes: about a million tokens. A tokenizer takes a hundred bytes and more for each.
pub const MOST_BYTES: usize = 4 << 20;

/// What can go wrong with a tokenizer folder or with one sample's conversation.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file of the tokenizer folder is missing or unusable.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The chat template cannot express what was asked of it.
    #[error("chat template {origin}: {problem}")]
    Template {
        /// File that the template came from.
        origin: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// This sample cannot be encoded; others can.
    #[error("{0}")]
    Sample(String),
    /// The tokenizer has ids that the model has no row for.
    #[error(
        "the tokenizer's largest id is {largest} (token {token:?}), so the model needs a vocabulary of at least {needed}; \
         its config.json says vocab_size {vocab_size}. Use the tokenizer that belongs to the model, or give the model a larger vocab_size"
    )]
    Vocab {
        /// Largest token id.
        largest: u32,
        /// Its text.
        token: String,
        /// `largest + 1`.
        needed: usize,
        /// Rows that the model has.
        vocab_size: usize,
    },
}

/// One sample as the decoder reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Token ids; an image is a run of image-pad ids.
    pub input_ids: Vec<u32>,
    /// Per position the id itself where it is to be learnt, else [`IGNORE`]. Not shifted.
    pub labels: Vec<i32>,
    /// For each run of image pads, in order, the index of the record's image.
    pub image_order: Vec<usize>,
}

/// A tokenizer with its chat template and the ids of its special tokens.
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    specials: Specials,
    fingerprint: String,
    plans: RwLock<HashMap<Shape, Arc<Plan>>>,
    words: Option<Words>,
}

/// Special tokens by text and by role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Specials {
    /// All tokens marked special, longest text first.
    pub all: Vec<Special>,
    pub image_pad: Option<u32>,
    pub vision_start: Option<u32>,
    pub vision_end: Option<u32>,
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
    pub end_of_turn: Option<u32>,
}

/// One special token. `lstrip`/`rstrip`: it swallows white space on that side, as `tokenizers` defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Special {
    pub text: String,
    pub id: u32,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Text that carries the image's place in prompts of this model family.
pub const IMAGE_PAD: &str = "<|image_pad|>";
/// Opens an image's run of pads.
pub const VISION_START: &str = "<|vision_start|>";
/// Closes an image's run of pads.
pub const VISION_END: &str = "<|vision_end|>";

impl ChatTokenizer {
    /// Loads a Hugging Face tokenizer or model folder: `tokenizer.json` (required), the chat template from
    /// `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json` (first found), end tokens from
    /// `generation_config.json`, `config.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// A missing or malformed file; a tokenizer whose pieces depend on their position in the text.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self, ChatError> {
        folder::load(dir.as_ref())
    }

    /// sha256 (hex) over the tokenizer, the chat template and the template's variables. Data tokenised under another
    /// fingerprint may have other ids.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Checks that every id has a row in a model of `vocab_size` rows.
    pub fn check_vocab(&self, vocab_size: usize) -> Result<(), ChatError> {
        let largest = self.largest_id();
        if (largest as usize) < vocab_size {
            return Ok(());
        }
        let token = self.tokenizer.id_to_token(largest).unwrap_or_default();
        Err(ChatError::Vocab { largest, token, needed: largest as usize + 1, vocab_size })
    }

    /// Largest token id plus one.
    pub fn vocab_len(&self) -> usize {
        self.largest_id() as usize + 1
    }

    fn largest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).values().copied().max().unwrap_or(0)
    }

    /// Id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Ids that end an answer: those that the folder's configuration names, and the template's end-of-turn token.
    pub fn eos_ids(&self) -> &[u32] {
        &self.specials.eos
    }

    /// The special token that the template writes after an assistant's turn.
    pub fn end_of_turn_id(&self) -> Option<u32> {
        self.specials.end_of_turn
    }

    /// Padding id, where the folder names one.
    pub fn pad_id(&self) -> Option<u32> {
        self.specials.pad
    }

    /// Id of the image placeholder, where the tokenizer has one.
    pub fn image_pad_id(&self) -> Option<u32> {
        self.specials.image_pad
    }

    /// Checks that each of `tokens` is a special token here (a prompt plugin lists those that its segments use).
    pub fn check_special_tokens<S: AsRef<str>>(&self, tokens: &[S]) -> Result<(), ChatError> {
        tokens.iter().try_for_each(|token| self.special(token.as_ref()).map(|_| ()))
    }

    fn special(&self, text: &str) -> Result<&Special, ChatError> {
        self.specials.all.iter().find(|s| s.text == text).ok_or_else(|| {
            let known: Vec<&str> = self.specials.all.iter().map(|s| s.text.as_str()).take(30).collect();
            ChatError::Sample(format!(
                "{text:?} is not a special token of this tokenizer; it has {}. Text that is not markup belongs in a text piece",
                known.join(", ")
            ))
        })
    }

    /// Token ids of plain text, special tokens disabled.
    ///
    /// # Errors
    /// A text over [`MOST_BYTES`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        if text.len() > MOST_BYTES {
            return Err(ChatError::Sample(format!(
                "it has a text of {} bytes; at most {MOST_BYTES} are tokenised: split it",
                text.len()
            )));
        }
        match &self.words {
            Some(words) => words.encode(&self.tokenizer, text),
            None => words::plain(&self.tokenizer, text),
        }
    }

    /// Text of `ids`; `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ChatError> {
        let text = self.tokenizer.decode(ids, skip_special);
        text.map_err(|e| ChatError::Sample(format!("cannot decode {} token ids: {e}", ids.len())))
    }

    /// A decoder for ids that arrive one at a time.
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// A whole conversation with its labels. `image_tokens[i]` is the number of tokens of the record's image i.
    ///
    /// # Errors
    /// Images and placeholders that do not match (both counts), unknown special tokens, a learnt message that the
    /// template does not close with a special token, markup before an answer that generation would not see.
    pub fn encode_train(&self, rendered: &Rendered, image_tokens: &[usize]) -> Result<Encoded, ChatError> {
        self.encode(rendered, image_tokens, false)
    }

    /// Everything up to where the model is to answer, the template's generation prompt included. Labels are all
    /// [`IGNORE`]. Segments are taken as they are.
    pub fn encode_prompt(&self, rendered: &Rendered, image_tokens: &[usize]) -> Result<Encoded, ChatError> {
        let mut encoded = self.encode(rendered, image_tokens, true)?;
        encoded.labels.fill(IGNORE);
        Ok(encoded)
    }

    /// [`Self::encode_prompt`] of plain messages.
    pub fn encode_messages(&self, messages: &[Message], image_tokens: &[usize]) -> Result<Encoded, ChatError> {
        self.encode_prompt(&Rendered::Conversation(messages.to_vec()), image_tokens)
    }

    fn encode(&self, rendered: &Rendered, image_tokens: &[usize], generate: bool) -> Result<Encoded, ChatError> {
        let mut fill = fill::Fill::new(self, image_tokens);
        match rendered {
            Rendered::Conversation(messages) => {
                let plan = self.plan(messages, generate)?;
                let (mut texts, mut images) = (Vec::new(), Vec::new());
                for part in messages.iter().flat_map(|m| &m.parts) {
                    match part {
                        Part::Text(text) => texts.push(text.as_str()),
                        Part::Image(i) => images.push(*i),
                        Part::Video(_) => return Err(no_video()),
                    }
                }
                // Before the marks, so that the counts in the message are those of the sample.
                fill.check_images(&images)?;
                for mark in &plan.marks {
                    fill.mark(mark, &texts, &images)?;
                }
            }
            Rendered::Segments(segments) => {
                let images: Vec<u32> = segments
                    .iter()
                    .filter_map(|s| if let Piece::Image(i) = s.piece { Some(i) } else { None })
                    .collect();
                fill.check_images(&images)?;
                for segment in segments {
                    match &segment.piece {
                        Piece::Text(text) => fill.text(text, segment.train, false)?,
                        Piece::Special(text) => fill.special(self.special(text)?, segment.train)?,
                        Piece::Image(i) => fill.image(*i)?,
                        Piece::Video(_) => return Err(no_video()),
                    }
                }
            }
        }
        fill.finish()
    }

    fn plan(&self, messages: &[Message], generate: bool) -> Result<Arc<Plan>, ChatError> {
        let parts: usize = messages.iter().map(|m| m.parts.len().max(1)).sum();
        if parts > MOST_PARTS {
            return Err(ChatError::Sample(format!(
                "the conversation has {parts} texts and images; at most {MOST_PARTS} are encoded: split it"
            )));
        }
        let shape = Shape::of(messages, generate)?;
        if let Some(plan) = self.plans.read().unwrap_or_else(|e| e.into_inner()).get(&shape) {
            return Ok(plan.clone());
        }
        let template = self.template.as_ref().ok_or_else(|| ChatError::Template {
            origin: "(none)".into(),
            problem: "the tokenizer folder has no chat template (chat_template.jinja, chat_template.json or chat_template in \
                      tokenizer_config.json), which a conversation needs; add one, or use a prompt plugin that returns segments"
                .into(),
        })?;
        let plan = Arc::new(Plan::build(template, &self.specials, &shape)?);
        let mut plans = self.plans.write().unwrap_or_else(|e| e.into_inner());
        if plans.len() >= PLAN_CACHE {
            plans.clear();
        }
        plans.insert(shape, plan.clone());
        Ok(plan)
    }
}

fn no_video() -> ChatError {
    ChatError::Sample(
        "the conversation contains a video, and this model reads images only; drop such records with a filter".into(),
    )
}

#[cfg(test)]
pub(crate) mod tests;
