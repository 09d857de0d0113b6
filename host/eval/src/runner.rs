//! Asks the model every question of the data and saves each answer; then scores what was saved.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::{ChatTokenizer, EvalReader, EvalSample, ImageProcessor};
use ovhost_infer::{Generation, Generator, Prompt};
use ovhost_plugin::Plugin;
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    answers::{Answer, AnswerFile},
    score::{self, Results},
};

/// An evaluation to be made.
pub struct EvalOptions<'a> {
    /// Questions.
    pub reader: EvalReader,
    /// The model, with its generation settings.
    pub generator: Generator<'a>,
    /// Its tokenizer.
    pub chat: Arc<ChatTokenizer>,
    /// Its image processor.
    pub images: Arc<ImageProcessor>,
    /// Scores.
    pub metrics: Vec<Plugin>,
    /// Folder of the results.
    pub out: PathBuf,
    /// Questions answered at once.
    pub batch_size: usize,
    /// Only this many questions, from the first.
    pub limit: Option<u64>,
    /// Black pictures of the same sizes instead of the real ones: what the model knows from the question alone.
    pub blank_images: bool,
    /// Seed for metrics.
    pub seed: u64,
    /// Everything that decides the answers; saved, and compared when a folder is found with answers in it.
    pub settings: Value,
    /// Set by a signal handler: save and return.
    pub stop: Arc<AtomicBool>,
    /// Whether progress is shown.
    pub progress: bool,
}

/// Runs the evaluation; `None` where a signal broke it off (the same call goes on later).
pub fn evaluate(mut options: EvalOptions<'_>) -> Result<Option<Results>> {
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    same_settings(&options.out, &options.settings)?;
    let (mut file, mut answers) = AnswerFile::open(&options.out.join("answers.jsonl"))?;
    let total = options.limit.map_or(options.reader.len(), |l| l.min(options.reader.len()));
    if !answers.is_empty() {
        info!("{} of {total} questions are already answered in {}", answers.len(), options.out.display());
    }
    let bar = if options.progress { progress(total, answers.len() as u64) } else { ProgressBar::hidden() };
    while (answers.len() as u64) < total {
        let from = answers.len() as u64;
        let to = (from + options.batch_size as u64).min(total);
        let batch = ask(&mut options, from..to)?;
        file.append(&batch)?;
        answers.extend(batch);
        bar.set_position(answers.len() as u64);
        if options.progress && bar.is_hidden() && answers.len() / 1000 > from as usize / 1000 {
            info!("{} of {total} questions answered", answers.len());
        }
        if options.stop.load(Ordering::SeqCst) {
            bar.finish_and_clear();
            return Ok(None);
        }
    }
    bar.finish_and_clear();
    let (results, lines) = score::score(&options.metrics, &answers, options.seed, options.settings.clone())?;
    score::write(&options.out, &results, &lines)?;
    if results.failed > 0 {
        warn!(
            "{} samples could not be asked; see `error` in {}",
            results.failed,
            options.out.join("samples.jsonl").display()
        );
    }
    Ok(Some(results))
}

fn progress(total: u64, at: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} answers · {per_sec} · ETA {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style);
    bar.set_position(at);
    bar.reset_eta();
    bar
}

/// Answers of different models or settings must never mix in one file.
fn same_settings(out: &Path, settings: &Value) -> Result<()> {
    let path = out.join("settings.json");
    if path.exists() {
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let saved: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove the folder", path.display()))?;
        if !same(&saved, settings) {
            let differ: Vec<&str> = keys(&saved, settings);
            bail!(
                "{} holds answers of another evaluation ({} differ); name another folder with --out or remove it",
                out.display(),
                differ.join(", ")
            );
        }
        return Ok(());
    }
    score::whole(&path, &serde_json::to_vec_pretty(settings)?)
}

/// Equal but for who has pinned or signed the plugins.
fn same(a: &Value, b: &Value) -> bool {
    let split = |settings: &Value| {
        let mut settings = settings.clone();
        let plugins = settings.as_object_mut().and_then(|s| s.remove("plugins")).unwrap_or_default();
        (settings, plugins)
    };
    let ((a, a_plugins), (b, b_plugins)) = (split(a), split(b));
    a == b && ovhost_plugin::same_plugins(&a_plugins, &b_plugins)
}

fn keys<'a>(a: &'a Value, b: &'a Value) -> Vec<&'a str> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let mut out: Vec<&str> = x.iter().filter(|(k, v)| y.get(*k) != Some(v)).map(|(k, _)| k.as_str()).collect();
            out.extend(y.keys().filter(|k| !x.contains_key(*k)).map(String::as_str));
            out
        }
        _ => vec!["settings"],
    }
}

fn ask(options: &mut EvalOptions<'_>, range: std::ops::Range<u64>) -> Result<Vec<Answer>> {
    let mut slots: Vec<Result<EvalSample, Answer>> = Vec::new();
    let mut prompts = Vec::new();
    for ordinal in range {
        let read = options.reader.read(ordinal)?;
        let ready = read.and_then(|sample| {
            let (pixel_values, grid_thw) = sample.pixels(&options.images, options.blank_images)?;
            Ok((sample, pixel_values, grid_thw))
        });
        match ready {
            Ok((sample, pixel_values, grid_thw)) => {
                let input_ids = sample.prompt.input_ids.iter().map(|&id| i64::from(id)).collect();
                prompts.push(Prompt { input_ids, pixel_values, grid_thw });
                slots.push(Ok(sample));
            }
            Err(reject) => slots.push(Err(unanswered(ordinal, reject))),
        }
    }
    let mut generations = options.generator.generate(&prompts, None)?.into_iter();
    let mut out = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot {
            Err(answer) => out.push(answer),
            Ok(sample) => {
                let generation = generations.next().context("the generator gave fewer answers than prompts")?;
                out.push(answer(&options.chat, sample, generation)?);
            }
        }
    }
    Ok(out)
}

fn unanswered(ordinal: u64, reject: ovhost_data::Reject) -> Answer {
    Answer {
        ordinal,
        key: reject.key,
        source: reject.shard,
        prediction: String::new(),
        references: Vec::new(),
        record: Value::Null,
        prompt_tokens: 0,
        answer_tokens: 0,
        finish_reason: "error".into(),
        error: Some(format!("{}: {}", reject.stage, reject.reason)),
    }
}

fn answer(chat: &ChatTokenizer, sample: EvalSample, generation: Generation) -> Result<Answer> {
    let ids: Vec<u32> = generation.ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
    let text = chat.decode(&ids, true)?;
    // The text of the last token may reach beyond the stop string that ended the answer.
    let text = generation.stop_string.as_deref().and_then(|stop| text.split(stop).next()).unwrap_or(&text);
    Ok(Answer {
        ordinal: sample.ordinal,
        key: sample.key,
        source: sample.source,
        prediction: text.trim().to_owned(),
        references: sample.references,
        record: serde_json::from_str(&sample.record)?,
        prompt_tokens: sample.prompt.input_ids.len(),
        answer_tokens: ids.len(),
        finish_reason: generation.finish_reason.to_string(),
        error: None,
    })
}
