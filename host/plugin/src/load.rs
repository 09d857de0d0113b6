//! From a recipe's `PluginSpec` to a configured `Plugin`; everything that can be wrong is found here, before any data.
//!
//! ```text
//!  read ─► size cap ─► sha256 = pin? ─► scan (what file, imports, kind, version) ─► compile or AOT cache ─► link
//!       ─► describe (throw-away store) ─► entry ─► config against schema ─► assets ─► init ─► resolved configuration
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wasmtime::component::InstancePre;

use crate::bindings::exports::ovhost::plugin as exports;
use crate::bundle::{Crashes, Occasion};
use crate::cache::hex;
use crate::describe::{self, Description, Entry};
use crate::engine::{Compiled, Host, Runtime, words};
use crate::error::{Diagnostic, PluginError, TrapCause, clip, plain};
use crate::files::read_regular;
use crate::instance::{CallError, Counters, INIT_FUEL, guarded, init, new_store};
use crate::limits::Limits;
use crate::log::{PluginLog, StoreData};
use crate::scan::{Kind, Surface, scan};
use crate::schema;
use crate::trust::{TrustPolicy, TrustRecord};

/// Largest component, interpreters (Python, JavaScript) included.
const COMPONENT_BYTES: u64 = 64 << 20;
/// Largest asset.
const ASSET_BYTES: u64 = 256 << 20;
/// Findings of `init` that are shown.
const FINDINGS: usize = 100;
/// Largest resolved configuration.
const RESOLVED_BYTES: usize = 1 << 20;

/// A plugin as a recipe names it.
#[derive(Debug, Clone, Default)]
pub struct PluginSpec {
    /// The component's file; see [`resolve`](crate::resolve()).
    pub path: PathBuf,
    /// Name of this use of it, in logs, errors and seeds; none: the entry's name.
    pub name: Option<String>,
    /// The file's sha256, 64 hexadecimal digits; another file is refused.
    pub sha256: Option<String>,
    /// Which of the component's entries; none: its only one.
    pub entry: Option<String>,
    /// Its configuration, an object; null is the empty one.
    pub config: Value,
    /// Files that it reads at `init`, by the names that it declares.
    pub assets: BTreeMap<String, PathBuf>,
    /// Their sha256 hashes, by the same names; another file is refused.
    pub asset_pins: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Mixed into the seed that it sees, together with its name and the call's `run_seed`.
    pub seed: u64,
    /// What it must bring to be loaded.
    pub trust: Arc<TrustPolicy>,
    /// Folder in which its failures are kept, each as a file that repeats it; none: they are not.
    pub crashes: Option<PathBuf>,
}

impl PluginSpec {
    /// The component at `path` with everything else by default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        PluginSpec { path: path.into(), ..PluginSpec::default() }
    }
}

/// A file that a plugin was given, for provenance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssetInfo {
    /// The plugin's name for it.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// Its hash.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// Which plugin this is and how it is configured: what a run records.
#[derive(Debug, Clone, Serialize)]
pub struct PluginInfo {
    /// Name of this use of it.
    pub name: String,
    /// The component's own name.
    pub plugin_name: String,
    /// Its version.
    pub version: String,
    /// Its licence (SPDX).
    pub license: String,
    /// The file.
    pub path: PathBuf,
    /// The file's hash.
    pub sha256: String,
    /// The file's size.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Which entry.
    pub entry: String,
    /// The entry's one sentence.
    pub summary: String,
    /// Its configuration with the defaults filled in.
    pub resolved_config: Value,
    /// Columns that it reads; true where it cannot do without.
    pub reads: Vec<(String, bool)>,
    /// Columns that it may add.
    pub writes: Vec<String>,
    /// Files that it was given.
    pub assets: Vec<AssetInfo>,
    /// Whether rows are independent of each other (for metrics: whether state merges).
    pub state_pure: bool,
    /// Rows per call that suit it; 0: no preference.
    pub prefer_rows: u32,
    /// Contract version that it was built for.
    pub wit_version: String,
    /// What it may use.
    pub limits: Limits,
    /// Engine, its version and settings, as one hash.
    pub engine: String,
    /// Why it was accepted.
    pub trust: TrustRecord,
}

