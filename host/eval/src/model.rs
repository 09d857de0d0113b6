//! The model as the runner sees it.

use std::ops::ControlFlow;

use anyhow::Result;
use ovhost_infer::Generator;

use crate::runner::{Done, Model, Next};

/// A generator, whose batches take any question of any task.
pub struct Served<'a, 'm> {
    /// The generator.
    pub generator: &'a Generator<'m>,
    /// Questions at once.
    pub batch_size: usize,
}

impl Model for Served<'_, '_> {
    fn serve(&mut self, next: Next<'_>, done: Done<'_>) -> Result<()> {
        loop {
            let mut batch = Vec::new();
            while batch.len() < self.batch_size
                && let Some(question) = next()?
            {
                batch.push(question);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let prompts: Vec<_> = batch.iter().map(|(_, q)| q.prompt.clone()).collect();
            let said = self.generator.generate(&prompts, None)?;
            for ((number, _), generation) in batch.into_iter().zip(said) {
                if done(number, Ok(generation))? == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
    }
}
