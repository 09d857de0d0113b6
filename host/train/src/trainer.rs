//! The training loop: steps, records, checkpoints, resume.
//!
//! ```text
//!  Loader ─► accumulation × MicroBatch ─► loss sum / learnt tokens of the update ─► backward ─► AdamW
//!                    │                                                               │
//!                    └ rejects.jsonl                              metrics.jsonl ◄────┴─► checkpoint every N steps
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::loader::{Loader, LoaderState, MicroBatch};
use ovhost_model::{LlavaOnevision, LoadOptions, PackedInput, Targets};
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use tracing::{info, warn};

use crate::{
    checkpoint::{self, State},
    ema::{Ema, Export},
    evaluation::{Evaluated, Evaluator},
    late::{Flight, Progress},
    lora,
    optimizer::AdamW,
    recipe::{BestConfig, Precision, Recipe},
    record::StepRecord,
    run_folder::{Lines, RunFolder},
    saver::Saver,
    schedule,
    step::Update,
    tensorboard::EventFile,
};

/// A run to be made.
pub struct TrainOptions {
    /// The recipe as resolved.
    pub recipe: Recipe,
    /// Folder that its relative paths start from.
    pub recipe_dir: PathBuf,
    /// Where tensors live.
    pub device: Device,
    /// Continue the run in the run folder from its newest whole checkpoint.
    pub resume: bool,
    /// Continue although the recipe differs from the run's.
    pub allow_recipe_change: bool,
    /// Identity of every plugin, for the records.
    pub plugins: serde_json::Value,
    /// Set by a signal handler: finish the step, save, return.
    pub stop: Arc<AtomicBool>,
}

/// How a run ended.
#[derive(Debug, Serialize)]
pub struct TrainSummary {
    /// Updates done in all.
    pub steps: u64,
    /// True where a signal ended the run before its last step.
    pub interrupted: bool,
    /// Loss of the last update.
    pub loss: f64,
    /// Real tokens seen in all.
    pub tokens: u64,
    /// Wall seconds of this process's part.
    pub seconds: f64,
    /// The trained model, where the run is complete.
    pub model: Option<PathBuf>,
    /// Newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Mean share of the packs that was filled.
    pub fill: f64,
    /// Samples that were rejected, since the run began.
    pub rejected: u64,
    /// Samples that filters dropped, since the run began.
    pub filtered: u64,
    /// What happened to every sample since the run began, in one line.
    pub samples: String,
}

/// Makes the loader of a run: from its start, or from the state of a checkpoint.
pub type MakeLoader<'a> = dyn FnOnce(Option<LoaderState>) -> Result<Loader> + 'a;

/// Trains until the last step, the end of the data, or a signal. `evaluators` measure the model as the recipe's `[eval]`
/// says.
///
/// # Errors
/// Anything that would make the result wrong: missing weights, a run folder that holds another run, a recipe that
/// differs on resume, data that is mostly rejected, a loss that is not finite.
pub fn train(
    options: TrainOptions,
    make_loader: Box<MakeLoader<'_>>,
    evaluators: Vec<Box<dyn Evaluator>>,
) -> Result<TrainSummary> {
    let recipe = &options.recipe;
    let folder = RunFolder::create(options.recipe_dir.join(&recipe.run.folder))?;
    let start = open_run(&folder, &options)?;
    let kind = match recipe.model.precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    };
    let source = options.recipe_dir.join(&recipe.model.folder);
    let load = LoadOptions { device: options.device, kind };
    let model = lora::load_model(recipe, &source, start.as_ref().map(|(path, _)| path.as_path()), &load)?;
    let params = model.parameters().into_iter().chain(model.adapters()).collect();
    let mut optimizer = AdamW::new(params, &recipe.train)?;
    let mut ema = (recipe.train.ema_decay > 0.0).then(|| Ema::new(&optimizer, recipe.train.ema_decay));
    let state = match start {
        Some((path, mut state)) => {
            // From here on the run is that of the present recipe (they differ only where that was asked for).
            state.recipe = serde_json::to_value(recipe)?;
            state.plugins = options.plugins.clone();
            let mut saved = checkpoint::read_optimizer(&path)?;
            if let Some(ema) = &mut ema {
                ema.load_state(&mut saved).with_context(|| format!("in {}", path.display()))?;
            }
            saved.retain(|key, _| !key.starts_with("ema."));
            optimizer.load_state(saved).with_context(|| format!("in {}", path.display()))?;
            info!("resuming from {} at step {}", path.display(), state.step);
            open_best(&folder, recipe, &mut state)?;
            state
        }
        None => State { recipe: serde_json::to_value(recipe)?, plugins: options.plugins.clone(), ..State::new(0) },
    };
    let metrics = folder.lines("metrics.jsonl", state.metrics_bytes)?;
    let rejects = folder.lines("rejects.jsonl", state.rejects_bytes)?;
    let guards = folder.lines("guards.jsonl", state.guards_bytes)?;
    let events = match recipe.run.tensorboard {
        true => Some(EventFile::create(&folder.path.join("tensorboard"))?),
        false => None,
    };
    // Kept too: a run may be saved again before its next batch.
    let loader = make_loader(state.data.clone())?;
    folder.write_json("run.json", &run_record(&options, &model, &optimizer)?)?;
    info!(
        "training {:.2} M of {:.2} M parameters for {} steps on {:?}, {}",
        optimizer.trained_values() as f64 / 1e6,
        model.parameters().iter().map(|p| p.tensor.numel()).sum::<usize>() as f64 / 1e6,
        recipe.train.steps,
        options.device,
        kind_name(kind),
    );
    let options = &options;
    let saver = Saver::new(folder.checkpoints(), source.clone(), recipe.checkpoint.clone());
    let run = Run {
        options,
        folder,
        model,
        optimizer,
        loader,
        evaluators,
        state,
        metrics,
        rejects,
        guards,
        events,
        source,
        saver,
        ema,
        flight: None,
        progress: Progress::new(),
    };
    run.go()
}

