//! From a recipe to what a run needs: plugins, tokenizer, image processor, loaders, evaluators.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ovhost_data::blend::Blend;
use ovhost_data::pipeline::{PluginStages, ShardSource};
use ovhost_data::shards::expand;
use ovhost_data::{ChatTokenizer, ImageProcessor, LoaderParts};
use ovhost_infer::GenerationConfig;
use ovhost_model::ModelConfig;
use ovhost_plugin::{Host, Kind};
use ovhost_store::output_path;
use ovhost_train::evaluation::LOSS;
use ovhost_train::{Evaluator, HeldOut, Recipe};

use crate::live_eval::Asked;
use crate::wiring::{self, Plugins};

/// What a recipe names, opened.
pub struct Training {
    /// The recipe.
    pub recipe: Recipe,
    /// Folder in which its relative paths start.
    pub dir: PathBuf,
    /// Its plugins and those of the command line.
    pub plugins: Plugins,
    /// What the loader of the training data works with.
    pub parts: LoaderParts,
}

/// Questions answered at once where the recipe says nothing.
const QUESTIONS: usize = 32;

impl Training {
    /// Opens plugins, tokenizer, image processor and the training shards.
    ///
    /// # Errors
    /// What is missing, damaged or does not go together.
    pub fn open(recipe: Recipe, dir: PathBuf, host: &Host, extra: &[String]) -> Result<Self> {
        let ranks = Ranks::from_environment()?;
        let kinds = [Kind::Filter, Kind::Prompt, Kind::Packer, Kind::Metric];
        output_path(&recipe.run.folder.to_string_lossy())
            .map_err(|why| anyhow!("run.folder is {}: {why}", recipe.run.folder.display()))?;
        let crashes = dir.join(&recipe.run.folder).join("crashes");
        let plugins = wiring::plugins(host, Some(&recipe.plugins), extra, &dir, recipe.run.seed, &crashes, &kinds)?;
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
            rank: ranks.rank,
            world: ranks.world,
        };
        Ok(Training { recipe, dir, plugins, parts })
    }

    /// Fails where this process is one of several.
    ///
    /// # Errors
    /// `WORLD_SIZE` is above 1.
    pub fn refuse_ranks(&self) -> Result<()> {
        ensure!(
            self.parts.world == 1,
            "WORLD_SIZE is {}: training with several processes is not there yet. The data is dealt out among ranks, but gradients              are not summed between them, so each would train a model of its own; start one process without WORLD_SIZE",
            self.parts.world
        );
        Ok(())
    }

    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.dir.join(&self.recipe.run.folder)
    }

    /// What measures the model every `eval.every` steps: nothing where that is 0.
    ///
    /// # Errors
    /// Shards or a generation configuration that cannot be used, nothing to measure with.
    pub fn evaluators(&self, stop: &Arc<AtomicBool>) -> Result<Vec<Box<dyn Evaluator>>> {
        let eval = &self.recipe.eval;
        let mut out: Vec<Box<dyn Evaluator>> = Vec::new();
        if eval.every == 0 {
            return Ok(out);
        }
        if !eval.validation.is_empty() {
            out.push(Box::new(self.held_out(stop)?));
        }
        if !eval.shards.is_empty() && !self.plugins.metrics.is_empty() {
            out.push(Box::new(self.asked(stop)?));
        }
        let best = self.recipe.checkpoint.best.as_ref().map(|best| best.metric.as_str());
        ensure!(
            !out.is_empty() && (best.is_none_or(|metric| metric == LOSS) || !self.plugins.metrics.is_empty()),
            "eval.every is {}{}, but there is no metric plugin to score eval.shards: name one in [[plugins.metric]], as in \
             metrics/exact_match.wasm",
            eval.every,
            best.map(|metric| format!(" and checkpoint.best.metric {metric:?}")).unwrap_or_default()
        );
        Ok(out)
    }

    /// The held-out loss.
    pub fn held_out(&self, stop: &Arc<AtomicBool>) -> Result<HeldOut> {
        let config = self.recipe.eval.validation_data(&self.recipe.data);
        let source = Blend::of_config(&config, &self.dir)
            .and_then(|blend| ShardSource::open_blend(&blend, self.recipe.data.max_image_pixels))
            .context("eval.validation")?;
        Ok(HeldOut {
            config,
            parts: LoaderParts { source: Arc::new(source), rank: 0, world: 1, ..self.parts.clone() },
            batches: self.recipe.eval.validation_batches,
            stop: Arc::clone(stop),
            rejects: self.folder().join("eval/validation_rejects.jsonl"),
        })
    }

    /// The questions of `eval.shards`.
    pub fn asked(&self, stop: &Arc<AtomicBool>) -> Result<Asked> {
        let (eval, folder) = (&self.recipe.eval, self.dir.join(&self.recipe.model.folder));
        let paths = expand(&eval.shards, &self.dir).context("eval.shards")?;
        let source = ShardSource::open(&paths, self.parts.images.max_decode_pixels).context("eval.shards")?;
        let prompt = self.plugins.prompt.clone().context("the recipe names no prompt plugin")?;
        let mut generation = GenerationConfig::from_folder(&folder)?;
        generation.max_new_tokens = eval.max_new_tokens.unwrap_or(generation.max_new_tokens);
        Ok(Asked {
            source: Arc::new(source),
            stages: PluginStages::new(Vec::new(), prompt, None)?,
            chat: Arc::clone(&self.parts.chat),
            images: Arc::clone(&self.parts.images),
            metrics: self.plugins.metrics.clone(),
            generation,
            batch_size: eval.batch_size.unwrap_or(QUESTIONS).max(1),
            limit: eval.limit,
            seed: self.recipe.run.seed,
            out: self.folder().join("eval"),
            stop: Arc::clone(stop),
        })
    }
}

/// Which of how many processes this is, as launchers such as torchrun say it.
struct Ranks {
    rank: u32,
    world: u32,
}

impl Ranks {
    /// `RANK` and `WORLD_SIZE`; one process where they are not set.
    fn from_environment() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u32>> {
            let Some(text) = std::env::var_os(name) else { return Ok(None) };
            let text = text.to_string_lossy().into_owned();
            let value =
                text.parse().with_context(|| format!("the environment variable {name} is {text:?}, not a number"))?;
            Ok(Some(value))
        };
        let (rank, world) = (number("RANK")?, number("WORLD_SIZE")?.unwrap_or(1));
        let rank = match (rank, world) {
            (None, 2..) => bail!("WORLD_SIZE is {world}, but RANK is not set; a launcher such as torchrun sets both"),
            (rank, _) => rank.unwrap_or(0),
        };
        ensure!(rank < world, "RANK is {rank}, but WORLD_SIZE is {world}; it must be below it");
        Ok(Ranks { rank, world })
    }
}

/// Folder in which a recipe's relative paths start.
pub fn recipe_dir(recipe: &Path) -> PathBuf {
    recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}
