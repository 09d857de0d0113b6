//! `ovhost model merge`: a vision tower and a language model to a model folder that training can start from.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_model::llava_onevision1_5::merge::{MergeOptions, VisionSource, merge};

use crate::wiring;

/// Arguments of `ovhost model merge`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost model merge --vision rice-vit-large-patch14-560 --llm Qwen3-4B-Instruct-2507 --untie --out stage_0
  ovhost model merge --new-vision architecture.json --llm SmolLM2-135M-Instruct --system '' --out model

The result's width, layers and vocabulary are the language model's. Special tokens that its tokenizer lacks are added; their rows of
the embedding are the mean of the others. Every tensor of the sources is compared with the result; merge.json holds the hashes.")]
pub struct Args {
    /// Folder of the vision tower: RICE (mlcd_vision_model), or a model of this family whose tower is taken
    #[arg(long, value_name = "DIR", required_unless_present = "new_vision", conflicts_with = "new_vision")]
    vision: Option<PathBuf>,
    /// A tower with random weights instead: a config.json or its vision_config
    #[arg(long, value_name = "FILE")]
    new_vision: Option<PathBuf>,
    /// Folder of the language model: Qwen3, Qwen2.5, Llama or Mistral, with its tokenizer
    #[arg(long, value_name = "DIR")]
    llm: PathBuf,
    /// The model folder
    #[arg(long)]
    out: PathBuf,
    /// Seed of the merger's weights, and of a new tower's
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// Where the language model ties its head to the embedding: a head of its own, which begins as a copy
    #[arg(long)]
    untie: bool,
    /// Most bytes of tensors in one file, as in 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: usize,
    /// Image processor, in the form of a Hugging Face preprocessor_config.json; by default the reference's, for the tower's patches
    #[arg(long, value_name = "FILE")]
    processor: Option<PathBuf>,
    /// System message of conversations that bring none; '' for none
    #[arg(long, value_name = "TEXT", default_value = "You are a helpful assistant.")]
    system: String,
}

/// Bytes: a number, or one with KB, MB, GB, KiB, MiB, GiB.
pub(super) fn size(text: &str) -> Result<usize> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        _ => bail!("{unit:?} is no unit of bytes; allowed are B, KB, MB, GB, KiB, MiB and GiB"),
    };
    let bytes = number.parse::<f64>().ok().map(|n| n * factor).filter(|b| (1.0..1e15).contains(b));
    Ok(bytes.with_context(|| format!("{text:?} is no size; write one such as 500MB or 5GB"))? as usize)
}

/// A bar of bytes.
pub(super) fn bytes_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} · {bytes_per_sec} · {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    wiring::device("cpu", 0)?;
    let vision = match (args.vision, args.new_vision) {
        (Some(folder), _) => VisionSource::Folder(folder),
        (None, file) => VisionSource::New(file.context("--vision or --new-vision is wanted")?),
    };
    let bar = bytes_bar();
    let options = MergeOptions {
        vision,
        llm: args.llm,
        out: args.out.clone(),
        seed: args.seed,
        untie: args.untie,
        shard_bytes: args.max_shard_size,
        processor: args.processor,
        system: args.system,
    };
    let report = merge(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    println!("{}:\n{}", args.out.display(), report?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("5GB").unwrap(), 5_000_000_000);
        assert_eq!(size("1.5 MiB").unwrap(), 1_572_864);
        assert_eq!(size("1024").unwrap(), 1024);
        for bad in ["", "GB", "0", "5 stone", "-1MB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