/// The best checkpoint that the state knows of is still there and still what is wanted, or is forgotten.
fn open_best(folder: &RunFolder, recipe: &Recipe, state: &mut State) -> Result<()> {
    let Some(best) = &state.best else { return Ok(()) };
    let wanted = recipe.checkpoint.best.as_ref();
    let path = folder.checkpoints().join(checkpoint::name(best.step));
    let other = |wanted: &BestConfig| wanted.metric != best.metric || wanted.mode != best.mode;
    if wanted.is_none_or(other) || recipe.evaluated() != best.weights {
        info!(
            "checkpoint.best or eval.weights has changed: the best so far, {} by {}, is forgotten",
            path.display(),
            best.metric
        );
        state.best = None;
    } else if !path.is_dir() {
        warn!("{}, the best so far by {}, is gone and forgotten", path.display(), best.metric);
        state.best = None;
    } else {
        checkpoint::mark_best(&folder.checkpoints(), best.step)?;
    }
    Ok(())
}

fn kind_name(kind: Kind) -> &'static str {
    if kind == Kind::Float { "fp32" } else { "bf16" }
}

/// Finds what there is to continue, or makes sure that there is nothing to overwrite.
fn open_run(folder: &RunFolder, options: &TrainOptions) -> Result<Option<(PathBuf, State)>> {
    let checkpoints = folder.checkpoints();
    std::fs::create_dir_all(&checkpoints)?;
    let halves = checkpoint::clean(&checkpoints)?;
    if !options.resume {
        ensure!(
            !folder.has_run(),
            "{} already holds a run: continue it with --resume, remove it, or write elsewhere with --set run.folder=FOLDER",
            folder.path.display()
        );
        return Ok(None);
    }
    for half in halves {
        info!("{half} was being written when the run ended: removed");
    }
    let (found, warnings) = checkpoint::newest(&checkpoints)?;
    for warning in &warnings {
        warn!("passed over: {warning}");
    }
    let Some((path, state)) = found else {
        if folder.has_run() && warnings.is_empty() {
            warn!("{} has no checkpoint yet: starting from the beginning", checkpoints.display());
            return Ok(None);
        }
        bail!(
            "--resume: {} has no whole checkpoint{}",
            checkpoints.display(),
            if warnings.is_empty() { "; start the run without --resume" } else { " (see the warnings above)" }
        );
    };
    let mut differences = options.recipe.differences(&state.recipe)?;
    if !ovhost_plugin::same_plugins(&state.plugins, &options.plugins) {
        differences.push(format!("plugins: {} then, {} now", state.plugins, options.plugins));
    }
    // The order of samples depends on these: the saved position in the data means nothing under other values.
    let fixed =
        |d: &String| ["run.seed", "data.", "plugins"].iter().any(|k| d.starts_with(k)) && !d.starts_with("data.epochs");
    if let Some(first) = differences.iter().find(|d| fixed(d)) {
        let from = match path.join("model/config.json").exists() {
            true => format!(" from its weights with --set model.folder={}", path.join("model").display()),
            false => String::new(),
        };
        bail!(
            "--resume: the data of this run differs from that of {}:\n  {first}\nput it back, or start a new run{from}",
            path.display()
        );
    }
    if !differences.is_empty() && !options.allow_recipe_change {
        bail!(
            "--resume: the recipe differs from that of {}:\n  {}\nput it back, or pass --allow-recipe-change to go on with the new one",
            path.display(),
            differences.join("\n  ")
        );
    }
    Ok(Some((path, state)))
}

