//! The recipe: one TOML file per run. Every key is declared once, here or in the crate that it configures, with its
//! documentation; parsing, error messages, `ovhost recipe keys` and the editor schema come from these declarations.

mod checkpoint;
mod eval;
mod plugins;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ovhost_data::loader::DataConfig;
use ovhost_model::{Module, Recompute, RecomputePolicy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ema::Export;
use crate::guard::GuardConfig;
use crate::lora::LoraConfig;
use crate::moments::Moments;
use crate::schedule::Decay;

pub use checkpoint::{BestConfig, CheckpointConfig, Mode};
pub use eval::EvalConfig;
pub use plugins::{AssetUse, PluginSet, PluginUse};

/// A whole recipe.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where the run is written and how it is repeated.
    #[serde(default)]
    pub run: RunConfig,
    /// Which model is trained.
    pub model: ModelSource,
    /// What it is trained on.
    pub data: DataConfig,
    /// The sandboxed components that the data passes through.
    pub plugins: PluginSet,
    /// How it is trained.
    pub train: TrainConfig,
    /// When the run is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// What the model is measured by, by `ovhost eval` and in the middle of the run.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// `[run]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Folder of the run, relative to the recipe: run.json, metrics.jsonl, rejects.jsonl, checkpoints/, model/.
    pub folder: PathBuf,
    /// Seed of everything random: shuffling and plugins.
    pub seed: u64,
    /// Threads of one tensor operation; 0 takes one per core. Results repeat bit for bit only for the same number.
    pub threads: u32,
    /// auto (CUDA where there is one), cpu, or cuda:N.
    pub device: String,
    /// Most operations a second that the device does in the model's precision, in 10¹²: what `mfu` and `hfu` of metrics.jsonl
    /// are shares of (989 for bf16 on an H100 or H200). They are left out where it is 0.
    pub peak_tflops: f64,
    /// Whether event files for TensorBoard are written, into the folder tensorboard/ of the run.
    pub tensorboard: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            folder: "runs/default".into(),
            seed: 1,
            threads: 0,
            device: "auto".into(),
            peak_tflops: 0.0,
            tensorboard: true,
        }
    }
}

/// `[model]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// Model folder in Hugging Face layout, relative to the recipe: config, weights, tokenizer, processor.
    pub folder: PathBuf,
    /// Precision of weights and activations; with bf16 the optimiser keeps fp32 masters.
    #[serde(default)]
    pub precision: Precision,
}

/// Arithmetic of the forward and backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats end to end.
    Fp32,
    /// bfloat16 weights and activations, fp32 masters and moments.
    #[default]
    Bf16,
}

/// `[train]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Updates of the weights.
    pub steps: u64,
    /// Micro-batches whose gradients make one update.
    #[serde(default = "one")]
    pub accumulation: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Rate at the last step.
    #[serde(default)]
    pub min_lr: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// cosine, linear or constant after warm-up.
    #[serde(default = "cosine")]
    pub decay: Decay,
    /// AdamW's decay rates of the moments.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Decoupled weight decay, of matrices only: biases, norms and other 1-D tensors never decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Global L2 norm that gradients are clipped to; 0 does not clip.
    #[serde(default = "one_f")]
    pub clip_grad_norm: f64,
    /// token_mean: mean over every learnt token of the update. micro_mean: mean of the micro-batches' means, as the
    /// reference trains.
    #[serde(default)]
    pub loss: LossMean,
    /// What the backward pass computes again instead of holding it, to save memory: none; selective, the MLP half of each layer;
    /// full, whole layers.
    #[serde(default)]
    pub recompute: RecomputePolicy,
    /// Of so many layers one is computed again; 1 is every layer.
    #[serde(default = "one_u32")]
    pub recompute_every: u32,
    /// fp32; or bf16, which halves the memory of AdamW's moments.
    #[serde(default)]
    pub moments: Moments,
    /// Share of itself that a moving average of the weights keeps at each update, such as 0.999; 0 keeps no average.
    #[serde(default)]
    pub ema_decay: f64,
    /// last: model/ holds the weights after the last update, and model-ema/ their moving average where there is one. ema: model/
    /// holds the average.
    #[serde(default)]
    pub export: Export,
    /// The vision tower.
    #[serde(default)]
    pub vision: ModuleConfig,
    /// The merger between vision and language.
    #[serde(default)]
    pub merger: ModuleConfig,
    /// The language model.
    #[serde(default)]
    pub language: ModuleConfig,
    /// Low-rank adapters; absent trains the weights themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is done about losses and gradients that are not finite or far off.
    #[serde(default)]
    pub guard: GuardConfig,
    /// Steps between two lines of metrics.jsonl.
    #[serde(default = "one")]
    pub log_every: u64,
}

