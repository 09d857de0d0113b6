//! One update: micro-batches in, gradients added up over them, guards asked, weights updated or left.

use anyhow::{Result, anyhow};
use ovhost_data::loader::MicroBatch;
use ovhost_model::{LlavaOnevision, Targets};
use ovhost_torch::LateValues;
use tch::{Kind, Tensor};
use tracing::warn;

use crate::guard::{NonFinite, OnSpike, Seen, Verdict};
use crate::late::Outcome;
use crate::optimizer::AdamW;
use crate::recipe::{LossMean, TrainConfig};
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
        if update.learnt() == 0 {
            return Ok(Outcome::Known(Stepped { loss: 0.0, norm: 0.0, skipped: false }));
        }
        self.optimizer.begin(self.state.step);
        if self.options.recipe.train.guard.late(self.options.device) {
            let mut loss = Tensor::f_zeros([], (Kind::Double, self.options.device))?;
            self.backward(update, |part| {
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
        self.backward(update, |part| {
            loss += part.f_double_value(&[])?;
            Ok(())
        })?;
        self.update_at_once(update, factor, loss).map(Outcome::Known)
    }

    /// The backward passes of an update; each one's share of the loss goes to `add`.
    fn backward(&mut self, update: &Update, add: impl FnMut(Tensor) -> Result<()>) -> Result<()> {
        let recipe = &self.options.recipe;
        let place = [recipe.run.seed, self.state.step];
        backward(&self.model, &mut self.optimizer, &recipe.train, place, update, add)
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

/// The backward passes of an update at `place` (seed and step) of a run: gradients add up in the optimiser, each one's share of
/// the loss goes to `add`.
fn backward(
    model: &LlavaOnevision,
    optimizer: &mut AdamW,
    config: &TrainConfig,
    place: [u64; 2],
    update: &Update,
    mut add: impl FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    let ([seed, step], total) = (place, update.learnt() as f64);
    for (at, (micro, targets)) in update.micros.iter().zip(&update.targets).enumerate() {
        // A micro-batch without learnt tokens is legal and adds nothing.
        if targets.count() == 0 {
            continue;
        }
        let divisor = match config.loss {
            LossMean::TokenMean => total,
            LossMean::MicroMean => targets.count() as f64 * update.micros.len() as f64,
        };
        let input = packed_input(micro, model.device())?;
        // Drawn from the place in the run: a run that goes on drops what an unbroken one does.
        let _dropout = model.dropout(&[seed, step, at as u64]);
        add(model.backward(&input, targets, divisor, config.recompute())?)?;
        optimizer.collect()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ovhost_data::loader::{BatchStats, LoaderState, MicroBatch};
    use ovhost_model::{LlavaOnevision, Preset, Targets};
    use tch::{Device, Kind, Tensor};

    use super::{Update, backward};
    use crate::optimizer::AdamW;
    use crate::recipe::TrainConfig;

    fn model() -> LlavaOnevision {
        let mut config = Preset::B4.config();
        let (v, t) = (&mut config.vision, &mut config.text);
        (v.depth, v.hidden_size, v.intermediate_size, v.num_heads) = (1, 16, 32, 2);
        (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 16, 32, 1);
        (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (2, 1, 8);
        (config.image_token_id, config.video_token_id) = (48, 49);
        LlavaOnevision::random(config, 1, Device::Cpu, Kind::Float).unwrap()
    }

    /// The place before the first sample; nothing here reads it.
    fn state() -> LoaderState {
        let position = serde_json::json!({"epoch": 0, "emitted": 0, "ordinal": 0});
        let state = serde_json::json!({"version": 1, "depends": {}, "position": position, "epoch_kept": 0, "packer": null,
            "open": [], "bins": [], "counters": {}});
        serde_json::from_value(state).unwrap()
    }

    /// Ten tokens from `first` on, of which the last `learnt` are learnt.
    fn micro(first: i64, learnt: usize) -> MicroBatch {
        let input_ids: Vec<i64> = (first..first + 10).collect();
        let labels = input_ids.iter().enumerate().map(|(i, &id)| if i + learnt < 10 { -100 } else { id }).collect();
        MicroBatch {
            input_ids,
            labels,
            positions: (0..10).collect(),
            cu_seqlens: vec![0, 10],
            pixel_values: Vec::new(),
            patch_dim: 588,
            grid_thw: Vec::new(),
            keys: vec![first.to_string()],
            capacity: 10,
            rejects: Vec::new(),
            state: state(),
            stats: BatchStats::default(),
        }
    }

    /// The parts of the loss and the gradients of an update of these micro-batches.
    fn parts(loss: &str, micros: Vec<MicroBatch>) -> (Vec<f64>, Vec<Tensor>) {
        let config = serde_json::json!({"steps": 1, "lr": 1e-3, "loss": loss});
        let config: TrainConfig = serde_json::from_value(config).unwrap();
        let model = model();
        let mut optimizer = AdamW::new(model.parameters(), &config).unwrap();
        let of = |m: &MicroBatch| Targets::new(&m.labels, &m.cu_seqlens, 50, Device::Cpu).unwrap();
        let targets = micros.iter().map(of).collect();
        let update = Update { micros, targets, step: 1, wait_s: 0.0 };
        let mut parts = Vec::new();
        let add = |part: Tensor| {
            parts.push(part.double_value(&[]));
            Ok(())
        };
        backward(&model, &mut optimizer, &config, [0, 0], &update, add).unwrap();
        let text = model.parameters().into_iter().filter(|p| !p.name.contains("visual"));
        let grad = |p: ovhost_model::Param| p.tensor.grad();
        (parts, text.map(grad).filter(Tensor::defined).map(|g| g.copy()).collect())
    }

    #[test]
    fn a_micro_batch_without_learnt_tokens_adds_nothing() {
        let with = || vec![micro(0, 4), micro(10, 0), micro(20, 7)];
        let without = || vec![micro(0, 4), micro(20, 7)];
        // Mean over tokens: as if it were not there, bit for bit.
        let ((a, with_grads), (b, grads)) = (parts("token_mean", with()), parts("token_mean", without()));
        assert!(a.len() == 2 && a == b, "{a:?} {b:?}");
        assert!(
            with_grads.iter().zip(&grads).all(|(x, y)| x.equal(y))
                && grads.iter().any(|g| g.abs().max().double_value(&[]) > 0.0)
        );
        // Mean over micro-batches: its loss is nothing, and it counts as one of three.
        let ((a, with_grads), (b, grads)) = (parts("micro_mean", with()), parts("micro_mean", without()));
        assert_eq!(a.len(), 2);
        assert!(a.iter().zip(&b).all(|(a, b)| (a * 3.0 - b * 2.0).abs() < 1e-6 * b), "{a:?} {b:?}");
        for (x, y) in with_grads.iter().zip(&grads) {
            assert!((x * 3.0).allclose(&(y * 2.0), 1e-5, 1e-8, false));
        }
        // Nothing learnt at all: no backward pass, no gradient that is not zero or absent.
        assert!(parts("token_mean", vec![micro(0, 0), micro(10, 0)]).0.is_empty());
    }
}
