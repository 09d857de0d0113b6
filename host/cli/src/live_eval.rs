//! The metric plugins' evaluation of a run in progress: `eval.shards` asked of the live model, `RUN/eval/step-N/` written.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use ovhost_data::pipeline::{PluginStages, ShardSource};
use ovhost_data::{ChatTokenizer, EvalReader, ImageProcessor};
use ovhost_eval::results::Whole;
use ovhost_eval::runner::References;
use ovhost_eval::session::{self, Subject};
use ovhost_eval::{Asking, Common, Served};
use ovhost_infer::{GenerationConfig, Generator};
use ovhost_model::LlavaOnevision;
use ovhost_plugin::Plugin;
use ovhost_train::Evaluator;
use serde_json::{Map, Value, json};
use tracing::warn;

/// Asks the live model the questions of `eval.shards`.
pub struct Asked {
    /// The questions' shards, opened.
    pub source: Arc<ShardSource>,
    /// The prompt plugin.
    pub stages: PluginStages,
    /// The model folder's tokenizer.
    pub chat: Arc<ChatTokenizer>,
    /// Its image processor.
    pub images: Arc<ImageProcessor>,
    /// Scores.
    pub metrics: Vec<Plugin>,
    /// How answers are made.
    pub generation: GenerationConfig,
    /// Questions answered at once.
    pub batch_size: usize,
    /// Only this many questions, from the first.
    pub limit: Option<u64>,
    /// Seed of prompts and metrics.
    pub seed: u64,
    /// Folder `eval` of the run.
    pub out: PathBuf,
    /// Set by a signal handler.
    pub stop: Arc<AtomicBool>,
}

impl Evaluator for Asked {
    fn evaluate(&mut self, model: &LlavaOnevision, step: u64) -> Result<Option<BTreeMap<String, f64>>> {
        let out = self.out.join(format!("step-{step}"));
        // Answers found there are of a part of the run that is being made again, maybe with other weights.
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
        }
        let (chat, images) = (Arc::clone(&self.chat), Arc::clone(&self.images));
        let source = Arc::clone(&self.source);
        let reader = EvalReader::new(Some(source), &self.stages, Arc::clone(&chat), Arc::clone(&images), self.seed)?;
        let mut config = self.generation.clone();
        config.stop_strings.extend(reader.stop_strings().iter().cloned());
        let decode = |ids: &[i64]| {
            let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
            self.chat.decode(&ids, true).map_err(|e| e.to_string())
        };
        let total = self.limit.map_or(reader.len(), |l| l.min(reader.len()));
        let common = map(&json!({"step": step, "seed": self.seed}));
        let identity = json!({"generation": config, "questions": reader.len()});
        let subject = Subject {
            task: None,
            original: reader.len(),
            asked: total,
            shots: 0,
            metrics: self.metrics.clone(),
            plugins: serde_json::Value::Null,
            identity,
        };
        let subjects = [subject];
        let generator = Generator::new(model, config.clone())?
            .with_decoder(decode)
            .with_batch_size(self.batch_size)
            .with_stop(Arc::clone(&self.stop));
        let mut asking = [Asking {
            name: subjects[0].name().to_owned(),
            reader,
            total,
            references: References::default(),
            config: Arc::new(config),
            blank_images: false,
        }];
        let asked = Common { chat, images, ahead: 2 * self.batch_size, stop: Arc::clone(&self.stop), progress: false };
        let opened = session::open(&out, &common, &subjects)?;
        let mut served = Served { generator: &generator };
        let Some(answers) = session::evaluate(&out, opened, &mut asking, &asked, &mut served)? else { return Ok(None) };
        let whole = Whole { model_name: format!("step-{step}"), ..Whole::default() };
        let results = session::finish(&out, &subjects, &answers, &whole, self.seed, None)?;
        let Some(results) = results.tasks.into_values().next() else { return Ok(None) };
        ensure!(results.errors.is_empty(), "eval.shards: metric {}", results.errors.join("; "));
        ensure!(
            results.answered > 0,
            "eval.shards: none of {} questions could be asked; see {}",
            results.samples,
            out.join("samples.jsonl").display()
        );
        if results.unscored > 0 {
            warn!(
                "step {step}: {} answers could not be scored; see {}",
                results.unscored,
                out.join("samples.jsonl").display()
            );
        }
        Ok(Some(results.metrics.into_iter().map(|(name, score)| (name, score.value.unwrap_or(f64::NAN))).collect()))
    }
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}
