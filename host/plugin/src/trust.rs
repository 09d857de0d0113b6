//! Which components a run accepts: any (the sandbox is the fence), those with a pinned hash, those that a known key signed.
//!
//! ```text
//!  recipe's trust, trusted_keys ──TrustPolicy::new──► policy
//!  component's bytes, pin, X.wasm.minisig ──check──► TrustRecord for run.json, or a TrustError with the next step
//! ```
//! Checked after the file is read and before anything of it is compiled or run, on the same bytes that are compiled.
//! Signatures are minisign's (<https://jedisct1.github.io/minisign/>): Ed25519 over the file's BLAKE2b hash, beside the file.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest file of a signature or public key.
const SMALL_FILE: u64 = 64 << 10;

/// What a component must bring to be loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Nothing: the sandbox lets no plugin reach anything.
    #[default]
    Sandbox,
    /// Every plugin and every asset has its sha256 in the recipe (or in `--plugins NAME@sha256:HEX`).
    Pinned,
    /// Every plugin has a valid signature by one of `trusted_keys` in a file X.wasm.minisig beside it.
    Signed,
}

/// Number of a minisign key, as minisign prints it: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// A public key whose signatures are believed.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    id: KeyId,
    key: PublicKey,
}

impl TrustedKey {
    /// Reads a key: `RW...` itself, or a file of minisign's (`minisign.pub`) relative to `dir`.
    pub fn read(text: &str, dir: &Path) -> Result<Self, TrustError> {
        let bad = |why: String| TrustError::BadKey { key: text.to_owned(), why };
        let encoded = if looks_like_key(text) {
            text.to_owned()
        } else {
            let path = dir.join(text);
            let content = small_file(&path).map_err(|e| {
                bad(format!(
                    "it is neither a public key (56 characters, RW...) nor a readable file: {}: {e}",
                    path.display()
                ))
            })?;
            let line = content.lines().map(str::trim).find(|l| looks_like_key(l));
            line.ok_or_else(|| bad(format!("{} holds no line with a public key (RW...)", path.display())))?.to_owned()
        };
        let key = PublicKey::from_base64(&encoded).map_err(|e| bad(e.to_string()))?;
        let id = key_id(&encoded).ok_or_else(|| bad("it is not base64".into()))?;
        Ok(TrustedKey { id, key })
    }

    /// Its number.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// What a run accepts. The default is [`Trust::Sandbox`] without keys.
#[derive(Debug, Clone, Default)]
pub struct TrustPolicy {
    level: Trust,
    keys: Vec<TrustedKey>,
}

impl TrustPolicy {
    /// A policy of that level with the keys that `keys` names (see [`TrustedKey::read`]). Errors: a key cannot be read, or
    /// signatures are asked for and no key is given.
    pub fn new(level: Trust, keys: &[String], dir: &Path) -> Result<Self, TrustError> {
        if level == Trust::Signed && keys.is_empty() {
            return Err(TrustError::NoKeys);
        }
        let keys = keys.iter().map(|k| TrustedKey::read(k, dir)).collect::<Result<_, _>>()?;
        Ok(TrustPolicy { level, keys })
    }

    /// What it asks for.
    pub fn level(&self) -> Trust {
        self.level
    }

    /// Checks a component. `pin`: its sha256 was given (and has been compared). Errors: it lacks what the level asks for, or
    /// a trusted key's signature does not fit, whatever the level.
    pub(crate) fn check(
        &self,
        plugin: &str,
        path: &Path,
        bytes: &[u8],
        sha256: &str,
        pinned: bool,
    ) -> Result<TrustRecord, TrustError> {
        let shown = || (plugin.to_owned(), path.to_owned());
        if self.level == Trust::Pinned && !pinned {
            let (plugin, path) = shown();
            return Err(TrustError::NotPinned { plugin, path, sha256: sha256.to_owned() });
        }
        let signature = match self.signature(path, bytes) {
            Ok(signature) => signature,
            Err(error @ TrustError::BadSignatureFile { .. }) if self.level != Trust::Signed => {
                tracing::warn!("{error}");
                None
            }
            Err(error) => return Err(error),
        };
        if self.level == Trust::Signed && !signature.as_ref().is_some_and(|s| s.verified) {
            let (plugin, path) = shown();
            let wanted = self.keys.iter().map(|k| k.id.to_string()).collect();
            return Err(match signature {
                None => TrustError::NotSigned { signature: signature_path(&path), plugin, path, wanted },
                Some(seen) => TrustError::OtherKey { plugin, path, seen: seen.key_id, wanted },
            });
        }
        Ok(TrustRecord { pinned, signature })
    }

