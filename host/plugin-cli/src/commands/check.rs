//! `ovhost plugin check`: everything that the host asks of a component before it gets any data, step by step.
//!
//! ```text
//!  file ─► component ─► imports ─► exports ─► compiles ─► describes ─► each entry: schema, init, again, columns
//! ```
//! A step that fails ends the way for what needs it; all else is still looked at, so that one run tells every finding.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use ovhost_plugin::{
    Compiled, Entry, Host, Inspection, Kind, PackLimits, Plugin, PluginError, PluginSpec, WIT_VERSION, surface,
};
use ovhost_toolchain::Project;
use ovhost_toolchain::project::MANIFEST;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::golden::{Cases, spaced};
use crate::table::bytes;
use crate::{input, places};

/// Arguments of `ovhost plugin check`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin check                             the component in this project's dist/
  ovhost plugin check mine.wasm --config '{\"min_chars\": 20}'
  ovhost plugin check mine.wasm --json | jq '.steps[] | select(.status != \"ok\")'

Without --config each entry is tried with the first configuration that its golden cases do not
expect to be refused, else with the empty one. A step is ok, failed, or a note: something that a run
may need and that could not be told here. The code is 1 if a step failed.")]
pub struct Args {
    /// A component, or a project folder with a component in dist/; this folder if absent
    #[arg(default_value = ".")]
    path: String,
    /// Only this entry
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Configuration to try: a JSON object, or @FILE (.json or .toml)
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// A file that the plugin reads at the start, by the name that it declares; may be given several times
    #[arg(long = "asset", value_name = "NAME=PATH")]
    assets: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it must be.
    Ok,
    /// Not wrong, and not all that a run may need.
    Note,
    /// Wrong.
    Failed,
}

/// One step of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What was looked at.
    pub step: &'static str,
    /// Of which entry; none: of the whole component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// How it went.
    pub status: Status,
    /// What was seen.
    pub detail: String,
}

/// Runs the command. The code is 1 if a step failed.
pub fn run(args: Args) -> Result<ExitCode> {
    let located = places::located(&args.path)?;
    let path = &located.path;
    let given = Path::new(&args.path);
    let cases = places::cases(given).or_else(|| places::cases(path)).map(|file| Cases::read(&file)).transpose()?;
    let tried = Tried {
        entry: args.entry,
        config: args.config.map(|config| input::object("--config", &config)).transpose()?,
        assets: input::assets(&args.assets)?,
        cases,
        project: places::project(given, path).map(|root| Project::open(&root)).transpose()?,
    };
    let steps = check(&places::host()?, path, &tried);
    let failed = steps.iter().filter(|s| s.status == Status::Failed).count();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "path": path, "ok": failed == 0, "steps": steps }))?);
    } else {
        println!("{}", path.display());
        let mut entry: Option<&String> = None;
        for step in &steps {
            if step.entry.as_ref() != entry {
                entry = step.entry.as_ref();
                println!("entry {}", entry.map_or("", String::as_str));
            }
            let mark = match step.status {
                Status::Ok => "✓",
                Status::Note => "–",
                Status::Failed => "✗",
            };
            println!("  {mark} {:<10} {}", step.step, step.detail.replace('\n', "\n               "));
        }
        match failed {
            0 => println!("nothing wrong was found"),
            1 => println!("1 step failed"),
            n => println!("{n} steps failed"),
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a check tries a component with.
#[derive(Default)]
pub struct Tried {
    /// Only this entry; none: all.
    pub entry: Option<String>,
    /// A configuration; none: what the golden cases use, else the empty one.
    pub config: Option<Value>,
    /// Files for `init`.
    pub assets: std::collections::BTreeMap<String, std::path::PathBuf>,
    /// The component's golden cases, if it has any.
    pub cases: Option<Cases>,
    /// The project that it was built of, if it lies in one.
    pub project: Option<Project>,
}

/// Looks at everything. The steps in order, the failed ones among them.
pub fn check(host: &Host, path: &Path, tried: &Tried) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    let Some(kind) = outside(path, &mut steps) else { return steps.0 };
    let Some(seen) = inside(host, path, &mut steps) else { return steps.0 };
    if let Some(manifest) = tried.project.as_ref().and_then(|project| project.manifest.as_ref()) {
        let name = &seen.description.name;
        match places::as_its_manifest(manifest, path) {
            Err(error) => steps.add("manifest", None, Status::Failed, format!("{error:#}")),
            Ok(()) if *name != manifest.name => steps.add(
                "manifest",
                None,
                Status::Note,
                format!(
                    "{MANIFEST} names it {}, and it calls itself {name}: one of them is old, or build it anew",
                    manifest.name
                ),
            ),
            Ok(()) => steps.ok("manifest", format!("{}, a {kind}, as {MANIFEST} says", manifest.name)),
        }
    }
    let entries: Vec<&Entry> =
        seen.description.entries.iter().filter(|e| tried.entry.as_ref().is_none_or(|name| e.name == *name)).collect();
    if let (Some(name), true) = (&tried.entry, entries.is_empty()) {
        let names: Vec<&str> = seen.description.entries.iter().map(|e| e.name.as_str()).collect();
        steps.add("entry", None, Status::Failed, format!("there is no entry \"{name}\"; it has: {}", names.join(", ")));
    }
    for entry in entries {
        configured(host, path, kind, entry, tried, &mut steps);
        columns(kind, entry, &mut steps);
    }
    steps.0
}

struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, step: &'static str, entry: Option<&Entry>, status: Status, detail: impl Into<String>) {
        self.0.push(Step { step, entry: entry.map(|e| e.name.clone()), status, detail: detail.into() });
    }

    fn ok(&mut self, step: &'static str, detail: impl Into<String>) {
        self.add(step, None, Status::Ok, detail);
    }

    fn failed(&mut self, step: &'static str, error: &PluginError) {
        self.add(step, None, Status::Failed, error.to_string());
    }
}

