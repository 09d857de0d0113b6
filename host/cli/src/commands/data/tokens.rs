//! By what a command counts tokens: a recipe, or a model or tokenizer folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use ovhost_data::{ChatTokenizer, ImageProcessor, pipeline::PluginStages};
use ovhost_plugin::Kind;
use ovhost_prep::{Encoding, stats::Tokens};
use ovhost_train::Recipe;

use crate::{training::recipe_dir, wiring};

/// Arguments that say how tokens are counted.
#[derive(clap::Args)]
pub struct TokenArgs {
    /// Recipe whose tokenizer, image sizes and prompt count tokens (its filters are left out)
    #[arg(long, conflicts_with = "model")]
    recipe: Option<PathBuf>,
    /// Override a key of the recipe, as in data.capacity=16384 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    settings: Vec<String>,
    /// Model folder that counts tokens; of a tokenizer folder without image sizes, those of the answers
    #[arg(long)]
    model: Option<PathBuf>,
    /// Prompt that turns records into conversations, with --model
    #[arg(long, default_value = "prompts/conversation.wasm", requires = "model", conflicts_with = "recipe")]
    prompt: String,
}

impl TokenArgs {
    /// Loads what they name. `capacity`: most tokens of a sample, instead of the recipe's.
    pub fn load(&self, capacity: Option<u32>, crashes: &Path) -> Result<Tokens> {
        let host = wiring::host;
        let prompts = [Kind::Prompt];
        let (folder, plugins, seed, capacity, max_pixels) = match (&self.recipe, &self.model) {
            (None, None) => return Ok(Tokens::None),
            (Some(path), _) => {
                let recipe = Recipe::read(path, &self.settings)?;
                recipe.data.check()?;
                let dir = recipe_dir(path);
                let seed = recipe.run.seed;
                let plugins = wiring::plugins(&host()?, Some(&recipe.plugins), &[], &dir, seed, crashes, &prompts)?;
                let capacity = capacity.unwrap_or(recipe.data.capacity);
                (dir.join(&recipe.model.folder), plugins, seed, capacity, Some(recipe.data.max_image_pixels))
            }
            (None, Some(folder)) => {
                if !folder.join("preprocessor_config.json").is_file() {
                    return Ok(Tokens::Answers(Box::new(ChatTokenizer::from_folder(folder)?)));
                }
                let given = std::slice::from_ref(&self.prompt);
                let plugins = wiring::plugins(&host()?, None, given, Path::new("."), 0, crashes, &prompts)?;
                (folder.clone(), plugins, 0, capacity.unwrap_or(u32::MAX), None)
            }
        };
        let prompt = plugins.prompt.context("no prompt plugin is named")?;
        let mut images = ImageProcessor::from_folder(&folder)?;
        images.max_decode_pixels = max_pixels.unwrap_or(images.max_decode_pixels);
        ensure!(capacity > 0, "a sample of at most 0 tokens holds nothing; allowed: 1 or more");
        Ok(Tokens::Exact(Box::new(Encoding {
            chat: Arc::new(ChatTokenizer::from_folder(&folder)?),
            images: Arc::new(images),
            stages: Arc::new(PluginStages::new(Vec::new(), prompt, None)?),
            capacity,
            seed,
        })))
    }
}
