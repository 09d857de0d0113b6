//! Checkpoints: a folder that is whole or absent.
//!
//! ```text
//!  checkpoints/.tmp-step-N/   written and fsynced      rename      checkpoints/step-N/
//!      model/                 a model folder           ──────►         state.json last: it lists every file's size
//!      optimizer.safetensors  moments, masters                     checkpoints/best ─► step-M, where the recipe asks for it
//!      state.json             step, data position, sizes
//! ```
//! Of those before it the newest stay, and the best one.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use ovhost_data::loader::LoaderState;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{evaluation::Best, guard::GuardState};

/// What a run needs beside tensors to go on exactly.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Format of this file.
    pub version: u32,
    /// Updates done.
    pub step: u64,
    /// Real tokens seen.
    pub tokens: u64,
    /// Exact position of the data; absent before the first batch.
    pub data: Option<LoaderState>,
    /// Bytes of metrics.jsonl and rejects.jsonl that belong to these steps: what lies behind is cut on resume.
    pub metrics_bytes: u64,
    /// See `metrics_bytes`.
    pub rejects_bytes: u64,
    /// See `metrics_bytes`; of guards.jsonl.
    #[serde(default)]
    pub guards_bytes: u64,
    /// What the guards remember.
    #[serde(default)]
    pub guard: GuardState,
    /// The last step that was evaluated.
    #[serde(default)]
    pub evaluated: u64,
    /// The step that did best, whose checkpoint stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// The recipe as resolved.
    pub recipe: serde_json::Value,
    /// Identity (name, sha256, resolved configuration) of every plugin.
    pub plugins: serde_json::Value,
    /// Size in bytes of every other file of the folder, by relative path.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
}

/// Present version of [`State`].
pub const STATE_VERSION: u32 = 1;

impl State {
    /// The state after `step` updates of a run of which nothing else is known yet.
    pub fn new(step: u64) -> Self {
        State {
            version: STATE_VERSION,
            step,
            tokens: 0,
            data: None,
            metrics_bytes: 0,
            rejects_bytes: 0,
            guards_bytes: 0,
            guard: GuardState::default(),
            evaluated: 0,
            best: None,
            recipe: serde_json::Value::Null,
            plugins: serde_json::Value::Null,
            files: BTreeMap::new(),
        }
    }
}

/// Name of the checkpoint of `step`.
pub fn name(step: u64) -> String {
    format!("step-{step}")
}

/// Writes the checkpoint `step-N` and removes those before it but for the newest `keep` and the best. `write_model` fills the
/// given model folder.
///
/// # Errors
/// The disk is full or refuses otherwise; what was there before is then still there.
pub fn write(
    folder: &Path,
    mut state: State,
    optimizer: &[(String, Tensor)],
    keep: usize,
    write_model: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let (step, best) = (state.step, state.best.as_ref().map(|best| best.step));
    let staging = folder.join(format!("{STAGING}{step}"));
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging).with_context(|| format!("making {}", staging.display()))?;
    write_model(&staging.join("model"))?;
    write_tensors(&staging.join("optimizer.safetensors"), optimizer)?;
    state.files = sizes(&staging)?;
    write_synced(&staging.join("state.json"), &serde_json::to_vec(&state)?)?;
    sync_tree(&staging)?;
    let (home, old) = (folder.join(name(step)), folder.join(format!("{OLD}{step}")));
    if home.exists() {
        // Aside, not away: at no moment is there neither of the two.
        fs::rename(&home, &old).with_context(|| format!("moving {} aside", home.display()))?;
    }
    fs::rename(&staging, &home).with_context(|| format!("renaming {} to {}", staging.display(), home.display()))?;
    sync_dir(folder)?;
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    if let Some(best) = best {
        mark_best(folder, best)?;
    }
    prune(folder, step, keep, best)?;
    Ok(home)
}

/// What is being written, and what is being replaced.
const STAGING: &str = ".tmp-step-";
const OLD: &str = ".old-step-";

/// Removes the checkpoints before `step`, but for the newest `keep` (that of `step` is one) and the best. Those behind `step`
/// are left: they are damaged, or the run would have gone on from them, and are no reason to remove a whole one.
fn prune(folder: &Path, step: u64, keep: usize, best: Option<u64>) -> Result<()> {
    let mut all = list(folder)?;
    all.retain(|(other, _)| *other <= step);
    all.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    for (_, old) in all.into_iter().skip(keep).filter(|(step, _)| Some(*step) != best) {
        fs::remove_dir_all(&old).with_context(|| format!("removing the old checkpoint {}", old.display()))?;
    }
    Ok(())
}

