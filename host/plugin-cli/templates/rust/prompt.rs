//! `{{name}}`: a question about images, with or without options, as a conversation of two messages.
//!
//! The record is `{"question": "...", "answer": "...", "options": ["...", ...]}`; options become lines `A. ...`.

use ovhost_sdk::prelude::*;

/// What a recipe may say under `config`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// A line after the question and its options; empty for none.
    pub instruction: String,
}

/// The plugin.
pub struct {{Type}} {
    config: Config,
}

impl Plugin for {{Type}} {
    type Config = Config;
    const NAME: &'static str = "{{name}}";
    const SUMMARY: &'static str = "Asks the record's question, options in letters, images first.";
    const READS: &'static [Need] = &[Need::utf8("record"), Need::u32s("num-images").optional()];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        Ok(Self { config })
    }
}

impl Prompt for {{Type}} {
    fn render(&mut self, _ctx: &mut RowCtx, mode: Mode, row: &Row) -> Result<Rendered, String> {
        let record = row.json("record")?;
        let field = |name: &str| record.and_then(|record| record.get(name));
        let question = field("question").and_then(Json::as_str).ok_or("the record has no text `question`")?;
        let mut lines = vec![question.to_owned()];
        let options = field("options").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        for (letter, option) in ('A'..='Z').zip(options) {
            let text = option.as_str().map_or_else(|| option.to_string(), str::to_owned);
            lines.push(format!("{letter}. {text}"));
        }
        if !self.config.instruction.is_empty() {
            lines.push(self.config.instruction.clone());
        }
        let mut parts: Vec<Part> = (0..row.u32("num-images").unwrap_or(0)).map(Part::Image).collect();
        parts.push(Part::Text(lines.join("\n")));
        let mut messages = vec![Message { role: "user".into(), parts, train: false }];
        if matches!(mode, Mode::Train) {
            let answer = field("answer").and_then(Json::as_str);
            let answer = answer.ok_or("the record has no text `answer`, which training needs")?;
            messages.push(Message::text("assistant", answer, true));
        }
        Ok(Rendered::Conversation(messages))
    }
}

ovhost_sdk::export_prompt!({{Type}});

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    type Tested = {{Type}};

    fn rendered(mode: Mode, record: &str) -> Result<Vec<Message>, String> {
        let mut plugin = testing::prompt::<Tested>(json!({})).unwrap();
        match plugin.run(mode, json!([{ "record": record, "num-images": 1 }])).remove(0)? {
            Rendered::Conversation(messages) => Ok(messages),
            Rendered::Segments(_) => panic!("segments"),
        }
    }

    const RECORD: &str = r#"{"question": "What is it?", "options": ["a cat", "a dog"], "answer": "B"}"#;

    #[test]
    fn options_become_letters_and_images_come_first() {
        let messages = rendered(Mode::Train, RECORD).unwrap();
        assert!(matches!(&messages[0].parts[..], [Part::Image(0), Part::Text(text)]
            if text == "What is it?\nA. a cat\nB. a dog"));
        assert!(messages[1].train && matches!(&messages[1].parts[..], [Part::Text(text)] if text == "B"));
    }

    #[test]
    fn nothing_of_the_answer_is_asked() {
        let roles: Vec<String> = rendered(Mode::Generate, RECORD).unwrap().into_iter().map(|m| m.role).collect();
        assert_eq!(roles, ["user"]);
    }

    #[test]
    fn a_record_without_a_question_is_an_error_of_its_row() {
        assert!(rendered(Mode::Train, "{}").unwrap_err().contains("no text `question`"));
    }
}
