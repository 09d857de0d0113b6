//! Steps whose loss and gradient are looked at late, so that the host never waits for the device in the middle of its work.
//!
//! ```text
//!  host     launch step 1 │ launch step 2 │ values of 1: guard, log │ launch step 3 │ values of 2 …
//!  device   ░░░░░░░ step 1 ░░░░░░░│░░░░░░░ step 2 ░░░░░░░│░░░░░░░ step 3 ░░░░…
//!                          └ loss, norm ─► page-locked memory
//! ```
//! An update that is not finite is left out by the device itself: the weights are those before it, and the step that was
//! launched in the meantime trains them on. So a run ends one step late with weights as good as at once. Before anything is
//! saved or evaluated every step that was launched is looked at.

use std::time::Instant;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use ovhost_torch::LateValues;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::guard::{GuardConfig, OnSpike};
use crate::step::{Stepped, Update};
use crate::trainer::{Run, show};

/// When a step's loss and gradient are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// late on CUDA, at_once on the CPU and where a spike is to be skipped or to stop the run.
    #[default]
    Auto,
    /// Before the update, which waits for the device.
    AtOnce,
    /// While the next step is computed.
    Late,
}

impl GuardConfig {
    /// Whether the host must know a loss before the update is made.
    fn decides(&self) -> bool {
        self.spike_factor > 0.0 && self.spike != OnSpike::Warn
    }

    /// Whether steps on `device` are looked at late.
    pub(crate) fn late(&self, device: Device) -> bool {
        match self.look {
            Look::Auto => device != Device::Cpu && !self.decides(),
            Look::AtOnce => false,
            Look::Late => true,
        }
    }

    /// Whether its settings go together.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn check_look(&self) -> Result<()> {
        ensure!(
            self.look != Look::Late || !self.decides(),
            "train.guard.look is \"late\", but train.guard.spike is to skip or stop before the update; set look to \"auto\" or spike to \
             \"warn\""
        );
        Ok(())
    }
}

/// What is known of a step that was launched.
pub(crate) enum Outcome {
    Known(Stepped),
    /// Loss, norm of the gradient, and 1 where the device left the update out.
    Late(LateValues),
}

/// A step that was launched.
pub(crate) struct Flight {
    pub(crate) update: Update,
    pub(crate) outcome: Outcome,
    pub(crate) lr: f64,
    pub(crate) started: Instant,
}

/// What a run tells of its steps so far.
pub(crate) struct Progress {
    /// Of the last step.
    pub(crate) loss: f64,
    /// Sum of the steps' packing.
    pub(crate) fill: f64,
    pub(crate) steps: u64,
    /// When the last step was known.
    known: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { loss: f64::NAN, fill: 0.0, steps: 0, known: Instant::now() }
    }
}

impl Run<'_> {
    /// Takes the step that was just launched, and looks at the one before; at both where this one is known already.
    pub(crate) fn launched(&mut self, flight: Flight, bar: &ProgressBar) -> Result<()> {
        let known = matches!(flight.outcome, Outcome::Known(_));
        if let Some(before) = self.flight.replace(flight) {
            self.land(before, bar)?;
        }
        if known { self.land_all(bar) } else { Ok(()) }
    }

    /// Looks at the step that was launched and not looked at, if there is one.
    pub(crate) fn land_all(&mut self, bar: &ProgressBar) -> Result<()> {
        match self.flight.take() {
            Some(flight) => self.land(flight, bar),
            None => Ok(()),
        }
    }

    fn land(&mut self, flight: Flight, bar: &ProgressBar) -> Result<()> {
        let Flight { update, outcome, lr, started } = flight;
        let stepped = match outcome {
            Outcome::Known(stepped) => stepped,
            Outcome::Late(values) => self.judge(&update, &values.wait()?)?,
        };
        // What a late step took is counted from when the one before it was known.
        let record = self.record(&update, &stepped, lr, started.max(self.progress.known));
        self.progress = Progress {
            loss: record.loss,
            fill: self.progress.fill + record.fill,
            steps: self.progress.steps + 1,
            known: Instant::now(),
        };
        let config = &self.options.recipe.train;
        if record.step.is_multiple_of(config.log_every) || record.step == config.steps {
            self.metrics.push(&record)?;
            if let Some(events) = &mut self.events {
                events.scalars(record.step, &record.scalars())?;
            }
        }
        show(bar, &record, config.steps);
        Ok(())
    }
}
