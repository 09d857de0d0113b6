//! `ovhost plugin sign`: a detached signature beside a component.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use ovhost_plugin::{Inspection, signature_path};
use ovhost_registry::{Artifact, digest};

use crate::keys::{self, PasswordArgs};
use crate::{files, places};

/// Arguments of `ovhost plugin sign`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin sign dist/caption.wasm --key lab.key
  ovhost plugin sign dist/*.wasm --key ci.key --no-password

The signature is FILE.minisig, in minisign's form. Its trusted comment names the file, its sha256 and the plugin's kind.")]
pub struct Args {
    /// Components
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The secret key's file
    #[arg(long)]
    key: PathBuf,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let host = places::host()?;
    // Everything is looked at before the first signature is written.
    let seen: Vec<Inspection> = args.files.iter().map(|f| host.inspect(f, None)).collect::<Result<_, _>>()?;
    let key = keys::read_secret(&args.key, &args.password)?;
    for (file, seen) in args.files.iter().zip(&seen) {
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        ensure!(digest(&bytes) == format!("sha256:{}", seen.sha256), "{} is being changed", file.display());
        let text = keys::sign(&key, &bytes, &comment(file, seen))?;
        let path = signature_path(file);
        files::write(&path, text.as_bytes())?;
        println!("{} is signed by key {}", path.display(), keys::number(key.keynum()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the signer says of the file: minisign's own fields, then ours.
fn comment(file: &Path, seen: &Inspection) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A tab or line break would make another comment of it.
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    format!(
        "timestamp:{}\tfile:{}\thashed\tsha256:{}\tkind:{}\tplugin:{} {}",
        Artifact::now(),
        plain(&name),
        seen.sha256,
        seen.kind,
        plain(&seen.description.name),
        plain(&seen.description.version)
    )
}
