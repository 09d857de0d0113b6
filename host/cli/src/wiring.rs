//! From names to things: devices, and the recipe's plugins together with those of `--plugins`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::{Host, HostOptions, Kind, Plugin};
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

/// Folders in which first-party plugins are found: beside the installed binary, and in a source checkout.
fn builtin_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(exe) = std::env::current_exe().and_then(std::fs::canonicalize) {
        // target/release/ovhost -> target/plugins; PREFIX/bin/ovhost -> PREFIX/share/ovhost/plugins
        if let Some(up) = exe.parent().and_then(Path::parent) {
            dirs.push(up.join("plugins"));
            dirs.push(up.join("share/ovhost/plugins"));
        }
        if let Some(dir) = exe.parent() {
            dirs.push(dir.join("plugins"));
        }
    }
    dirs
}

/// The plugin host with its cache of compiled components.
pub fn host() -> Result<Host> {
    Ok(Host::new(HostOptions::default())?)
}

/// Resolves a plugin's name as recipes and `--plugins` write it.
pub fn resolve(name: &str, dir: &Path) -> Result<PathBuf> {
    Ok(ovhost_plugin::resolve(name, Some(dir), &builtin_dirs())?)
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
/// added, a prompt or packer replaces the recipe's. A component that the recipe names too keeps its configuration.
pub fn plugins(
    host: &Host,
    set: Option<&PluginSet>,
    extra: &[String],
    dir: &Path,
    seed: u64,
    kinds: &[Kind],
) -> Result<Plugins> {
    let uses: Vec<&PluginUse> =
        set.map(|s| s.filter.iter().chain([&s.prompt, &s.packer]).chain(&s.metric).collect()).unwrap_or_default();
    let load = |use_: &PluginUse, path: PathBuf| -> Result<Plugin> { Ok(host.load(&use_.spec(path, dir, seed))?) };
    let known = |path: &Path| -> Result<Option<&PluginUse>> {
        for use_ in &uses {
            if resolve(&use_.plugin, dir).is_ok_and(|p| p == path) {
                return Ok(Some(use_));
            }
        }
        Ok(None)
    };
    let mut out = Plugins::default();
    let mut given = Vec::new();
    for name in extra {
        let path = resolve(name, dir)?;
        let plugin = match known(&path)? {
            Some(use_) => load(use_, path)?,
            None => load(&PluginUse::bare(name.clone()), path)?,
        };
        given.push(plugin);
    }
    if let Some(set) = set {
        let wanted = |kind: Kind| kinds.contains(&kind);
        let replaced = |kind: Kind| given.iter().any(|p| p.kind() == kind);
        let typed = |use_: &PluginUse, kind: Kind, key: &str| -> Result<Plugin> {
            let path = resolve(&use_.plugin, dir)?;
            // The kind first: a configuration that is refused says little when the whole plugin is in the wrong place.
            let seen = host.inspect(&path, use_.sha256.as_deref())?.kind;
            ensure!(seen == kind, "{key}: {} is a {seen} plugin, a {kind} plugin is needed here", use_.plugin);
            load(use_, path).with_context(|| format!("{key} ({})", use_.plugin))
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

    /// What the records of a run say about its plugins: identity and resolved configuration, no paths.
    pub fn provenance(&self) -> serde_json::Value {
        let of = |p: &Plugin| {
            let i = p.info();
            serde_json::json!({
                "kind": i.kind, "name": i.name, "plugin": i.plugin_name, "version": i.version, "entry": i.entry,
                "sha256": i.sha256, "config": i.resolved_config,
            })
        };
        serde_json::Value::Array(self.all().map(of).collect())
    }
}
