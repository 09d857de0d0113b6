//! One update: micro-batches in, gradients added up over them, guards asked, weights updated or left.

use anyhow::{Result, anyhow};
use ovhost_data::loader::MicroBatch;
use ovhost_model::Targets;
use ovhost_torch::LateValues;
use tch::{Kind, Tensor};
use tracing::warn;

use crate::guard::{NonFinite, OnSpike, Seen, Verdict};
use crate::late::Outcome;
use crate::recipe::LossMean;
use crate::trainer::{Run, packed_input};

/// What an update needs to know about its micro-batches before the first backward pass.
pub(crate) struct Update {
    pub(crate) micros: Vec<MicroBatch>,
    pub(crate) targets: Vec<Targets>,
    /// Its number, from 1.
    pub(crate) step: u64,
    /// Seconds that the data was waited for.
    pub(crate) wait_s: f64,
}

impl Update {
    /// Learnt tokens in all.
    pub(crate) fn learnt(&self) -> u64 {
        self.targets.iter().map(|t| t.count().unsigned_abs()).sum()
    }
}

/// What a step did.
pub(crate) struct Stepped {
    /// Mean loss.
    pub(crate) loss: f64,
    /// Norm of the gradient before clipping.
    pub(crate) norm: f64,
    /// Whether a guard left the update out.
    pub(crate) skipped: bool,
}

