//! `ovhost plugin push`: a component into a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use ovhost_plugin::{OciReference, Signed, read_component, signature_path, small_file};
use ovhost_registry::{Artifact, digest};

use super::pull::client;
use crate::places;

/// Arguments of `ovhost plugin push`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  ovhost plugin push dist/caption.wasm oci://ghcr.io/lab/caption:1.2.0

A signature FILE.minisig goes along (in an annotation of the manifest) and comes back with `ovhost plugin pull`. The layout is
that of `wkg oci push`; `wkg` finds packages by tags that are versions. Logins are docker's (`docker login`), or
OVHOST_REGISTRY_AUTH=HOST=USER:PASSWORD. With SOURCE_DATE_EPOCH set, the same file gives the same digest every time.")]
pub struct Args {
    /// The component
    file: PathBuf,
    /// oci://REGISTRY/REPOSITORY:TAG
    reference: String,
    /// The registry speaks HTTP without TLS (one on this machine always does)
    #[arg(long)]
    plain_http: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let reference = OciReference::parse(&args.reference)?;
    ensure!(reference.digest.is_none(), "{reference}: a push names a tag; its digest follows from the component");
    let seen = places::host()?.inspect(&args.file, None)?;
    let component = read_component(&args.file)?;
    ensure!(digest(&component) == format!("sha256:{}", seen.sha256), "{} is being changed", args.file.display());
    let path = signature_path(&args.file);
    let signature = match small_file(&path) {
        Ok(text) => {
            Signed::read(&text).map_err(|why| anyhow::anyhow!("{} is no signature: {why}", path.display()))?;
            Some(text)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    let about = &seen.description;
    let summary = about.entries.first().map(|e| e.summary.clone()).unwrap_or_default();
    let labels = [
        ("title", about.name.clone()),
        ("version", about.version.clone()),
        ("description", summary),
        ("licenses", about.license.clone()),
        ("url", about.homepage.clone()),
    ];
    let annotations: BTreeMap<String, String> = labels
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (format!("org.opencontainers.image.{name}"), text))
        .collect();
    let signed = signature.is_some();
    let artifact = Artifact {
        component,
        imports: seen.imports.clone(),
        exports: seen.exports.clone(),
        created: Artifact::now(),
        annotations,
        signature,
    };
    let pushed = client(&reference, args.plain_http)?.push(reference.wanted(), &artifact)?;
    println!("{} {} {}\n  pushed     {reference}\n  digest     {pushed}", seen.kind, about.name, about.version);
    println!("  sha256     {}\n  signature  {}", seen.sha256, if signed { "pushed with it" } else { "none" });
    Ok(ExitCode::SUCCESS)
}