/// What can be told without compiling.
fn outside(path: &Path, steps: &mut Steps) -> Option<Kind> {
    const ORDER: [&str; 4] = ["file", "component", "imports", "exports"];
    let size = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    let found = surface(path);
    // Steps before the failed one went well, as they are looked at in this order.
    let failed = match &found {
        Ok(_) => 4,
        Err(PluginError::NotAComponent { .. } | PluginError::Invalid { .. }) => 1,
        Err(PluginError::Imports { .. }) => 2,
        Err(PluginError::Exports { .. }) => 3,
        Err(_) => 0,
    };
    let (imports, exports) = match &found {
        Ok(surface) => {
            let list = if surface.imports.is_empty() { "nothing".to_owned() } else { surface.imports.join(", ") };
            let state = if surface.filter_state { ", with state that is saved" } else { "" };
            let contract =
                format!("{}, contract {} (this host: {WIT_VERSION}){state}", surface.kind, surface.wit_version);
            (list, contract)
        }
        Err(_) => ("only what the host offers".to_owned(), String::new()),
    };
    for (i, step) in ORDER.into_iter().enumerate().take(failed) {
        let detail = match i {
            0 => bytes(size),
            1 => "a WebAssembly component".to_owned(),
            2 => imports.clone(),
            _ => exports.clone(),
        };
        steps.ok(step, detail);
    }
    match found {
        Ok(surface) => Some(surface.kind),
        Err(error) => {
            steps.failed(ORDER[failed], &error);
            None
        }
    }
}

/// Compiles it and asks what it holds.
fn inside(host: &Host, path: &Path, steps: &mut Steps) -> Option<Inspection> {
    match host.inspect(path, None) {
        Ok(seen) => {
            let how = match seen.compiled {
                Compiled::Now(took) => format!("in {} ms", took.as_millis()),
                Compiled::Before => "before: its machine code was in the cache".to_owned(),
            };
            steps.ok("compiles", how);
            let about = &seen.description;
            let names: Vec<&str> = about.entries.iter().map(|e| e.name.as_str()).collect();
            let (n, of) = (names.len(), names.join(", "));
            let entries = if n == 1 { "entry" } else { "entries" };
            steps.ok("describes", format!("{} {} ({}), {n} {entries}: {of}", about.name, about.version, about.license));
            Some(seen)
        }
        Err(error) => {
            let compiled = matches!(error, PluginError::Description { .. } | PluginError::Trap { .. });
            if compiled {
                steps.ok("compiles", "yes");
            }
            steps.failed(if compiled { "describes" } else { "compiles" }, &error);
            None
        }
    }
}

