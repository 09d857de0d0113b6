//! From names to things: devices, and the recipe's plugins together with those of `--plugins`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::{Host, Kind, Plugin, PluginSpec, TrustPolicy, split_pin};
use ovhost_plugin_cli::places::from_flag;
pub use ovhost_plugin_cli::places::{host, locate};
use ovhost_train::recipe::{PluginSet, PluginUse};
use tch::Device;
use tracing::{debug, info};

/// Loads CUDA where it is present (before any other torch call), sets the number of threads, and picks the device.
pub fn device(name: &str, threads: u32) -> Result<Device> {
    let cuda = ovhost_torch::load_cuda();
    if let Err(reason) = &cuda {
        debug!("CPU only: {reason}");
    }
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get() as i32),
        n => i32::try_from(n).context("run.threads")?,
    };
    tch::set_num_threads(threads);
    let found = if cuda.is_ok() { tch::Cuda::device_count() } else { 0 };
    match name {
        "auto" if found > 0 => Ok(Device::Cuda(0)),
        "auto" | "cpu" => Ok(Device::Cpu),
        other => {
            let number = other
                .strip_prefix("cuda")
                .map(|n| n.strip_prefix(':').unwrap_or("0"))
                .and_then(|n| n.parse::<usize>().ok());
            let Some(number) = number else { bail!("device {other:?} is not known; use auto, cpu, cuda or cuda:N") };
            if let Err(reason) = cuda {
                bail!("device {other} was asked for, but CUDA cannot be used: {reason}");
            }
            ensure!((number as i64) < found, "device {other} was asked for, but this machine has {found} CUDA devices");
            Ok(Device::Cuda(number))
        }
    }
}

/// Everything that a recipe and `--plugins` name, loaded.
#[derive(Default)]
pub struct Plugins {
    /// In order.
    pub filters: Vec<Plugin>,
    /// Record to conversation.
    pub prompt: Option<Plugin>,
    /// Samples to packs.
    pub packer: Option<Plugin>,
    /// Answer to score.
    pub metrics: Vec<Plugin>,
}

