//! Prompts: a row in, a conversation or finished segments out.
//!
#![doc = include_str!("../docs/prompt.md")]

use crate::bindings::exports::ovhost::plugin::prompt as wit;
use crate::bindings::ovhost::plugin::types::{Batch, CallCtx, RowError};
use crate::ctx::RowCtx;
use crate::plugin::{ErrorKind, Plugin, PluginError, error};
use crate::rows::{Row, Rows};

pub use wit::{Message, Mode, Part, Piece, Rendered, Segment};

/// Turns rows into what the model reads.
pub trait Prompt: Plugin {
    /// Special tokens that its segments use.
    fn special_tokens(&self) -> Vec<String> {
        Vec::new()
    }

    /// Further strings that end an answer in generate mode.
    fn stop_strings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Renders one row. In [`Mode::Generate`] everything up to where the model is to answer.
    ///
    /// # Errors
    /// The row is not what the plugin documents; the message says what it saw and what is allowed.
    fn render(&mut self, ctx: &mut RowCtx, mode: Mode, row: &Row<'_>) -> Result<Rendered, String>;
}

impl Message {
    /// A message of one text.
    ///
    /// ```
    /// use ovhost_sdk::prelude::*;
    ///
    /// let conversation = vec![
    ///     Message { role: "user".into(), parts: vec![Part::Image(0), Part::Text("What is it?".into())], train: false },
    ///     Message::text("assistant", "A red chair.", true),
    /// ];
    /// assert_eq!(conversation[1].parts, [Part::Text("A red chair.".into())]);
    /// ```
    pub fn text(role: &str, text: impl Into<String>, train: bool) -> Self {
        Self { role: role.into(), parts: vec![Part::Text(text.into())], train }
    }
}

/// Runs a prompt over a batch; the whole of what `render` does.
pub(crate) fn render<P: Prompt>(
    prompt: &mut P,
    call: &CallCtx,
    mode: Mode,
    batch: &Batch,
) -> Result<wit::Output, PluginError> {
    let rows = Rows::new(batch, P::READS).map_err(|e| error(ErrorKind::BadInput, format!("{}: {e}", P::NAME)))?;
    let mut output = wit::Output { items: Vec::with_capacity(batch.rows as usize), errors: Vec::new() };
    for row in rows.iter() {
        let mut ctx = RowCtx::new(call, row.index(), &[]);
        let rendered = prompt.render(&mut ctx, mode, &row).unwrap_or_else(|message| {
            output.errors.push(RowError { row: row.index(), message });
            Rendered::Conversation(Vec::new())
        });
        ctx.finish(&mut []).map_err(|e| error(ErrorKind::Internal, format!("{}: {e}", P::NAME)))?;
        output.items.push(rendered);
    }
    match rows.fault() {
        Some(fault) => Err(error(ErrorKind::Internal, format!("{}: {fault}", P::NAME))),
        None => Ok(output),
    }
}