    /// Checks an asset. `pin`: the sha256 that it must have. Errors: it has another, or needs one.
    pub(crate) fn check_asset(
        &self,
        plugin: &str,
        asset: &str,
        path: &Path,
        sha256: &str,
        pin: Option<&str>,
    ) -> Result<(), TrustError> {
        let (plugin, asset, path) = (plugin.to_owned(), asset.to_owned(), path.to_owned());
        match pin.map(|p| p.strip_prefix("sha256:").unwrap_or(p)) {
            // A signature is of the component alone, and an asset decides as much.
            None if self.level != Trust::Sandbox => {
                Err(TrustError::AssetNotPinned { plugin, asset, path, sha256: sha256.to_owned() })
            }
            Some(pin) if !pin.eq_ignore_ascii_case(sha256) => {
                let (pinned, actual) = (pin.chars().take(100).collect(), sha256.to_owned());
                Err(TrustError::AssetChanged { plugin, asset, path, pinned, actual })
            }
            _ => Ok(()),
        }
    }

    /// The signature beside a component; none where there is no file.
    fn signature(&self, path: &Path, bytes: &[u8]) -> Result<Option<SignatureRecord>, TrustError> {
        let file = signature_path(path);
        let text = match small_file(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TrustError::BadSignatureFile { path: file, why: e.to_string() }),
        };
        let signed = Signed::read(&text).map_err(|why| TrustError::BadSignatureFile { path: file.clone(), why })?;
        let Some(key) = self.keys.iter().find(|k| k.id == signed.id) else {
            return Ok(Some(SignatureRecord { key_id: signed.id.to_string(), verified: false, comment: None }));
        };
        signed.verify(key, bytes).map_err(|why| TrustError::BadSignature {
            path: path.to_owned(),
            signature: file,
            key: signed.id.to_string(),
            why,
        })?;
        let comment = Some(signed.comment().to_owned());
        Ok(Some(SignatureRecord { key_id: signed.id.to_string(), verified: true, comment }))
    }
}

/// The text of a `.minisig` file, understood.
pub struct Signed {
    id: KeyId,
    signature: Signature,
}

impl Signed {
    /// Reads the text. The error says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let signature = Signature::decode(text).map_err(|e| e.to_string())?;
        let id = text.lines().nth(1).and_then(key_id).ok_or("its second line is not base64")?;
        Ok(Signed { id, signature })
    }

    /// Number of the key that made it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What the signer says of the file. To be believed only once [`verify`](Self::verify) is content.
    pub fn comment(&self) -> &str {
        self.signature.trusted_comment()
    }

    /// Checks the file's bytes and the comment. The error is the reason.
    pub fn verify(&self, key: &TrustedKey, bytes: &[u8]) -> Result<(), String> {
        // Signatures without the hash are minisign's form before 2021; they are as good.
        key.key.verify(bytes, &self.signature, true).map_err(|e| e.to_string())
    }
}

/// What a run records of why a component was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrustRecord {
    /// Its sha256 was given.
    pub pinned: bool,
    /// The signature beside it, if there is one.
    pub signature: Option<SignatureRecord>,
}

/// A signature that lay beside a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureRecord {
    /// Number of the key that it names.
    pub key_id: String,
    /// The key is one of the trusted ones and the signature is good. False: the key is not known here.
    pub verified: bool,
    /// What the signer says of the file; only of a verified signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Whether two provenance records (JSON lists of plugins, as run.json has them) name the same plugins. How they came to be
/// trusted may differ: who pins or signs a plugin does not change what it computes.
pub fn same_plugins(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    let bare = |list: &serde_json::Value| {
        let mut list = list.clone();
        for plugin in list.as_array_mut().into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
            plugin.remove("trust");
        }
        list
    };
    bare(a) == bare(b)
}