/// The schema, `init`, and `init` once more.
fn configured(host: &Host, path: &Path, kind: Kind, entry: &Entry, tried: &Tried, steps: &mut Steps) {
    let (spec, origin) = tried.spec(path, entry);
    let plugin = match host.load(&spec) {
        Ok(plugin) => plugin,
        Err(error @ PluginError::Description { .. }) => {
            return steps.add("schema", Some(entry), Status::Failed, error.to_string());
        }
        Err(error) => {
            steps.add("schema", Some(entry), Status::Ok, keys(entry));
            let refused = matches!(error, PluginError::Config { .. });
            let (status, next) = if refused && origin == Origin::Empty {
                (Status::Note, "\nSo init could not be tried; give a configuration with --config, files with --asset")
            } else {
                (Status::Failed, "")
            };
            return steps.add(
                "init",
                Some(entry),
                status,
                format!("with {}: {error}{next}", origin.words(&spec.config)),
            );
        }
    };
    steps.add("schema", Some(entry), Status::Ok, keys(entry));
    let resolved = &plugin.info().resolved_config;
    steps.add("init", Some(entry), Status::Ok, format!("with {}: {}", origin.words(&spec.config), spaced(resolved)));
    match again(&plugin, kind) {
        Ok(detail) => steps.add("again", Some(entry), Status::Ok, detail),
        Err(error) => steps.add("again", Some(entry), Status::Failed, error.to_string()),
    }
    match remembers(&plugin, kind) {
        Ok(None) => {}
        Ok(Some((status, detail))) => steps.add("state", Some(entry), status, detail),
        Err(error) => steps.add("state", Some(entry), Status::Failed, error.to_string()),
    }
    // A run records what it was configured with; that has to work as a configuration too.
    let (status, detail) = match host.load(&PluginSpec { config: resolved.clone(), ..spec }) {
        Ok(twice) if twice.info().resolved_config == *resolved => {
            (Status::Ok, "the resolved configuration gives itself".to_owned())
        }
        Ok(twice) => {
            let other = spaced(&twice.info().resolved_config);
            (Status::Note, format!("the resolved configuration, given as one, resolves to another: {other}"))
        }
        Err(error) => {
            (Status::Note, format!("the resolved configuration, which a run records, is no configuration: {error}"))
        }
    };
    steps.add("resolved", Some(entry), status, detail);
}

/// Whether what it remembers can be saved, taken up by a new instance and saved again. None: it remembers nothing.
fn remembers(plugin: &Plugin, kind: Kind) -> Result<Option<(Status, String)>, PluginError> {
    let (first, second) = match kind {
        Kind::Filter if !plugin.info().state_pure => {
            let first = plugin.filter()?.save()?;
            let mut other = plugin.filter()?;
            other.restore(&first)?;
            (first, other.save()?)
        }
        Kind::Packer => {
            let started = || -> Result<_, PluginError> {
                let mut packer = plugin.packer()?;
                packer.start(&LIMITS)?;
                Ok(packer)
            };
            let first = started()?.save()?;
            let mut other = started()?;
            other.restore(&first)?;
            (first, other.save()?)
        }
        Kind::Metric => {
            let first = plugin.metric()?.save()?;
            let mut other = plugin.metric()?;
            other.merge(&first)?;
            (first, other.save()?)
        }
        Kind::Filter | Kind::Prompt => return Ok(None),
    };
    let size = bytes(first.len() as u64);
    Ok(Some(match (first == second, kind) {
        (true, _) => (Status::Ok, format!("{size}; a new instance takes it and saves the same")),
        // The contract says it of filters: "equal for equal state".
        (false, Kind::Filter) => {
            (Status::Failed, format!("{size}; a new instance takes it and saves other bytes, though it saw no row"))
        }
        (false, _) => (
            Status::Note,
            format!("{size}; a new instance takes it and saves other bytes: checkpoints of the same run will differ"),
        ),
    }))
}

/// Bins that a packer is tried with.
const LIMITS: PackLimits = PackLimits { capacity: 8192, max_items_per_bin: 0, max_open_items: 0 };

/// Makes an instance, which runs `init` a second time, and asks what its kind is asked before data.
fn again(plugin: &Plugin, kind: Kind) -> Result<String, PluginError> {
    const SAME: &str = "a second init gave the same";
    Ok(match kind {
        Kind::Filter => {
            plugin.filter()?;
            SAME.to_owned()
        }
        Kind::Packer => {
            plugin.packer()?.start(&LIMITS)?;
            format!("{SAME}; a stream of bins of {} tokens begins", LIMITS.capacity)
        }
        Kind::Prompt => {
            let mut prompt = plugin.prompt()?;
            let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let (specials, stops) = (list(prompt.special_tokens()?), list(prompt.stop_strings()?));
            format!("{SAME}; special tokens: {specials}; stop strings: {stops}")
        }
        Kind::Metric => {
            let names: Vec<String> = plugin.metric()?.outputs()?.into_iter().map(|info| info.name).collect();
            format!("{SAME}; values: {}", names.join(", "))
        }
    })
}

