//! `ovhost plugin lock`: writes into a recipe which files it means, so that no other is ever taken.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::files;
use crate::recipe::{Pin, pin};

/// Arguments of `ovhost plugin lock`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin lock recipe.toml
  ovhost plugin lock recipe.toml --check      in continuous integration

Each plugin and each asset gets the sha256 of the file that its name means now. A run refuses any other file; with
  [plugins]
  trust = \"pinned\"
it refuses what has no hash, too. Comments and everything else in the recipe stay as they are. Of a package (ns:name@1) or a tag
the pinned file stays as long as it is there; --update takes the newest.")]
pub struct Args {
    /// The recipe, or a file of [[filter]] tables
    #[arg(default_value = "recipe.toml")]
    recipe: PathBuf,
    /// Change nothing; the exit code is 1 where a hash is missing or another
    #[arg(long)]
    check: bool,
    /// Take the newest version of packages and tags, even if the pinned one is still there
    #[arg(long, conflicts_with = "check")]
    update: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let path = &args.recipe;
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (document, pins) = pin(&text, dir, args.update).with_context(|| format!("in {}", path.display()))?;
    let open: Vec<&Pin> = pins.iter().filter(|p| !p.holds()).collect();
    if open.is_empty() {
        println!("{}: all {} hashes hold", path.display(), pins.len());
        return Ok(ExitCode::SUCCESS);
    }
    for pin in &open {
        println!("{}", line(pin));
    }
    if args.check {
        eprintln!(
            "{}: {} of {} hashes are missing or differ; look at the files, then run `{} lock {}`",
            path.display(),
            open.len(),
            pins.len(),
            super::program(),
            path.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    // The name may be a link to where the recipe is kept; that file is the one to change.
    let target = std::fs::canonicalize(path).with_context(|| format!("reading the recipe {}", path.display()))?;
    files::write(&target, document.to_string().as_bytes())?;
    println!("{}: {} of {} hashes written", path.display(), open.len(), pins.len());
    Ok(ExitCode::SUCCESS)
}

fn line(pin: &Pin) -> String {
    let was = match &pin.wanted {
        None => "had none".to_owned(),
        Some(wanted) => format!("had {:.20}", wanted.strip_prefix("sha256:").unwrap_or(wanted)),
    };
    format!("{}  {}  {}  ({was})", pin.place, pin.name, pin.found)
}
