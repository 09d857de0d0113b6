//! Plugins by package name: `ns:name@1.2.0` is a file in a folder of packages.
//!
//! ```text
//!  ns:name@VERSION ─► every root's <ns>/<name>/*.wasm ─► those that VERSION allows ─► the pinned one, else the newest
//! ```
//! The layout `<root>/<ns>/<name>/<version>.wasm` is that of `wkg`'s local registries. Roots are the folders of
//! `$OVHOST_PACKAGES` (a path list) and `~/.local/share/ovhost/packages`. Nothing here reaches the network.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use semver::{Version, VersionReq};
use sha2::{Digest, Sha256};

use crate::cache::hex;

/// A package that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A version that is none.
    #[error(
        "plugin \"{name}\": \"{version}\" is no version; write @1 or @1.2 (newest of that line), @1.2.0 (exactly that), @^1.2 or \
         @>=1.2 (a range), or leave it out for the newest"
    )]
    BadVersion {
        /// As the user wrote it.
        name: String,
        /// What follows the @.
        version: String,
    },
    /// No such package, or none of its versions fits.
    #[error(
        "plugin \"{name}\": {}. Looked in:\n{}\nPut the component there as <ns>/<name>/<version>.wasm, or name another folder in \
         OVHOST_PACKAGES",
        available(.versions),
        .roots.iter().map(|p| format!("  {}", p.display())).collect::<Vec<_>>().join("\n")
    )]
    NotFound {
        /// As the user wrote it.
        name: String,
        /// Versions that are there, newest first.
        versions: Vec<String>,
        /// Folders of packages that were searched.
        roots: Vec<PathBuf>,
    },
}

fn available(versions: &[String]) -> String {
    match versions.len() {
        0 => "there is no such package".to_owned(),
        1..=20 => format!("no version fits; there are {}", versions.join(", ")),
        n => format!("no version fits; there are {} and {} older ones", versions[..20].join(", "), n - 20),
    }
}

/// `ns:name` with what is wanted of its version.
#[derive(Debug, PartialEq)]
pub(crate) struct PackageName<'a> {
    whole: &'a str,
    namespace: &'a str,
    name: &'a str,
    version: Option<&'a str>,
}

impl<'a> PackageName<'a> {
    /// Reads `ns:name` or `ns:name@VERSION`; none where the text is something else, such as a path.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (package, version) = match text.split_once('@') {
            Some((package, version)) => (package, Some(version)),
            None => (text, None),
        };
        let (namespace, name) = package.split_once(':')?;
        (is_label(namespace) && is_label(name)).then_some(PackageName { whole: text, namespace, name, version })
    }

    /// The file of the package: of the versions that fit, the one whose hash is `pin`, else the newest. A pin that no
    /// version has is not this function's business: the newest is then refused when it is loaded.
    pub(crate) fn find(&self, roots: &[PathBuf], pin: Option<&str>) -> Result<PathBuf, PackageError> {
        let wanted = match self.version {
            None => Wanted::Newest,
            Some(text) => Wanted::parse(text)
                .ok_or_else(|| PackageError::BadVersion { name: self.whole.to_owned(), version: text.to_owned() })?,
        };
        let mut all = self.versions(roots);
        // Newest first; of equal ones that of the first root.
        all.sort_by(|a, b| b.0.cmp(&a.0));
        let fitting: Vec<&PathBuf> = all.iter().filter(|(v, _)| wanted.allows(v)).map(|(_, p)| p).collect();
        if let Some(pin) = pin
            && let Some(pinned) = fitting.iter().find(|p| has_hash(p, pin))
        {
            return Ok(pinned.to_path_buf());
        }
        fitting.first().map(|p| p.to_path_buf()).ok_or_else(|| {
            let mut versions: Vec<String> = all.iter().map(|(v, _)| v.to_string()).collect();
            versions.dedup();
            PackageError::NotFound { name: self.whole.to_owned(), versions, roots: roots.to_vec() }
        })
    }

    fn versions(&self, roots: &[PathBuf]) -> Vec<(Version, PathBuf)> {
        let mut found = Vec::new();
        for root in roots {
            let folder = root.join(self.namespace).join(self.name);
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let version = path
                    .file_name()
                    .and_then(|n| n.to_str()?.strip_suffix(".wasm"))
                    .and_then(|stem| Version::parse(stem).ok());
                if let Some(version) = version
                    && path.is_file()
                {
                    found.push((version, path));
                }
            }
        }
        found
    }
}

impl fmt::Display for PackageName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.whole)
    }
}

/// WIT's labels: words of lower-case letters and digits, joined by `-`; the first begins with a letter.
fn is_label(text: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.split('-').all(word)
}

enum Wanted {
    Newest,
    /// `1` or `1.2`.
    Line(u64, Option<u64>),
    Exact(Version),
    Range(VersionReq),
}

