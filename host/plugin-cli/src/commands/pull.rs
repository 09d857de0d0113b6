//! `ovhost plugin pull`: a plugin out of a registry into this machine's store, where runs find it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ovhost_plugin::{OciReference, OciStore, Signed, TrustedKey, signature_path};
use ovhost_registry::{Client, Credentials, Options, Place};

use super::verify::{another, check, claims_fit};
use crate::{files, places};

/// Arguments of `ovhost plugin pull`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin pull oci://ghcr.io/lab/caption:1.2.0
  ovhost plugin pull oci://ghcr.io/lab/caption:1.2.0 --key keys/lab.pub      only if the lab has signed it

A recipe then names it as plugin = \"oci://ghcr.io/lab/caption:1.2.0\"; runs look only into the store (OVHOST_OCI_STORE, else
~/.local/share/ovhost/oci) and never download. Logins are docker's (`docker login`), or OVHOST_REGISTRY_AUTH=HOST=USER:PASSWORD.
The layout is that of `wkg oci`: what one has pushed the other pulls.")]
pub struct Args {
    /// oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:HEX
    reference: String,
    /// Store it only with a good signature by this public key, RW... or its file (repeatable)
    #[arg(long)]
    key: Vec<String>,
    /// Write the component (and its signature) to this file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The registry speaks HTTP without TLS (one on this machine always does)
    #[arg(long)]
    plain_http: bool,
}

/// A client for the repository of a reference, with the user's credentials.
pub(crate) fn client(reference: &OciReference, plain_http: bool) -> Result<Client> {
    let credentials = Credentials::find(&reference.registry)?;
    let place = Place { registry: reference.registry.clone(), repository: reference.repository.clone() };
    Ok(Client::new(place, Options { plain_http, credentials }))
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let reference = OciReference::parse(&args.reference)?;
    let keys: Vec<TrustedKey> =
        args.key.iter().map(|k| TrustedKey::read(k, Path::new("."))).collect::<Result<_, _>>()?;
    let store = OciStore::user()?;
    let pulled = client(&reference, args.plain_http)?.pull(reference.wanted())?;
    let signature = pulled.signature.as_deref();
    let verified = match (signature, keys.is_empty()) {
        (_, true) => None,
        (None, false) => bail!("{reference} has no signature; it was not stored"),
        (Some(text), false) => match check(&pulled.component, text, &keys) {
            Ok(signed) => Some(signed),
            Err(why) => bail!("{reference}: {why}; it was not stored"),
        },
    };
    // What is no plugin is better known now than in a run.
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let trial = folder.path().join("pulled.wasm");
    files::write(&trial, &pulled.component)?;
    let seen = places::host()?.inspect(&trial, None).with_context(|| format!("{reference} was not stored"))?;

    if let Some(signed) = &verified {
        claims_fit(signed, &seen).or_else(|is| bail!("{reference}: {}; it was not stored", another(signed, &is)))?;
    }
    let stored = store.put(&reference, &pulled.manifest, &pulled.component, signature)?;
    if let Some(out) = &args.out {
        files::write(out, &pulled.component)?;
        if let Some(text) = signature {
            files::write(&signature_path(out), text.as_bytes())?;
        }
    }
    println!("{} {} {}", seen.kind, seen.description.name, seen.description.version);
    println!("  digest     {}\n  sha256     {}\n  stored     {}", pulled.digest, stored.sha256, stored.path.display());
    let by = signature
        .map(|text| Signed::read(text).map_or_else(|_| "unreadable".to_owned(), |s| format!("by key {}", s.id())));
    match (by, verified) {
        (None, _) => println!("  signature  none"),
        (Some(by), Some(_)) => println!("  signature  {by}, verified"),
        (Some(by), None) => println!("  signature  {by}, not verified: name the key with --key"),
    }
    println!("in a recipe:\n  plugin = \"{reference}\"\n  sha256 = \"{}\"", stored.sha256);
    Ok(ExitCode::SUCCESS)
}
