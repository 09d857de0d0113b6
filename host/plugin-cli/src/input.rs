//! What several commands take: a plugin with its configuration, assets, limits and seed; columns' types; rows.
//!
//! In: flags. Out: a `PluginSpec` for the host, and the context of a call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ovhost_plugin::json::{ColumnType, Columns, JsonRow, SAMPLE_COLUMNS};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Kind, Plugin, PluginError, PluginSpec};
use serde_json::Value;

use crate::places;

/// Flags that say which plugin, and how it is configured.
#[derive(Debug, Clone, clap::Args)]
pub struct PluginArgs {
    /// A component's path or first-party name, or a project folder with a component in dist/
    pub plugin: String,
    /// Which of the component's entries; needed where it has several
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Its configuration: a JSON object, or @FILE (.json or .toml)
    #[arg(long, value_name = "JSON|@FILE")]
    pub config: Option<String>,
    /// A file that it reads at the start, by the name that it declares; may be given several times
    #[arg(long = "asset", value_name = "NAME=PATH")]
    pub assets: Vec<String>,
    /// What it may use, as in a recipe's `limits`: a JSON object such as '{"memory_mib": 512}', or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub limits: Option<String>,
    /// Seed of the run: a training run with this seed gives the plugin the same random numbers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl PluginArgs {
    /// The plugin as the host wants it. Errors: no such component, flags that do not parse, each with what is allowed.
    pub fn spec(&self) -> Result<PluginSpec> {
        let located = places::located(&self.plugin)?;
        let mut spec = PluginSpec { sha256: located.sha256, ..PluginSpec::new(located.path) };
        spec.entry = self.entry.clone();
        spec.seed = self.seed;
        spec.assets = assets(&self.assets)?;
        if let Some(config) = &self.config {
            spec.config = object("--config", config)?;
        }
        if let Some(limits) = &self.limits {
            spec.limits = serde_json::from_value(object("--limits", limits)?).context("--limits")?;
        }
        Ok(spec)
    }

    /// The context of the call whose first row is `first_row`.
    pub fn ctx(&self, batch_index: u64, first_row: u64) -> CallCtx {
        CallCtx { run_seed: self.seed, shard: 0, batch_index, first_row }
    }
}

/// A JSON object as a flag gives it: itself, or `@FILE` with JSON or TOML. Errors name the flag, the place and an example.
pub fn object(flag: &str, given: &str) -> Result<Value> {
    let value: Value = match given.strip_prefix('@') {
        None => serde_json::from_str(given).with_context(|| {
            format!("{flag} '{given}' is not JSON; give an object such as '{{\"key\": 1}}', or @FILE")
        })?,
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("{flag}: reading {file}"))?;
            if Path::new(file).extension().is_some_and(|e| e == "toml") {
                toml::from_str(&text).with_context(|| format!("{flag}: {file} is not TOML"))?
            } else {
                serde_json::from_str(&text).with_context(|| format!("{flag}: {file} is not JSON"))?
            }
        }
    };
    ensure!(value.is_object(), "{flag} is {value}; allowed: an object such as '{{\"key\": 1}}'");
    Ok(value)
}

/// `NAME=PATH` flags by name. Errors: no `=`, a name twice.
pub fn assets(given: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    pairs("--asset", "words=stopwords.txt", given.iter().map(String::as_str), |path| Ok(path.into()))
}

/// `COLUMN=TYPE` flags, each of which may hold several with commas between. Errors: no `=`, no such type, a name twice.
pub fn types(given: &[String]) -> Result<BTreeMap<String, ColumnType>> {
    let each = given.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|pair| !pair.is_empty());
    pairs("--types", "score=f32s", each, |ty| ty.parse().map_err(|e: String| anyhow!(e)))
}

/// As [`types`], of columns that the plugin is given. Errors: another name, with those that there are.
pub fn types_for(plugin: &Plugin, given: &[String]) -> Result<BTreeMap<String, ColumnType>> {
    let types = types(given)?;
    let read = read_by(plugin);
    if let Some(name) = types.keys().find(|name| !read.contains(name)) {
        let near = nearest(name, read.iter().map(String::as_str));
        let near = near.map(|near| format!(", perhaps \"{near}\"")).unwrap_or_default();
        bail!("--types {name}: {} reads no such column{near}; it reads: {}", plugin.info().name, read.join(", "));
    }
    Ok(types)
}

/// Says which columns the rows have, where one that the plugin requires is not among them.
pub fn with_columns(error: anyhow::Error, rows: &[JsonRow]) -> anyhow::Error {
    let Some(PluginError::MissingColumn { plugin, column, .. }) = error.downcast_ref() else { return error };
    let names: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    let near = nearest(column, names.iter().copied());
    let near = near.map(|near| format!(", perhaps \"{near}\" is meant")).unwrap_or_default();
    let names: Vec<&str> = names.into_iter().collect();
    anyhow!(
        "plugin {plugin} reads column \"{column}\", which the rows do not have{near}; they have: {}",
        names.join(", ")
    )
}

