//! `ovhost plugin inspect`: what a component is, before it is trusted.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ovhost_plugin::{Entry, Inspection, Kind, PluginSpec, Signed, plain, signatures_of, small_file};
use serde_json::{Value, json};

use crate::commands::program;
use crate::{input, places};

/// Arguments of `ovhost plugin inspect`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin inspect packers/padding_free
  ovhost plugin inspect filters/caption_quality --schema > schema.json
  ovhost plugin inspect filters/caption_quality --config '{\"min_chars\": 20}'
  ovhost plugin inspect filters/caption_quality --json | jq -r .sha256")]
pub struct Args {
    /// A component's path or name, or a project folder with a component in dist/
    plugin: String,
    /// Only this entry
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Print the JSON Schema of the configuration, nothing else
    #[arg(long, conflicts_with_all = ["config", "json"])]
    schema: bool,
    /// Also show the configuration that results from this one: a JSON object, or @FILE (.json or .toml)
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// A file that the plugin reads to be configured, by the name that it declares
    #[arg(long = "asset", value_name = "NAME=PATH", requires = "config")]
    assets: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let located = places::located(&args.plugin)?;
    let host = places::host()?;
    let mut seen = host.inspect(&located.path, located.sha256.as_deref())?;
    if let Some(wanted) = &args.entry {
        let names: Vec<String> = seen.description.entries.iter().map(|e| e.name.clone()).collect();
        seen.description.entries.retain(|e| e.name == *wanted);
        if seen.description.entries.is_empty() {
            bail!("{} has no entry {wanted:?}; it has: {}", located.path.display(), names.join(", "));
        }
    }
    if args.schema {
        let value = match &seen.description.entries[..] {
            [only] => only.config_schema.clone(),
            all => all.iter().map(|e| (e.name.clone(), e.config_schema.clone())).collect(),
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    let resolved = match &args.config {
        None => None,
        Some(config) => {
            let spec = PluginSpec {
                entry: args.entry.clone(),
                config: input::object("--config", config)?,
                assets: input::assets(&args.assets)?,
                sha256: Some(seen.sha256.clone()),
                ..PluginSpec::new(&located.path)
            };
            Some(host.load(&spec)?.info().resolved_config.clone())
        }
    };
    let signatures = signatures(&located.path)?;
    if args.json {
        let mut out = serde_json::to_value(&seen)?;
        // Whether one holds is for `verify`, which has the keys.
        let shown = |(key, comment): &(String, String)| json!({ "key_id": key, "comment": comment, "verified": false });
        out["signature"] = signatures.first().map_or(Value::Null, shown);
        if signatures.len() > 1 {
            out["signatures"] = signatures.iter().map(shown).collect();
        }
        if let Some(resolved) = resolved {
            out["resolved_config"] = resolved;
        }
        println!("{}", serde_json::to_string_pretty(&out)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", text(&seen, &signatures));
    if let Some(resolved) = resolved {
        println!("\nresolved configuration\n{}", serde_json::to_string_pretty(&resolved)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Keys and untrusted comments of the signatures beside the component.
fn signatures(component: &std::path::Path) -> Result<Vec<(String, String)>> {
    let files = signatures_of(component).with_context(|| format!("looking beside {}", component.display()))?;
    let read = |path: &std::path::PathBuf| {
        let text = small_file(path).with_context(|| format!("reading the signature {}", path.display()))?;
        let signed = Signed::read(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
        Ok((signed.id().to_string(), plain(signed.comment(), 1000)))
    };
    files.iter().map(read).collect()
}

fn text(seen: &Inspection, signatures: &[(String, String)]) -> String {
    let about = &seen.description;
    let mut out = format!("{}\n", seen.path.display());
    let mut line = |name: &str, value: &str| out.push_str(&format!("  {name:<9} {value}\n"));
    line("kind", &seen.kind.to_string());
    line("contract", &seen.wit_version);
    line("package", &format!("{} {} ({})", about.name, about.version, about.license));
    if !about.homepage.is_empty() {
        line("homepage", &about.homepage);
    }
    line("sha256", &seen.sha256);
    line("bytes", &seen.bytes.to_string());
    line("imports", &none(&seen.imports));
    line("exports", &none(&seen.exports));
    if signatures.is_empty() {
        line("signature", "none");
    }
    for (key, comment) in signatures {
        line("signature", &format!("by key {key}, {comment:?}; {} verify checks it", program()));
    }
    for entry in &about.entries {
        out.push_str(&entry_text(seen.kind, entry));
    }
    out
}

fn entry_text(kind: Kind, entry: &Entry) -> String {
    let mut out = format!("\nentry {}: {}\n", entry.name, entry.summary);
    let mut line = |name: &str, value: &str| out.push_str(&format!("  {name:<7} {value}\n"));
    let mark = |(name, required): &(String, bool)| if *required { name.clone() } else { format!("{name}?") };
    line("reads", &none(&entry.reads.iter().map(mark).collect::<Vec<_>>()));
    line("writes", &none(&entry.writes));
    if !entry.assets.is_empty() {
        line("assets", &entry.assets.join(", "));
    }
    let state = match (kind, entry.state_pure) {
        (Kind::Metric, true) => "pure: parts of a data set can be scored apart and merged",
        (_, true) => "pure: every row on its own, on as many workers as there are",
        (_, false) => "streaming: remembers rows, one instance for a stream",
    };
    line("state", state);
    let properties = entry.config_schema.get("properties").and_then(Value::as_object);
    for (key, value) in properties.into_iter().flatten() {
        let text = |name: &str| value.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        let default = text("default").map(|d| format!(" = {d}")).unwrap_or_default();
        line("config", &format!("{key}{default}  {}", text("description").unwrap_or_default().replace('\n', " ")));
    }
    out
}

fn none(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
