//! Compiled components on disk, so that a plugin is compiled once per machine and engine.
//!
//! ```text
//!  <root>/<engine's compatibility hash>/<sha256 of the component>.cwasm
//!  file = magic (8) | payload length, u64 LE | sha256 of the payload (32) | payload
//! ```
//!
//! Loading compiled code is as trusting as loading a shared library. So the folder is this user's alone (0700, checked), files
//! are written under a temporary name and renamed, and every read checks length and hash. Whatever goes wrong is a miss: the
//! component is compiled again.
//!
//! After each write the files that were used longest ago go until all together have at most 2 GiB
//! (`$OVHOST_CACHE_MAX_MIB`), but none of the last minute. Several processes may do that at once: none removes what another
//! has just written, and since a file is read whole before it is used, one that goes meanwhile is at worst compiled again.

use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

const MAGIC: &[u8; 8] = b"OVHAOT\0\x01";
const HEADER: usize = 8 + 8 + 32;

const DEFAULT_MAX_MIB: u64 = 2048;
const PREFIX: &str = ".new-";
/// What was written or used so short a time ago stays, whoever did it.
const GRACE: Duration = Duration::from_secs(60);
/// A temporary file of this age has no process that still writes it.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The folder of compiled components; `root` is none where no safe folder could be had.
pub(crate) struct Cache {
    root: Option<PathBuf>,
    /// Most bytes of all its files.
    max: u64,
}

impl Cache {
    /// Uses `dir`, else `$OVHOST_CACHE/wasm`, else `$XDG_CACHE_HOME/ovhost/wasm`, else `~/.cache/ovhost/wasm`.
    pub(crate) fn open(dir: Option<PathBuf>) -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let from_env = || var("OVHOST_CACHE").map(|folder| folder.join("wasm"));
        let home = || {
            let base = var("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
            Some(base.or_else(|| Some(var("HOME")?.join(".cache")))?.join("ovhost/wasm"))
        };
        let max = max_bytes(std::env::var("OVHOST_CACHE_MAX_MIB").ok().as_deref());
        let Some(root) = dir.or_else(from_env).or_else(home) else {
            tracing::warn!("no OVHOST_CACHE and no HOME: plugins are compiled at every start");
            return Cache { root: None, max };
        };
        match private_folder(&root) {
            // By its real name: a link that is turned elsewhere later leads nowhere.
            Ok(()) => Cache { root: Some(fs::canonicalize(&root).unwrap_or(root)), max },
            Err(why) => {
                tracing::warn!(
                    "plugin cache {} is not used, plugins are compiled at every start: {why}",
                    root.display()
                );
                Cache { root: None, max }
            }
        }
    }

