//! `ovhost plugin`: what a component is, before it is trusted.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::wiring;

/// Subcommands of `ovhost plugin`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show a component's kind, hash, entries, columns and configuration schema
    #[command(after_help = "Example:\n  ovhost plugin inspect packers/padding_free.wasm")]
    Inspect {
        /// Path or first-party name of the component
        plugin: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(command: Command) -> Result<ExitCode> {
    let Command::Inspect { plugin, json } = command;
    let path = wiring::resolve(&plugin, Path::new("."))?;
    let seen = wiring::host()?.inspect(&path, None)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&seen)?);
        return Ok(ExitCode::SUCCESS);
    }
    let about = &seen.description;
    println!("{}\n  kind      {}\n  contract  {}", seen.path.display(), seen.kind, seen.wit_version);
    println!("  package   {} {} ({})", about.name, about.version, about.license);
    println!("  sha256    {}\n  bytes     {}", seen.sha256, seen.bytes);
    for entry in &about.entries {
        println!("\nentry {}: {}", entry.name, entry.summary);
        let reads: Vec<String> = entry
            .reads
            .iter()
            .map(|(name, required)| if *required { name.clone() } else { format!("{name}?") })
            .collect();
        println!("  reads   {}\n  writes  {}", none(&reads), none(&entry.writes));
        if !entry.assets.is_empty() {
            println!("  assets  {}", entry.assets.join(", "));
        }
        for (key, value) in
            entry.config_schema.get("properties").and_then(serde_json::Value::as_object).into_iter().flatten()
        {
            let text = |name: &str| value.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            let default = text("default").map(|d| format!(" = {d}")).unwrap_or_default();
            println!("  config  {key}{default}  {}", text("description").unwrap_or_default().replace('\n', " "));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn none(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