fn run_record(options: &TrainOptions, model: &LlavaOnevision, optimizer: &AdamW) -> Result<serde_json::Value> {
    Ok(serde_json::json!({
        "ovhost": env!("CARGO_PKG_VERSION"),
        "torch": ovhost_torch::torch_version(),
        "recipe": options.recipe,
        "plugins": options.plugins,
        "device": format!("{:?}", options.device),
        "threads": tch::get_num_threads(),
        "parameters": model.parameters().iter().map(|p| p.tensor.numel()).sum::<usize>(),
        "trained_parameters": optimizer.trained_values(),
        "resumed": options.resume,
    }))
}

/// A run in progress.
pub(crate) struct Run<'a> {
    pub(crate) options: &'a TrainOptions,
    pub(crate) folder: RunFolder,
    pub(crate) model: LlavaOnevision,
    pub(crate) optimizer: AdamW,
    pub(crate) loader: Loader,
    pub(crate) evaluators: Vec<Box<dyn Evaluator>>,
    pub(crate) state: State,
    pub(crate) metrics: Lines,
    pub(crate) rejects: Lines,
    pub(crate) guards: Lines,
    pub(crate) events: Option<EventFile>,
    pub(crate) source: PathBuf,
    pub(crate) ema: Option<Ema>,
    pub(crate) saver: Saver,
    /// The step that was launched and is not known yet.
    pub(crate) flight: Option<Flight>,
    pub(crate) progress: Progress,
}

impl Run<'_> {
    fn go(mut self) -> Result<TrainSummary> {
        let config = self.options.recipe.train.clone();
        let begin = Instant::now();
        let bar = progress_bar(config.steps, self.state.step);
        let mut ended = false;
        let mut saved = None;
        // An evaluation that was broken off is made up for.
        let mut interrupted = self.evaluation_due(false) && self.settle(false, &bar, &mut saved)?;
        while self.state.step < config.steps && !interrupted {
            let started = Instant::now();
            let Some(update) = self.next_update(config.accumulation)? else {
                warn!(
                    "the data ended at step {} of {}; raise data.epochs or lower train.steps",
                    self.state.step, config.steps
                );
                ended = true;
                break;
            };
            let factor = schedule::factor(
                self.state.step,
                config.warmup_steps,
                config.steps,
                config.min_lr / config.lr,
                config.decay,
            );
            let outcome = self.step(&update, factor)?;
            self.state.step += 1;
            self.launched(Flight { update, outcome, lr: config.lr * factor, started }, &bar)?;
            interrupted = self.settle(false, &bar, &mut saved)?;
        }
        if ended && !interrupted {
            interrupted = self.settle(true, &bar, &mut saved)?;
        }
        bar.finish_and_clear();
        self.saver.wait()?;
        let model = if interrupted { None } else { Some(self.export()?) };
        Ok(TrainSummary {
            steps: self.state.step,
            interrupted,
            loss: self.progress.loss,
            tokens: self.state.tokens,
            seconds: begin.elapsed().as_secs_f64(),
            model,
            checkpoint: saved,
            fill: self.progress.fill / self.progress.steps.max(1) as f64,
            rejected: self.loader.counters().rejected_total(),
            filtered: self.loader.counters().filtered_total(),
            samples: self.loader.counters().summary("delivered"),
        })
    }

    /// What follows an update: it is evaluated and saved where that is due. `ended`: no other will follow. True where the run
    /// is to stop.
    fn settle(&mut self, ended: bool, bar: &ProgressBar, saved: &mut Option<PathBuf>) -> Result<bool> {
        self.saver.check()?;
        let stopped = self.options.stop.load(Ordering::SeqCst);
        let every = self.options.recipe.checkpoint.every;
        let due =
            every > 0 && self.state.step.is_multiple_of(every) || self.state.step == self.options.recipe.train.steps;
        // Nothing is saved or evaluated that was not looked at.
        if ended || due || stopped || self.evaluation_due(ended) {
            self.land_all(bar)?;
        }
        let (mut best, mut evaluated) = (false, false);
        if self.evaluation_due(ended) && !self.options.stop.load(Ordering::SeqCst) {
            match bar.suspend(|| self.evaluate()) {
                Ok(Evaluated::Made { best: better }) => (best, evaluated) = (better, true),
                Ok(Evaluated::Stopped) => {}
                // What was learnt is not lost by an evaluation that fails.
                Err(error) => {
                    self.save()?;
                    return Err(error);
                }
            }
        }
        // A signal that came just now is heeded when the step on its way is known.
        let (stop, step) = (self.options.stop.load(Ordering::SeqCst) && self.flight.is_none(), self.state.step);
        let unsaved = saved.as_ref().is_none_or(|path| !path.ends_with(checkpoint::name(step)));
        if best || stop && !ended || due && !ended || ended && (unsaved || evaluated) {
            *saved = Some(self.save()?);
        }
        Ok(stop)
    }

    fn next_update(&mut self, accumulation: u64) -> Result<Option<Update>> {
        let waited = Instant::now();
        let mut micros = Vec::new();
        for _ in 0..accumulation {
            let next = self.loader.next();
            if !matches!(next, Ok(Some(_))) {
                // At the end and after an error the last rejects come without a batch.
                for reject in self.loader.take_rejects() {
                    self.rejects.push(&reject)?;
                }
            }
            let Some(micro) = next? else { break };
            for reject in &micro.rejects {
                self.rejects.push(reject)?;
            }
            self.state.data = Some(micro.state.clone());
            micros.push(micro);
        }
        if micros.is_empty() {
            return Ok(None);
        }
        let vocab = self.model.config().text.vocab_size;
        let targets = micros
            .iter()
            .map(|m| Targets::new(&m.labels, &m.cu_seqlens, vocab, self.options.device))
            .collect::<Result<_, _>>()?;
        Ok(Some(Update { micros, targets, step: self.state.step + 1, wait_s: waited.elapsed().as_secs_f64() }))
    }

    fn save(&mut self) -> Result<PathBuf> {
        self.state.metrics_bytes = self.metrics.synced_bytes()?;
        self.state.rejects_bytes = self.rejects.synced_bytes()?;
        self.state.guards_bytes = self.guards.synced_bytes()?;
        let mut tensors = self.optimizer.state();
        tensors.extend(self.ema.iter().flat_map(Ema::state));
        self.saver.save(&self.model, tensors, self.state.clone())
    }

    /// Writes the run's results: the model, and the moving average of its weights instead or beside it.
    fn export(&mut self) -> Result<PathBuf> {
        let home = self.folder.model();
        let alone = self.options.recipe.train.export == Export::Ema;
        if self.ema.is_some() {
            self.exchange()?;
            let (model, adapter) = if alone { ("model", "adapter") } else { ("model-ema", "adapter-ema") };
            self.export_as(self.folder.path.join(model), adapter)?;
            self.exchange()?;
        }
        if alone { Ok(home) } else { self.export_as(home, "adapter") }
    }

    /// Writes the weights as they are, whole: what stood there before is replaced by a rename.
    fn export_as(&self, home: PathBuf, adapter: &str) -> Result<PathBuf> {
        let staging = self.folder.path.join(".tmp-model");
        if staging.exists() {
            std::fs::remove_dir_all(&staging)?;
        }
        self.model.save_folder(&staging, &self.source)?;
        // Aside first: at no moment does a half-removed folder stand where the model is expected.
        let old = self.folder.path.join(".old-model");
        if old.exists() {
            std::fs::remove_dir_all(&old)?;
        }
        if home.exists() {
            std::fs::rename(&home, &old)?;
        }
        std::fs::rename(&staging, &home).with_context(|| format!("writing {}", home.display()))?;
        if old.exists() {
            std::fs::remove_dir_all(&old)?;
        }
        lora::export(&self.model, &self.folder.path.join(adapter), &self.source, &self.options.recipe.train)?;
        Ok(home)
    }
}

