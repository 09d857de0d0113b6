//! The model as the runner sees it.

use std::ops::ControlFlow;

use anyhow::Result;
use ovhost_infer::{Generator, InferError, Request};

use crate::runner::{Done, Model, Next};

/// A generator, whose rows take any question of any task as they get free.
pub struct Served<'a, 'm> {
    /// The generator.
    pub generator: &'a Generator<'m>,
}

impl Model for Served<'_, '_> {
    fn serve(&mut self, next: Next<'_>, done: Done<'_>) -> Result<()> {
        let mut next = || -> Result<Option<Request>> {
            let question = next()?;
            Ok(question.map(|(id, q)| Request { id, prompt: q.prompt, config: Some(q.config) }))
        };
        let mut done = |id, said: Result<_, InferError>| -> Result<ControlFlow<()>> {
            // What is reported of one question is its own fault; a device that fails ends the whole call.
            done(
                id,
                said.map_err(|error| match error {
                    InferError::Prompt { reason, .. } => reason,
                    other => other.to_string(),
                }),
            )
        };
        self.generator.serve(&mut next, &mut done)?;
        Ok(())
    }
}
