//! `ovhost model`: new model folders, merged ones, those of checkpoints, and comparing a folder with expected values.

mod export;
mod import;
mod merge;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use ovhost_data::{ChatTokenizer, ImageProcessor};
use ovhost_model::{LlavaOnevision, ModelConfig, Preset};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::wiring;

/// Subcommands of `ovhost model`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a model folder with random weights, to be trained from nothing
    New(NewArgs),
    /// Join a vision tower and a language model to a model folder, with a new merger between them
    Merge(merge::Args),
    /// Make a Hugging Face folder of a GGUF file: a language model to merge
    Import(import::Args),
    /// Make a model folder of a run's checkpoint: adapters merged, the last weights or their moving average
    Export(export::Args),
    /// Compare a model with expected tensors, losses, gradients and updates
    Verify(VerifyArgs),
}

/// Arguments of `ovhost model new`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  ovhost model new --config architecture.json --processor preprocessor_config.json --tokenizer tokenizer --out model

The vocabulary size and the special tokens' ids are taken from the tokenizer; the rest of the architecture is config.json's.")]
pub struct NewArgs {
    /// Architecture, in the form of a Hugging Face config.json
    #[arg(long, required_unless_present = "preset", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// A released architecture instead: 3b, 4b, 8b, 14b, 32b
    #[arg(long)]
    preset: Option<String>,
    /// Image processor, in the form of a Hugging Face preprocessor_config.json
    #[arg(long)]
    processor: PathBuf,
    /// Folder of the tokenizer
    #[arg(long)]
    tokenizer: PathBuf,
    /// The model folder
    #[arg(long)]
    out: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: i64,
}

/// Arguments of `ovhost model verify`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  ovhost model verify --model converted --expected expected.safetensors

FILE holds image.N.{pixel_values,grid_thw,vit,merged} and seq.N.{input_ids,labels,logits,loss_sum}; expected.json beside it names the
pictures, greedy continuations, the packed batch's loss and AdamW steps; expected_grads.safetensors the gradients.")]
pub struct VerifyArgs {
    /// Model folder
    #[arg(long)]
    model: PathBuf,
    /// Expected tensors
    #[arg(long, value_name = "FILE")]
    expected: PathBuf,
    /// Largest error, relative to the tensor's scale
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
}

/// Runs the command.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::New(args) => new(&args),
        Command::Merge(args) => merge::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Verify(args) => {
            wiring::device("cpu", 0)?;
            let report = ovhost_model::verify(&args.model, &args.expected, args.tolerance)?;
            println!("{report}");
            Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn new(args: &NewArgs) -> Result<ExitCode> {
    ensure!(
        !args.out.join("config.json").exists(),
        "{} already holds a model; remove it or name another folder with --out",
        args.out.display()
    );
    wiring::device("cpu", 0)?;
    let chat = ChatTokenizer::from_folder(&args.tokenizer)?;
    let text = fs::read_to_string(&args.processor)
        .with_context(|| format!("reading the processor {}", args.processor.display()))?;
    let processor =
        ImageProcessor::from_json(&text).map_err(|e| anyhow::anyhow!("{}: {e}", args.processor.display()))?;
    let (text, file) = match (&args.config, &args.preset) {
        (Some(path), _) => {
            let text =
                fs::read_to_string(path).with_context(|| format!("reading the architecture {}", path.display()))?;
            (text, path.display().to_string())
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let known = Preset::ALL.map(Preset::name).join(", ");
            let preset = Preset::by_name(name)
                .with_context(|| format!("no architecture is called {name:?}; there are {known}"))?;
            (preset.config().to_json("float32").to_string(), format!("preset {name}"))
        }
    };
    let config = ModelConfig::from_json(&with_tokenizer(&text, &file, &chat)?.to_string(), &file)?;
    ensure!(
        i64::from(processor.patch_size) == config.vision.patch_size
            && i64::from(processor.merge_size) == config.vision.spatial_merge_size,
        "{} cuts patches of {} and merges {}, {file} has {} and {}: they must agree",
        args.processor.display(),
        processor.patch_size,
        processor.merge_size,
        config.vision.patch_size,
        config.vision.spatial_merge_size
    );
    let model = LlavaOnevision::random(config, args.seed, Device::Cpu, Kind::Float)?;
    fs::create_dir_all(&args.out)?;
    fs::copy(&args.processor, args.out.join("preprocessor_config.json")).context("copying the image processor")?;
    model.save_folder(&args.out, &args.tokenizer)?;
    let count: usize = model.parameters().iter().map(|p| p.tensor.numel()).sum();
    println!("{}: {:.2} M parameters, vocabulary {}", args.out.display(), count as f64 / 1e6, chat.vocab_len());
    Ok(ExitCode::SUCCESS)
}

/// The architecture with the tokenizer's sizes and ids.
fn with_tokenizer(text: &str, file: &str, chat: &ChatTokenizer) -> Result<Value> {
    let mut config: Value = serde_json::from_str(text).with_context(|| format!("{file} is not JSON"))?;
    let id = |token: &str| chat.token_id(token).with_context(|| format!("the tokenizer has no token {token}"));
    let eos = chat.eos_ids().first().copied().context("the tokenizer names no end-of-turn token")?;
    let top = config.as_object_mut().with_context(|| format!("{file} is not a JSON object"))?;
    if let Some(Value::Object(text)) = top.get_mut("text_config") {
        text.insert("vocab_size".into(), json!(chat.vocab_len()));
        text.insert("eos_token_id".into(), json!(eos));
    }
    let ids = [
        ("vocab_size", json!(chat.vocab_len())),
        ("image_token_id", json!(id("<|image_pad|>")?)),
        ("video_token_id", json!(id("<|video_pad|>")?)),
        ("vision_start_token_id", json!(id("<|vision_start|>")?)),
        ("vision_end_token_id", json!(id("<|vision_end|>")?)),
        ("eos_token_id", json!(eos)),
    ];
    top.extend(ids.map(|(name, value)| (name.to_owned(), value)));
    Ok(config)
}
