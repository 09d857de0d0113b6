//! Which components a run accepts: any (the sandbox is the fence), those with a pinned hash, those that a known key signed.
//!
//! ```text
//!  recipe's trust, trusted_keys ──TrustPolicy::new──► policy
//!  component's bytes, pin, X.wasm.minisig ──check──► TrustRecord for run.json, or a TrustError with the next step
//! ```
//! Checked after the file is read and before anything of it is compiled or run, on the same bytes that are compiled.
//! Signatures are minisign's (<https://jedisct1.github.io/minisign/>): Ed25519 over the file's BLAKE2b hash, beside the file.
//! Where signatures are wanted, what the signer says of the file must be what it is; its plugin's name is known only once it has
//! described itself, in a store of its own.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::describe::Description;
use crate::scan::Kind;
use crate::signature::{Claims, Signed, TrustedKey, signature_path, signatures_of, small_file};

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
        if level == Trust::Sandbox && !keys.is_empty() {
            tracing::warn!(
                "plugins.trusted_keys is set and plugins.trust is \"sandbox\": plugins without a signature are let in too. Set \
                 trust = \"signed\" to refuse them"
            );
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
            let wanted = self.keys.iter().map(|k| k.id().to_string()).collect();
            return Err(match signature {
                None => TrustError::NotSigned { signature: signature_path(&path), plugin, path, wanted },
                Some(seen) => TrustError::OtherKey { plugin, path, seen: seen.key_id, wanted },
            });
        }
        let record = TrustRecord { pinned, signature };
        // A pin says which file is meant, whatever its name.
        if let Some((key, claims)) = record.claims().filter(|_| self.level == Trust::Signed && !pinned) {
            claims.check_name(path, sha256).map_err(|seen| TrustError::other_plugin(path, key, seen))?;
        }
        Ok(record)
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

    /// Whether a signature that was checked, is believed and is wanted was made for a component that says this of itself. Errors:
    /// it was made for another plugin.
    pub(crate) fn check_description(
        &self,
        path: &Path,
        sha256: &str,
        kind: Kind,
        description: &Description,
        record: &TrustRecord,
    ) -> Result<(), TrustError> {
        let Some((key, claims)) = record.claims().filter(|_| self.level == Trust::Signed) else { return Ok(()) };
        claims.check_component(sha256, kind, description).map_err(|seen| TrustError::other_plugin(path, key, seen))
    }

    /// The signature beside a component; none where there is no file. Of several that of a trusted key, if it is good.
    fn signature(&self, path: &Path, bytes: &[u8]) -> Result<Option<SignatureRecord>, TrustError> {
        let unreadable = |path: PathBuf, why: String| TrustError::BadSignatureFile { path, why };
        let files = signatures_of(path).map_err(|e| unreadable(signature_path(path), e.to_string()))?;
        let (mut wrong, mut broken, mut strange) = (None, None, None);
        for file in files {
            let read = small_file(&file).map_err(|e| e.to_string()).and_then(|text| Signed::read(&text));
            let signed = match read {
                Ok(signed) => signed,
                Err(why) => {
                    broken.get_or_insert(unreadable(file, why));
                    continue;
                }
            };
            let key_id = signed.id().to_string();
            let Some(key) = self.keys.iter().find(|k| k.id() == signed.id()) else {
                strange.get_or_insert(SignatureRecord { key_id, verified: false, comment: None });
                continue;
            };
            match signed.verify(key, bytes) {
                Ok(()) => {
                    let comment = Some(signed.comment().to_owned());
                    return Ok(Some(SignatureRecord { key_id, verified: true, comment }));
                }
                Err(why) => {
                    let (path, signature) = (path.to_owned(), file);
                    wrong.get_or_insert(TrustError::BadSignature { path, signature, key: key_id, why });
                }
            }
        }
        match wrong.or(broken) {
            Some(error) => Err(error),
            None => Ok(strange),
        }
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

impl TrustRecord {
    /// The key of a verified signature, and what its comment claims in our fields.
    fn claims(&self) -> Option<(&str, Claims<'_>)> {
        let signature = self.signature.as_ref()?;
        Some((&signature.key_id, Claims::of(signature.comment.as_deref()?)))
    }
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
    /// A trusted key's good signature, of something else.
    #[error(
        "{} has a good signature by trusted key {key}, which was made for \"{signed}\", and this is \"{is}\": another or an older \
         plugin of the same signer may have been put in its place. Get the file that is meant; or, if this one is, give it the name \
         that it was signed under, sign it again, or pin its sha256 (`ovhost plugin lock RECIPE`)",
        .path.display()
    )]
    OtherPlugin {
        /// The component.
        path: PathBuf,
        /// Number of the key.
        key: String,
        /// What the trusted comment says.
        signed: String,
        /// What is there.
        is: String,
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

impl TrustError {
    fn other_plugin(path: &Path, key: &str, (signed, is): (String, String)) -> Self {
        TrustError::OtherPlugin { path: path.to_owned(), key: key.to_owned(), signed, is }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::signature::kept_signature_path;

    // Made with minisign 0.11 over the four bytes "test": `minisign -G -W`, `minisign -S -m test`.
    pub(crate) const KEY: &str = "RWRrLeB/ydXD22A+VAWVpSKxuotKbeBWBWECXRz/CgKLYmCntLnA3GlO";
    pub(crate) const ID: &str = "DBC3D5C97FE02D6B";
    pub(crate) const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
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
    fn of_several_signatures_a_good_one_counts() {
        // Kept beside each other, whatever order their names have; anybody may name the lab's key.
        let lab = Lab::new(None);
        let keep = |text: &str| {
            let path = lab.0.path().join("x.wasm");
            let file = kept_signature_path(&path, &Signed::read(text).unwrap(), text);
            std::fs::write(file, text).unwrap();
        };
        let forged = SIGNATURE.replace("file:test", "file:good");
        keep(&forged);
        let signed = policy(Trust::Signed, &[KEY]);
        let error = lab.check(&signed, b"test", false).unwrap_err();
        assert!(matches!(error, TrustError::BadSignature { .. }), "{error}");
        keep(SIGNATURE);
        assert!(lab.check(&signed, b"test", false).unwrap().signature.unwrap().verified);
        std::fs::write(lab.0.path().join("x.wasm.minisig"), "hello").unwrap();
        assert!(lab.check(&signed, b"test", false).unwrap().signature.unwrap().verified);
        // Of another component.
        std::fs::write(lab.0.path().join("y.wasm"), "test").unwrap();
        let error = signed.check("y", &lab.0.path().join("y.wasm"), b"test", "abc", false).unwrap_err();
        assert!(matches!(error, TrustError::NotSigned { .. }), "{error}");
    }

    #[test]
    fn a_pipe_is_no_signature() {
        let lab = Lab::new(None);
        let pipe = lab.0.path().join("x.wasm.minisig");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = lab.check(&policy(Trust::Signed, &[KEY]), b"test", false).unwrap_err().to_string();
        assert!(
            error.contains("x.wasm.minisig is not a minisign signature") && error.contains("no regular file"),
            "{error}"
        );
    }

    #[test]
    fn who_trusts_a_plugin_is_no_difference() {
        let plain = serde_json::json!([{"name": "a", "sha256": "1"}]);
        let pinned = serde_json::json!([{"name": "a", "sha256": "1", "trust": {"pinned": true}}]);
        assert!(same_plugins(&plain, &pinned));
        assert!(!same_plugins(&plain, &serde_json::json!([{"name": "a", "sha256": "2"}])));
    }
}
