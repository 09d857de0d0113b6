//! A conversation's shape, and the plan that the template makes of it.
//!
//! In: roles and part kinds (no data). Out: a list of marks: special ids, markup text, "text part k here",
//! "image k here", each with `learn` and `cut`. Because the template cannot see data, one plan serves every
//! conversation of its shape; building it also proves that training and generation agree for that shape.

use ovhost_plugin::{Message, Part};

use super::template::{ChatTemplate, Stretch};
use super::{ChatError, Special, Specials};

/// What a part is; its content does not matter to the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PartKind {
    Text,
    Image,
}

/// One message without its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    pub role: String,
    pub parts: Vec<PartKind>,
    pub train: bool,
}

/// A conversation without its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub turns: Vec<Turn>,
    pub generate: bool,
}

impl Shape {
    pub fn of(messages: &[Message], generate: bool) -> Result<Self, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::Sample("the conversation has no messages".into()));
        }
        let mut turns = Vec::with_capacity(messages.len());
        for (i, message) in messages.iter().enumerate() {
            // The role is the one string of a message that reaches the markup.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if message.role.is_empty() || !message.role.chars().all(plain) {
                return Err(ChatError::Sample(format!(
                    "message {i} has the role {:?}; a role is letters, digits, _ and - (system, user, assistant, tool)",
                    message.role
                )));
            }
            let parts = message.parts.iter().map(|part| match part {
                Part::Text(_) => Ok(PartKind::Text),
                Part::Image(_) => Ok(PartKind::Image),
                Part::Video(_) => Err(super::no_video()),
            });
            let parts = parts.collect::<Result<_, _>>()?;
            // A prompt has no labels; without the flag both kinds of caller share one plan.
            turns.push(Turn { role: message.role.clone(), parts, train: message.train && !generate });
        }
        Ok(Self { turns, generate })
    }

    /// A made-up conversation, to find out how a template behaves.
    pub fn probe(turns: &[(&str, &[PartKind], bool)], generate: bool) -> Self {
        let turn = |(role, parts, train): &(&str, &[PartKind], bool)| Turn {
            role: role.to_string(),
            parts: parts.to_vec(),
            train: *train,
        };
        Self { turns: turns.iter().map(turn).collect(), generate }
    }

    /// Number of text parts.
    pub fn texts(&self) -> usize {
        self.turns.iter().flat_map(|t| &t.parts).filter(|p| **p == PartKind::Text).count()
    }

    fn images(&self) -> usize {
        self.turns.iter().map(|t| t.parts.len()).sum::<usize>() - self.texts()
    }

    /// Message index and role that text part `ordinal` belongs to.
    pub fn owner_of_text(&self, ordinal: usize) -> (usize, &str) {
        let mut left = ordinal;
        for (i, turn) in self.turns.iter().enumerate() {
            let texts = turn.parts.iter().filter(|p| **p == PartKind::Text).count();
            if left < texts {
                return (i, &turn.role);
            }
            left -= texts;
        }
        (self.turns.len(), "?")
    }
}

/// Of so many answers at the beginning and at the end of a conversation it is checked that generation sees what training saw.
const LOOKS: usize = 32;

/// What stands at a place of the rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MarkKind {
    Special(Special),
    Markup(String),
    /// Text part by ordinal.
    Data(usize),
    /// Image part by ordinal.
    Image(usize),
}

/// A place of the rendered text. `cut`: the tokenizer starts afresh here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub kind: MarkKind,
    pub learn: bool,
    pub cut: bool,
}

/// A shape's rendered form.
#[derive(Debug)]
pub(super) struct Plan {
    pub marks: Vec<Mark>,
}

impl Plan {
    pub fn build(template: &ChatTemplate, specials: &Specials, shape: &Shape) -> Result<Self, ChatError> {
        let mut marks = marks(template, specials, shape)?;
        let learnt = shape.turns.iter().filter(|t| t.train).count();
        let (mut first_text, mut nth) = (0, 0);
        for (i, turn) in shape.turns.iter().enumerate() {
            let texts = turn.parts.iter().filter(|p| **p == PartKind::Text).count();
            let own = first_text..first_text + texts;
            first_text = own.end;
            let of_turn = |m: &Mark| matches!(m.kind, MarkKind::Data(k) if own.contains(&k));
            let (Some(start), Some(end)) = (marks.iter().position(of_turn), marks.iter().rposition(of_turn)) else {
                if turn.train {
                    return Err(ChatError::Sample(format!(
                        "message {i} ({}) is to be learnt but has no text",
                        turn.role
                    )));
                }
                continue;
            };
            // An answer in the history was once generated from here, whether or not it is learnt now.
            marks[start].cut = turn.train || turn.role == "assistant";
            if turn.train {
                if turn.parts.last() != Some(&PartKind::Text) || turn.parts.first() != Some(&PartKind::Text) {
                    return Err(ChatError::Sample(format!(
                        "message {i} ({}) is to be learnt, so it must begin and end with text: the model cannot write images",
                        turn.role
                    )));
                }
                learn(template, &mut marks, start, end, i)?;
                // Each look renders all that comes before: of a very long conversation only its ends are looked at.
                if nth < LOOKS || nth + LOOKS >= learnt {
                    check_generation(template, specials, shape, &marks[..start], i)?;
                }
                nth += 1;
            }
        }
        Ok(Self { marks })
    }

