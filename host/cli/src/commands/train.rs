//! `ovhost train`: recipe and plugins to a run.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use ovhost_data::Loader;
use ovhost_train::{Recipe, TrainOptions};
use tracing::info;

use crate::{
    console, dry_run,
    training::{Training, recipe_dir},
    wiring,
};

/// Arguments of `ovhost train`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost train
  ovhost train --recipe examples/easy_vqa/recipe.toml --set train.lr=2e-3 --set run.folder=runs/faster
  ovhost train --plugins packers/padding_free.wasm,filters/caption_quality.wasm
  ovhost train --dry-run
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
    /// Check recipe, data, plugins, weights and disk space, print the plan of memory and time, and train nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: print the plan as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe, &args.settings)?;
    let device = wiring::device(&recipe.run.device, recipe.run.threads)?;
    let training = Training::open(recipe, recipe_dir(&args.recipe), &wiring::host()?, &args.plugins)?;
    if args.dry_run {
        return dry_run::run(&training, device, args.resume, args.json);
    }
    training.refuse_ranks()?;
    let stop = console::stop_flag(console::AFTER_THIS_STEP)?;
    let evaluators = training.evaluators(&stop)?;
    let Training { recipe, dir, plugins, parts } = training;
    let options = TrainOptions {
        recipe: recipe.clone(),
        recipe_dir: dir,
        device,
        resume: args.resume,
        allow_recipe_change: args.allow_recipe_change,
        plugins: plugins.provenance(),
        stop,
    };
    let make_loader = Box::new(|state| {
        Ok(match state {
            None => Loader::start(&recipe.data, parts)?,
            Some(state) => Loader::resume(&recipe.data, parts, state)?,
        })
    });
    let summary = ovhost_train::train(options, make_loader, evaluators)?;
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
