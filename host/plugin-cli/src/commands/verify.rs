//! `ovhost plugin verify`: whether a component is as a key's owner signed it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ovhost_plugin::{Inspection, Signed, TrustedKey, plain, read_component, signature_path, signatures_of, small_file};

use crate::places;

/// Arguments of `ovhost plugin verify`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin verify dist/caption.wasm --key keys/lab.pub
  ovhost plugin verify caption.wasm --key RWRrLeB/ydXD22A+VAWVpSKxuotKbeBWBWECXRz/CgKLYmCntLnA3GlO

The exit code is 0 for a good signature by one of the keys, made for this plugin under this file's name; 1 for anything else.
(minisign's own signatures name no plugin; theirs are of the bytes alone.) A run checks by itself what its recipe's
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
    let bytes = read_component(&args.file)?;
    let files = signatures_of(&args.file).with_context(|| format!("looking beside {}", args.file.display()))?;
    if files.is_empty() {
        let signature = signature_path(&args.file);
        eprintln!("{} is not signed: there is no {}", args.file.display(), signature.display());
        return Ok(ExitCode::FAILURE);
    }
    let mut checked = Err(String::new());
    for signature in files {
        let text = small_file(&signature).with_context(|| format!("reading the signature {}", signature.display()))?;
        let one = check(&bytes, &text, &keys);
        if one.is_ok() || checked.as_ref().is_err_and(String::is_empty) {
            checked = one;
        }
        if checked.is_ok() {
            break;
        }
    }
    let signed = match checked {
        Ok(signed) => signed,
        Err(why) => {
            eprintln!("{}: {why}", args.file.display());
            return Ok(ExitCode::FAILURE);
        }
    };
    let fit = if signed.claims().any() {
        let seen = places::host()?.inspect(&args.file, None)?;
        claims_fit(&signed, &seen).and(signed.claims().check_name(&args.file, &seen.sha256))
    } else {
        Ok(())
    };
    Ok(match fit {
        Ok(()) => {
            println!("{}: good signature by key {}", args.file.display(), signed.id());
            signed.comment().split('\t').for_each(|field| println!("  {}", plain(field, 200)));
            ExitCode::SUCCESS
        }
        Err(seen) => {
            eprintln!("{}: {}", args.file.display(), another(&signed, &seen));
            ExitCode::FAILURE
        }
    })
}

/// Whether the component is the one that the signer named. The error is what was signed and what is there.
pub(crate) fn claims_fit(signed: &Signed, seen: &Inspection) -> Result<(), (String, String)> {
    signed.claims().check_component(&seen.sha256, seen.kind, &seen.description)
}

/// A good signature of something else, in words.
pub(crate) fn another(signed: &Signed, (name, is): &(String, String)) -> String {
    format!(
        "it has a good signature by key {}, which was made for \"{name}\", and this is \"{is}\": it is another plugin of the same \
         signer, an older one, or was renamed",
        signed.id()
    )
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