impl TrainConfig {
    /// What the backward pass computes again.
    pub fn recompute(&self) -> Recompute {
        Recompute { policy: self.recompute, every: self.recompute_every }
    }

    /// The settings of a module.
    pub fn module(&self, module: Module) -> &ModuleConfig {
        match module {
            Module::Vision => &self.vision,
            Module::Merger => &self.merger,
            Module::Language => &self.language,
        }
    }

    /// The modules that are trained, in full or by adapters.
    pub fn trained(&self) -> Vec<Module> {
        let modules = [Module::Vision, Module::Merger, Module::Language];
        modules.into_iter().filter(|module| self.module(*module).train).collect()
    }
}

/// How the losses of an update are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossMean {
    /// Sum over the update's learnt tokens divided by their number.
    #[default]
    TokenMean,
    /// Mean of micro-batch means.
    MicroMean,
}

/// `[train.vision]`, `[train.merger]`, `[train.language]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleConfig {
    /// False freezes the module.
    pub train: bool,
    /// Its own peak rate; `lr` if absent. The schedule's shape is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
}

impl Default for ModuleConfig {
    fn default() -> Self {
        ModuleConfig { train: true, lr: None }
    }
}

fn one() -> u64 {
    1
}
fn one_u32() -> u32 {
    1
}
fn one_f() -> f64 {
    1.0
}
fn cosine() -> Decay {
    Decay::Cosine
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn default_eps() -> f64 {
    1e-8
}

/// Keys that say how a run is carried out and not what it computes: they may differ when it is resumed.
const CONTROL_KEYS: [&str; 10] = [
    "run.folder",
    "run.device",
    "run.peak_tflops",
    "run.tensorboard",
    "checkpoint",
    "data.workers",
    "data.prefetch",
    "train.log_every",
    "train.guard.look",
    "eval",
];

impl Recipe {
    /// Reads a recipe, applies `key=value` settings, and checks it.
    ///
    /// # Errors
    /// Names file, line and column of a mistake, and the nearest valid key for an unknown one.
    pub fn read(path: &Path, settings: &[String]) -> Result<Recipe> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "the recipe {} cannot be read; name one with --recipe FILE or run this in a folder that has a recipe.toml",
                path.display()
            )
        })?;
        // First as it stands, so that a mistake is shown at its line; then with the settings of the command line.
        let parsed: Recipe = toml::from_str(&text).map_err(|e| explain(&e, &path.display().to_string()))?;
        let recipe = if settings.is_empty() {
            parsed
        } else {
            let mut table: toml::Table = toml::from_str(&text).map_err(|e| explain(&e, &path.display().to_string()))?;
            for setting in settings {
                apply(&mut table, setting)?;
            }
            let merged = toml::to_string(&table).context("writing the recipe with its settings")?;
            toml::from_str(&merged).map_err(|e| explain(&e, &format!("--set {}", settings.join(" --set "))))?
        };
        recipe.check().with_context(|| format!("in {}", path.display()))?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let t = &self.train;
        ensure!(t.steps > 0, "train.steps is 0; a run needs at least one step");
        ensure!(t.recompute_every > 0, "train.recompute_every is 0; 1 computes every layer again, 2 every second");
        ensure!(
            t.recompute != RecomputePolicy::None || t.recompute_every == 1,
            "train.recompute_every is {}, but train.recompute is \"none\"; set it to \"full\" or \"selective\"",
            t.recompute_every
        );
        let guard = &t.guard;
        ensure!(
            guard.spike_factor.is_finite() && guard.spike_factor >= 0.0,
            "train.guard.spike_factor is {}; it must not be negative, and 0 looks for no spikes",
            guard.spike_factor
        );
        ensure!(guard.spike_window >= 4, "train.guard.spike_window is {}; it must be at least 4", guard.spike_window);
        guard.check_look()?;
        let peak = self.run.peak_tflops;
        ensure!(peak.is_finite() && peak >= 0.0, "run.peak_tflops is {peak}; it must not be negative");
        ensure!(t.accumulation > 0, "train.accumulation is 0; 1 means no accumulation");
        ensure!(t.lr.is_finite() && t.lr > 0.0, "train.lr is {}; it must be above 0", t.lr);
        ensure!(
            (0.0..=t.lr).contains(&t.min_lr),
            "train.min_lr is {}; it must lie between 0 and train.lr ({})",
            t.min_lr,
            t.lr
        );
        ensure!(t.warmup_steps <= t.steps, "train.warmup_steps ({}) exceeds train.steps ({})", t.warmup_steps, t.steps);
        for (name, module) in [("vision", &t.vision), ("merger", &t.merger), ("language", &t.language)] {
            if let Some(lr) = module.lr {
                ensure!(lr.is_finite() && lr >= 0.0, "train.{name}.lr is {lr}; it must not be negative");
            }
        }
        ensure!(
            (0.0..1.0).contains(&t.ema_decay),
            "train.ema_decay is {}; it must be at least 0 (no average) and below 1",
            t.ema_decay
        );
        ensure!(
            t.export == Export::Last || t.ema_decay > 0.0,
            "train.export is \"ema\", but train.ema_decay is 0: there is no average; set it, to 0.999 for example"
        );
        ensure!(
            self.eval.weights != Some(Export::Ema) || t.ema_decay > 0.0,
            "eval.weights is \"ema\", but train.ema_decay is 0: there is no average; set it, to 0.999 for example"
        );
        if let Some(lora) = &t.lora {
            lora.check()?;
        }
        self.data.check()?;
        for beta in t.betas {
            ensure!((0.0..1.0).contains(&beta), "train.betas has {beta}; each must be at least 0 and below 1");
        }
        ensure!(t.eps > 0.0, "train.eps is {}; it must be above 0", t.eps);
        ensure!(t.weight_decay >= 0.0, "train.weight_decay is {}; it must not be negative", t.weight_decay);
        ensure!(t.clip_grad_norm >= 0.0, "train.clip_grad_norm is {}; 0 means no clipping", t.clip_grad_norm);
        ensure!(t.log_every > 0, "train.log_every is 0; 1 logs every step");
        if !(t.vision.train || t.merger.train || t.language.train) {
            bail!("train.vision, train.merger and train.language are all frozen: nothing would be trained");
        }
        self.eval.check()?;
        self.checkpoint.check(&self.eval)
    }

    /// JSON Schema of a recipe, for editors.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Recipe)
    }

    /// Which weights the evaluations of a run measure.
    pub fn evaluated(&self) -> Export {
        let usual = if self.train.ema_decay > 0.0 { Export::Ema } else { Export::Last };
        self.eval.weights.unwrap_or(usual)
    }

    /// The keys in which `other` would compute something else than `self`, as `key: ours -> theirs`.
    pub fn differences(&self, other: &serde_json::Value) -> Result<Vec<String>> {
        let ours = serde_json::to_value(self)?;
        let mut out = Vec::new();
        compare("", &plugins::without_trust(&ours), &plugins::without_trust(other), &mut out);
        Ok(out)
    }
}