impl Run<'_> {
    /// Launches one update, or none where a guard says so.
    pub(crate) fn step(&mut self, update: &Update, factor: f64) -> Result<Outcome> {
        let total = update.learnt();
        if total == 0 {
            return Ok(Outcome::Known(Stepped { loss: 0.0, norm: 0.0, skipped: false }));
        }
        self.optimizer.begin(self.state.step);
        if self.options.recipe.train.guard.late(self.options.device) {
            let mut loss = Tensor::f_zeros([], (Kind::Double, self.options.device))?;
            self.backward(update, total, |part| {
                let _sum = loss.f_add_(&part)?;
                Ok(())
            })?;
            let (norm, left_out) = self.optimizer.update_late(factor, &loss)?;
            if let Some(ema) = &mut self.ema {
                ema.update(&self.optimizer, Some(&left_out))?;
            }
            let values = [loss, norm.f_to_kind(Kind::Double)?, left_out.f_to_kind(Kind::Double)?];
            return Ok(Outcome::Late(LateValues::new(&Tensor::f_stack(&values, 0)?)?));
        }
        let mut loss = 0.0;
        self.backward(update, total, |part| {
            loss += part.f_double_value(&[])?;
            Ok(())
        })?;
        self.update_at_once(update, factor, loss).map(Outcome::Known)
    }

    /// The backward passes of an update; each one's share of the loss goes to `add`.
    fn backward(&mut self, update: &Update, total: u64, mut add: impl FnMut(Tensor) -> Result<()>) -> Result<()> {
        let config = &self.options.recipe.train;
        let (mean, recompute) = (config.loss, config.recompute());
        for (at, (micro, targets)) in update.micros.iter().zip(&update.targets).enumerate() {
            // A micro-batch without learnt tokens is legal and adds nothing.
            if targets.count() == 0 {
                continue;
            }
            let divisor = match mean {
                LossMean::TokenMean => total as f64,
                LossMean::MicroMean => targets.count() as f64 * update.micros.len() as f64,
            };
            let input = packed_input(micro, self.options.device)?;
            // Drawn from the place in the run: a run that goes on drops what an unbroken one does.
            let _dropout = self.model.dropout(&[self.options.recipe.run.seed, self.state.step, at as u64]);
            add(self.model.backward(&input, targets, divisor, recompute)?)?;
            self.optimizer.collect()?;
        }
        Ok(())
    }

    fn update_at_once(&mut self, update: &Update, factor: f64, loss: f64) -> Result<Stepped> {
        let config = &self.options.recipe.train;
        let spike = self.state.guard.spike(&config.guard, loss);
        if !loss.is_finite() {
            return self.unfit(update, "loss", loss, loss);
        }
        if let Some(usual) = spike {
            match config.guard.spike {
                OnSpike::Warn => self.note(update, "spike", "updated", loss, spike)?,
                OnSpike::Skip => return self.leave_out(update, "spike", loss, f64::NAN, spike),
                OnSpike::Stop => {
                    self.note(update, "spike", "stopped", loss, spike)?;
                    return Err(self.sick(update, &format!("the loss is {loss:.4}, and was about {usual:.4} before")));
                }
            }
        }
        let norm = self.optimizer.update(factor)?;
        if !norm.is_finite() {
            return self.unfit(update, "gradient", loss, norm);
        }
        if let Some(ema) = &mut self.ema {
            ema.update(&self.optimizer, None)?;
        }
        self.state.guard.updated(&self.options.recipe.train.guard, loss);
        Ok(Stepped { loss, norm, skipped: false })
    }

    /// What became of a step whose values (loss, norm, 1 where the update was left out) come late.
    pub(crate) fn judge(&mut self, update: &Update, values: &[f64]) -> Result<Stepped> {
        let &[loss, norm, left_out] = values else {
            return Err(anyhow!("step {}: {} values came back instead of 3", update.step, values.len()));
        };
        let spike = self.state.guard.spike(&self.options.recipe.train.guard, loss);
        if !loss.is_finite() {
            return self.unfit(update, "loss", loss, loss);
        }
        if spike.is_some() {
            self.note(update, "spike", "updated", loss, spike)?;
        }
        if left_out != 0.0 {
            return self.unfit(update, "gradient", loss, norm);
        }
        self.state.guard.updated(&self.options.recipe.train.guard, loss);
        Ok(Stepped { loss, norm, skipped: false })
    }

    /// A loss or gradient is not finite.
    fn unfit(&mut self, update: &Update, what: &'static str, loss: f64, value: f64) -> Result<Stepped> {
        match self.options.recipe.train.guard.non_finite {
            NonFinite::Skip => self.leave_out(update, what, loss, value, None),
            NonFinite::Stop => {
                self.note(update, what, "stopped", loss, None)?;
                let what = if what == "gradient" { "the gradient norm" } else { "the loss" };
                Err(self.sick(update, &format!("{what} is {value}")))
            }
        }
    }

    fn leave_out(
        &mut self,
        update: &Update,
        what: &'static str,
        loss: f64,
        norm: f64,
        usual: Option<f64>,
    ) -> Result<Stepped> {
        // Where it was looked at late the device has done so already, and the gradients are gone.
        self.optimizer.discard()?;
        let guard = &self.options.recipe.train.guard;
        if self.state.guard.skip(guard) == Verdict::Stop {
            self.note(update, what, "stopped", loss, usual)?;
            let most = guard.max_skips;
            return Err(self.sick(update, &format!("more than {most} updates in a row were to be skipped")));
        }
        self.note(update, what, "skipped", loss, usual)?;
        Ok(Stepped { loss, norm, skipped: true })
    }

    /// Writes a line of `guards.jsonl`.
    fn note(
        &mut self,
        update: &Update,
        what: &'static str,
        done: &'static str,
        loss: f64,
        usual: Option<f64>,
    ) -> Result<()> {
        let step = update.step;
        let keys: Vec<String> = update.micros.iter().flat_map(|m| &m.keys).cloned().collect();
        warn!("step {step}: {what}, loss {loss:.4}: {done}; its {} samples are in guards.jsonl", keys.len());
        self.guards.push(&Seen { step, what, done, loss: loss.to_string(), usual, keys: &keys })
    }

    fn sick(&self, update: &Update, what: &str) -> anyhow::Error {
        let keys: Vec<_> = update.micros.iter().flat_map(|m| &m.keys).take(20).cloned().collect();
        anyhow!(
            "step {}: {what}: the weights were not updated. Lower train.lr or look at its samples ({}{}). \
             The last checkpoint is good: change the recipe and continue with --resume --allow-recipe-change; \
             train.guard = {{ non_finite = \"skip\" }} leaves such updates out",
            update.step,
            keys.join(", "),
            if keys.len() == 20 { ", ..." } else { "" }
        )
    }
}
