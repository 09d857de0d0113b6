//! `ovhost model import`: a GGUF file to a language model's folder.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use ovhost_model::gguf::{ImportOptions, import};

use super::merge::{bytes_bar, size};
use crate::wiring;

/// Arguments of `ovhost model import`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  ovhost model import SmolLM2-135M-Instruct.Q4_1.gguf --out SmolLM2-135M-Instruct

Architectures: llama, qwen2, qwen3. Quantisations: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K; fp32 holds them exactly.")]
pub struct Args {
    /// The GGUF file
    file: PathBuf,
    /// The folder to be made: config.json, safetensors, tokenizer
    #[arg(long)]
    out: PathBuf,
    /// Take the tokenizer of this folder instead of the file's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Write bf16 weights instead of fp32: half the size, rounded
    #[arg(long)]
    bf16: bool,
    /// Most bytes of tensors in one file, as in 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    wiring::device("cpu", 0)?;
    let bar = bytes_bar();
    let options = ImportOptions {
        file: args.file,
        out: args.out.clone(),
        tokenizer: args.tokenizer,
        bf16: args.bf16,
        shard_bytes: args.max_shard_size,
    };
    let report = import(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    println!("{}: {}", args.out.display(), report?);
    Ok(ExitCode::SUCCESS)
}