/// A plugin that the policy does not accept, or a policy that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No pin.
    #[error(
        "plugin {plugin} ({}) has no sha256 and the recipe says trust = \"pinned\". The file's sha256 is\n  {sha256}\nLook at it \
         with `ovhost plugin inspect`, then accept it: `ovhost plugin lock RECIPE` writes the hashes of the recipe's plugins; one of \
         --plugins is written NAME@sha256:{sha256}",
        .path.display()
    )]
    NotPinned {
        /// Name of the use.
        plugin: String,
        /// The component.
        path: PathBuf,
        /// The file's hash.
        sha256: String,
    },
    /// An asset without a pin.
    #[error(
        "asset {asset} of plugin {plugin} ({}) has no sha256, which trust = \"pinned\" and \"signed\" ask for. The file's sha256 is\n  \
         {sha256}\nLook at it, then accept it: `ovhost plugin lock RECIPE` writes the hashes of plugins and assets",
        .path.display()
    )]
    AssetNotPinned {
        /// Name of the use.
        plugin: String,
        /// The plugin's name for the file.
        asset: String,
        /// The file.
        path: PathBuf,
        /// The file's hash.
        sha256: String,
    },
    /// An asset that is not the pinned one.
    #[error(
        "asset {asset} of plugin {plugin} is not the file that was pinned: {}\n  pinned sha256 {pinned}\n  file's sha256 {actual}\nPut \
         the pinned file back, or accept this one: `ovhost plugin lock RECIPE`",
        .path.display()
    )]
    AssetChanged {
        /// Name of the use.
        plugin: String,
        /// The plugin's name for the file.
        asset: String,
        /// The file.
        path: PathBuf,
        /// As the recipe says.
        pinned: String,
        /// Of the file.
        actual: String,
    },
    /// No signature.
    #[error(
        "plugin {plugin} ({}) is not signed and the recipe says trust = \"signed\": there is no {}. Trusted keys: {}. Get the \
         signature from who published the plugin, or sign it yourself: `ovhost plugin sign {} --key KEY`",
        .path.display(), .signature.display(), .wanted.join(", "), .path.display()
    )]
    NotSigned {
        /// Name of the use.
        plugin: String,
        /// The component.
        path: PathBuf,
        /// Where its signature should be.
        signature: PathBuf,
        /// Numbers of the trusted keys.
        wanted: Vec<String>,
    },
    /// Signed by somebody else.
    #[error(
        "plugin {plugin} ({}) is signed by key {seen}, which is not trusted; trusted keys: {}. If you know whose key that is, add \
         its public key to plugins.trusted_keys; else use another build of the plugin",
        .path.display(), .wanted.join(", ")
    )]
    OtherKey {
        /// Name of the use.
        plugin: String,
        /// The component.
        path: PathBuf,
        /// Number of the key that signed it.
        seen: String,
        /// Numbers of the trusted keys.
        wanted: Vec<String>,
    },
    /// A trusted key's signature that does not fit the file.
    #[error(
        "{} does not have the signature that {} claims, by trusted key {key}: {why}. The file or its signature was changed after \
         signing; get both again, or remove the signature to load it unsigned where the recipe allows that",
        .path.display(), .signature.display()
    )]
    BadSignature {
        /// The component.
        path: PathBuf,
        /// The signature's file.
        signature: PathBuf,
        /// Number of the key.
        key: String,
        /// The verifier's words.
        why: String,
    },
    /// A signature file that is none.
    #[error("{} is not a minisign signature: {why}", .path.display())]
    BadSignatureFile {
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// A key that cannot be read.
    #[error("trusted key \"{key}\": {why}")]
    BadKey {
        /// As the recipe says.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Signatures are wanted and nobody's are believed.
    #[error(
        "plugins.trust is \"signed\" and plugins.trusted_keys is empty: name the public keys that you trust, as RW... or as files. \
         `ovhost plugin keygen` makes a pair"
    )]
    NoKeys,
}

/// Where the signature of a component lies.
pub fn signature_path(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// 42 bytes in base64 that begin with "Ed".
fn looks_like_key(text: &str) -> bool {
    text.len() == 56 && text.starts_with("RW") && STANDARD.decode(text).is_ok()
}

/// The number of the key in a line of base64: bytes 2 to 9, the least first.
fn key_id(line: &str) -> Option<KeyId> {
    let bytes = STANDARD.decode(line.trim()).ok()?;
    Some(KeyId(u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?)))
}

