//! `ovhost train`: recipe and plugins to a run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use std::sync::Arc;

use ovhost_data::{
    ChatTokenizer, ImageProcessor, Loader, LoaderParts,
    blend::Blend,
    pipeline::{PluginStages, ShardSource},
};
use ovhost_model::ModelConfig;
use ovhost_plugin::Kind;
use ovhost_store::output_path;
use ovhost_train::{Recipe, TrainOptions};
use tracing::info;

use crate::{console, wiring};

/// Arguments of `ovhost train`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost train
  ovhost train --recipe examples/easy_vqa/recipe.toml --set train.lr=2e-3 --set run.folder=runs/faster
  ovhost train --plugins packers/padding_free.wasm,filters/caption_quality.wasm
  ovhost train --resume")]
pub struct Args {
    /// The recipe; its folder is where its relative paths start
    #[arg(long, default_value = "recipe.toml")]
    recipe: PathBuf,
    /// Plugins beside or instead of the recipe's: filters are added, a prompt or packer replaces
    #[arg(long, value_delimiter = ',')]
    plugins: Vec<String>,
    /// Override a key of the recipe, as in train.lr=3e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Go on from the run folder's newest whole checkpoint
    #[arg(long)]
    resume: bool,
    /// With --resume: go on although the recipe or a plugin has changed
    #[arg(long, requires = "resume")]
    allow_recipe_change: bool,
}

/// Folder in which a recipe's relative paths start.
pub fn recipe_dir(recipe: &Path) -> PathBuf {
    recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe, &args.settings)?;
    let dir = recipe_dir(&args.recipe);
    let device = wiring::device(&recipe.run.device, recipe.run.threads)?;
    let host = wiring::host()?;
    let kinds = [Kind::Filter, Kind::Prompt, Kind::Packer, Kind::Metric];
    output_path(&recipe.run.folder.to_string_lossy())
        .map_err(|why| anyhow!("run.folder is {}: {why}", recipe.run.folder.display()))?;
    let crashes = dir.join(&recipe.run.folder).join("crashes");
    let plugins =
        wiring::plugins(&host, Some(&recipe.plugins), &args.plugins, &dir, recipe.run.seed, &crashes, &kinds)?;
    let stop = console::stop_flag(console::AFTER_THIS_STEP)?;
    let options = TrainOptions {
        recipe: recipe.clone(),
        recipe_dir: dir.clone(),
        device,
        resume: args.resume,
        allow_recipe_change: args.allow_recipe_change,
        plugins: plugins.provenance(),
        stop,
    };
    let model_folder = dir.join(&recipe.model.folder);
    let chat = ChatTokenizer::from_folder(&model_folder)?;
    chat.check_vocab(ModelConfig::from_folder(&model_folder)?.text.vocab_size.unsigned_abs() as usize)?;
    let mut images = ImageProcessor::from_folder(&model_folder)?;
    images.max_decode_pixels = recipe.data.max_image_pixels;
    let source = ShardSource::open_blend(&Blend::of_config(&recipe.data, &dir)?, images.max_decode_pixels)?;
    let stages = PluginStages::new(
        plugins.filters.clone(),
        plugins.prompt.clone().context("the recipe names no prompt plugin")?,
        Some(plugins.packer.clone().context("the recipe names no packer plugin")?),
    )?
    .with_on_trap(recipe.data.on_plugin_failure);
    let parts = LoaderParts {
        source: Arc::new(source),
        stages: Arc::new(stages),
        chat: Arc::new(chat),
        images: Arc::new(images),
        seed: recipe.run.seed,
        rank: 0,
        world: 1,
    };
    let make_loader = Box::new(|state| {
        Ok(match state {
            None => Loader::start(&recipe.data, parts)?,
            Some(state) => Loader::resume(&recipe.data, parts, state)?,
        })
    });
    let summary = ovhost_train::train(options, make_loader)?;
    info!(
        "{} steps, {:.2} M tokens, {:.0} s, loss {:.4}, packs {:.2} % full; {}",
        summary.steps,
        summary.tokens as f64 / 1e6,
        summary.seconds,
        summary.loss,
        summary.fill * 100.0,
        summary.samples
    );
    if summary.interrupted {
        eprintln!("interrupted; `ovhost train --recipe {} --resume` goes on", args.recipe.display());
        return Ok(console::interrupted());
    }
    if let Some(model) = summary.model {
        println!("{}", model.display());
    }
    Ok(ExitCode::SUCCESS)
}
