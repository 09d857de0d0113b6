//! Plugins out of registries, as this machine has them: `oci://registry/repository:tag` is a file in a local store.
//!
//! ```text
//!  ovhost plugin pull ──OciStore::put──► refs/REGISTRY/REPOSITORY/_tags/TAG ─► manifests/HEX.json ─► blobs/HEX.wasm (+ .KEY-HASH.minisig)
//!  recipe: oci://… ──OciStore::find──► the file, and its hash where the reference has a digest
//! ```
//! A run only ever looks here: what is not pulled is an error that says how to pull it, never a download.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::error::PluginError;
use crate::files::{read_regular, write_whole};
use crate::package::data_dir;
use crate::signature::{Signed, kept_signature_path, small_file};

/// Most bytes that are read of a file in the store; a component has fewer.
const BLOB_BYTES: u64 = 64 << 20;

/// What a reference to a registry begins with.
pub(crate) const SCHEME: &str = "oci://";

/// A reference that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Not of the form.
    #[error("\"{reference}\": {why}; write oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:HEX")]
    BadReference {
        /// As the user wrote it.
        reference: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not in the store.
    #[error(
        "{reference} is not on this machine{}. A run never downloads: fetch it first with\n  ovhost plugin pull {reference}",
        if .tags.is_empty() { String::new() } else { format!(" (of that repository there are: {})", .tags.join(", ")) }
    )]
    NotPulled {
        /// As the user wrote it.
        reference: String,
        /// Tags of the same repository that are in the store.
        tags: Vec<String>,
    },
    /// A file of the store that is not what its name says.
    #[error("{} is damaged: {why}. Fetch it again with\n  ovhost plugin pull {reference}", .path.display())]
    Damaged {
        /// As the user wrote it.
        reference: String,
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// What should be its signature is none.
    #[error(
        "{reference} comes with a signature that cannot be read: {why}; it was not stored. Who published it must push it again"
    )]
    BadSignature {
        /// As the user wrote it.
        reference: String,
        /// What was seen.
        why: String,
    },
    /// No folder to keep things in.
    #[error("there is no folder for pulled plugins: set OVHOST_OCI_STORE, XDG_DATA_HOME or HOME")]
    NoStore,
}

/// `oci://registry/repository:tag`, `@sha256:...`, or both (then the digest counts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciReference {
    /// Host, and port where one is given.
    pub registry: String,
    /// `lab/filters/caption`.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// Digest of the manifest, `sha256:` and 64 digits.
    pub digest: Option<String>,
}