/// What `ovhost plugin inspect` shows: a component without a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its hash.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Contract version that it was built for.
    pub wit_version: String,
    /// Names of what it imports.
    pub imports: Vec<String>,
    /// Names of what it exports.
    pub exports: Vec<String>,
    /// How its machine code was had; no part of what the component is.
    #[serde(skip)]
    pub compiled: Compiled,
    /// What it says of itself, checked.
    pub description: Description,
}

/// What the component in a file takes and gives. Nothing of it is compiled or run. Errors: as [`Host::inspect`], as far as they
/// can be told without.
pub fn surface(path: &Path) -> Result<Surface, PluginError> {
    scan(path, &read_component(path)?)
}

/// A compiled and configured plugin. Clones share it; instances are made from it, one per worker.
#[derive(Clone)]
pub struct Plugin {
    loaded: Arc<Loaded>,
}

pub(crate) enum KindIndices {
    /// With the indices of `filter-state`, where it is exported.
    Filter(exports::filter::GuestIndices, Option<exports::filter_state::GuestIndices>),
    Packer(exports::packer::GuestIndices),
    Prompt(exports::prompt::GuestIndices),
    Metric(exports::metric::GuestIndices),
}

pub(crate) struct Loaded {
    pub runtime: Arc<Runtime>,
    pub pre: InstancePre<StoreData>,
    pub lifecycle: exports::lifecycle::GuestIndices,
    pub functions: KindIndices,
    pub info: PluginInfo,
    pub limits: Limits,
    pub entry: String,
    /// The configuration as `init` gets it.
    pub config: String,
    pub assets: Vec<(String, Vec<u8>)>,
    /// As `init` answered at load; the same answer is wanted every time.
    pub resolved_text: String,
    pub seed: u64,
    pub log: Arc<PluginLog>,
    /// Sum over the instances that are gone.
    pub totals: Mutex<Counters>,
    /// Where its failures are kept.
    pub crashes: Option<Crashes>,
}

/// Prepared far enough to be asked for its description.
struct Opened {
    bytes: u64,
    sha256: String,
    surface: Surface,
    runtime: Arc<Runtime>,
    pre: InstancePre<StoreData>,
    lifecycle: exports::lifecycle::GuestIndices,
    functions: KindIndices,
    description: Description,
    trust: TrustRecord,
    compiled: Compiled,
}

impl Host {
    /// Reads, checks and compiles a component and asks what it holds. `pin`: the sha256 that it must have.
    pub fn inspect(&self, path: &Path, pin: Option<&str>) -> Result<Inspection, PluginError> {
        self.inspect_spec(&PluginSpec { sha256: pin.map(str::to_owned), ..PluginSpec::new(path) })
    }

    /// As [`inspect`](Self::inspect), of a component as a recipe names it: what its trust forbids is not asked anything.
    pub fn inspect_spec(&self, spec: &PluginSpec) -> Result<Inspection, PluginError> {
        let opened = self.open(spec, &Limits::default())?;
        Ok(Inspection {
            path: spec.path.clone(),
            sha256: opened.sha256,
            bytes: opened.bytes,
            kind: opened.surface.kind,
            wit_version: opened.surface.wit_version,
            imports: opened.surface.imports,
            exports: opened.surface.exports,
            compiled: opened.compiled,
            description: opened.description,
        })
    }

