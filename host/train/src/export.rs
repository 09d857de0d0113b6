//! A checkpoint to a model folder: of a run that was interrupted, or of the evaluation that did best.
//!
//! ```text
//!  checkpoints/step-N/ ─┬─ model/ (whole; or adapters, with the base that the recipe names) ─┬─► weights, adapters merged ─► OUT/
//!                       └─ optimizer.safetensors: ema.NAME, where the average is asked for ──┘                └─► adapter (PEFT)
//! ```
//! What it writes is what the run would have written had it ended there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ovhost_model::{Checkpoint, LlavaOnevision, LoadOptions};
use tch::{Device, Kind};

use crate::checkpoint::{self, State};
use crate::ema::Export;
use crate::lora;
use crate::recipe::{Precision, Recipe};

/// What is to be written.
pub struct ExportOptions {
    /// A checkpoint, or a run folder for its newest whole one.
    pub checkpoint: PathBuf,
    /// The model folder to be made.
    pub out: PathBuf,
    /// The model folder that a run with adapters began with; the recipe's `model.folder` if absent.
    pub base: Option<PathBuf>,
    /// Which weights; those that the run's evaluations measure if absent.
    pub weights: Option<Export>,
    /// Where to write the adapters alone, in PEFT's layout.
    pub adapter: Option<PathBuf>,
}

/// What was written.
pub struct Exported {
    /// Updates that it had seen.
    pub step: u64,
    /// Which weights.
    pub weights: Export,
    /// Values of the model.
    pub parameters: usize,
    /// Whether there were adapters, which are now in the weights.
    pub merged: bool,
}

/// Writes a model folder of a checkpoint.
///
/// # Errors
/// A checkpoint that is not whole, adapters without their base or with another, a moving average that the run does not keep,
/// an output that is there already or cannot be written.
pub fn export(options: &ExportOptions) -> Result<Exported> {
    for out in [Some(&options.out), options.adapter.as_ref()].into_iter().flatten() {
        ensure!(!out.exists(), "{} is there already; remove it or name another folder", out.display());
    }
    let (path, state) = find(&options.checkpoint)?;
    let recipe: Recipe = serde_json::from_value(state.recipe.clone())
        .with_context(|| format!("the recipe in {}", path.join("state.json").display()))?;
    let source = match (&recipe.train.lora, &options.base) {
        (None, Some(base)) => {
            bail!("{} has whole weights: --base {} is not needed; leave it out", path.display(), base.display())
        }
        (None, None) => path.join("model"),
        (Some(_), Some(base)) => base.clone(),
        (Some(_), None) => base(&path, &recipe)?,
    };
    ensure!(
        options.adapter.is_none() || recipe.train.lora.is_some(),
        "--adapter: the run of {} has no adapters (train.lora)",
        path.display()
    );
    let weights = options.weights.unwrap_or(recipe.evaluated());
    let kind = match recipe.model.precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    };
    let model = lora::load_model(&recipe, &source, Some(&path), &LoadOptions { device: Device::Cpu, kind })?;
    if weights == Export::Ema {
        take_average(&model, &path)?;
    }
    whole(&options.out, |dir| Ok(model.save_folder(dir, &source)?))?;
    if let Some(adapter) = &options.adapter {
        whole(adapter, |dir| lora::export(&model, dir, &source, &recipe.train))?;
    }
    Ok(Exported {
        step: state.step,
        weights,
        parameters: model.parameters().iter().map(|p| p.tensor.numel()).sum(),
        merged: recipe.train.lora.is_some(),
    })
}

/// The checkpoint that is meant.
fn find(path: &Path) -> Result<(PathBuf, State)> {
    // Through the link `best`, so that the checkpoint's place in its run shows.
    let path = fs::canonicalize(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let checkpoints = path.join("checkpoints");
    if !checkpoints.is_dir() {
        ensure!(
            path.join("state.json").is_file(),
            "{} is neither a checkpoint (RUN/checkpoints/step-N, RUN/checkpoints/best) nor a run folder",
            path.display()
        );
        return Ok((path.clone(), checkpoint::open(&path)?));
    }
    let (found, warnings) = checkpoint::newest(&checkpoints)?;
    found.with_context(|| {
        let why = if warnings.is_empty() { String::new() } else { format!(": {}", warnings.join("; ")) };
        format!("{} has no whole checkpoint{why}", checkpoints.display())
    })
}

/// The recipe's model folder. It is relative to the recipe, whose place follows from that of the run.
fn base(checkpoint: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let (folder, run) = (&recipe.model.folder, &recipe.run.folder);
    let home = checkpoint.ancestors().nth(2).unwrap_or(checkpoint);
    let relative: PathBuf = run.components().filter(|part| *part != std::path::Component::CurDir).collect();
    let place = if folder.is_absolute() {
        Some(folder.to_owned())
    } else if home.ends_with(&relative) {
        home.ancestors().nth(relative.components().count()).map(|dir| dir.join(folder))
    } else {
        None
    };
    place.filter(|place| place.join("config.json").is_file()).with_context(|| {
        format!(
            "{} holds adapters, and the model folder that they belong to, {} in the recipe, is not where it was; name it with \
             --base",
            checkpoint.display(),
            folder.display()
        )
    })
}

/// Puts the moving averages of a checkpoint into the model.
fn take_average(model: &LlavaOnevision, checkpoint: &Path) -> Result<()> {
    let file = checkpoint.join("optimizer.safetensors");
    let saved = Checkpoint::open_file(&file)?;
    let params: Vec<_> = model.parameters().into_iter().chain(model.adapters()).collect();
    let _guard = tch::no_grad_guard();
    let mut any = false;
    for name in saved.names().filter_map(|name| name.strip_prefix("ema.")) {
        let param = params.iter().find(|p| p.name == name);
        let param = param.with_context(|| format!("{}: the model has no {name}", file.display()))?;
        let average = saved.tensor(&format!("ema.{name}"))?;
        let (found, wanted) = (average.size(), param.tensor.size());
        ensure!(found == wanted, "{}: ema.{name} has shape {found:?}, the model needs {wanted:?}", file.display());
        param.tensor.shallow_clone().f_copy_(&average)?;
        any = true;
    }
    ensure!(
        any,
        "{} has no moving average of the weights (train.ema_decay was 0): take the last ones with --weights last",
        checkpoint.display()
    );
    Ok(())
}

/// A folder that is whole or absent.
fn whole(home: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = home.file_name().with_context(|| format!("{} is not a folder's name", home.display()))?;
    let staging = home.with_file_name(format!(".tmp-{}", name.to_string_lossy()));
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| format!("removing {}", staging.display()))?;
    }
    if let Some(parent) = home.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    write(&staging)?;
    checkpoint::sync_tree(&staging)?;
    fs::rename(&staging, home).with_context(|| format!("writing {}", home.display()))
}