fn pairs<'a, V>(
    flag: &str,
    example: &str,
    given: impl Iterator<Item = &'a str>,
    read: impl Fn(&str) -> Result<V>,
) -> Result<BTreeMap<String, V>> {
    let mut out = BTreeMap::new();
    for pair in given {
        let Some((name, value)) = pair.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
        else {
            bail!("{flag} {pair:?} is not NAME=VALUE; an example: {flag} {example}");
        };
        let value = read(value).with_context(|| format!("{flag} {pair}"))?;
        ensure!(out.insert(name.to_owned(), value).is_none(), "{flag} gives {name:?} twice");
    }
    Ok(out)
}

/// The columns of a stream of rows for a plugin: those that it reads, those that its kind always gets, and what the host
/// checks answers against.
pub fn columns_of(plugin: &Plugin, types: BTreeMap<String, ColumnType>) -> Columns {
    Columns::new(types, Some(read_by(plugin)))
}

/// Names of the columns that [`columns_of`] makes.
fn read_by(plugin: &Plugin) -> Vec<String> {
    let mut wanted: Vec<String> = plugin.info().reads.iter().map(|(name, _)| name.clone()).collect();
    let always: &[&str] = match plugin.kind() {
        Kind::Filter => &["key"],
        Kind::Packer => &["id", "length"],
        // Indices of a prompt's images and videos are checked against these, whether it reads them or not.
        Kind::Prompt => &["key", "num-images", "num-videos"],
        Kind::Metric => &["key", "prediction", "references", "record", "judgement"],
    };
    for name in always {
        if !wanted.iter().any(|known| known == name) {
            wanted.push((*name).to_owned());
        }
    }
    wanted
}

/// Columns that the host offers to plugins of a kind, whatever filters add.
pub fn offered(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Filter | Kind::Prompt => &SAMPLE_COLUMNS,
        Kind::Packer => &["id", "length", "patches"],
        Kind::Metric => &["key", "source", "prediction", "references", "record", "judgement"],
    }
}

/// The name that was perhaps meant by `name`, if one is like it.
pub fn nearest<'a>(name: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored =
        among.into_iter().map(|other| (strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()), other));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Adds `id` and `index`, the ordinals of the rows, where the plugin reads them and the rows do not say.
pub fn ordinals(plugin: &Plugin, batch: &mut Batch, first_row: u64) {
    for name in ["id", "index"] {
        let read = plugin.info().reads.iter().any(|(read, _)| read == name);
        if (read || (name == "id" && plugin.kind() == Kind::Packer)) && batch.column(name).is_none() {
            let ids = (0..u64::from(batch.rows)).map(|i| (first_row + i).cast_signed()).collect();
            batch.columns.push(Column::new(name, ColumnData::S64s(ids)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let names = || ["text", "text-tokens", "width", "record"];
        assert_eq!(nearest("txet", names()), Some("text"));
        assert_eq!(nearest("Widht", names()), Some("width"));
        assert_eq!(nearest("caption", names()), None);
    }

    #[test]
    fn pairs_are_checked() {
        let given = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let ok = types(&given(&["a=f32s, b=utf8", "c=u8s"])).unwrap();
        assert_eq!(ok.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        let error = |list: &[&str]| format!("{:#}", types(&given(list)).unwrap_err());
        assert!(error(&["a"]).contains("\"a\" is not NAME=VALUE"), "{}", error(&["a"]));
        assert!(error(&["a=float"]).contains("no column type \"float\"; allowed: u8s"), "{}", error(&["a=float"]));
        assert!(error(&["a=u8s,a=u8s"]).contains("\"a\" twice"));
        assert_eq!(assets(&given(&["w=x=y"])).unwrap()["w"], Path::new("x=y"));
    }

    #[test]
    fn objects_come_from_the_flag_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            format!("@{}", path.display())
        };
        assert_eq!(object("--config", "{\"a\": 1}").unwrap()["a"], 1);
        assert_eq!(object("--config", &file("a.json", "{\"a\": 1}")).unwrap()["a"], 1);
        assert_eq!(object("--config", &file("a.toml", "a = 1")).unwrap()["a"], 1);
        let error = |given: &str| format!("{:#}", object("--config", given).unwrap_err());
        assert!(error("3").contains("--config is 3; allowed: an object"));
        assert!(error("{a: 1}").contains("is not JSON; give an object"));
        assert!(error("@nowhere.json").contains("reading nowhere.json"));
        assert!(error(&file("b.toml", "a =")).contains("is not TOML"));
    }
}