fn compare(path: &str, ours: &serde_json::Value, theirs: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value::{Null, Object};
    if CONTROL_KEYS.contains(&path) {
        return;
    }
    match (ours, theirs) {
        (Object(a), Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, a.get(key).unwrap_or(&Null), b.get(key).unwrap_or(&Null), out);
            }
        }
        _ if ours != theirs => out.push(format!("{path}: {theirs} then, {ours} now")),
        _ => {}
    }
}

/// Applies `a.b=value`; the value is TOML, or a plain string where it is no TOML value.
fn apply(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (key, value) = setting
        .split_once('=')
        .with_context(|| format!("--set {setting}: expected key=value, as in --set train.lr=3e-4"))?;
    let value = match toml::from_str::<toml::Table>(&format!("v = {value}")) {
        Ok(mut parsed) => parsed.remove("v").unwrap_or_else(|| toml::Value::String(value.to_owned())),
        Err(_) => toml::Value::String(value.to_owned()),
    };
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let Some(last) = parts.pop().filter(|l| !l.is_empty()) else { bail!("--set {setting}: the key is empty") };
    let mut here = table;
    for part in parts {
        let next = here.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        here = match next {
            toml::Value::Table(t) => t,
            other => bail!("--set {setting}: {part} is a {} in the recipe, not a table", other.type_str()),
        };
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// A TOML error with the nearest valid key where serde names the valid ones.
fn explain(error: &toml::de::Error, place: &str) -> anyhow::Error {
    let message = error.message();
    let hint = unknown_field(message)
        .and_then(|(seen, valid)| {
            let near = valid.iter().map(|v| (strsim::jaro_winkler(&seen, v), v)).max_by(|a, b| a.0.total_cmp(&b.0))?;
            (near.0 > 0.7).then(|| format!("\ndid you mean `{}`?", near.1))
        })
        .unwrap_or_default();
    anyhow!("{place}: {}{hint}\n(`ovhost recipe keys` lists every key with its meaning)", error.to_string().trim_end())
}

/// The unknown field and the valid ones out of serde's message.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.split("unknown field `").nth(1)?;
    let mut ticks = rest.split('`');
    let seen = ticks.next()?.to_owned();
    let valid = ticks.skip(1).step_by(2).map(str::to_owned).filter(|s| !s.is_empty()).collect::<Vec<_>>();
    (!valid.is_empty()).then_some((seen, valid))
}
