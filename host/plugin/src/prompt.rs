//! Prompts: rows in, conversations or finished segments out, checked.

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::bindings::exports::ovhost::plugin::prompt as wit;
use crate::bindings::ovhost::plugin::types;
use crate::bundle::{Occasion, keep_pieces};
use crate::contain::{OnTrap, contain};
use crate::error::{PluginError, plain};
use crate::instance::{CallError, Core, Counters, Guest, row_errors, select};
use crate::load::{KindIndices, Loaded, Plugin};
use crate::log::StoreData;
use crate::scan::Kind;
use crate::{Batch, CallCtx, ColumnData};

impl Guest for wit::Guest {
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self> {
        match &loaded.functions {
            KindIndices::Prompt(indices) => indices.load(store, instance),
            _ => Err(wasmtime::Error::msg("not a prompt")),
        }
    }
}

/// What the rendered rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The answer is part of the output.
    Train,
    /// Everything up to where the model is to answer.
    Generate,
}

/// A piece of a message. Indices count the row's images (or videos) from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Text, tokenised with special tokens disabled.
    Text(String),
    /// The row's image of that index.
    Image(u32),
    /// The row's video of that index.
    Video(u32),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What the chat template knows: system, user, assistant, tool.
    pub role: String,
    /// Its content.
    pub parts: Vec<Part>,
    /// Whether the loss covers the content and the end-of-turn token after it.
    pub train: bool,
}

/// A piece of finished input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Piece {
    /// Text, tokenised with special tokens disabled.
    Text(String),
    /// One special token of the tokenizer, by name.
    Special(String),
    /// The row's image of that index.
    Image(u32),
    /// The row's video of that index.
    Video(u32),
}

/// A piece and whether it is learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The piece.
    pub piece: Piece,
    /// Whether the loss covers it.
    pub train: bool,
}

/// A row as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rendered {
    /// The host adds the tokenizer's chat markup.
    Conversation(Vec<Message>),
    /// The plugin did it all.
    Segments(Vec<Segment>),
}

/// What a prompt makes of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptOutput {
    /// One per row; an empty conversation for rows in `errors`.
    pub items: Vec<Rendered>,
    /// Rows that could not be rendered, in order, each once.
    pub errors: Vec<(u32, String)>,
}

/// An instance of a prompt.
pub struct PromptInstance {
    core: Core<wit::Guest>,
    on_trap: OnTrap,
    /// What its segments may name.
    specials: Vec<String>,
    lost: Option<String>,
}

impl Plugin {
    /// An instance of this prompt. Errors: it is another kind, or cannot be instantiated.
    pub fn prompt(&self) -> Result<PromptInstance, PluginError> {
        match &self.loaded().functions {
            KindIndices::Prompt(_) => {
                let core = Core::new(self.clone())?;
                let mut prompt = PromptInstance { core, on_trap: OnTrap::Stop, specials: Vec::new(), lost: None };
                prompt.specials = prompt.special_tokens()?;
                Ok(prompt)
            }
            _ => Err(self.wrong_kind(Kind::Prompt)),
        }
    }
}

impl PromptInstance {
    /// What to do when the plugin fails on a batch; at first [`OnTrap::Stop`]. A streaming prompt always stops.
    pub fn set_on_trap(&mut self, policy: OnTrap) {
        self.on_trap = policy;
    }

    /// What this instance did so far.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// The plugin.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// Special tokens that its segments use; to be checked against the tokenizer before any data.
    pub fn special_tokens(&mut self) -> Result<Vec<String>, PluginError> {
        let answer = self.core.call("special-tokens", 0, 0, |guest, store| guest.call_special_tokens(store));
        self.names("special-tokens", answer)
    }

    /// Further strings that end an answer in [`Mode::Generate`].
    pub fn stop_strings(&mut self) -> Result<Vec<String>, PluginError> {
        let answer = self.core.call("stop-strings", 0, 0, |guest, store| guest.call_stop_strings(store));
        self.names("stop-strings", answer)
    }

    fn names(&self, call: &'static str, answer: Result<Vec<String>, CallError>) -> Result<Vec<String>, PluginError> {
        let checked = answer.and_then(|list| match list.iter().find(|s| s.is_empty() || s.len() > 256) {
            _ if list.len() > 256 => Err(CallError::Output(call, format!("{} strings, at most 256", list.len()))),
            Some(bad) => Err(CallError::Output(call, format!("\"{}\" is empty or over 256 bytes", plain(bad, 40)))),
            None => Ok(list),
        });
        checked.map_err(|e| {
            self.core.plugin.loaded().keep(&e, &Occasion::default());
            e.into_error(self.core.name(), None, None)
        })
    }

