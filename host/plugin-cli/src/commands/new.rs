//! `ovhost plugin new`: a project that builds, tests and runs at once.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use ovhost_toolchain::{Kind, Lang};

use crate::scaffold::{self, Spec};

/// Arguments of `ovhost plugin new`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin new min_words                              a filter in Rust, in the new folder min_words
  ovhost plugin new --kind metric --lang python my_score
  ovhost plugin new --kind packer --path work/pack tight_pack

The project holds a small working example of its kind, unit tests, golden cases and what it needs of ovhost.")]
pub struct Args {
    /// Name of the plugin: lower-case words joined by _ or -
    name: String,
    /// What it is to do
    #[arg(long, default_value = "filter", value_parser = kinds())]
    kind: String,
    /// What it is to be written in
    #[arg(long, default_value = "rust", value_parser = langs())]
    lang: String,
    /// The new folder; else one of the plugin's name, here
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Rust: use the SDK in this folder instead of a copy in the project
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

fn kinds() -> PossibleValuesParser {
    Kind::ALL.map(Kind::name).into()
}

/// The languages as a flag takes them.
pub fn langs() -> PossibleValuesParser {
    Lang::ALL.map(Lang::name).into()
}

/// The language of that name.
pub fn lang(name: &str) -> Result<Lang> {
    match Lang::ALL.into_iter().find(|lang| lang.name() == name) {
        Some(lang) => Ok(lang),
        None => bail!("`{name}` is no language of plugins; allowed: {}", Lang::ALL.map(Lang::name).join(", ")),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == args.kind) else {
        bail!("`{}` is no kind of plugin; allowed: {}", args.kind, Kind::ALL.map(Kind::name).join(", "));
    };
    let lang = lang(&args.lang)?;
    let dir = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    scaffold::create(&dir, &Spec { name: &args.name, kind, lang, sdk: args.sdk.as_deref() })?;
    let (source, unit_tests) = match lang {
        Lang::Rust => ("src/lib.rs", "cargo test"),
        Lang::Python => ("app.py", "python3 -m unittest"),
        Lang::Js => ("plugin.js", "npm test"),
    };
    println!("made {}: a {kind} in {lang}; its source is {source}", dir.display());
    println!("next:\n  cd {}\n  {unit_tests}", dir.display());
    println!("  {program} build\n  {program} test", program = super::program());
    Ok(ExitCode::SUCCESS)
}
