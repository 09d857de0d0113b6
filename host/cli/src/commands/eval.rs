//! `ovhost eval`: a data set's questions to answers and scores.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use ovhost_data::{
    ChatTokenizer, EvalReader, ImageProcessor,
    pipeline::{PluginStages, ShardSource},
    shards::{expand, stored_size},
};
use ovhost_eval::{EvalOptions, Results};
use ovhost_infer::{GenerationConfig, Generator};
use ovhost_model::{LlavaOnevision, LoadOptions, ModelConfig};
use ovhost_plugin::Kind;
use ovhost_store::output_path;
use ovhost_train::Recipe;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::infer::precision;
use crate::{console, training::recipe_dir, wiring};

/// Arguments of `ovhost eval`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost eval --recipe recipe.toml --model runs/demo/model
  ovhost eval --model M --data data/test --plugins prompts/conversation.wasm,metrics/exact_match.wasm --out scores
  ovhost eval --recipe recipe.toml --model M --blank-images      what the questions alone give away

Answers are saved as they come: the same command goes on where it was stopped. OUT/results.json has the values with counts and
standard errors, OUT/samples.jsonl every answer with its scores. Exit code 3 tells that some samples could not be asked.")]
pub struct Args {
    /// Model folder in Hugging Face layout
    #[arg(long)]
    model: PathBuf,
    /// A recipe whose plugins and eval section are used
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Shards: files, folders, {000000..000009} patterns; the recipe's eval.shards if absent
    #[arg(long, num_args = 1..)]
    data: Vec<String>,
    /// Plugins beside or instead of the recipe's: metrics are added, a prompt replaces
    #[arg(long, value_delimiter = ',')]
    plugins: Vec<String>,
    /// Folder of the results
    #[arg(long, default_value = "eval", value_parser = output_path)]
    out: PathBuf,
    /// Questions answered at once
    #[arg(long)]
    batch_size: Option<usize>,
    /// Most tokens of an answer
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Only this many questions, from the first
    #[arg(long)]
    limit: Option<u64>,
    /// Replace every picture by a black one of its size
    #[arg(long)]
    blank_images: bool,
    /// auto, cpu, cuda, cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// fp32 or bf16; the default is bf16 on CUDA, fp32 on the CPU
    #[arg(long)]
    precision: Option<String>,
}

/// Exit code of an evaluation in which some samples could not be asked or scored.
const INCOMPLETE: u8 = 3;

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let recipe = args.recipe.as_ref().map(|path| Recipe::read(path, &[])).transpose()?;
    let dir = args.recipe.as_deref().map_or_else(|| PathBuf::from("."), recipe_dir);
    let seed = recipe.as_ref().map_or(1, |r| r.run.seed);
    let (shards, base) = match (&recipe, args.data.is_empty()) {
        (_, false) => (args.data.clone(), Path::new("")),
        (Some(recipe), true) if !recipe.eval.shards.is_empty() => (recipe.eval.shards.clone(), dir.as_path()),
        _ => anyhow::bail!("no data: name shards with --data, or a --recipe whose [eval] section has them"),
    };
    let device = wiring::device(&args.device, recipe.as_ref().map_or(0, |r| r.run.threads))?;
    let kind = precision(args.precision.as_deref(), device)?;
    let host = wiring::host()?;
    let kinds = [Kind::Prompt, Kind::Metric];
    let (set, crashes) = (recipe.as_ref().map(|r| &r.plugins), args.out.join("crashes"));
    let plugins = wiring::plugins(&host, set, &args.plugins, &dir, seed, &crashes, &kinds)?;
    ensure!(!plugins.metrics.is_empty(), "no metric plugin: name one with --plugins, as in metrics/exact_match.wasm");
    let prompt =
        plugins.prompt.clone().context("no prompt plugin: name one with --plugins, as in prompts/conversation.wasm")?;
    let chat = Arc::new(ChatTokenizer::from_folder(&args.model)?);
    chat.check_vocab(usize::try_from(ModelConfig::from_folder(&args.model)?.text.vocab_size)?)?;
    let mut images = ImageProcessor::from_folder(&args.model)?;
    if let Some(recipe) = &recipe {
        images.max_decode_pixels = recipe.data.max_image_pixels;
    }
    let images = Arc::new(images);
    let paths = expand(&shards, base)?;
    let source = Arc::new(ShardSource::open(&paths, images.max_decode_pixels)?);
    let stages = PluginStages::new(Vec::new(), prompt, None)?;
    let reader = EvalReader::new(Some(source), &stages, Arc::clone(&chat), Arc::clone(&images), seed)?;
    let mut config = GenerationConfig::from_folder(&args.model)?;
    config.max_new_tokens =
        args.max_new_tokens.or(recipe.as_ref().and_then(|r| r.eval.max_new_tokens)).unwrap_or(config.max_new_tokens);
    config.stop_strings.extend(reader.stop_strings().iter().cloned());
    let settings = json!({
        "model": hash_model(&args.model)?, "data": hash_shards(&paths)?, "plugins": plugins.provenance(), "generation": config,
        "blank_images": args.blank_images, "limit": args.limit, "precision": format!("{kind:?}"), "seed": seed,
    });
    let model = LlavaOnevision::load(&args.model, &LoadOptions { device, kind })?;
    let batch_size = args.batch_size.or(recipe.as_ref().and_then(|r| r.eval.batch_size)).unwrap_or(32).max(1);
    let decode = |ids: &[i64]| {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        chat.decode(&ids, true).map_err(|e| e.to_string())
    };
    let generator = Generator::new(&model, config)?.with_decoder(decode).with_batch_size(batch_size);
    let results = ovhost_eval::evaluate(EvalOptions {
        reader,
        generator,
        chat: Arc::clone(&chat),
        images,
        metrics: plugins.metrics.clone(),
        out: args.out.clone(),
        batch_size,
        limit: args.limit,
        blank_images: args.blank_images,
        seed,
        settings,
        stop: console::stop_flag(console::AFTER_THIS_STEP)?,
        progress: true,
    })?;
    let Some(results) = results else {
        eprintln!("interrupted; the same command goes on");
        return Ok(console::interrupted());
    };
    print(&results, &args.out);
    Ok(if results.failed + results.unscored > 0 { ExitCode::from(INCOMPLETE) } else { ExitCode::SUCCESS })
}

fn print(results: &Results, out: &Path) {
    for (name, score) in &results.metrics {
        let error = score.stderr.map(|e| format!(" ± {e:.4}")).unwrap_or_default();
        println!("{name}  {:.4}{error}  (n = {})", score.value, score.count);
    }
    println!(
        "{} samples, {} answered, {} failed, {} unscored, {} truncated · {}",
        results.samples,
        results.answered,
        results.failed,
        results.unscored,
        results.truncated,
        out.join("results.json").display()
    );
}

/// SHA-256 over the model folder's files that decide its answers.
fn hash_model(folder: &Path) -> Result<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("reading the model folder {}", folder.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for path in names {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut file = fs::File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Name and size of every shard: a cheap identity that notices exchanged data.
fn hash_shards(paths: &[PathBuf]) -> Result<Value> {
    let of = |path: &PathBuf| -> Result<Value> {
        let size = stored_size(path)?;
        Ok(json!([path.file_name().unwrap_or_default().to_string_lossy(), size]))
    };
    Ok(Value::Array(paths.iter().map(of).collect::<Result<_>>()?))
}
