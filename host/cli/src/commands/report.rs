//! `ovhost report`: the curves of runs on one page.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// Arguments of `ovhost report`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost report runs/demo                        writes runs/demo/report.html
  ovhost report runs/a runs/b --out compare.html    both in each chart")]
pub struct Args {
    /// Folders of runs
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page; report.html in the run's folder if there is one run, in this folder otherwise
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let page = ovhost_train::report::report(&args.runs)?;
    let out = args.out.unwrap_or_else(|| match &args.runs[..] {
        [run] => run.join("report.html"),
        _ => "report.html".into(),
    });
    std::fs::write(&out, page).with_context(|| format!("writing {}", out.display()))?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}
