//! The loader over real components: what a plugin's failure does to the run.

use std::path::PathBuf;

use ovhost_plugin::{Host, HostOptions, OnTrap, Plugin, PluginSpec};

use super::*;
use crate::pipeline::PluginStages;

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(host: &Host, path: PathBuf, entry: Option<&str>) -> Plugin {
    assert!(path.is_file(), "{} is missing: run cargo xtask plugins", path.display());
    host.load(&PluginSpec { entry: entry.map(str::to_owned), ..PluginSpec::new(path) }).unwrap()
}

#[test]
fn a_row_that_a_plugin_fails_on_stops_the_run_or_is_rejected() {
    let cache = tempfile::tempdir().unwrap();
    let host = Host::new(HostOptions { cache_dir: Some(cache.path().join("wasm")) }).unwrap();
    let dir = std::env::var_os("OVHOST_PLUGINS_DIR").map_or_else(|| workspace().join("target/plugins"), PathBuf::from);
    let filter = load(&host, workspace().join("tests/fixtures/guests/misbehave.wasm"), Some("panic"));
    let prompt = load(&host, dir.join("prompts/conversation.wasm"), None);
    let packer = load(&host, dir.join("packers/sequential.wasm"), None);
    let stages = |policy| {
        let stages = PluginStages::new(vec![filter.clone()], prompt.clone(), Some(packer.clone())).unwrap();
        assert!(stages.fingerprint().contains(" panic {"), "the entry belongs to it: {}", stages.fingerprint());
        Arc::new(stages.with_on_trap(policy))
    };
    let samples = (0..80u64).map(|i| {
        let answer = if i == 33 { "poison" } else { "a red square" };
        Ok(record(i, json!({"question": "What?", "answer": answer}), None))
    });
    let parts = parts(Memory(vec![samples.collect()]));
    let config = DataConfig { epochs: Some(1), on_plugin_failure: OnTrap::Reject, ..config() };
    let run = |policy| LoaderParts { stages: stages(policy), ..parts.clone() };

    let error = first_error(&config, run(OnTrap::Stop));
    assert!(error.contains("k33") && error.contains("is poison"), "{error}");

    let (batches, trailing, counters) = all(Loader::start(&config, run(OnTrap::Reject)).unwrap());
    let rejects: Vec<&Reject> = batches.iter().flat_map(|b| &b.rejects).chain(&trailing).collect();
    assert_eq!((counters.read, counters.samples, counters.rejected_total()), (80, 79, 1));
    assert!(rejects.len() == 1 && rejects[0].key == "k33" && rejects[0].stage == "filter-error", "{rejects:?}");
    assert!(rejects[0].reason.contains("is poison"), "{}", rejects[0].reason);
}
