//! `ovhost recipe`: the keys of a recipe, from their one declaration.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use ovhost_train::Recipe;
use serde_json::Value;

/// Subcommands of `ovhost recipe`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List every key with its default and meaning
    Keys,
    /// Print the JSON Schema, for editors
    Schema,
    /// Check a recipe and print it with every default filled in
    Check {
        /// The recipe
        #[arg(default_value = "recipe.toml")]
        recipe: PathBuf,
        /// Override a key, as in train.lr=3e-4 (repeatable)
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

/// Runs the command.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Keys => {
            let schema = serde_json::to_value(Recipe::schema())?;
            let mut lines = Vec::new();
            keys(&schema, &schema, "", &mut lines);
            println!("{}", lines.join("\n"));
        }
        Command::Schema => println!("{}", serde_json::to_string_pretty(&Recipe::schema())?),
        Command::Check { recipe, settings } => print!("{}", toml::to_string(&Recipe::read(&recipe, &settings)?)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Walks the schema's properties; `$ref`s point into the root's `$defs`.
fn keys(root: &Value, node: &Value, path: &str, out: &mut Vec<String>) {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, value) in properties {
        let target = target(root, value);
        let list = target.get("type").and_then(Value::as_str) == Some("array");
        let inner = if list { target.get("items").map_or(target, |i| self::target(root, i)) } else { target };
        let full = format!("{path}{name}{}", if list && inner.get("properties").is_some() { "[]" } else { "" });
        let text = |v: &Value| v.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        let about = if text(value).is_empty() { text(inner) } else { text(value) };
        if inner.get("properties").is_some() {
            out.push(format!("\n[{full}] {about}"));
            keys(root, inner, &format!("{full}."), out);
        } else {
            let default = match value.get("default") {
                Some(d) => format!(" = {d}"),
                None if required.contains(&name.as_str()) => " (required)".to_owned(),
                None => String::new(),
            };
            out.push(format!("  {full}{default}\n      {about}"));
        }
    }
}

fn target<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    // An optional section is "that or null".
    let node = match node.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([section, null]) if null.get("type").is_some_and(|t| t == "null") => section,
        _ => node,
    };
    let name = node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
    name.and_then(|n| root.get("$defs").and_then(|d| d.get(n))).unwrap_or(node)
}
