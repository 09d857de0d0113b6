//! Evaluations in the middle of a run: the live model in, values by name out, nothing of the run changed.
//!
//! ```text
//!  step N ─► evaluators (held-out loss; questions and metric plugins) ─► a line of metrics.jsonl, TensorBoard
//!                                                                   └─► better than before? ─► checkpoints/best
//! ```
//! An evaluation reads its own data through its own loader and draws no number of the run's: with and without it the losses
//! are the same bit for bit. One that a signal breaks off is made again when the run goes on.

use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ovhost_data::loader::{DataConfig, Loader, LoaderParts};
use ovhost_model::{LlavaOnevision, Targets};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tracing::{info, warn};

use crate::checkpoint::write_synced;
use crate::ema::Export;
use crate::recipe::{BestConfig, Mode};
use crate::trainer::{Run, packed_input};

/// Name of the held-out loss among the values.
pub const LOSS: &str = "loss";

/// Measures the model of a run without changing it.
pub trait Evaluator {
    /// Values by name after update `step`; none where the run was asked to stop before there were any.
    ///
    /// # Errors
    /// Data, plugins or the model fail.
    fn evaluate(&mut self, model: &LlavaOnevision, step: u64) -> Result<Option<BTreeMap<String, f64>>>;
}

/// The loss of shards that are not learnt from: `loss`, the mean over their learnt tokens in nats.
pub struct HeldOut {
    /// How they are read: see [`crate::recipe::EvalConfig::validation_data`].
    pub config: DataConfig,
    /// What they are read with; the source is that of the held-out shards.
    pub parts: LoaderParts,
    /// Most micro-batches.
    pub batches: Option<u64>,
    /// Set by a signal handler.
    pub stop: Arc<AtomicBool>,
    /// Where the samples that could not be used are listed, anew each time: a JSONL file.
    pub rejects: PathBuf,
}

impl Evaluator for HeldOut {
    fn evaluate(&mut self, model: &LlavaOnevision, _step: u64) -> Result<Option<BTreeMap<String, f64>>> {
        let mut loader = Loader::start(&self.config, self.parts.clone()).context("eval.validation")?;
        let (vocab, device) = (model.config().text.vocab_size, model.device());
        let _guard = tch::no_grad_guard();
        // Summed where the model is: the host waits for the device once, at the end.
        let mut sum = Tensor::f_zeros([], (Kind::Double, device))?;
        let (mut learnt, mut batches, mut rejects) = (0, 0, Vec::new());
        while self.batches.is_none_or(|most| batches < most) {
            if self.stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let micro = loader.next().context("eval.validation")?;
            rejects.extend(loader.take_rejects());
            let Some(micro) = micro else { break };
            rejects.extend(micro.rejects.iter().cloned());
            let targets = Targets::new(&micro.labels, &micro.cu_seqlens, vocab, device)?;
            if targets.count() > 0 {
                let loss = model.loss_sum_of(&packed_input(&micro, device)?, &targets)?;
                sum = sum.f_add(&loss.f_to_kind(Kind::Double)?)?;
                learnt += targets.count();
            }
            batches += 1;
        }
        let mut lines = Vec::new();
        for reject in &rejects {
            serde_json::to_writer(&mut lines, reject)?;
            lines.push(b'\n');
        }
        if let Some(folder) = self.rejects.parent() {
            create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        write_synced(&self.rejects, &lines)?;
        ensure!(
            learnt > 0,
            "eval.validation: the {batches} micro-batches read have no token whose loss is learnt; {} samples were left out, see {}",
            rejects.len(),
            self.rejects.display()
        );
        Ok(Some(BTreeMap::from([(LOSS.to_owned(), sum.f_double_value(&[])? / learnt as f64)])))
    }
}

/// The evaluation that did best. Part of a checkpoint's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What was compared, as the recipe said then.
    pub metric: String,
    /// Which value was better.
    pub mode: Mode,
    /// Whose value: of the last weights or of their moving average.
    #[serde(default)]
    pub weights: Export,
    /// Its value.
    pub value: f64,
    /// The update after which it was measured, and whose checkpoint is kept.
    pub step: u64,
}

