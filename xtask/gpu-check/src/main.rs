//! What `cargo xtask gpu-check` runs, here or carried to a machine with a GPU: is CUDA equal to the CPU, and how fast is it?
//!
//! ```text
//!  fixtures ─► verify on CUDA, fp32, every way of training ┐
//!  a batch  ─► CPU and CUDA, fp32 and bf16: loss, gradients ├─► a table, report.json, exit code 1 where something differs
//!  random weights ─► steps at so many tokens: seconds, MFU, HFU, memory by phase ┘
//! ```

mod compare;
mod profile;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use tch::Device;

/// Compare CUDA with the CPU, then time training on CUDA
#[derive(Debug, Parser)]
#[command(name = "gpu-check")]
struct Args {
    /// Folder with the fixtures (tests/fixtures/tiny-llava-ov-1.5)
    #[arg(long)]
    fixtures: PathBuf,
    /// What is done
    #[arg(long, value_enum, default_value = "all")]
    only: Only,
    /// Size that is timed: 3b, 4b, 8b, 14b, 32b, or a config.json
    #[arg(long, default_value = "4b")]
    size: String,
    /// Tokens of a packed batch
    #[arg(long, default_value_t = 8192)]
    tokens: i64,
    /// Timed steps of each way, after two that warm up
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// The GPU's bf16 peak in 10¹² operations a second, for MFU; known GPUs have theirs
    #[arg(long)]
    peak_tflops: Option<f64>,
    /// Where the figures are written, as JSON
    #[arg(long)]
    out: Option<PathBuf>,
    /// Device; `cpu` times the CPU, which shows that the command works
    #[arg(long, default_value = "cuda:0", overrides_with = "device")]
    device: String,
}

/// Parts of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Everything
    All,
    /// The comparison
    Compare,
    /// The times
    Time,
}

/// All that was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    device: String,
    torch: String,
    compared: Vec<compare::Row>,
    times: Vec<timing::Row>,
    profile: Vec<profile::Row>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let device = match args.device.as_str() {
        "cpu" => Device::Cpu,
        name => {
            let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
            let number = number.with_context(|| format!("--device is {name:?}; cpu or cuda:N is allowed"))?;
            ovhost_torch::load_cuda().map_err(|e| anyhow!("CUDA cannot be used: {e}"))?;
            let there = tch::Cuda::device_count();
            if number as i64 >= there {
                bail!("--device is {name}, and this machine has {there} GPUs that libtorch can use");
            }
            Device::Cuda(number)
        }
    };
    let name = timing::device_name(device);
    println!("{name}, libtorch {}", ovhost_torch::torch_version());
    let mut report =
        Report { device: name.clone(), torch: ovhost_torch::torch_version().to_owned(), ..Report::default() };
    if args.only != Only::Time {
        report.compared = compare::run(&args.fixtures, device)?;
    }
    if args.only != Only::Compare {
        let peak = args.peak_tflops.or_else(|| timing::peak_tflops(&name));
        report.profile = profile::run(&args.size, args.tokens, device)?;
        report.times = timing::run(&args.size, args.tokens, args.steps, device, peak)?;
    }
    if let Some(path) = &args.out {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let failed = report.compared.iter().filter(|row| !row.passed).count();
    if failed > 0 {
        println!("{failed} of {} comparisons differ by more than allowed", report.compared.len());
    }
    Ok(failed == 0)
}
