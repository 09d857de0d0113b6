//! `ovhost model export`: a checkpoint to a model folder.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use ovhost_train::ema::Export;
use ovhost_train::export::{ExportOptions, export};

use crate::wiring;

/// Arguments of `ovhost model export`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost model export runs/a/checkpoints/best --out best
  ovhost model export runs/lora --out merged --adapter adapter

The result is what the run would have written to model/ (or model-ema/, adapter/) had it ended at that checkpoint.")]
pub struct Args {
    /// A checkpoint (RUN/checkpoints/step-N, RUN/checkpoints/best), or a run folder for its newest whole one
    checkpoint: PathBuf,
    /// The model folder to be made
    #[arg(long)]
    out: PathBuf,
    /// last: the weights of the last update. ema: their moving average. Those that the run's evaluations measure if absent
    #[arg(long, value_parser = weights)]
    weights: Option<Export>,
    /// The model folder that a run with adapters began with, where it is no longer in its place
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Write the adapters alone too, in PEFT's layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

fn weights(name: &str) -> Result<Export, String> {
    match name {
        "last" => Ok(Export::Last),
        "ema" => Ok(Export::Ema),
        _ => Err("last and ema are known".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    wiring::device("cpu", 0)?;
    let Args { checkpoint, out, weights, base, adapter } = args;
    let done = export(&ExportOptions { checkpoint, out: out.clone(), base, weights, adapter })?;
    println!(
        "{}: {:.2} M parameters after step {}, {}{}",
        out.display(),
        done.parameters as f64 / 1e6,
        done.step,
        if done.weights == Export::Ema { "moving average of the weights" } else { "weights of the last update" },
        if done.merged { ", adapters merged" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}