    /// Renders the rows of a batch. Where the batch has the column `num-images` (or `num-videos`), indices are checked against
    /// it, whether the plugin reads it or not. Errors: as [`FilterInstance::process`](crate::FilterInstance::process).
    pub fn render(&mut self, ctx: &CallCtx, mode: Mode, batch: &Batch) -> Result<PromptOutput, PluginError> {
        if let Some(earlier) = &self.lost {
            let next = "start the stream again with a new instance";
            return Err(PluginError::Poisoned { plugin: self.core.name().to_owned(), earlier: earlier.clone(), next });
        }
        if batch.rows == 0 {
            return Ok(PromptOutput::default());
        }
        let pure = self.core.plugin.info().state_pure;
        let (core, specials) = (&mut self.core, &self.specials[..]);
        let answer = if pure {
            contain(self.on_trap, batch.rows, |lo, hi| {
                if (lo, hi) == (0, batch.rows) {
                    return render(core, specials, ctx, lo, mode, batch);
                }
                render(core, specials, ctx, lo, mode, &batch.slice(lo, hi))
            })
        } else {
            render(core, specials, ctx, 0, mode, batch)
                .map(|out| vec![crate::contain::Piece { lo: 0, hi: batch.rows, answer: Ok(out) }])
                .map_err(Into::into)
        };
        let missing = (!pure).then_some("what the prompt saw before");
        let at = Occasion { mode: Some(mode), missing, ..Occasion::rows(ctx, batch, None) };
        let loaded = self.core.plugin.loaded();
        let pieces = answer.map_err(|failed| {
            loaded.keep(&failed.error, &Occasion { row: failed.row, ..at });
            let row = failed.row.map(|r| ctx.first_row + u64::from(r));
            let error = failed.error.into_error(self.core.name(), row, failed.row.and_then(|r| batch.key(r)));
            if !pure && matches!(error, PluginError::Trap { .. }) {
                self.lost = Some(error.to_string());
            }
            error
        })?;
        keep_pieces(loaded, &pieces, &at);
        let mut all = PromptOutput::default();
        for piece in pieces {
            match piece.answer {
                Ok(part) => {
                    all.items.extend(part.items);
                    all.errors.extend(part.errors.into_iter().map(|(row, text)| (row + piece.lo, text)));
                }
                Err(error) => {
                    all.items.push(Rendered::Conversation(Vec::new()));
                    all.errors.push((piece.lo, error.row_words()));
                }
            }
        }
        if pure {
            self.core.recycle();
        }
        let counters = &mut self.core.counters;
        counters.rows_in += u64::from(batch.rows);
        counters.row_errors += all.errors.len() as u64;
        Ok(all)
    }
}

fn render(
    core: &mut Core<wit::Guest>,
    specials: &[String],
    ctx: &CallCtx,
    skipped: u32,
    mode: Mode,
    batch: &Batch,
) -> Result<PromptOutput, CallError> {
    let (columns, bytes) = select(&core.plugin, batch, &[])?;
    let wit_ctx = core.ctx(ctx, skipped);
    let wit_mode = match mode {
        Mode::Train => wit::Mode::Train,
        Mode::Generate => wit::Mode::Generate,
    };
    let wit_batch = types::Batch { rows: batch.rows, columns: &columns };
    let answer = core.call("render", batch.rows.into(), bytes, |guest, store| {
        guest.call_render(store, wit_ctx, wit_mode, wit_batch)
    })?;
    let output = answer.map_err(|e| core.refused("render", e))?;
    check(specials, batch, output).map_err(|rule| CallError::Output("render", rule))
}

/// How many of a row's media there are, where the batch says so.
struct Media<'a> {
    images: Option<&'a [u32]>,
    videos: Option<&'a [u32]>,
}

impl<'a> Media<'a> {
    fn of(batch: &'a Batch) -> Self {
        let counts = |name: &str| match batch.column(name).map(|c| &c.data) {
            Some(ColumnData::U32s(counts)) => Some(counts.as_slice()),
            _ => None,
        };
        Media { images: counts("num-images"), videos: counts("num-videos") }
    }

    fn check(what: &str, counts: Option<&[u32]>, row: usize, index: u32) -> Result<(), String> {
        match counts.and_then(|c| c.get(row)) {
            Some(n) if index >= *n => Err(format!("row {row} uses {what} {index} and has {n} (indices count from 0)")),
            _ => Ok(()),
        }
    }

    fn image(&self, row: usize, index: u32) -> Result<(), String> {
        Self::check("image", self.images, row, index)
    }

    fn video(&self, row: usize, index: u32) -> Result<(), String> {
        Self::check("video", self.videos, row, index)
    }
}

