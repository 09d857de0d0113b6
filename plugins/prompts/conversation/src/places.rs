//! Puts images in their places: turns and the row's number of images in, messages of parts out.

use ovhost_sdk::prelude::*;

use crate::shapes::{Content, Role, Turn};

/// What LLaVA data writes where an image belongs.
const PLACE: &str = "<image>";

/// Messages in which every image of the row comes exactly once, in order.
pub fn messages(turns: Vec<Turn>, images: u32) -> Result<Vec<Message>, String> {
    let places: usize = turns.iter().map(places).sum();
    let images_first = places == 0 && images > 0;
    if places != images as usize && !images_first {
        return Err(format!(
            "the text has {places} <image> placeholder{}, the row has {images} image{}; they must be equal (or the \
             text has none, and all images come first)",
            if places == 1 { "" } else { "s" },
            if images == 1 { "" } else { "s" },
        ));
    }
    let mut next = 0;
    let mut waiting = images_first;
    let mut out = Vec::with_capacity(turns.len());
    for turn in turns {
        let mut parts = Vec::new();
        if turn.role == Role::User && std::mem::take(&mut waiting) {
            parts.extend((0..images).map(Part::Image));
        }
        let mut place = |parts: &mut Vec<Part>| {
            parts.push(Part::Image(next));
            next += 1;
        };
        match turn.content {
            Content::Text(text) if turn.role == Role::Assistant => push_text(&mut parts, text),
            Content::Text(text) => {
                for (i, piece) in text.split(PLACE).enumerate() {
                    if i > 0 {
                        place(&mut parts);
                    }
                    push_text(&mut parts, piece.to_owned());
                }
            }
            Content::Parts(pieces) => {
                for piece in pieces {
                    match piece {
                        Some(text) => push_text(&mut parts, text),
                        None => place(&mut parts),
                    }
                }
            }
        }
        if parts.is_empty() {
            return Err(format!("a {} turn has neither text nor image{}", turn.role.name(), hint(turn.role)));
        }
        out.push(Message { role: turn.role.name().into(), parts, train: turn.role == Role::Assistant });
    }
    Ok(out)
}

fn hint(role: Role) -> &'static str {
    if role == Role::User { " (a caption without image needs `caption_prompt`)" } else { "" }
}

/// Places in one turn.
fn places(turn: &Turn) -> usize {
    match &turn.content {
        Content::Text(_) if turn.role == Role::Assistant => 0,
        Content::Text(text) => text.matches(PLACE).count(),
        Content::Parts(parts) => parts.iter().filter(|part| part.is_none()).count(),
    }
}

/// Adds text, joined with text before it.
fn push_text(parts: &mut Vec<Part>, text: String) {
    if text.is_empty() {
        return;
    }
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push_str(&text),
        _ => parts.push(Part::Text(text)),
    }
}
