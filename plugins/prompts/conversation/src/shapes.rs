//! The shapes of records: JSON fields in, turns out. Errors say which field, what it held and what is allowed.

use std::collections::BTreeMap;

use ovhost_sdk::prelude::*;
use ovhost_sdk::serde_json::Map;

use crate::Config;

/// Names of the assistant, as data sets spell them. The host's column `text` and its references know the same ones.
pub const ASSISTANT_ROLES: [&str; 6] = ["assistant", "gpt", "chatgpt", "model", "bot", "chatbot"];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name that chat templates know.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Self::System),
            "user" | "human" => Some(Self::User),
            _ => ASSISTANT_ROLES.contains(&name).then_some(Self::Assistant),
        }
    }
}

/// What a turn says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text in which `<image>` is a place (unless an assistant says it).
    Text(String),
    /// Parts of which `None` is a place; text is only text.
    Parts(Vec<Option<String>>),
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub role: Role,
    pub content: Content,
}

impl Turn {
    /// A turn of text.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: Content::Text(text.into()) }
    }

    fn is_blank(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.trim().is_empty(),
            Content::Parts(parts) => parts.iter().all(|part| part.as_ref().is_some_and(|text| text.trim().is_empty())),
        }
    }
}

type Record = Map<String, Json>;

/// The turns of `record`, never none; in generate mode a single question where the shape says so.
pub fn turns(config: &Config, ctx: &RowCtx, mode: Mode, record: &Record) -> Result<Vec<Turn>, String> {
    let turns = if let Some(list) = present(record, "conversations") {
        listed("conversations", list, "from", "value")?
    } else if let Some(list) = present(record, "messages") {
        listed("messages", list, "role", "content")?
    } else if let Some(list) = present(record, "qa") {
        questions(config, ctx, mode, list)?
    } else if present(record, "question").is_some() {
        pair(config, "", record, mode)?
    } else if let Some((name, caption)) = ["caption", "text"].iter().find_map(|n| Some((*n, present(record, n)?))) {
        let caption = caption.as_str().ok_or_else(|| format!("`{name}` is {}; want text", brief(caption)))?;
        vec![Turn::text(Role::User, config.caption_prompt.clone()), Turn::text(Role::Assistant, caption)]
    } else {
        let fields: Vec<&str> = record.keys().map(String::as_str).collect();
        return Err(format!(
            "the record has none of `conversations`, `messages`, `qa`, `question`, `caption`, `text`; it has: {}",
            if fields.is_empty() { "nothing".into() } else { fields.join(", ") }
        ));
    };
    if turns.is_empty() { Err("the conversation has no turn".into()) } else { Ok(turns) }
}

/// A field that is there and not null.
fn present<'a>(record: &'a Record, name: &str) -> Option<&'a Json> {
    record.get(name).filter(|value| !value.is_null())
}

/// A value for an error message: short.
fn brief(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// `conversations` and `messages`: a list of objects with a role and a content.
fn listed(field: &str, list: &Json, role_key: &str, content_key: &str) -> Result<Vec<Turn>, String> {
    let list = list.as_array().ok_or_else(|| format!("`{field}` is {}; want a list of turns", brief(list)))?;
    let one = |(i, turn): (usize, &Json)| -> Result<Turn, String> {
        let name = turn[role_key].as_str().unwrap_or_default();
        let role = Role::parse(name).ok_or_else(|| {
            let seen = brief(&turn[role_key]);
            format!("`{field}[{i}].{role_key}` is {seen}; want system, user or human, assistant or gpt")
        })?;
        let content = match &turn[content_key] {
            Json::String(text) => Content::Text(text.clone()),
            Json::Array(parts) => Content::Parts(
                parts
                    .iter()
                    .enumerate()
                    .map(|(k, part)| self::part(&format!("{field}[{i}].{content_key}[{k}]"), part))
                    .collect::<Result<_, _>>()?,
            ),
            other => {
                return Err(format!("`{field}[{i}].{content_key}` is {}; want text or a list of parts", brief(other)));
            }
        };
        Ok(Turn { role, content })
    };
    list.iter().enumerate().map(one).collect()
}

/// One part of OpenAI's content lists; `None` is an image's place.
fn part(place: &str, part: &Json) -> Result<Option<String>, String> {
    match part["type"].as_str() {
        Some("text" | "input_text" | "output_text") => match part["text"].as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(format!("`{place}.text` is {}; want text", brief(&part["text"]))),
        },
        Some("image" | "image_url" | "input_image") => Ok(None),
        _ => Err(format!("`{place}.type` is {}; want text, image, image_url or input_image", brief(&part["type"]))),
    }
}

