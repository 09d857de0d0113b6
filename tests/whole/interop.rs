//! What Python's `webdataset` and Megatron-Energon wrote reads here, and ours reads there: the same keys, the same bytes.
//!
//! The packages are those of `$OVHOST_PYTHON` (else `python3`); what is not installed is skipped with a word. What they
//! wrote once lies in `tests/fixtures/energon` and is read by the tests of `host/data` without any Python.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ovhost_data::shards::{IndexedShard, energon::read_part};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::{Lab, root};

/// Runs `interop.py`; none where Python cannot be started.
fn python(args: &[&str]) -> Option<String> {
    let python = std::env::var_os("OVHOST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    // Energon brings a torch of its own, which must not find the libraries of another.
    command.arg(root().join("tests/whole/interop.py")).args(args).env_remove("LD_LIBRARY_PATH");
    let output = command.output().ok()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "interop.py {args:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What is installed of `package`; says so where it is not.
fn installed(package: &str) -> Option<Value> {
    let versions = python(&["versions"]).map(|text| serde_json::from_str::<Value>(&text).unwrap());
    let version = versions.and_then(|v| v.get(package).cloned());
    if version.is_none() {
        eprintln!("skipped: {package} is not installed; name a Python that has it in OVHOST_PYTHON");
    }
    version
}

/// The samples that a command of `interop.py` read. Energon prints lines of its own between.
fn read_there(args: &[&str]) -> Vec<Value> {
    let text = python(args).unwrap();
    text.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The samples of shards as they read here, in the same form.
fn read_here(shards: &[PathBuf]) -> Vec<Value> {
    let mut samples = Vec::new();
    for path in shards {
        let shard = IndexedShard::open(path).unwrap();
        for i in 0..shard.len() {
            let raw = shard.read(i).unwrap();
            let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
            let parts = raw.parts.iter().map(|(name, bytes)| (name.clone(), Value::from(hex(bytes)))).collect();
            samples.push(json!({"key": raw.key, "parts": Value::Object(parts)}));
        }
    }
    samples
}

fn tars(folder: &Path) -> Vec<PathBuf> {
    let mut tars: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    tars.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    tars.sort();
    tars
}

fn part(folder: &Path, split_part: &str) -> Vec<PathBuf> {
    read_part(folder, split_part, None, None).unwrap().shards.into_iter().map(|s| s.path).collect()
}

#[test]
fn webdataset_both_ways() {
    if installed("webdataset").is_none() {
        return;
    }
    let lab = Lab::new();
    let theirs = lab.at("theirs");
    fs::create_dir(&theirs).unwrap();
    python(&["write", theirs.to_str().unwrap()]);
    for folder in [theirs, lab.at("data/train")] {
        let shards = tars(&folder);
        let names: Vec<&str> = shards.iter().map(|p| p.to_str().unwrap()).collect();
        let there = read_there(&[&["webdataset"], names.as_slice()].concat());
        assert!(there.len() >= 7);
        assert_eq!(read_here(&shards), there, "{}", folder.display());
    }
}

#[test]
fn energon_both_ways() {
    let Some(version) = installed("energon").and_then(|v| v.as_u64()) else { return };
    let lab = Lab::new();
    // Theirs: webdataset's shards, prepared by Energon.
    let theirs = lab.at("theirs");
    fs::create_dir(&theirs).unwrap();
    let name = theirs.to_str().unwrap();
    python(&["write", name]);
    python(&["prepare", name]);
    let info = if version == 7 { ".nv-meta/.info.json" } else { ".nv-meta/.info.yaml" };
    assert!(theirs.join(info).is_file(), "Energon {version} writes {info}");
    let there = read_there(&["energon", name, "train"]);
    assert_eq!(there.len(), 7);
    assert_eq!(read_here(&part(&theirs, "train")), there, "in the order of the split");
    // Ours: as `data convert` leaves it, and as `data index` makes it for this version alone.
    let ours = lab.at("data/train");
    let all = read_here(&tars(&ours));
    assert_eq!(read_there(&["energon", ours.to_str().unwrap(), "train"]), all);
    fs::remove_dir_all(ours.join(".nv-meta")).unwrap();
    tars(&ours).iter().for_each(|tar| fs::remove_file(tar.with_extension("tar.idx")).unwrap());
    lab.run(&["data", "index", "data/train", "--split", "val", "--energon-version", &version.to_string()]).ok();
    assert_eq!(read_there(&["energon", ours.to_str().unwrap(), "val"]), all);
    assert_eq!(read_here(&part(&ours, "val")), all);
    // A metadataset over both: the same samples, whatever the order.
    let mix = lab.at("mix.yaml");
    let text = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    blend_epochized:\n    - {repetitions: 1, path: theirs}\n    - {repetitions: 1, path: data/train, split_part: val}\n";
    fs::write(&mix, text).unwrap();
    let mut there = read_there(&["energon", mix.to_str().unwrap(), "train"]);
    let leaves = ovhost_data::shards::energon::metadataset(&mix, "train").unwrap();
    let mut here: Vec<Value> = leaves.iter().flat_map(|l| read_here(&part(&l.folder, &l.split_part))).collect();
    let key = |v: &Value| v["key"].as_str().unwrap().to_owned();
    there.sort_by_key(key);
    here.sort_by_key(key);
    assert_eq!(here, there);
    // And it trains on it.
    let trained =
        lab.run(&["train", "--set", "data.train=mix.yaml", "--set", "data.epochs=1", "--set", "train.steps=100"]).ok();
    assert!(trained.err.contains("55 samples read"), "{}", trained.err);
}
