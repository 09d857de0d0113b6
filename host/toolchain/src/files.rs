//! Files that appear whole: bytes in, a file under its final name or none at all out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Writes `bytes` to `to`, whole or not at all. An equal file stays as it is, with its time, so that nothing that depends on it
/// is made again. Makes the folder.
///
/// # Errors
/// The folder or the file cannot be written; the message names it.
pub fn write_whole(to: &Path, bytes: &[u8]) -> Result<()> {
    // Only a file is read to compare: a pipe would wait for a writer.
    if to.is_file() && std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    ovhost_files::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

/// Copies `from` to `to` as [`write_whole`] does.
///
/// # Errors
/// One of them cannot be read or written; the message names it.
pub fn publish(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_whole(to, &bytes)
}

/// The sha256 of `bytes` as 64 hexadecimal digits, as recipes pin it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder of what ovhost keeps between runs: `$OVHOST_CACHE`, else `$XDG_CACHE_HOME/ovhost`, else `~/.cache/ovhost`; none
/// without all three.
pub fn cache_dir() -> Option<PathBuf> {
    cache_dir_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_dir_of(set: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // A relative folder there counts for nothing: so says the specification of these variables.
    let base = set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
    set("OVHOST_CACHE").or_else(|| Some(base.or_else(|| Some(set("HOME")?.join(".cache")))?.join("ovhost")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_replace_and_equal_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a.wasm"), dir.path().join("filters/b.wasm"));
        std::fs::write(&from, b"one").unwrap();
        publish(&from, &to).unwrap();
        let time = std::fs::metadata(&to).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        publish(&from, &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().modified().unwrap(), time);
        std::fs::write(&from, b"two").unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path().join("filters")).unwrap().count(), 1, "a part file stayed behind");
    }

    #[test]
    fn a_failed_write_leaves_no_part_file() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("taken");
        std::fs::create_dir_all(to.join("by-a-folder")).unwrap();
        let error = write_whole(&to, b"x").unwrap_err();
        assert!(format!("{error:#}").contains("taken"), "{error:#}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_cache_is_where_the_user_keeps_caches() {
        let of = |vars: &[(&str, &str)]| {
            cache_dir_of(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.cache/ovhost".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/ovhost".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Some("/h/.cache/ovhost".into()));
        assert_eq!(of(&[("OVHOST_CACHE", "/o"), ("XDG_CACHE_HOME", "/x")]), Some("/o".into()));
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
