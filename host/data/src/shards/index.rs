//! Shards that others made → `.tar.idx` beside each, and Energon's metadata: what its own preparing step does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::energon::{EnergonVersion, check_split, write_nv_meta_for};
use super::{Shard, ShardError, expand, index_path, io_error};

/// What to index.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The data set: metadata goes into its `.nv-meta`, and names of shards are relative to it.
    pub folder: PathBuf,
    /// Shards in it as patterns; none for all `*.tar`, in folders below too.
    pub shards: Vec<String>,
    /// Part that they are.
    pub split: String,
    /// For which Energon.
    pub version: EnergonVersion,
    /// Threads.
    pub workers: usize,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// Shards.
    pub shards: usize,
    /// Samples in them.
    pub samples: u64,
    /// Indices that were missing or wrong and are new.
    pub written: usize,
}

/// Samples of a shard, and whether its index was made now.
type OneIndexed = Result<(u64, bool), ShardError>;

/// Indexes. `progress` is called after each shard with how many are done; it answers whether to go on.
///
/// # Errors
/// Shards outside of the folder, damaged or without samples; metadata that is not this program's; files that cannot be
/// written. Nothing is listed in the metadata then; indices of whole shards stay.
pub fn index(
    options: &IndexOptions,
    progress: impl Fn(usize, usize) -> bool + Sync,
) -> Result<Option<Indexed>, ShardError> {
    check_split(&options.split)?;
    let folder = &options.folder;
    let names = if options.shards.is_empty() { tars_below(folder)? } else { named(folder, &options.shards)? };
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<Option<OneIndexed>>> = Mutex::new(names.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, names.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(at) else { break };
                    let result = index_one(&folder.join(name));
                    let failed = result.is_err();
                    if let Some(slot) = results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
                        *slot = Some(result);
                    }
                    if failed || !progress(done.fetch_add(1, Ordering::Relaxed) + 1, names.len()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut counts = Vec::with_capacity(names.len());
    let mut indexed = Indexed { shards: names.len(), samples: 0, written: 0 };
    let mut unfinished = false;
    for (name, result) in names.into_iter().zip(results) {
        match result {
            None => unfinished = true,
            Some(result) => {
                let (samples, written) = result?;
                indexed.samples += samples;
                indexed.written += usize::from(written);
                counts.push((name, samples));
            }
        }
    }
    if unfinished {
        return Ok(None);
    }
    write_nv_meta_for(options.version, folder, &options.split, &counts)?;
    Ok(Some(indexed))
}

/// Samples of a shard, and whether its index had to be written.
fn index_one(path: &Path) -> Result<(u64, bool), ShardError> {
    let shard = Shard::open(path)?;
    if shard.is_empty() {
        let reason = "it has no samples; Energon refuses such shards: remove it, or name the others with --shards";
        return Err(ShardError::Sample { path: path.display().to_string(), key: String::new(), reason: reason.into() });
    }
    let bytes: Vec<u8> = shard.offsets().iter().flat_map(|at| at.to_ne_bytes()).collect();
    let index = index_path(path);
    let same = std::fs::read(&index).is_ok_and(|old| old == bytes);
    if !same {
        let temporary = index.with_extension("idx.tmp");
        std::fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .map_err(io_error(&temporary, "write"))?;
        std::fs::rename(&temporary, &index).map_err(io_error(&index, "put in place"))?;
    }
    Ok((shard.len() as u64, !same))
}

/// All `*.tar` in the folder and below, relative to it, by name.
fn tars_below(folder: &Path) -> Result<Vec<String>, ShardError> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).map_err(io_error(&at, "list the folder"))? {
            let entry = entry.map_err(io_error(&at, "list the folder"))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(io_error(&at, "list the folder"))?);
            if kind.is_dir() && entry.file_name() != ".nv-meta" {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "tar") && path.is_file() {
                found.push(relative(folder, &path)?);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let reason = "neither it nor a folder below holds a .tar file".to_owned();
        return Err(ShardError::Pattern { pattern: folder.display().to_string(), reason });
    }
    Ok(found)
}

fn named(folder: &Path, patterns: &[String]) -> Result<Vec<String>, ShardError> {
    expand(patterns, folder)?.iter().map(|path| relative(folder, path)).collect()
}

/// A shard's name in the metadata.
fn relative(folder: &Path, path: &Path) -> Result<String, ShardError> {
    let inside =
        path.strip_prefix(folder).ok().filter(|p| p.components().all(|c| matches!(c, std::path::Component::Normal(_))));
    let name = inside.and_then(Path::to_str).filter(|name| !name.contains(['{', '}']));
    name.map(str::to_owned).ok_or_else(|| ShardError::Pattern {
        pattern: path.display().to_string(),
        reason: format!(
            "it must lie in {} and have a UTF-8 name without braces, to be listed in its metadata",
            folder.display()
        ),
    })
}