    /// Loads and configures a plugin. Errors: whatever of file, pin, contract, configuration, assets is not right.
    pub fn load(&self, spec: &PluginSpec) -> Result<Plugin, PluginError> {
        let path = &spec.path;
        let shown = spec.name.clone().unwrap_or_else(|| path.display().to_string());
        spec.limits.check(&shown)?;
        let opened = self.open(spec, &spec.limits)?;
        let entry = choose(path, &opened.description.entries, spec.entry.as_deref())?.clone();
        let name = spec.name.clone().unwrap_or_else(|| entry.name.clone());

        let config = match &spec.config {
            Value::Null => Value::Object(serde_json::Map::new()),
            other => other.clone(),
        };
        check_config(path, &name, &entry, &config)?;
        let (assets, asset_infos) = read_assets(&name, &entry, spec)?;

        let seed = Sha256::new().chain_update(spec.seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
        let seed = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
        let info = PluginInfo {
            name: name.clone(),
            plugin_name: opened.description.name,
            version: opened.description.version,
            license: opened.description.license,
            path: path.clone(),
            sha256: opened.sha256,
            bytes: opened.bytes,
            kind: opened.surface.kind,
            entry: entry.name.clone(),
            summary: entry.summary,
            resolved_config: Value::Null,
            reads: entry.reads,
            writes: entry.writes,
            assets: asset_infos,
            state_pure: entry.state_pure,
            prefer_rows: entry.prefer_rows,
            wit_version: opened.surface.wit_version,
            limits: spec.limits.clone(),
            engine: format!("wasmtime 48, fuel, canonical NaN, no relaxed SIMD, {}", opened.runtime.hash),
            trust: opened.trust,
        };
        let mut loaded = Loaded {
            runtime: opened.runtime,
            pre: opened.pre,
            lifecycle: opened.lifecycle,
            functions: opened.functions,
            info,
            limits: spec.limits.clone(),
            entry: entry.name,
            config: config.to_string(),
            assets,
            resolved_text: String::new(),
            seed,
            log: PluginLog::new(name.as_str()),
            totals: Mutex::default(),
            crashes: spec.crashes.clone().map(|folder| Crashes::new(folder, spec.seed)),
        };
        let (text, resolved) = first_init(&loaded)?;
        loaded.resolved_text = text;
        loaded.info.resolved_config = resolved;
        Ok(Plugin { loaded: Arc::new(loaded) })
    }

    fn open(&self, spec: &PluginSpec, limits: &Limits) -> Result<Opened, PluginError> {
        let path = &spec.path;
        let bytes = read_component(path)?;
        let sha256 = hex(&Sha256::digest(&bytes));
        check_pin(path, spec.sha256.as_deref(), &sha256)?;
        let name =
            spec.name.as_deref().map_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy(), Into::into);
        let trust = spec.trust.check(&name, path, &bytes, &sha256, spec.sha256.is_some())?;
        let surface = scan(path, &bytes)?;
        let runtime = self.runtime(limits.stack_kib)?;
        let (component, compiled) = self.compile(&runtime, path, &bytes, &sha256)?;

        let unlike = |e: wasmtime::Error| PluginError::Exports {
            path: path.clone(),
            why: format!("its types differ from those of ovhost:plugin 0.1: {}", words(&e)),
        };
        let pre = runtime.linker.instantiate_pre(&component).map_err(unlike)?;
        let lifecycle = exports::lifecycle::GuestIndices::new(&pre).map_err(unlike)?;
        let functions = match surface.kind {
            Kind::Filter => {
                let state = surface.filter_state.then(|| exports::filter_state::GuestIndices::new(&pre));
                let filter = exports::filter::GuestIndices::new(&pre).map_err(unlike)?;
                KindIndices::Filter(filter, state.transpose().map_err(unlike)?)
            }
            Kind::Packer => KindIndices::Packer(exports::packer::GuestIndices::new(&pre).map_err(unlike)?),
            Kind::Prompt => KindIndices::Prompt(exports::prompt::GuestIndices::new(&pre).map_err(unlike)?),
            Kind::Metric => KindIndices::Metric(exports::metric::GuestIndices::new(&pre).map_err(unlike)?),
        };
        let description = ask(path, &runtime, &pre, &lifecycle, limits)?;
        describe::check_state(&description, surface.kind, surface.filter_state)
            .map_err(|rule| PluginError::Description { path: path.clone(), rule })?;
        spec.trust.check_description(path, &sha256, surface.kind, &description, &trust)?;
        let bytes = bytes.len() as u64;
        Ok(Opened { bytes, sha256, surface, runtime, pre, lifecycle, functions, description, trust, compiled })
    }
}