/// Copies a batch to the device.
pub fn packed_input(micro: &MicroBatch, device: Device) -> Result<PackedInput> {
    let pixels = if micro.grid_thw.is_empty() {
        None
    } else {
        let patches = (micro.pixel_values.len() / micro.patch_dim) as i64;
        let rows = Tensor::f_from_slice(&micro.pixel_values)?.f_view([patches, micro.patch_dim as i64])?;
        Some(ovhost_torch::upload(&rows, device)?)
    };
    Ok(PackedInput {
        // Ids and positions stay on the host: the model finds the images' places there without waiting for the device.
        input_ids_t: Tensor::f_from_slice(&micro.input_ids)?,
        positions_t: Tensor::f_from_slice(&micro.positions)?,
        cu_seqlens: micro.cu_seqlens.clone(),
        pixel_values: pixels,
        grid_thw: micro.grid_thw.clone(),
    })
}

fn progress_bar(steps: u64, at: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} ETA {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps).with_style(style);
    bar.set_position(at);
    bar.reset_eta();
    bar
}

pub(crate) fn show(bar: &ProgressBar, record: &StepRecord, steps: u64) {
    let text = format!(
        "loss {:.4} · {:.0} tok/s · fill {:.1} % · lr {:.2e} · norm {:.2}",
        record.loss,
        record.tokens_per_s,
        record.fill * 100.0,
        record.lr,
        record.grad_norm
    );
    bar.set_position(record.step);
    // Where there is no terminal the bar is hidden: a line now and then tells a log file the same.
    if bar.is_hidden() && (record.step == 1 || record.step.is_multiple_of((steps / 20).max(1))) {
        info!("step {}/{steps} · {text} · data wait {:.0} %", record.step, record.data_wait * 100.0);
    }
    bar.set_message(text);
}
