//! `ovhost plugin sign`: a detached signature beside a component.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::{Inspection, Signed, read_component, signature_path, small_file};
use ovhost_registry::{Artifact, digest};

use crate::keys::{self, PasswordArgs};
use crate::{files, places};

/// Arguments of `ovhost plugin sign`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin sign dist/caption.wasm --key lab.key
  ovhost plugin sign dist/*.wasm --key ci.key --no-password

The signature is FILE.minisig, in minisign's form. Its trusted comment names the file, its sha256, the plugin with its version
and its kind; where signatures are asked for, a file that is another than these is refused.")]
pub struct Args {
    /// Components
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The secret key's file
    #[arg(long)]
    key: PathBuf,
    /// Replace a signature by another key, or what cannot be read as one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let host = places::host()?;
    // Everything is looked at before the first signature is written.
    let seen: Vec<Inspection> = args.files.iter().map(|f| host.inspect(f, None)).collect::<Result<_, _>>()?;
    let key = keys::read_secret(&args.key, &args.password)?;
    let number = keys::number(key.keynum());
    for file in args.files.iter().filter(|_| !args.force) {
        replaceable(&signature_path(file), &number)?;
    }
    for (file, seen) in args.files.iter().zip(&seen) {
        let bytes = read_component(file)?;
        ensure!(digest(&bytes) == format!("sha256:{}", seen.sha256), "{} is being changed", file.display());
        let text = keys::sign(&key, &bytes, &comment(file, seen))?;
        let path = signature_path(file);
        files::write(&path, text.as_bytes())?;
        println!("{} is signed by key {number}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Errors: there is a signature that is not this key's.
fn replaceable(path: &Path, number: &str) -> Result<()> {
    let by = match small_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        Ok(text) => Signed::read(&text).map(|signed| signed.id().to_string()),
    };
    let what = match by {
        Ok(by) if by == number => return Ok(()),
        Ok(by) => format!("is a signature by key {by}"),
        Err(why) => format!("is no signature ({why})"),
    };
    bail!("{} {what} and would be replaced by that of key {number}; say --force, or put it elsewhere", path.display())
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
