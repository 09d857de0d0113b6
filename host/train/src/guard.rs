//! Guards: a step's loss and gradient in, go on, skip or stop out; what a guard saw goes to `guards.jsonl` with the samples.
//!
//! A loss or gradient that is not finite would make every weight NaN. A loss far above those before it ("spike") often comes
//! from damaged samples and can undo hours; skipping the update and recording its samples costs one step.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::late::Look;

/// `[train.guard]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// What becomes of an update whose loss or gradient is not finite.
    pub non_finite: NonFinite,
    /// Skips in a row that are borne; one more ends the run.
    pub max_skips: u32,
    /// A loss above the median of the steps before it by so many of their median distances from it is a spike; 0 looks for
    /// none. Usual are 10 to 30.
    pub spike_factor: f64,
    /// Steps that the median is taken over; no spike is seen before there are half as many.
    pub spike_window: usize,
    /// What becomes of a spike's update.
    pub spike: OnSpike,
    /// at_once, before the update, which waits for the device; late, while the next step is computed; auto takes late on CUDA and
    /// at_once on the CPU. What an update that is not finite does to the weights is nothing either way.
    pub look: Look,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            non_finite: NonFinite::Stop,
            max_skips: 10,
            spike_factor: 0.0,
            spike_window: 100,
            spike: OnSpike::Warn,
            look: Look::Auto,
        }
    }
}

/// What becomes of an update whose loss or gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The run ends; the weights are those before it.
    #[default]
    Stop,
    /// The update is left out.
    Skip,
}

/// What becomes of a spike's update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSpike {
    /// It is made, and recorded.
    #[default]
    Warn,
    /// It is left out.
    Skip,
    /// The run ends; the weights are those before it.
    Stop,
}

/// What becomes of a step that is to be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The update is left out.
    Skip,
    /// The run ends.
    Stop,
}

/// A line of `guards.jsonl`.
#[derive(Debug, Serialize)]
pub struct Seen<'a> {
    /// The update, from 1.
    pub step: u64,
    /// `loss`, `gradient` or `spike`.
    pub what: &'static str,
    /// `updated`, `skipped` or `stopped`.
    pub done: &'static str,
    /// Its loss, as text: JSON has no NaN.
    pub loss: String,
    /// Of a spike: the median of the losses before.
    pub usual: Option<f64>,
    /// Keys of all its samples.
    pub keys: &'a [String],
}

/// The losses that spikes are told by, and the skips so far. Part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    losses: VecDeque<f64>,
    skips: u32,
}

impl GuardState {
    /// Whether `loss` is a spike; with the median of those before it.
    pub fn spike(&self, config: &GuardConfig, loss: f64) -> Option<f64> {
        if config.spike_factor <= 0.0 || self.losses.len() < (config.spike_window / 2).max(2) {
            return None;
        }
        let usual = median(self.losses.iter().copied());
        // The median distance rather than the standard deviation, which one spike would raise for all that follow; and not
        // below a thousandth of the loss, as a loss that hardly moves has no distance.
        let distance = median(self.losses.iter().map(|loss| (loss - usual).abs())).max(1e-3 * usual.abs());
        (loss - usual > config.spike_factor * distance).then_some(usual)
    }

    /// The update was made.
    pub fn updated(&mut self, config: &GuardConfig, loss: f64) {
        self.skips = 0;
        if config.spike_factor > 0.0 {
            self.losses.push_back(loss);
            while self.losses.len() > config.spike_window {
                self.losses.pop_front();
            }
        }
    }

    /// The update is to be left out: skips it, or stops where that happened too often in a row.
    pub fn skip(&mut self, config: &GuardConfig) -> Verdict {
        self.skips += 1;
        if self.skips > config.max_skips { Verdict::Stop } else { Verdict::Skip }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuardConfig {
        GuardConfig { spike_factor: 10.0, spike_window: 20, max_skips: 2, ..GuardConfig::default() }
    }

    #[test]
    fn a_spike_is_far_above_the_losses_before() {
        let (config, mut state) = (config(), GuardState::default());
        for step in 0..9 {
            assert_eq!(state.spike(&config, 1e9), None, "too few losses to tell, step {step}");
            state.updated(&config, 2.0 + 0.05 * f64::from(step % 3));
        }
        state.updated(&config, 2.0);
        assert_eq!(state.spike(&config, 2.3), None);
        assert_eq!(state.spike(&config, 0.1), None, "a fall is none");
        assert!(state.spike(&config, 3.0).is_some());
        // One that was let through does not hide the next.
        state.updated(&config, 50.0);
        assert!(state.spike(&config, 3.0).is_some());
        assert_eq!(GuardState::default().spike(&GuardConfig::default(), 1e9), None, "off unless asked for");
    }

    #[test]
    fn a_level_loss_makes_no_spike_of_noise() {
        let (config, mut state) = (config(), GuardState::default());
        (0..20).for_each(|_| state.updated(&config, 1.0));
        assert_eq!(state.spike(&config, 1.005), None);
        assert_eq!(state.spike(&config, 1.02), Some(1.0));
    }

    #[test]
    fn skips_in_a_row_are_bounded() {
        let (config, mut state) = (config(), GuardState::default());
        assert_eq!([(); 3].map(|()| state.skip(&config)), [Verdict::Skip, Verdict::Skip, Verdict::Stop]);
        state.updated(&config, 1.0);
        assert_eq!(state.skip(&config), Verdict::Skip);
    }
}