/// Calls `describe` in a store of its own. Nothing of the run's data is near it.
fn ask(
    path: &Path,
    runtime: &Runtime,
    pre: &InstancePre<StoreData>,
    lifecycle: &exports::lifecycle::GuestIndices,
    limits: &Limits,
) -> Result<Description, PluginError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let limits = Limits { output_mib: 4, ..limits.clone() };
    let mut store = new_store(runtime, &limits, &PluginLog::new(&*name));
    let (answer, _) = guarded(&mut store, &limits, INIT_FUEL, |store| {
        let instance = pre.instantiate(&mut *store)?;
        lifecycle.load(&mut *store, &instance)?.call_describe(store)
    });
    // Its bounds are the host's: raising the recipe's limits would not help.
    let said = answer.map_err(|stopped| match stopped.cause {
        TrapCause::OutputTooLarge { limit_mib } => PluginError::Description {
            path: path.to_owned(),
            rule: format!("what it says has more than {limit_mib} MiB"),
        },
        TrapCause::OutOfFuel { budget } => PluginError::Description {
            path: path.to_owned(),
            rule: format!("it was stopped after {budget} fuel: describe loops, or does far more than to say who it is"),
        },
        _ => CallError::Trap("describe", stopped).into_error(&name, None, None),
    })?;
    describe::check(said).map_err(|rule| PluginError::Description { path: path.to_owned(), rule })
}

fn choose<'a>(path: &Path, entries: &'a [Entry], wanted: Option<&str>) -> Result<&'a Entry, PluginError> {
    let error = |why: String| PluginError::Entry {
        path: path.to_owned(),
        why,
        available: entries.iter().map(|e| e.name.clone()).collect(),
    };
    match (wanted, entries) {
        (Some(name), _) => {
            entries.iter().find(|e| e.name == name).ok_or_else(|| error(format!("there is no entry \"{name}\"")))
        }
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(error("it has several entries; choose one with --entry NAME (in a recipe: `entry = \"NAME\"`)".into()))
        }
    }
}

fn check_config(path: &Path, name: &str, entry: &Entry, config: &Value) -> Result<(), PluginError> {
    let refuse = |diagnostics| Err(PluginError::Config { plugin: name.to_owned(), diagnostics });
    if !config.is_object() {
        let message = format!("it must be a table (JSON object), not {}", clip(&config.to_string(), 200));
        return refuse(vec![Diagnostic { path: String::new(), message, fatal: true }]);
    }
    match schema::check(&entry.config_schema, config) {
        Ok(findings) if findings.is_empty() => Ok(()),
        Ok(findings) => refuse(findings),
        Err(rule) => {
            Err(PluginError::Description { path: path.to_owned(), rule: format!("entry \"{}\": {rule}", entry.name) })
        }
    }
}

type Assets = (Vec<(String, Vec<u8>)>, Vec<AssetInfo>);

/// Reads the files that the recipe gives. One that it leaves out is for the plugin's `init` to miss.
fn read_assets(name: &str, entry: &Entry, spec: &PluginSpec) -> Result<Assets, PluginError> {
    let (mut data, mut infos) = (Vec::new(), Vec::new());
    for (asset, path) in &spec.assets {
        if !entry.assets.contains(asset) {
            return Err(PluginError::Asset {
                plugin: name.to_owned(),
                name: asset.clone(),
                allowed: entry.assets.clone(),
            });
        }
        let bytes = read(path, ASSET_BYTES, "an asset")?;
        let sha256 = hex(&Sha256::digest(&bytes));
        spec.trust.check_asset(name, asset, path, &sha256, spec.asset_pins.get(asset).map(String::as_str))?;
        infos.push(AssetInfo { name: asset.clone(), path: path.clone(), sha256, bytes: bytes.len() as u64 });
        data.push((asset.clone(), bytes));
    }
    Ok((data, infos))
}