    /// The special token that closes the learnt message of a probe.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.marks.iter().rev().find_map(|m| match &m.kind {
            MarkKind::Special(special) if m.learn => Some(special.id),
            _ => None,
        })
    }
}

/// Marks the text of one message and the end-of-turn token right behind it as learnt.
fn learn(
    template: &ChatTemplate,
    marks: &mut [Mark],
    start: usize,
    end: usize,
    message: usize,
) -> Result<(), ChatError> {
    for mark in &mut marks[start..=end] {
        mark.learn = matches!(mark.kind, MarkKind::Data(_) | MarkKind::Markup(_));
    }
    match marks.get_mut(end + 1) {
        Some(mark) if matches!(mark.kind, MarkKind::Special(_)) => mark.learn = true,
        other => {
            let found = match other.map(|m| &m.kind) {
                Some(MarkKind::Markup(text)) => format!("the text {text:?}"),
                Some(_) => "an image".to_string(),
                None => "nothing".to_string(),
            };
            return Err(template.problem(format!(
                "message {message} is to be learnt, and {found} follows it instead of a special token, so the model could \
                 not learn to stop; close the turn with the end-of-turn token right after the content"
            )));
        }
    }
    Ok(())
}

/// Training must see before an answer what generation will see before it.
fn check_generation(
    template: &ChatTemplate,
    specials: &Specials,
    shape: &Shape,
    before: &[Mark],
    message: usize,
) -> Result<(), ChatError> {
    let turns = shape.turns[..message].to_vec();
    let prompt = marks(template, specials, &Shape { turns, generate: true })?;
    if before.iter().map(|m| &m.kind).eq(prompt.iter().map(|m| &m.kind)) {
        return Ok(());
    }
    let tail = |marks: &[Mark]| {
        let words = marks.iter().rev().take(4).rev().map(|m| match &m.kind {
            MarkKind::Special(special) => special.text.clone(),
            MarkKind::Markup(text) => text.clone(),
            MarkKind::Data(_) => "(text)".into(),
            MarkKind::Image(_) => "(image)".into(),
        });
        words.collect::<String>()
    };
    Err(template.problem(format!(
        "before message {message} it writes …{:?} for training but …{:?} for generation, so the model would learn under other \
         markup than it answers under; use a template that writes the same (or mark only the last answer as learnt)",
        tail(before),
        tail(&prompt)
    )))
}

/// Renders a shape and cuts the markup at special tokens.
fn marks(template: &ChatTemplate, specials: &Specials, shape: &Shape) -> Result<Vec<Mark>, ChatError> {
    let mut out = Vec::new();
    let mut images = 0;
    let mut push = |kind| out.push(Mark { kind, learn: false, cut: false });
    for stretch in template.stretches(shape)? {
        match stretch {
            Stretch::Data(i) => push(MarkKind::Data(i)),
            Stretch::Markup(text) => {
                let (mut at, mut plain) = (0, 0);
                while at < text.len() {
                    // Longest first, so a token that begins another never hides it.
                    let Some(special) = specials.all.iter().find(|s| text[at..].starts_with(&s.text)) else {
                        at += text[at..].chars().next().map_or(1, char::len_utf8);
                        continue;
                    };
                    if plain < at {
                        push(MarkKind::Markup(text[plain..at].to_string()));
                    }
                    at += special.text.len();
                    plain = at;
                    if Some(special.id) == specials.image_pad {
                        push(MarkKind::Image(images));
                        images += 1;
                    } else {
                        push(MarkKind::Special(special.clone()));
                    }
                }
                if plain < text.len() {
                    push(MarkKind::Markup(text[plain..].to_string()));
                }
            }
        }
    }
    if images != shape.images() {
        return Err(template.problem(format!(
            "it writes {images} image placeholders for a conversation with {} images; the tokenizer needs the special token \
             <|image_pad|>, and the template must write it once for each image",
            shape.images()
        )));
    }
    Ok(out)
}
