//! `conversation`: turns the usual shapes of vision-language data into conversations.
//!
//! ```text
//!  record (JSON fields) ──► shapes.rs: turns, each with its text ──► images in their places ──► messages
//! ```
//!
//! The shape is read from the record's fields, row by row; the first that is there wins:
//!
//! | field | shape |
//! |---|---|
//! | `conversations` | LLaVA, ShareGPT: `[{"from": "human"/"gpt"/"system", "value": "…"}]` |
//! | `messages` | OpenAI: `[{"role": "user"/"assistant"/"system", "content": "…" or [parts]}]` |
//! | `qa` | several independent questions: `[{"question": "…", "answer": "…"}]`, one conversation of as many turns |
//! | `question` | one question with `answer`, or `answers` (a list: the most frequent one is learnt) |
//! | `caption` or `text` | a caption; the question is `caption_prompt` |
//!
//! **Images.** `<image>` in a user's or system's text is the place of the next image; parts of OpenAI's kinds `image`,
//! `image_url` and `input_image` are too. There must be as many places as the row has images. A row without any place
//! has its images first in the first user turn. In an assistant's text `<image>` is only text.
//!
//! **What is learnt.** Every assistant message. **What is asked** (generate mode): everything up to the last answer; of
//! `qa` rows the first question alone.
//!
//! A row that is none of this, or has an empty answer, is an error of that row.

use ovhost_sdk::prelude::*;

mod places;
mod shapes;

pub use shapes::ASSISTANT_ROLES;

/// Configuration of `conversation`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// System message of records that have none. Without it the chat template decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Question of caption rows. Empty: the image alone.
    pub caption_prompt: String,
    /// Appended, on a line of its own, to each question of `question` and `qa` rows: "Answer with a single word."
    pub instruction: String,
    /// Puts the pairs of `qa` rows in random order, seeded by run and row.
    pub shuffle_turns: bool,
    /// Most pairs that are taken of a `qa` row, after shuffling. 0: all.
    pub max_turns: u32,
}

/// The prompt.
pub struct Conversation {
    config: Config,
}

impl Plugin for Conversation {
    type Config = Config;
    const NAME: &'static str = "conversation";
    const SUMMARY: &'static str = "LLaVA conversations, OpenAI messages, captions and questions with answers.";
    const READS: &'static [Need] = &[Need::utf8("record"), Need::u32s("num-images")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        Ok(Self { config })
    }
}

impl Prompt for Conversation {
    fn render(&mut self, ctx: &mut RowCtx, mode: Mode, row: &Row) -> Result<Rendered, String> {
        let record = row.json("record")?.and_then(Json::as_object).ok_or("the record is no JSON object")?;
        let images = row.u32("num-images").unwrap_or(0);
        let mut turns = shapes::turns(&self.config, ctx, mode, record)?;
        if let Some(system) = self.config.system.as_ref().filter(|_| turns[0].role != shapes::Role::System) {
            turns.insert(0, shapes::Turn::text(shapes::Role::System, system.clone()));
        }
        shapes::check(&turns, mode)?;
        if mode == Mode::Generate && turns.last().is_some_and(|turn| turn.role == shapes::Role::Assistant) {
            // The images of the answer's own turn, if any, were never places; those before it all stay.
            turns.pop();
        }
        places::messages(turns, images).map(Rendered::Conversation)
    }
}

ovhost_sdk::export_prompt!(Conversation);

#[cfg(test)]
mod tests;
