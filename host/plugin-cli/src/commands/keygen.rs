//! `ovhost plugin keygen`: a pair of keys to sign plugins with.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::keys::{self, PasswordArgs};

/// Arguments of `ovhost plugin keygen`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin keygen --out lab
  ovhost plugin keygen --out ci --no-password          for a machine that signs alone

NAME.key is the secret key: keep it out of the repository. NAME.pub is for everybody, in recipes as
  [plugins]
  trust = \"signed\"
  trusted_keys = [\"keys/lab.pub\"]
The files are minisign's; `minisign -S -s lab.key -m x.wasm` signs as `ovhost plugin sign` does.")]
pub struct Args {
    /// Name of the two files, without .key and .pub
    #[arg(long, value_name = "NAME", default_value = "ovhost")]
    out: PathBuf,
    #[command(flatten)]
    password: PasswordArgs,
    /// Replace files of that name
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let named = |suffix: &str| {
        let mut name = args.out.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (secret, public) = (named(".key"), named(".pub"));
    let (text, number) = keys::generate(&secret, &public, &args.password, args.force)?;
    println!("key {number}\n  secret  {}\n  public  {}\n  {text}", secret.display(), public.display());
    Ok(ExitCode::SUCCESS)
}