/// `qa`: independent pairs.
fn questions(config: &Config, ctx: &RowCtx, mode: Mode, list: &Json) -> Result<Vec<Turn>, String> {
    let list = list.as_array().ok_or_else(|| format!("`qa` is {}; want a list of pairs", brief(list)))?;
    let pair_at = |i: usize| match &list[i] {
        Json::Object(fields) => pair(config, &format!("qa[{i}]."), fields, mode),
        other => Err(format!("`qa[{i}]` is {}; want an object with question and answer", brief(other))),
    };
    if list.is_empty() {
        return Err("`qa` is an empty list".into());
    }
    if mode == Mode::Generate {
        return pair_at(0);
    }
    let most = if config.max_turns == 0 { list.len() } else { list.len().min(config.max_turns as usize) };
    let mut order: Vec<usize> = (0..list.len()).collect();
    if config.shuffle_turns {
        ctx.rng().shuffle(&mut order);
    }
    let has_place = |value: &Json| value["question"].as_str().is_some_and(|text| text.contains("<image>"));
    if (config.shuffle_turns || most < list.len()) && list.iter().any(has_place) {
        return Err("a question in `qa` says <image>; such rows work only without shuffle_turns and max_turns".into());
    }
    let mut turns = Vec::with_capacity(2 * most);
    for i in order.into_iter().take(most) {
        turns.extend(pair_at(i)?);
    }
    Ok(turns)
}

/// A question with its answer. In generate mode the answer may be missing.
fn pair(config: &Config, place: &str, fields: &Record, mode: Mode) -> Result<Vec<Turn>, String> {
    let question = match fields.get("question") {
        Some(Json::String(text)) => text.clone(),
        other => {
            let seen = other.map_or("missing".into(), brief);
            return Err(format!("`{place}question` is {seen}; want text"));
        }
    };
    let instruction = &config.instruction;
    let question = if instruction.is_empty() { question } else { format!("{question}\n{instruction}") };
    let mut turns = vec![Turn::text(Role::User, question)];
    if mode == Mode::Train {
        turns.push(Turn::text(Role::Assistant, answer(place, fields)?));
    }
    Ok(turns)
}

/// `answer`, or the most frequent of `answers` (the earliest of several).
fn answer(place: &str, fields: &Record) -> Result<String, String> {
    // Lists of VQA data sets hold plain answers, or objects that say who gave them.
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        Json::Object(fields) => fields.get("answer").and_then(Json::as_str).map(str::to_owned),
        _ => None,
    };
    if let Some(value) = present(fields, "answer") {
        return text(value).ok_or_else(|| format!("`{place}answer` is {}; want text or a number", brief(value)));
    }
    let Some(list) = present(fields, "answers") else {
        return Err(format!("`{place}answer` and `{place}answers` are missing; training needs one of them"));
    };
    let answers: Option<Vec<String>> = list.as_array().and_then(|list| list.iter().map(text).collect());
    let answers = answers.filter(|answers| !answers.is_empty());
    let answers = answers.ok_or_else(|| format!("`{place}answers` is {}; want a list of texts", brief(list)))?;
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    answers.iter().for_each(|answer| *votes.entry(answer).or_default() += 1);
    let mut best = &answers[0];
    for candidate in &answers[1..] {
        if votes[candidate.as_str()] > votes[best.as_str()] {
            best = candidate;
        }
    }
    Ok(best.clone())
}

/// What every conversation must be.
pub fn check(turns: &[Turn], mode: Mode) -> Result<(), String> {
    let mut speakers = turns.iter().enumerate().filter(|(_, turn)| turn.role != Role::System);
    if let Some((i, turn)) = turns.iter().enumerate().skip(1).find(|(_, turn)| turn.role == Role::System) {
        return Err(format!("turn {i} is of {}; a system message comes first or not at all", turn.role.name()));
    }
    match speakers.next() {
        Some((_, turn)) if turn.role == Role::User => {}
        Some((i, _)) => return Err(format!("turn {i} is the assistant's, before any user's turn")),
        None => return Err("the conversation has no user's turn".into()),
    }
    if let Some((i, _)) = turns.iter().enumerate().find(|(_, turn)| turn.role == Role::Assistant && turn.is_blank()) {
        return Err(format!("the answer in turn {i} is empty"));
    }
    match turns.last() {
        Some(turn) if mode == Mode::Train && turn.role != Role::Assistant => {
            Err("the conversation ends with a user's turn, which has no answer to learn".into())
        }
        _ => Ok(()),
    }
}
