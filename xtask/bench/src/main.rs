//! The benchmarks of `cargo xtask bench`. Each measures ours and its peer alternately in one process and prints medians
//! and their ratio; a noisy machine moves both.

mod boundary;
mod data;
mod filter;
mod generate;
mod images;
mod memory;
mod packing;
mod peer;
mod pictures;
mod pipeline;
mod process;
mod python;
mod pytorch;
mod saved_answers;
mod scoring;
mod train_step;

use std::time::Instant;

use anyhow::{Result, bail, ensure};

/// A benchmark's name and what runs it.
type Bench = (&'static str, fn() -> Result<()>);

const ALL: [Bench; 12] = [
    ("packing", packing::run),
    ("filter", filter::run),
    ("boundary", boundary::run),
    ("peer", peer::run),
    ("pipeline", pipeline::run),
    ("images", images::run),
    ("data", data::run),
    ("memory", memory::run),
    ("scoring", scoring::run),
    ("train", train_step::run),
    ("generate", generate::run),
    ("pytorch", pytorch::run),
];

fn main() -> Result<()> {
    if let Some(folder) = std::env::var_os(pytorch::SIDE) {
        return pytorch::side(folder.as_ref());
    }
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|a| !ALL.iter().any(|(name, _)| name == a)) {
        let known: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark is called {unknown:?}; there are {}", known.join(", "));
    }
    for (name, run) in ALL {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            println!("\n== {name}");
            run()?;
        }
    }
    Ok(())
}

/// Seconds of one call.
pub fn time<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begin = Instant::now();
    let value = work()?;
    Ok((begin.elapsed().as_secs_f64(), value))
}

/// Seconds that this thread computed during one call: what it takes on a machine with nothing else to do, as far as a busy
/// one can tell.
pub fn cpu_time<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begin = thread_seconds()?;
    let value = work()?;
    Ok((thread_seconds()? - begin, value))
}

fn thread_seconds() -> Result<f64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours, which the call only writes to.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    ensure!(status == 0, "this system does not say how long a thread has computed");
    Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
}

/// Median; the list must not be empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How a figure stands against its bar.
pub fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "MISSED" }
}

/// The plugin host and a first-party plugin, as a run loads it.
pub fn plugin(name: &str, config: serde_json::Value) -> Result<ovhost_plugin::Plugin> {
    entry(name, None, config)
}

/// As [`plugin`], of a component with several entries.
pub fn entry(name: &str, entry: Option<&str>, config: serde_json::Value) -> Result<ovhost_plugin::Plugin> {
    let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins");
    let host = ovhost_plugin::Host::new(ovhost_plugin::HostOptions::default())?;
    let mut spec = ovhost_plugin::PluginSpec::new(built.join(name));
    spec.config = config;
    spec.entry = entry.map(str::to_owned);
    Ok(host.load(&spec)?)
}