/// A line of metrics.jsonl for an evaluation, after that of its step.
#[derive(Debug, Serialize)]
pub struct EvalRecord {
    /// Updates done.
    pub step: u64,
    /// Values by name.
    pub eval: BTreeMap<String, f64>,
    /// Whose they are: those of the last weights or of their moving average.
    pub weights: Export,
    /// Wall seconds that it took.
    pub seconds: f64,
}

/// What became of an evaluation.
pub(crate) enum Evaluated {
    /// A signal broke it off.
    Stopped,
    /// It was made.
    Made {
        /// Whether it is the best so far, by `checkpoint.best`.
        best: bool,
    },
}

impl Run<'_> {
    /// Whether the present step is to be evaluated and was not.
    pub(crate) fn evaluation_due(&self, ended: bool) -> bool {
        let (recipe, step) = (&self.options.recipe, self.state.step);
        let steps = if ended { step } else { recipe.train.steps };
        !self.evaluators.is_empty() && self.state.evaluated != step && recipe.eval.due(step, steps)
    }

    /// Exchanges the weights and their moving average where there is one.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        match &mut self.ema {
            Some(ema) => ema.exchange(&mut self.optimizer),
            None => Ok(()),
        }
    }

    /// What the evaluators give for the model as it is; none where a signal broke them off.
    fn measure(&mut self) -> Result<Option<BTreeMap<String, f64>>> {
        let step = self.state.step;
        let mut values = BTreeMap::new();
        for evaluator in &mut self.evaluators {
            let measured =
                evaluator.evaluate(&self.model, step).with_context(|| format!("evaluating after step {step}"))?;
            let Some(measured) = measured else { return Ok(None) };
            for (name, value) in measured {
                if values.insert(name.clone(), value).is_some() {
                    bail!("two evaluations give a value called {name:?}; leave out one of the metric plugins");
                }
            }
        }
        Ok(Some(values))
    }

    /// Evaluates the present weights, or their moving average.
    pub(crate) fn evaluate(&mut self) -> Result<Evaluated> {
        let (step, began) = (self.state.step, Instant::now());
        let weights = self.options.recipe.evaluated();
        let measured = if weights == Export::Ema {
            self.exchange()?;
            let measured = self.measure();
            // Whatever came of it: the run goes on, or is saved, with its own weights.
            self.exchange()?;
            measured?
        } else {
            self.measure()?
        };
        let Some(values) = measured else { return Ok(Evaluated::Stopped) };
        let seconds = began.elapsed().as_secs_f64();
        let text: Vec<_> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let of = if weights == Export::Ema { ", moving average" } else { "" };
        info!("step {step} · evaluated in {seconds:.1} s{of}: {}", text.join(" · "));
        let best = match &self.options.recipe.checkpoint.best {
            Some(config) => self.compare(config, &values)?,
            None => false,
        };
        if let Some(events) = &mut self.events {
            let tags: Vec<_> = values.iter().map(|(name, value)| (format!("eval/{name}"), *value)).collect();
            let scalars: Vec<_> = tags.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
            events.scalars(step, &scalars)?;
        }
        self.metrics.push(&EvalRecord { step, eval: values, weights, seconds })?;
        self.state.evaluated = step;
        Ok(Evaluated::Made { best })
    }

    /// Whether these values are the best so far; notes it if so.
    fn compare(&mut self, config: &BestConfig, values: &BTreeMap<String, f64>) -> Result<bool> {
        let Some(&value) = values.get(&config.metric) else {
            let there: Vec<_> = values.keys().map(String::as_str).collect();
            bail!(
                "checkpoint.best.metric is {:?}, but the evaluation gave {}; name one of those and go on with --resume",
                config.metric,
                there.join(", ")
            );
        };
        if value.is_nan() {
            warn!("step {}: {} is not a number, so it cannot be the best", self.state.step, config.metric);
        }
        let better = match &self.state.best {
            Some(best) => config.mode.better(value, best.value),
            None => !value.is_nan(),
        };
        if better {
            self.state.best = Some(Best {
                metric: config.metric.clone(),
                mode: config.mode,
                weights: self.options.recipe.evaluated(),
                value,
                step: self.state.step,
            });
        }
        Ok(better)
    }
}
