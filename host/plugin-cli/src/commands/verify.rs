//! `ovhost plugin verify`: whether a component is as a key's owner signed it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ovhost_plugin::{Signed, TrustedKey, signature_path};

/// Arguments of `ovhost plugin verify`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin verify dist/caption.wasm --key keys/lab.pub
  ovhost plugin verify caption.wasm --key RWRrLeB/ydXD22A+VAWVpSKxuotKbeBWBWECXRz/CgKLYmCntLnA3GlO

The exit code is 0 for a good signature by one of the keys, 1 for anything else. A run checks by itself what its recipe's
plugins.trust asks for.")]
pub struct Args {
    /// The component; its signature is FILE.minisig
    file: PathBuf,
    /// A public key, RW..., or its file (repeatable)
    #[arg(long, required = true)]
    key: Vec<String>,
}

/// Runs the command. The code is 1 where the signature is missing, of another key, or does not fit.
pub fn run(args: Args) -> Result<ExitCode> {
    let keys: Vec<TrustedKey> =
        args.key.iter().map(|k| TrustedKey::read(k, Path::new("."))).collect::<Result<_, _>>()?;
    let bytes = std::fs::read(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let signature = signature_path(&args.file);
    let text = match std::fs::read_to_string(&signature) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{} is not signed: there is no {}", args.file.display(), signature.display());
            return Ok(ExitCode::FAILURE);
        }
        text => text.with_context(|| format!("reading the signature {}", signature.display()))?,
    };
    Ok(match check(&bytes, &text, &keys) {
        Ok(signed) => {
            println!("{}: good signature by key {}", args.file.display(), signed.id());
            signed.comment().split('\t').for_each(|field| println!("  {field}"));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{}: {why}", args.file.display());
            ExitCode::FAILURE
        }
    })
}

/// The signature, if one of the keys made it for these bytes; else why not.
pub(crate) fn check(bytes: &[u8], text: &str, keys: &[TrustedKey]) -> Result<Signed, String> {
    let signed = Signed::read(text).map_err(|why| format!("its signature is not minisign's: {why}"))?;
    let Some(key) = keys.iter().find(|k| k.id() == signed.id()) else {
        let wanted: Vec<String> = keys.iter().map(|k| k.id().to_string()).collect();
        return Err(format!("it is signed by key {}, not by {}", signed.id(), wanted.join(", ")));
    };
    signed.verify(key, bytes).map_err(|why| {
        format!("BAD signature by key {}: {why}. The file or its signature was changed after signing", signed.id())
    })?;
    Ok(signed)
}