/// Lets the link `best` lead to the checkpoint of `step`.
///
/// # Errors
/// The folder cannot be written.
pub fn mark_best(folder: &Path, step: u64) -> Result<()> {
    let (link, staging, target) = (folder.join("best"), folder.join(".tmp-best"), name(step));
    if fs::read_link(&link).is_ok_and(|to| to == Path::new(&target)) {
        return Ok(());
    }
    if staging.is_symlink() {
        fs::remove_file(&staging)?;
    }
    std::os::unix::fs::symlink(&target, &staging)
        .and_then(|()| fs::rename(&staging, &link))
        .with_context(|| format!("linking {} to {target}", link.display()))?;
    sync_dir(folder)
}

/// A checkpoint's folder and state.
pub type Found = (PathBuf, State);

/// The newest whole checkpoint; damaged ones are named in the returned warnings and passed over.
pub fn newest(folder: &Path) -> Result<(Option<Found>, Vec<String>)> {
    let mut all = list(folder)?;
    all.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    let mut warnings = Vec::new();
    for (_, path) in all {
        match open(&path) {
            Ok(state) => return Ok((Some((path, state)), warnings)),
            Err(error) => warnings.push(format!("{error:#}")),
        }
    }
    Ok((None, warnings))
}

/// Reads and checks one checkpoint.
pub fn open(path: &Path) -> Result<State> {
    let file = path.join("state.json");
    let text =
        fs::read(&file).with_context(|| format!("{} cannot be read: the checkpoint is not whole", file.display()))?;
    let state: State = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: the checkpoint is not whole", file.display()))?;
    if state.version != STATE_VERSION {
        bail!("{} has version {}, this program reads {STATE_VERSION}", file.display(), state.version);
    }
    for (name, &size) in &state.files {
        let file = path.join(name);
        let found = fs::metadata(&file).map(|m| m.len());
        match found {
            Ok(found) if found == size => {}
            Ok(found) => bail!("{} has {found} bytes instead of {size}: the checkpoint is not whole", file.display()),
            Err(error) => bail!("{} cannot be read ({error}): the checkpoint is not whole", file.display()),
        }
    }
    Ok(state)
}

/// Puts right what an interrupted write left behind: half-written checkpoints go, one that was to be replaced comes back.
/// Returns the half-written ones' names.
///
/// # Errors
/// The folder cannot be read or written.
pub fn clean(folder: &Path) -> Result<Vec<String>> {
    let mut halves = Vec::new();
    if !folder.exists() {
        return Ok(halves);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(step) = name.strip_prefix(STAGING) {
            fs::remove_dir_all(&path)?;
            halves.push(format!("step-{step}"));
        } else if let Some(step) = name.strip_prefix(OLD) {
            let home = folder.join(format!("step-{step}"));
            if home.exists() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::rename(&path, &home)?;
            }
        }
    }
    Ok(halves)
}

fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("step-"))
            .and_then(|n| n.parse().ok());
        if let Some(step) = step {
            out.push((step, path));
        }
    }
    Ok(out)
}

/// Reads `optimizer.safetensors` of a checkpoint.
pub fn read_optimizer(path: &Path) -> Result<HashMap<String, Tensor>> {
    let file = path.join("optimizer.safetensors");
    let tensors = Tensor::read_safetensors(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(tensors.into_iter().collect())
}

fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let on_cpu: Vec<(&str, Tensor)> =
        tensors.iter().map(|(n, t)| (n.as_str(), t.to_device(tch::Device::Cpu).contiguous())).collect();
    Tensor::write_safetensors(&on_cpu, path).with_context(|| format!("writing {}", path.display()))
}

fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>> {
    fn walk(base: &Path, dir: &Path, out: &mut BTreeMap<String, u64>) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(base, &path, out)?;
            } else if let Ok(rel) = path.strip_prefix(base) {
                out.insert(rel.to_string_lossy().into_owned(), fs::metadata(&path)?.len());
            }
        }
        Ok(())
    }
    let mut out = BTreeMap::new();
    walk(folder, folder, &mut out)?;
    Ok(out)
}