impl OciReference {
    /// Reads a reference. Errors: something that no registry would take, or neither tag nor digest.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let bad = |why| OciError::BadReference { reference: text.to_owned(), why };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with oci://"))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        if digest.is_some_and(|d| !is_digest(d)) {
            return Err(bad("what follows the @ is not sha256: and 64 lower-case hexadecimal digits"));
        }
        let (registry, path) = rest.split_once('/').ok_or_else(|| bad("it names no repository"))?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_host(registry) {
            return Err(bad("the registry is not a host name with an optional port"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(bad("the repository must be of lower-case letters, digits and single . _ - between /"));
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad("the tag must be of letters, digits and . _ -, at most 128"));
        }
        if tag.is_none() && digest.is_none() {
            return Err(bad("it has neither a tag nor a digest"));
        }
        Ok(OciReference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn wanted(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or_default()
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

/// The distribution specification's: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    let separators = text.split(|c: char| alphanumeric(c as u8) && c.is_ascii()).filter(|s| !s.is_empty());
    ends && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Where pulled components are kept. Files are named by their hashes and only ever added; a tag can be moved.
#[derive(Debug, Clone)]
pub struct OciStore {
    root: PathBuf,
}

/// A component in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file.
    pub path: PathBuf,
    /// The file's sha256, 64 digits.
    pub sha256: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

impl OciStore {
    /// The user's: `$OVHOST_OCI_STORE`, else `~/.local/share/ovhost/oci`.
    pub fn user() -> Result<Self, OciError> {
        let given = std::env::var_os("OVHOST_OCI_STORE").filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = given.or_else(|| Some(data_dir()?.join("oci"))).ok_or(OciError::NoStore)?;
        Ok(OciStore { root })
    }

    /// One in that folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        OciStore { root: root.into() }
    }

    /// Keeps a pulled component: its manifest, itself and, if there is one, the text of its signature; and moves the
    /// reference's tag to it. Errors: the signature cannot be read as one, or files cannot be written.
    pub fn put(
        &self,
        reference: &OciReference,
        manifest: &[u8],
        component: &[u8],
        signature: Option<&str>,
    ) -> Result<Stored, PluginError> {
        let sha256 = hex(&Sha256::digest(component));
        let path = self.blob(&sha256);
        let unreadable = |why| OciError::BadSignature { reference: reference.to_string(), why };
        let signed = signature.map(|text| Signed::read(text).map(|s| (s, text)).map_err(unreadable)).transpose()?;
        write_whole(&path, component)?;
        if let Some((signed, text)) = signed {
            // Beside those that came with the same bytes from elsewhere: nobody's pull takes away another's signature.
            write_whole(&kept_signature_path(&path, &signed, text), text.as_bytes())?;
        }
        let digest = hex(&Sha256::digest(manifest));
        write_whole(&self.manifest(&digest), manifest)?;
        // Last, so that a tag never names what is not there.
        if let Some(tag) = &reference.tag {
            write_whole(&self.tags(reference).join(tag), format!("sha256:{digest}\n").as_bytes())?;
        }
        Ok(Stored { path, sha256 })
    }

    /// The component that a reference names. `pin`: a file of that hash is taken even if the tag has moved on since.
    pub fn find(&self, reference: &OciReference, pin: Option<&str>) -> Result<Stored, OciError> {
        if let (Some(pin), None) = (pin, &reference.digest) {
            let sha256 = pin.strip_prefix("sha256:").unwrap_or(pin).to_lowercase();
            if is_digest(&format!("sha256:{sha256}"))
                && let path = self.blob(&sha256)
                && let Ok(bytes) = read_regular(&path, BLOB_BYTES)
            {
                let found = hex(&Sha256::digest(&bytes));
                if found != sha256 {
                    let why = format!("its hash is {found}");
                    return Err(OciError::Damaged { reference: reference.to_string(), path, why });
                }
                return Ok(Stored { path, sha256 });
            }
        }
        let shown = || reference.to_string();
        let digest = match &reference.digest {
            Some(digest) => digest.clone(),
            None => {
                let file = self.tags(reference).join(reference.wanted());
                let text = small_file(&file).map_err(|_| self.not_pulled(reference))?;
                let digest = text.trim().to_owned();
                if !is_digest(&digest) {
                    return Err(OciError::Damaged { reference: shown(), path: file, why: "it holds no digest".into() });
                }
                digest
            }
        };
        let file = self.manifest(digest.trim_start_matches("sha256:"));
        let manifest = read_regular(&file, BLOB_BYTES).map_err(|_| self.not_pulled(reference))?;
        let damaged = |path: &Path, why: String| OciError::Damaged { reference: shown(), path: path.to_owned(), why };
        let found = format!("sha256:{}", hex(&Sha256::digest(&manifest)));
        if found != digest {
            return Err(damaged(&file, format!("its digest is {found}")));
        }
        let parsed: Manifest = serde_json::from_slice(&manifest).map_err(|e| damaged(&file, e.to_string()))?;
        let wasm = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
        let layer = parsed.layers.iter().find(|l| wasm.contains(&l.media_type.as_str()) && is_digest(&l.digest));
        let layer = layer.ok_or_else(|| damaged(&file, "it names no component".into()))?;
        let sha256 = layer.digest.trim_start_matches("sha256:").to_owned();
        let path = self.blob(&sha256);
        let bytes = read_regular(&path, BLOB_BYTES).map_err(|_| self.not_pulled(reference))?;
        let found = hex(&Sha256::digest(&bytes));
        if found != sha256 {
            return Err(damaged(&path, format!("its sha256 is {found}")));
        }
        Ok(Stored { path, sha256 })
    }

    fn blob(&self, sha256: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{sha256}.wasm"))
    }

    fn manifest(&self, digest: &str) -> PathBuf {
        self.root.join("manifests").join(format!("{digest}.json"))
    }

    /// No component of a repository begins with `_`: tags never meet repositories.
    fn tags(&self, reference: &OciReference) -> PathBuf {
        self.root.join("refs").join(&reference.registry).join(&reference.repository).join("_tags")
    }

    fn not_pulled(&self, reference: &OciReference) -> OciError {
        let entries = std::fs::read_dir(self.tags(reference)).into_iter().flatten().flatten();
        let mut tags: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        tags.retain(|t| is_tag(t));
        tags.sort_unstable();
        tags.truncate(20);
        OciError::NotPulled { reference: reference.to_string(), tags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::signatures_of;
    use crate::trust::tests::SIGNATURE;

    #[test]
    fn references() {
        let hex = "a".repeat(64);
        let parsed = OciReference::parse(&format!("oci://ghcr.io/lab/filters/x-1:1.2.0@sha256:{hex}")).unwrap();
        assert_eq!((parsed.registry.as_str(), parsed.repository.as_str()), ("ghcr.io", "lab/filters/x-1"));
        assert_eq!((parsed.tag.as_deref(), parsed.wanted()), (Some("1.2.0"), format!("sha256:{hex}").as_str()));
        for good in
            ["oci://localhost:5000/x:1", "oci://r.example/a__b/c.d/e--f:v_1", &format!("oci://h/x@sha256:{hex}")]
        {
            assert_eq!(OciReference::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "oci://r.example/x",
            "oci://r.example",
            "oci://r.example/X:1",
            "oci://r.example/../x:1",
            "oci://r.example/a//x:1",
            "oci://r.example/_tags:1",
            "oci://r.example/x-:1",
            "oci://r.example/x._y:1",
            "oci://r.example/xé:1",
            "oci://-r/x:1",
            "oci://r:70000/x:1",
            "oci://r.example/x:.",
            "oci://r.example/x@sha256:00",
            "oci://r.example/x:a/b",
            "oci://r.example/x:1?y",
            "r.example/x:1",
        ] {
            assert!(OciReference::parse(bad).is_err(), "{bad}");
        }
    }

    fn manifest(component: &[u8]) -> Vec<u8> {
        let digest = hex(&Sha256::digest(component));
        format!(r#"{{"layers":[{{"mediaType":"application/wasm","digest":"sha256:{digest}","size":1}}]}}"#).into_bytes()
    }

    #[test]
    fn what_is_put_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = OciStore::at(dir.path());
        let tagged = OciReference::parse("oci://localhost:5000/lab/x:1").unwrap();
        let error = store.find(&tagged, None).unwrap_err().to_string();
        assert!(error.contains("never downloads") && error.contains("ovhost plugin pull oci://localhost:5000/lab/x:1"));

        let first = store.put(&tagged, &manifest(b"one"), b"one", Some(SIGNATURE)).unwrap();
        assert_eq!(store.find(&tagged, None).unwrap(), first);
        assert_eq!(std::fs::read(&first.path).unwrap(), b"one");
        let signatures = || signatures_of(&first.path).unwrap();
        let [kept] = &signatures()[..] else { panic!("{:?}", signatures()) };
        assert_eq!(std::fs::read_to_string(kept).unwrap(), SIGNATURE);
        // The same bytes from elsewhere: with another signature, with one that names the same key, with none, with nonsense.
        let elsewhere = OciReference::parse("oci://localhost:5000/copy/x:1").unwrap();
        let other = SIGNATURE.replace("RURrLeB", "RURrLeC");
        let forged = SIGNATURE.replace("file:test", "file:good");
        for text in [Some(other.as_str()), Some(&forged), None, Some(SIGNATURE)] {
            store.put(&elsewhere, &manifest(b"one"), b"one", text).unwrap();
            assert_eq!(std::fs::read_to_string(kept).unwrap(), SIGNATURE);
        }
        assert_eq!(signatures().len(), 3);
        let error = store.put(&elsewhere, &manifest(b"four"), b"four", Some("nonsense")).unwrap_err().to_string();
        assert!(error.contains("copy/x:1 comes with a signature that cannot be read"), "{error}");
        assert_eq!(store.find(&elsewhere, None).unwrap(), first, "nothing of it was stored");

        // The tag moves; pin and digest still name the first.
        let second = store.put(&tagged, &manifest(b"two"), b"two", None).unwrap();
        assert_eq!(store.find(&tagged, None).unwrap(), second);
        assert_eq!(store.find(&tagged, Some(&first.sha256)).unwrap(), first);
        let digest = format!("oci://localhost:5000/lab/x@sha256:{}", hex(&Sha256::digest(manifest(b"one"))));
        assert_eq!(store.find(&OciReference::parse(&digest).unwrap(), None).unwrap(), first);

        let other = OciReference::parse("oci://localhost:5000/lab/x:2").unwrap();
        assert!(store.find(&other, None).unwrap_err().to_string().contains("there are: 1"));
        // A repository below another's name does not meet its tags.
        let below = OciReference::parse("oci://localhost:5000/lab/x/1:1").unwrap();
        store.put(&below, &manifest(b"three"), b"three", None).unwrap();
        assert_eq!(store.find(&tagged, None).unwrap(), second);
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = OciStore::at(dir.path());
        let tagged = OciReference::parse("oci://h/x:1").unwrap();
        store.put(&tagged, &manifest(b"one"), b"one", None).unwrap();
        let file = store.manifest(&hex(&Sha256::digest(manifest(b"one"))));
        std::fs::write(&file, manifest(b"two")).unwrap();
        let error = store.find(&tagged, None).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("ovhost plugin pull"), "{error}");
        let stored = store.put(&tagged, &manifest(b"one"), b"one", None).unwrap();
        std::fs::write(&stored.path, "two").unwrap();
        assert!(matches!(store.find(&tagged, None), Err(OciError::Damaged { path, .. }) if path == stored.path));
    }
}