    fn file(&self, engine: &str, sha256: &str) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(engine).join(format!("{sha256}.cwasm")))
    }

    /// The compiled form of the component with that hash, if there is a sound one for this engine.
    pub(crate) fn get(&self, engine: &Engine, engine_hash: &str, sha256: &str) -> Option<Component> {
        let file = self.file(engine_hash, sha256)?;
        let bytes = fs::read(&file).ok()?;
        let Some(payload) = unwrap(&bytes) else {
            tracing::warn!("{} is damaged; compiling again", file.display());
            return None;
        };
        // SAFETY: `deserialize` runs whatever code it is given, so it must be what `serialize` of this engine wrote. The file
        // lies in a folder that only this user can write to (checked in `open`), under the engine's compatibility hash, was put
        // there by `put` alone, and its length and sha256 match its header, so it is neither cut nor damaged.
        match unsafe { Component::deserialize(engine, payload) } {
            Ok(component) => {
                // Used now: the last to go. Only a wish, in a folder that may be read-only.
                let _ = fs::File::options().append(true).open(&file).and_then(|f| f.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(why) => {
                tracing::debug!("{} does not fit this engine ({why:#}); compiling again", file.display());
                None
            }
        }
    }

    /// Keeps the compiled form. A failure costs the next start a compilation, nothing else.
    pub(crate) fn put(&self, engine_hash: &str, sha256: &str, component: &Component) {
        let Some(file) = self.file(engine_hash, sha256) else { return };
        let stored = component.serialize().map_err(|e| format!("{e:#}")).and_then(|payload| {
            let folder = file.parent().unwrap_or(Path::new("."));
            private_folder(folder)?;
            let write = || -> std::io::Result<()> {
                let mut temp = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
                temp.write_all(MAGIC)?;
                temp.write_all(&(payload.len() as u64).to_le_bytes())?;
                temp.write_all(&Sha256::digest(&payload))?;
                temp.write_all(&payload)?;
                temp.as_file().sync_all()?;
                temp.persist(&file).map_err(|e| e.error)?;
                Ok(())
            };
            write().map_err(|e| e.to_string())
        });
        match stored {
            Ok(()) => self.evict(&file),
            Err(why) => tracing::warn!("cannot keep the compiled plugin in {}: {why}", file.display()),
        }
    }

    /// Removes files, the longest unused first, until the rest fits; never `newest` nor one within its grace. What another
    /// process removes first is as good as removed.
    fn evict(&self, newest: &Path) {
        let Some(root) = &self.root else { return };
        let mut files = Vec::new();
        let folders = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for entry in folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            let Ok(used) = meta.modified() else { continue };
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(&path);
                }
            } else if path.extension().is_some_and(|extension| extension == "cwasm") {
                files.push((used, path, meta.len()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
        files.sort();
        for (used, path, bytes) in files.iter().filter(|(_, path, _)| path != newest) {
            // In the order of use, so the rest are younger still. (A time to come is young.)
            if total <= self.max || !used.elapsed().is_ok_and(|age| age > GRACE) {
                break;
            }
            if let Err(why) = fs::remove_file(path)
                && why.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!("{} stays in the plugin cache: {why}", path.display());
                continue;
            }
            total -= bytes;
        }
    }
}

/// The bound on the cache: `set` in MiB, or the default where it is not set or no number.
fn max_bytes(set: Option<&str>) -> u64 {
    let mib = match set.map(str::trim).filter(|set| !set.is_empty()) {
        None => DEFAULT_MAX_MIB,
        Some(set) => set.parse().unwrap_or_else(|_| {
            tracing::warn!("OVHOST_CACHE_MAX_MIB is \"{set}\", not a number of MiB; {DEFAULT_MAX_MIB} is used");
            DEFAULT_MAX_MIB
        }),
    };
    mib.saturating_mul(1 << 20)
}

/// The payload of a cache file, if it is whole.
fn unwrap(bytes: &[u8]) -> Option<&[u8]> {
    let (header, payload) = bytes.split_at_checked(HEADER)?;
    let length = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let sound = header[..8] == *MAGIC && length == payload.len() as u64 && header[16..] == Sha256::digest(payload)[..];
    sound.then_some(payload)
}

/// Makes the folder if needed, and refuses one that others could write to.
fn private_folder(path: &Path) -> Result<(), String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| e.to_string())?;
    let meta = fs::metadata(path).map_err(|e| e.to_string())?;
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    let me = unsafe { libc::geteuid() };
    if meta.uid() != me {
        return Err(format!("it belongs to user {}, not to this one ({me})", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("others may write to it (mode {:o}); chmod 700 it", meta.mode() & 0o7777));
    }
    // Whoever may rename a folder above could put another one in its place.
    let real = fs::canonicalize(path).map_err(|e| e.to_string())?;
    for above in real.ancestors().skip(1) {
        let meta = fs::metadata(above).map_err(|e| e.to_string())?;
        let sticky = meta.mode() & 0o1000 != 0;
        if (meta.uid() != me && meta.uid() != 0) || (meta.mode() & 0o002 != 0 && !sticky) {
            return Err(format!("others may replace it: {} is theirs or open to all", above.display()));
        }
    }
    Ok(())
}