/// The first `init`: the resolved configuration as text and as JSON.
fn first_init(loaded: &Loaded) -> Result<(String, Value), PluginError> {
    let name = &loaded.info.name;
    let mut store = new_store(&loaded.runtime, &loaded.limits, &loaded.log);
    let (instance, _) = guarded(&mut store, &loaded.limits, INIT_FUEL, |store| loaded.pre.instantiate(store));
    let instance = instance.map_err(|cause| CallError::Trap("start", cause).into_error(name, None, None))?;
    let answer = init(loaded, &mut store, &instance).inspect_err(|e| loaded.keep(e, &Occasion::default()));
    match answer.map_err(|e| e.into_error(name, None, None))? {
        Ok(text) => {
            let bad = |rule: String| PluginError::Output { plugin: name.clone(), call: "init", rule };
            if text.len() > RESOLVED_BYTES {
                return Err(bad(format!(
                    "the resolved configuration has {} bytes, at most {RESOLVED_BYTES}",
                    text.len()
                )));
            }
            let value: Value =
                serde_json::from_str(&text).map_err(|e| bad(format!("the resolved configuration is not JSON: {e}")))?;
            if !value.is_object() {
                return Err(bad("the resolved configuration is not a JSON object".into()));
            }
            Ok((text, value))
        }
        Err(findings) => {
            let more = findings.len().saturating_sub(FINDINGS);
            let mut diagnostics: Vec<Diagnostic> = findings
                .into_iter()
                .take(FINDINGS)
                .map(|d| Diagnostic { path: plain(&d.path, 256), message: plain(&d.message, 2048), fatal: d.fatal })
                .collect();
            if more > 0 {
                let message = format!("and {more} more findings");
                diagnostics.push(Diagnostic { path: String::new(), message, fatal: true });
            }
            if diagnostics.is_empty() {
                let message = "the plugin refused it without saying why, which is a defect of the plugin".to_owned();
                diagnostics.push(Diagnostic { path: String::new(), message, fatal: true });
            }
            Err(PluginError::Config { plugin: name.clone(), diagnostics })
        }
    }
}

fn check_pin(path: &Path, pin: Option<&str>, actual: &str) -> Result<(), PluginError> {
    let Some(pin) = pin else { return Ok(()) };
    let digits = pin.strip_prefix("sha256:").unwrap_or(pin);
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(PluginError::BadPin { path: path.to_owned(), value: clip(pin, 100).to_owned() });
    }
    if digits.eq_ignore_ascii_case(actual) {
        return Ok(());
    }
    Err(PluginError::HashMismatch { path: path.to_owned(), pinned: digits.to_lowercase(), actual: actual.to_owned() })
}

/// The bytes of a component's file, as the loader reads it. Errors: it cannot be read, is no regular file, or is too large.
pub fn read_component(path: &Path) -> Result<Vec<u8>, PluginError> {
    read(path, COMPONENT_BYTES, "a component")
}

/// A whole file of at most `cap` bytes. Reading stops at the cap, whatever the file says of its size.
fn read(path: &Path, cap: u64, what: &'static str) -> Result<Vec<u8>, PluginError> {
    let bytes = read_regular(path, cap);
    let bytes = bytes.map_err(|source| PluginError::Io { path: path.to_owned(), action: "read", source })?;
    if bytes.len() as u64 > cap {
        let size = std::fs::metadata(path).map_or(0, |m| m.len()).max(cap + 1);
        return Err(PluginError::TooLarge { path: path.to_owned(), what, size, cap });
    }
    Ok(bytes)
}

impl Plugin {
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.loaded.info.kind
    }

    /// Which plugin this is and how it is configured.
    pub fn info(&self) -> &PluginInfo {
        &self.loaded.info
    }

    /// Sum of the counters of all instances that have been dropped.
    pub fn counters(&self) -> Counters {
        self.loaded.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails if a column that the plugin requires is not among `offered`: for a check before any data is read.
    pub fn check_columns(&self, offered: &[&str]) -> Result<(), PluginError> {
        for (name, required) in &self.info().reads {
            if *required && !offered.contains(&name.as_str()) {
                return Err(PluginError::MissingColumn {
                    plugin: self.info().name.clone(),
                    column: name.clone(),
                    available: offered.iter().map(|s| (*s).to_owned()).collect(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn wrong_kind(&self, wanted: Kind) -> PluginError {
        PluginError::WrongKind {
            plugin: self.info().name.clone(),
            path: self.info().path.clone(),
            is: self.kind(),
            wanted,
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {} {})", self.kind(), self.info().name, self.info().path.display())
    }
}