/// Every rule of `output`; the error is the broken one.
fn check(specials: &[String], batch: &Batch, raw: wit::Output) -> Result<PromptOutput, String> {
    if raw.items.len() != batch.rows as usize {
        return Err(format!("{} items for {} rows", raw.items.len(), batch.rows));
    }
    let errors = row_errors(batch.rows, raw.errors)?;
    let media = Media::of(batch);
    let mut failed = errors.iter().map(|e| e.0 as usize).peekable();
    let mut items = Vec::with_capacity(raw.items.len());
    for (row, item) in raw.items.into_iter().enumerate() {
        if failed.next_if_eq(&row).is_some() {
            items.push(Rendered::Conversation(Vec::new()));
            continue;
        }
        items.push(match item {
            wit::Rendered::Conversation(messages) => {
                if messages.is_empty() {
                    return Err(format!("row {row} has no messages and no error"));
                }
                Rendered::Conversation(
                    messages.into_iter().map(|m| message(&media, row, m)).collect::<Result<_, String>>()?,
                )
            }
            wit::Rendered::Segments(segments) => {
                if segments.is_empty() {
                    return Err(format!("row {row} has no segments and no error"));
                }
                Rendered::Segments(
                    segments.into_iter().map(|s| segment(&media, specials, row, s)).collect::<Result<_, String>>()?,
                )
            }
        });
    }
    Ok(PromptOutput { items, errors })
}

fn message(media: &Media<'_>, row: usize, raw: wit::Message) -> Result<Message, String> {
    if raw.role.is_empty() || raw.role.len() > 64 {
        return Err(format!(
            "row {row} has a message with role \"{}\": 1 to 64 bytes are allowed",
            plain(&raw.role, 80)
        ));
    }
    let part = |raw| {
        Ok(match raw {
            wit::Part::Text(text) => Part::Text(text),
            wit::Part::Image(i) => media.image(row, i).map(|()| Part::Image(i))?,
            wit::Part::Video(i) => media.video(row, i).map(|()| Part::Video(i))?,
        })
    };
    let parts = raw.parts.into_iter().map(part).collect::<Result<_, String>>()?;
    Ok(Message { role: raw.role, parts, train: raw.train })
}

fn segment(media: &Media<'_>, specials: &[String], row: usize, raw: wit::Segment) -> Result<Segment, String> {
    let piece = match raw.piece {
        wit::Piece::Text(text) => Piece::Text(text),
        wit::Piece::Special(name) if name.is_empty() || name.len() > 256 => {
            return Err(format!("row {row} has a special token of {} bytes: 1 to 256 are allowed", name.len()));
        }
        wit::Piece::Special(name) if !specials.contains(&name) => {
            let declared = if specials.is_empty() { "none".to_owned() } else { plain(&specials.join(", "), 1024) };
            return Err(format!(
                "row {row} uses the special token \"{}\", which special-tokens does not name ({declared})",
                plain(&name, 256)
            ));
        }
        wit::Piece::Special(name) => Piece::Special(name),
        wit::Piece::Image(i) => media.image(row, i).map(|()| Piece::Image(i))?,
        wit::Piece::Video(i) => media.video(row, i).map(|()| Piece::Video(i))?,
    };
    Ok(Segment { piece, train: raw.train })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Column;

    fn batch(images: Vec<u32>) -> Batch {
        Batch { rows: images.len() as u32, columns: vec![Column::new("num-images", ColumnData::U32s(images))] }
    }

    fn talk(role: &str, parts: Vec<wit::Part>) -> wit::Rendered {
        wit::Rendered::Conversation(vec![wit::Message { role: role.into(), parts, train: false }])
    }

    fn rule(batch: &Batch, items: Vec<wit::Rendered>) -> String {
        check(&[], batch, wit::Output { items, errors: vec![] }).unwrap_err()
    }

    #[test]
    fn answers_are_held_to_the_contract() {
        let one = batch(vec![1]);
        assert!(
            check(&[], &one, wit::Output { items: vec![talk("user", vec![wit::Part::Image(0)])], errors: vec![] })
                .is_ok()
        );
        assert!(rule(&one, vec![]).contains("0 items for 1 rows"));
        assert!(rule(&one, vec![talk("user", vec![wit::Part::Image(1)])]).contains("row 0 uses image 1 and has 1"));
        assert!(rule(&one, vec![talk("", vec![])]).contains("role \"\""));
        assert!(rule(&one, vec![wit::Rendered::Conversation(vec![])]).contains("no messages"));
        let special = wit::Segment { piece: wit::Piece::Special(String::new()), train: false };
        assert!(rule(&one, vec![wit::Rendered::Segments(vec![special])]).contains("special token of 0 bytes"));
        assert!(
            check(
                &[],
                &Batch { rows: 1, columns: vec![] },
                wit::Output { items: vec![talk("user", vec![wit::Part::Image(9)])], errors: vec![] }
            )
            .is_ok(),
            "without the column there is nothing to check against"
        );
    }

    #[test]
    fn rows_in_error_are_empty() {
        let errors = vec![types::RowError { row: 1, message: "no".into() }];
        let items = vec![talk("user", vec![]), talk("", vec![wit::Part::Image(7)])];
        let out = check(&[], &batch(vec![0, 0]), wit::Output { items, errors }).unwrap();
        assert_eq!(out.items[1], Rendered::Conversation(vec![]));
        assert_eq!(out.errors, vec![(1, "no".to_owned())]);
    }
}