fn small_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SMALL_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SMALL_FILE {
        return Err(std::io::Error::other(format!("it has more than {SMALL_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with minisign 0.11 over the four bytes "test": `minisign -G -W`, `minisign -S -m test`.
    const KEY: &str = "RWRrLeB/ydXD22A+VAWVpSKxuotKbeBWBWECXRz/CgKLYmCntLnA3GlO";
    const ID: &str = "DBC3D5C97FE02D6B";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
         RURrLeB/ydXD27uSDy3ViAETpKGwg66HJgBslVOwuIQ1vUTUFhzvvH6fQlHQok60xaJ0wPM1hbqYJhjlN3ZcaZVPJ8ddIdgG4gQ=\n\
         trusted comment: timestamp:1795406304\tfile:test\thashed\n\
         96Vd0WAF5momFwM/pM/bO/9Rs29fPtfWlHwaUc+TBhtN/Q7uuBS1r7bb9L0VIXrIWK+oFpW6v+NSwgBWVl8mCA==\n";

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new(signature: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("x.wasm"), "test").unwrap();
            if let Some(text) = signature {
                std::fs::write(dir.path().join("x.wasm.minisig"), text).unwrap();
            }
            Lab(dir)
        }

        fn check(&self, policy: &TrustPolicy, bytes: &[u8], pinned: bool) -> Result<TrustRecord, TrustError> {
            policy.check("x", &self.0.path().join("x.wasm"), bytes, "abc", pinned)
        }
    }

    fn policy(level: Trust, keys: &[&str]) -> TrustPolicy {
        let keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
        TrustPolicy::new(level, &keys, Path::new(".")).unwrap()
    }

    const OTHER: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_good_signature_is_verified_and_recorded() {
        let lab = Lab::new(Some(SIGNATURE));
        let record = lab.check(&policy(Trust::Signed, &[OTHER, KEY]), b"test", false).unwrap();
        let signature = record.signature.unwrap();
        assert_eq!((signature.key_id.as_str(), signature.verified, record.pinned), (ID, true, false));
        assert!(signature.comment.unwrap().contains("file:test"));
        // Without keys it is noted and not believed.
        let signature = lab.check(&TrustPolicy::default(), b"test", true).unwrap().signature.unwrap();
        assert_eq!((signature.key_id.as_str(), signature.verified, signature.comment), (ID, false, None));
    }

    #[test]
    fn what_signed_refuses() {
        let signed = policy(Trust::Signed, &[KEY]);
        let error = Lab::new(None).check(&signed, b"test", true).unwrap_err().to_string();
        for part in ["is not signed", "x.wasm.minisig", ID, "ovhost plugin sign"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = Lab::new(Some(SIGNATURE)).check(&policy(Trust::Signed, &[OTHER]), b"test", true).unwrap_err();
        let error = error.to_string();
        for part in [ID, "E7620F1842B4E81F", "plugins.trusted_keys"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Lab::new(Some("hello")).check(&signed, b"test", true).is_err());
        assert!(matches!(TrustPolicy::new(Trust::Signed, &[], Path::new(".")), Err(TrustError::NoKeys)));
    }

    #[test]
    fn a_trusted_key_s_signature_must_fit_at_every_level() {
        let lab = Lab::new(Some(SIGNATURE));
        for level in [Trust::Sandbox, Trust::Pinned, Trust::Signed] {
            let error = lab.check(&policy(level, &[KEY]), b"tesT", true).unwrap_err();
            assert!(matches!(error, TrustError::BadSignature { .. }), "{error}");
        }
        // The comment is signed too.
        let forged = Lab::new(Some(&SIGNATURE.replace("file:test", "file:good")));
        let error = forged.check(&policy(Trust::Signed, &[KEY]), b"test", true).unwrap_err();
        assert!(matches!(error, TrustError::BadSignature { .. }), "{error}");
    }

    #[test]
    fn what_pinned_refuses() {
        let error = Lab::new(Some(SIGNATURE)).check(&policy(Trust::Pinned, &[KEY]), b"test", false).unwrap_err();
        let error = error.to_string();
        for part in ["no sha256", "  abc\n", "ovhost plugin lock", "@sha256:abc"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Lab::new(None).check(&policy(Trust::Pinned, &[]), b"test", true).unwrap().pinned);
        // A broken signature file is no reason to stop a run that does not want one.
        assert!(Lab::new(Some("hello")).check(&policy(Trust::Pinned, &[]), b"test", true).is_ok());
    }

    #[test]
    fn keys_are_given_themselves_or_as_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lab.pub"), format!("untrusted comment: minisign public key\n{KEY}\n")).unwrap();
        std::fs::write(dir.path().join("bad.pub"), "nothing").unwrap();
        assert_eq!(TrustedKey::read("lab.pub", dir.path()).unwrap().id().to_string(), ID);
        assert_eq!(TrustedKey::read(KEY, dir.path()).unwrap().id().to_string(), ID);
        let error = |text: &str| TrustedKey::read(text, dir.path()).unwrap_err().to_string();
        assert!(error("bad.pub").contains("no line with a public key"));
        assert!(error("no.pub").contains("nor a readable file"));
        assert!(error(&KEY[..55]).contains("nor a readable file"));
    }

    #[test]
    fn who_trusts_a_plugin_is_no_difference() {
        let plain = serde_json::json!([{"name": "a", "sha256": "1"}]);
        let pinned = serde_json::json!([{"name": "a", "sha256": "1", "trust": {"pinned": true}}]);
        assert!(same_plugins(&plain, &pinned));
        assert!(!same_plugins(&plain, &serde_json::json!([{"name": "a", "sha256": "2"}])));
    }
}