/// The engine's settings and version as a name for a folder.
pub(crate) fn engine_hash(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Sha(Sha256::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    hex(&hasher.0.finalize()[..8])
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn empty_component(engine: &Engine) -> Component {
        Component::new(engine, wat::parse_str("(component)").unwrap()).unwrap()
    }

    #[test]
    fn round_trip_and_damage() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("wasm");
        let cache = Cache::open(Some(root.clone()));
        let engine = Engine::default();
        assert!(cache.get(&engine, "e", "abc").is_none());
        cache.put("e", "abc", &empty_component(&engine));
        assert!(cache.get(&engine, "e", "abc").is_some());
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);

        let file = root.join("e/abc.cwasm");
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &flipped[..], b""] {
            fs::write(&file, damaged).unwrap();
            assert!(cache.get(&engine, "e", "abc").is_none());
        }
        assert_eq!(fs::read_dir(root.join("e")).unwrap().count(), 1, "no temporary files are left");
    }

    #[test]
    fn the_longest_unused_go_first_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let mut cache = Cache::open(Some(folder.path().join("wasm")));
        let component = empty_component(&engine);
        cache.put("e", "a", &component);
        let size = fs::metadata(folder.path().join("wasm/e/a.cwasm")).unwrap().len();
        let path = |engine: &str, name: &str| folder.path().join(format!("wasm/{engine}/{name}.cwasm"));
        let aged = |path: PathBuf, seconds: u64| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
        };
        let there = || {
            let all = [("e", "a"), ("e", "b"), ("old", "c"), ("e", "d")];
            all.map(|(engine, name)| path(engine, name).is_file())
        };
        cache.put("e", "b", &component);
        // Files of other engines count too: nobody else removes them.
        cache.put("old", "c", &component);
        aged(path("e", "a"), 300);
        aged(path("e", "b"), 200);
        aged(path("old", "c"), 100);
        // Reading is using.
        assert!(cache.get(&engine, "e", "a").is_some());
        cache.max = 2 * size + size / 2;
        for name in ["dead", "live"] {
            fs::write(folder.path().join(format!("wasm/e/{PREFIX}{name}")), "").unwrap();
        }
        aged(folder.path().join(format!("wasm/e/{PREFIX}dead")), 4000);
        cache.put("e", "d", &component);
        assert_eq!(there(), [true, false, false, true]);
        let temporary = |name: &str| folder.path().join(format!("wasm/e/{PREFIX}{name}")).exists();
        assert_eq!((temporary("dead"), temporary("live")), (false, true));
        cache.max = 0;
        aged(path("e", "d"), 100);
        cache.put("e", "b", &component);
        assert_eq!(there(), [true, true, false, false], "what was just written or used stays");
    }

    #[test]
    fn many_may_write_and_evict_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let component = empty_component(&engine);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, component) = (&engine, &component);
                let mut cache = Cache::open(Some(folder.path().join("wasm")));
                cache.max = 1;
                scope.spawn(move || {
                    for i in 0..20 {
                        let name = format!("{}", (i * 7 + thread) % 5);
                        cache.put("e", &name, component);
                        // Whatever others removed meanwhile: a file is whole or not there.
                        let _ = cache.get(engine, "e", &name);
                    }
                });
            }
        });
        let left = fs::read_dir(folder.path().join("wasm/e")).unwrap().count();
        assert_eq!(left, 5, "none removes what another has just written");
    }

    #[test]
    fn the_bound_is_read_from_the_environment() {
        assert_eq!(max_bytes(None), 2 << 30);
        assert_eq!(max_bytes(Some("")), 2 << 30);
        assert_eq!(max_bytes(Some(" 10 ")), 10 << 20);
        assert_eq!(max_bytes(Some("ten")), 2 << 30);
        assert_eq!(max_bytes(Some("99999999999999999")), u64::MAX);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let cache = Cache::open(Some(folder.path().to_owned()));
        assert!(cache.root.is_none());
        let engine = Engine::default();
        cache.put("e", "abc", &empty_component(&engine));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
