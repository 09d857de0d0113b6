//! `ovhost plugin build`: a project's folder becomes a component.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use ovhost_toolchain::{BuildOptions, Project};

use crate::places;

/// Arguments of `ovhost plugin build`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin build                     the project of this folder, into dist/NAME.wasm
  ovhost plugin build my_score --install  gets the pinned tools first, where they are missing
  ovhost plugin build --out ../shared/min_words.wasm

What a folder is, its ovhost-plugin.toml says (name, kind, lang); a Rust crate that depends on ovhost-sdk needs none.")]
pub struct Args {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where the component goes; else dist/NAME.wasm in the project
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Rust: optimised (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Rust: not optimised, with checks of arithmetic
    #[arg(long)]
    debug: bool,
    /// Rust: where cargo keeps what it compiles; projects may share it if their names differ
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Install what is missing, as `doctor --install` does
    #[arg(long)]
    install: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let project = Project::open(&args.path)?;
    let options = BuildOptions {
        out: args.out,
        debug: args.debug,
        target_dir: args.target_dir,
        install: args.install,
        quiet: args.json,
        accept: Some(|project, component| match &project.manifest {
            Some(manifest) => places::as_its_manifest(manifest, component),
            None => Ok(()),
        }),
    };
    let built = ovhost_toolchain::build(&project, &options)?;
    if args.json {
        let seconds = built.took.as_secs_f64();
        let json =
            serde_json::json!({ "path": built.path, "bytes": built.bytes, "sha256": built.sha256, "seconds": seconds });
        println!("{json:#}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", built.path.display());
    println!("  bytes   {}\n  sha256  {}\n  took    {:.1} s", built.bytes, built.sha256, built.took.as_secs_f64());
    let (program, shown) = (super::program(), args.path.display().to_string());
    let folder = if shown == "." { String::new() } else { format!(" {shown}") };
    if options.out.is_some() {
        println!("next: {program} test {} --cases {}", built.path.display(), project.cases().display());
    } else if project.cases().is_file() {
        println!("next: {program} test{folder}");
    } else {
        println!("next: write golden cases into {}, see `{program} test --help`", project.cases().display());
    }
    Ok(ExitCode::SUCCESS)
}