/// Whether what it reads is there, and what it adds may be added.
fn columns(kind: Kind, entry: &Entry, steps: &mut Steps) {
    let offered = input::offered(kind);
    let mut wrong = Vec::new();
    let mut notes = Vec::new();
    for (name, required) in entry.reads.iter().filter(|(name, _)| !offered.contains(&name.as_str())) {
        let near = input::nearest(name, offered.iter().copied());
        let near = near.map(|near| format!(" (perhaps \"{near}\" is meant)")).unwrap_or_default();
        match (kind, required) {
            (Kind::Filter | Kind::Prompt, true) => notes.push(format!(
                "it reads \"{name}\", which is none of the host's own columns{near}: a filter before it has to add it"
            )),
            (Kind::Filter | Kind::Prompt, false) => notes.push(format!(
                "it reads \"{name}\" where there is one, and it is none of the host's own columns{near}: unless a filter before \
                 it adds it, no row has a value"
            )),
            (Kind::Packer | Kind::Metric, true) => wrong.push(format!(
                "it requires \"{name}\", which no {kind} is offered{near}; offered: {}",
                offered.join(", ")
            )),
            (Kind::Packer | Kind::Metric, false) => notes.push(format!(
                "it reads \"{name}\" where there is one, which no {kind} is offered{near}: no row will ever have a value; \
                 offered: {}",
                offered.join(", ")
            )),
        }
    }
    for name in entry.writes.iter().filter(|name| offered.contains(&name.as_str())) {
        wrong.push(format!(
            "it adds \"{name}\", which is the host's own; another name is needed, such as \"{}/{name}\"",
            entry.name
        ));
    }
    if matches!(kind, Kind::Packer | Kind::Prompt) && !entry.writes.is_empty() {
        notes.push(format!("it says that it adds {}; no {kind} can add columns", entry.writes.join(", ")));
    }
    let list = |names: Vec<&str>| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let reads = list(entry.reads.iter().map(|(name, _)| name.as_str()).collect());
    let writes = list(entry.writes.iter().map(String::as_str).collect());
    let (status, detail) = match (wrong.is_empty(), notes.is_empty()) {
        (true, true) => (Status::Ok, format!("reads {reads}; adds {writes}")),
        (true, false) => (Status::Note, notes.join("\n")),
        (false, _) => (Status::Failed, wrong.into_iter().chain(notes).collect::<Vec<_>>().join("\n")),
    };
    steps.add("columns", Some(entry), status, detail);
}

/// The keys of the configuration.
fn keys(entry: &Entry) -> String {
    let keys = entry.config_schema.get("properties").and_then(Value::as_object).map_or(0, Map::len);
    match keys {
        0 => "valid; nothing to configure".to_owned(),
        1 => "valid; 1 key".to_owned(),
        n => format!("valid; {n} keys"),
    }
}

/// Where a configuration is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Given,
    Case,
    Empty,
}

impl Origin {
    fn words(self, config: &Value) -> String {
        match self {
            Origin::Given => spaced(config),
            Origin::Case => {
                format!("{} (of its golden cases)", if config.is_null() { "{}".to_owned() } else { spaced(config) })
            }
            Origin::Empty => "{}".to_owned(),
        }
    }
}

impl Tried {
    /// What to load an entry with.
    fn spec(&self, path: &Path, entry: &Entry) -> (PluginSpec, Origin) {
        let mut spec = PluginSpec {
            entry: Some(entry.name.clone()),
            config: Value::Object(Map::new()),
            assets: self.assets.clone(),
            ..PluginSpec::new(path)
        };
        if let Some(config) = &self.config {
            spec.config = config.clone();
            return (spec, Origin::Given);
        }
        let Some(cases) = &self.cases else { return (spec, Origin::Empty) };
        let folder = cases.path.parent().unwrap_or(Path::new(""));
        let works = cases.cases.iter().map(|(_, case)| case).find(|case| {
            let refused = case.expect.as_ref().is_some_and(|e| e.get("refused").is_some());
            case.entry.as_ref().is_none_or(|name| *name == entry.name) && !refused
        });
        match works {
            None => (spec, Origin::Empty),
            Some(case) => {
                spec.config = case.config.clone();
                for (name, file) in &case.assets {
                    spec.assets.entry(name.clone()).or_insert_with(|| folder.join(file));
                }
                (spec, Origin::Case)
            }
        }
    }
}