/// Loads the recipe's plugins (all, or only those of `kinds`) and then those of `--plugins`: a filter or metric is
/// added, a prompt or packer replaces the recipe's. A component that the recipe names too keeps its configuration. The recipe's
/// trust holds for all of them; one of `--plugins` is pinned as NAME@sha256:HEX. Failures are kept in the folder `crashes`.
pub fn plugins(
    host: &Host,
    set: Option<&PluginSet>,
    extra: &[String],
    dir: &Path,
    seed: u64,
    crashes: &Path,
    kinds: &[Kind],
) -> Result<Plugins> {
    let trust = Arc::new(set.map(|s| s.policy(dir)).transpose()?.unwrap_or_default());
    let spec = |use_: &PluginUse| request(use_, dir, seed, &trust, crashes);
    let uses: Vec<&PluginUse> =
        set.map(|s| s.filter.iter().chain([&s.prompt, &s.packer]).chain(&s.metric).collect()).unwrap_or_default();
    let known = |path: &Path| {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let same =
            |u: &&PluginUse| locate(&u.plugin, u.sha256.as_deref(), dir).is_ok_and(|at| real(&at.path) == real(path));
        uses.iter().copied().find(same)
    };
    let mut out = Plugins::default();
    let mut given = Vec::new();
    for text in extra {
        let (name, pin) = split_pin(text);
        let name = &*from_flag(name);
        let path = locate(name, pin, dir)?.path;
        let mut use_ = known(&path).cloned().unwrap_or_else(|| PluginUse::bare(name));
        if let (Some(ours), Some(theirs)) = (pin, &use_.sha256) {
            let digits = theirs.strip_prefix("sha256:").unwrap_or(theirs);
            ensure!(ours.eq_ignore_ascii_case(digits), "--plugins {text}: the recipe pins {name} to sha256 {digits}");
        }
        use_.sha256 = use_.sha256.or(pin.map(str::to_owned));
        given.push(host.load(&spec(&use_)?)?);
    }
    if let Some(set) = set {
        let wanted = |kind: Kind| kinds.contains(&kind);
        let replaced = |kind: Kind| given.iter().any(|p| p.kind() == kind);
        let typed = |use_: &PluginUse, kind: Kind, key: &str| -> Result<Plugin> {
            let spec = spec(use_)?;
            // The kind first: a configuration that is refused says little when the whole plugin is in the wrong place.
            let seen = host.inspect_spec(&spec)?.kind;
            ensure!(seen == kind, "{key}: {} is a {seen} plugin, a {kind} plugin is needed here", use_.plugin);
            host.load(&spec).with_context(|| format!("{key} ({})", use_.plugin))
        };
        if wanted(Kind::Filter) {
            for use_ in &set.filter {
                out.filters.push(typed(use_, Kind::Filter, "plugins.filter")?);
            }
        }
        if wanted(Kind::Prompt) && !replaced(Kind::Prompt) {
            out.prompt = Some(typed(&set.prompt, Kind::Prompt, "plugins.prompt")?);
        }
        if wanted(Kind::Packer) && !replaced(Kind::Packer) {
            out.packer = Some(typed(&set.packer, Kind::Packer, "plugins.packer")?);
        }
        if wanted(Kind::Metric) {
            for use_ in &set.metric {
                out.metrics.push(typed(use_, Kind::Metric, "plugins.metric")?);
            }
        }
    }
    for plugin in given {
        let kind = plugin.kind();
        if !kinds.contains(&kind) {
            let allowed: Vec<String> = kinds.iter().map(Kind::to_string).collect();
            bail!(
                "--plugins: {} is a {kind} plugin; this command uses {} plugins",
                plugin.info().path.display(),
                allowed.join(", ")
            );
        }
        match kind {
            Kind::Filter => push_once(&mut out.filters, plugin),
            Kind::Metric => push_once(&mut out.metrics, plugin),
            Kind::Prompt => out.prompt = Some(plugin),
            Kind::Packer => out.packer = Some(plugin),
        }
    }
    for plugin in out.all() {
        let info = plugin.info();
        info!("plugin {} {} {} sha256 {:.12}", info.kind, info.name, info.version, info.sha256);
        debug!("plugin {} is {}", info.name, info.path.display());
    }
    Ok(out)
}

/// The loader's request for one use of a plugin.
pub fn request(
    use_: &PluginUse,
    dir: &Path,
    seed: u64,
    trust: &Arc<TrustPolicy>,
    crashes: &Path,
) -> Result<PluginSpec> {
    let at = locate(&use_.plugin, use_.sha256.as_deref(), dir)?;
    let mut spec = use_.spec(at.path, dir, seed);
    // A digest in the name pins the file too.
    spec.sha256 = spec.sha256.or(at.sha256);
    (spec.trust, spec.crashes) = (Arc::clone(trust), Some(crashes.to_owned()));
    Ok(spec)
}

fn push_once(list: &mut Vec<Plugin>, plugin: Plugin) {
    let same = |p: &Plugin| p.info().sha256 == plugin.info().sha256 && p.info().entry == plugin.info().entry;
    if !list.iter().any(same) {
        list.push(plugin);
    }
}

impl Plugins {
    /// Every plugin, in the order of the data flow.
    pub fn all(&self) -> impl Iterator<Item = &Plugin> {
        self.filters.iter().chain(&self.prompt).chain(&self.packer).chain(&self.metrics)
    }

    /// What the records of a run say about its plugins: identity, resolved configuration, why they were let in; no paths.
    pub fn provenance(&self) -> serde_json::Value {
        let of = |p: &Plugin| {
            let i = p.info();
            let mut record = serde_json::json!({
                "kind": i.kind, "name": i.name, "plugin": i.plugin_name, "version": i.version, "entry": i.entry,
                "sha256": i.sha256, "config": i.resolved_config, "trust": i.trust,
            });
            if !i.assets.is_empty() {
                let hashes = i.assets.iter().map(|a| (a.name.clone(), a.sha256.clone().into()));
                record["assets"] = serde_json::Value::Object(hashes.collect());
            }
            record
        };
        serde_json::Value::Array(self.all().map(of).collect())
    }
}