/// Fsyncs all that is in a folder.
///
/// # Errors
/// A file cannot be opened or the disk refuses.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            fs::File::open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir)?.sync_all().with_context(|| format!("fsync of {}", dir.display()))
}

/// Writes a file under a temporary name, fsyncs, renames.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let staging = path.with_extension("tmp");
    let mut file = fs::File::create(&staging).with_context(|| format!("creating {}", staging.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staging, path).with_context(|| format!("renaming to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(dir: &Path, step: u64) -> PathBuf {
        save_state(dir, State::new(step))
    }

    fn save_state(dir: &Path, state: State) -> PathBuf {
        let tensors = [("exp_avg.w".to_owned(), Tensor::from_slice(&[state.step as f32, 2.0]))];
        write(dir, state, &tensors, 2, |model| {
            fs::create_dir_all(model)?;
            Ok(fs::write(model.join("config.json"), b"{}")?)
        })
        .unwrap()
    }

    #[test]
    fn keeps_the_newest_and_reads_them_back() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 10] {
            save(dir.path(), step);
        }
        let names: Vec<u64> = list(dir.path()).unwrap().into_iter().map(|(s, _)| s).collect();
        assert_eq!(names.len(), 2);
        let (found, warnings) = newest(dir.path()).unwrap();
        let (path, found) = found.unwrap();
        assert_eq!((found.step, warnings.len()), (10, 0));
        assert_eq!(Vec::<f32>::try_from(&read_optimizer(&path).unwrap()["exp_avg.w"]).unwrap(), [10.0, 2.0]);
    }

    #[test]
    fn a_damaged_checkpoint_is_named_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 1);
        let last = save(dir.path(), 2);
        let file = last.join("optimizer.safetensors");
        let len = fs::metadata(&file).unwrap().len();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len / 2).unwrap();
        let (found, warnings) = newest(dir.path()).unwrap();
        assert_eq!(found.unwrap().1.step, 1);
        assert!(warnings[0].contains("optimizer.safetensors") && warnings[0].contains("not whole"), "{warnings:?}");
    }

    #[test]
    fn an_interrupted_write_is_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(".tmp-step-7")).unwrap();
        assert!(newest(dir.path()).unwrap().0.is_none());
        assert_eq!(clean(dir.path()).unwrap(), ["step-7"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    fn steps(dir: &Path) -> Vec<u64> {
        let mut steps: Vec<u64> = list(dir).unwrap().into_iter().map(|(s, _)| s).collect();
        steps.sort_unstable();
        steps
    }

    #[test]
    fn the_best_stays_and_a_link_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mode, weights) = (crate::recipe::Mode::Min, crate::ema::Export::Last);
        let best = |step, value| Some(Best { metric: "loss".into(), mode, weights, value, step });
        for step in [1, 2, 3, 4] {
            save_state(dir.path(), State { best: best(2, 0.5), ..State::new(step) });
        }
        assert_eq!(steps(dir.path()), [2, 3, 4]);
        assert_eq!(fs::read_link(dir.path().join("best")).unwrap(), Path::new("step-2"));
        assert!(dir.path().join("best/state.json").is_file());
        save_state(dir.path(), State { best: best(5, 0.4), ..State::new(5) });
        assert_eq!(steps(dir.path()), [4, 5], "the former best goes like any other");
        assert_eq!(fs::read_link(dir.path().join("best")).unwrap(), Path::new("step-5"));
    }

    #[test]
    fn damaged_ones_behind_cost_no_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        for step in [8, 9] {
            fs::write(save(dir.path(), step).join("state.json"), b"{").unwrap();
        }
        for step in [5, 6, 7] {
            save(dir.path(), step);
        }
        assert_eq!(steps(dir.path()), [6, 7, 8, 9]);
        assert_eq!(newest(dir.path()).unwrap().0.unwrap().1.step, 7);
    }

    #[test]
    fn one_that_was_to_be_replaced_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let home = save(dir.path(), 3);
        fs::rename(&home, dir.path().join(".old-step-3")).unwrap();
        clean(dir.path()).unwrap();
        assert_eq!(newest(dir.path()).unwrap().0.unwrap().1.step, 3);
        fs::create_dir(dir.path().join(".old-step-3")).unwrap();
        clean(dir.path()).unwrap();
        assert!(home.is_dir() && !dir.path().join(".old-step-3").exists());
        // Written again, it is replaced.
        save(dir.path(), 3);
        assert_eq!(steps(dir.path()), [3]);
    }
}