impl Wanted {
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with(['^', '~', '<', '>', '=']) {
            return VersionReq::parse(text).ok().map(Wanted::Range);
        }
        if let Ok(version) = Version::parse(text) {
            return Some(Wanted::Exact(version));
        }
        // `01`, `+1` and the like are no versions.
        let number = |s: &str| s.parse::<u64>().ok().filter(|n| n.to_string() == s);
        match text.split_once('.') {
            None => Some(Wanted::Line(number(text)?, None)),
            Some((major, minor)) => Some(Wanted::Line(number(major)?, Some(number(minor)?))),
        }
    }

    /// A pre-release fits only where it is named.
    fn allows(&self, version: &Version) -> bool {
        match self {
            Wanted::Newest => version.pre.is_empty(),
            Wanted::Line(major, minor) => {
                version.pre.is_empty() && version.major == *major && minor.is_none_or(|m| version.minor == m)
            }
            Wanted::Exact(exact) => version == exact,
            Wanted::Range(range) => range.matches(version),
        }
    }
}

fn has_hash(path: &Path, pin: &str) -> bool {
    let digits = pin.strip_prefix("sha256:").unwrap_or(pin);
    // One that cannot be read is met again, with its error, when it is loaded.
    std::fs::read(path).is_ok_and(|bytes| hex(&Sha256::digest(bytes)).eq_ignore_ascii_case(digits))
}

/// The folders in which packages are looked for, in order.
pub fn package_roots() -> Vec<PathBuf> {
    roots(std::env::var_os("OVHOST_PACKAGES"), data_dir())
}

fn roots(given: Option<OsString>, data: Option<PathBuf>) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = given.iter().flat_map(std::env::split_paths).collect();
    roots.retain(|p| !p.as_os_str().is_empty());
    roots.extend(data.map(|d| d.join("packages")));
    roots
}

/// `$XDG_DATA_HOME/ovhost`, else `~/.local/share/ovhost`.
pub(crate) fn data_dir() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_DATA_HOME").or_else(|| var("HOME").map(|h| h.join(".local/share")))?;
    Some(base.join("ovhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(files: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let roots = roots(Some(dir.path().join("a").into()), Some(dir.path().join("b")));
        (dir, roots)
    }

    #[test]
    fn names() {
        for name in ["lab:caption", "lab:caption@1", "my-lab:caption-2x@1.2.0-rc.1"] {
            assert!(PackageName::parse(name).is_some(), "{name}");
        }
        for path in
            ["filters/x.wasm", "file:///x", "oci://r/x:1", "C:x", "a:b/c", "a:b.wasm", "./a:b", "a", ":b", "a:", "a:b-"]
        {
            assert_eq!(PackageName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn versions_are_chosen() {
        let (_dir, roots) = lab(&[
            "a/lab/x/1.2.0.wasm",
            "a/lab/x/1.10.1.wasm",
            "a/lab/x/notes.wasm",
            "b/packages/lab/x/1.2.7.wasm",
            "b/packages/lab/x/2.0.0.wasm",
            "b/packages/lab/x/3.0.0-rc.1.wasm",
            "b/packages/lab/x/1.2.0.wasm",
        ]);
        let find = |name: &str, pin: Option<&str>| {
            let path = PackageName::parse(name).unwrap().find(&roots, pin)?;
            let at = path.iter().rev().take(4).map(|p| p.to_str().unwrap()).collect::<Vec<_>>();
            Ok::<_, PackageError>(format!("{} {}", at[3], at[0]))
        };
        assert_eq!(find("lab:x", None).unwrap(), "packages 2.0.0.wasm");
        assert_eq!(find("lab:x@1", None).unwrap(), "a 1.10.1.wasm");
        assert_eq!(find("lab:x@1.2", None).unwrap(), "packages 1.2.7.wasm");
        assert_eq!(find("lab:x@1.2.0", None).unwrap(), "a 1.2.0.wasm", "the first root wins");
        assert_eq!(find("lab:x@3.0.0-rc.1", None).unwrap(), "packages 3.0.0-rc.1.wasm");
        assert_eq!(find("lab:x@<1.10", None).unwrap(), "packages 1.2.7.wasm");
        // A pin chooses among those that fit: a newer version in the folder does not break a locked recipe.
        let pin = hex(&Sha256::digest("a/lab/x/1.2.0.wasm"));
        assert_eq!(find("lab:x@1", Some(&pin)).unwrap(), "a 1.2.0.wasm");
        assert_eq!(find("lab:x@2", Some(&pin)).unwrap(), "packages 2.0.0.wasm", "and only among those");

        let error = find("lab:x@4", None).unwrap_err().to_string();
        assert!(error.contains("there are 3.0.0-rc.1, 2.0.0, 1.10.1, 1.2.7, 1.2.0. Looked in"), "{error}");
        assert!(error.contains("OVHOST_PACKAGES") && error.contains("b/packages"), "{error}");
        assert!(find("lab:y", None).unwrap_err().to_string().contains("no such package"));
        for bad in ["lab:x@", "lab:x@one", "lab:x@1.", "lab:x@01", "lab:x@1.2.3.4", "lab:x@^"] {
            assert!(find(bad, None).unwrap_err().to_string().contains("is no version"), "{bad}");
        }
    }
}
