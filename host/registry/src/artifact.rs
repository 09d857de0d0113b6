//! The JSON around a component: manifest and config, written and read.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{RegistryError, clean, digest, is_digest};

/// Media type of the manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of the config.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Media type of the component, as `wkg` writes it.
const LAYER: &str = "application/wasm";
/// Media type of the component, as older tools write it.
const OLD_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// Annotation of the manifest that holds the text of a minisign signature of the component.
pub const SIGNATURE_ANNOTATION: &str = "io.github.ovhost.minisig";

/// A component with what a registry keeps beside it.
#[derive(Debug, Clone, Default)]
pub struct Artifact {
    /// The component's bytes.
    pub component: Vec<u8>,
    /// Names of its outermost imports.
    pub imports: Vec<String>,
    /// Names of its outermost exports.
    pub exports: Vec<String>,
    /// When it was made, seconds since 1970 (UTC).
    pub created: u64,
    /// Annotations of the manifest: `org.opencontainers.image.title`, `.version`, `.licenses`, ...
    pub annotations: BTreeMap<String, String>,
    /// The text of its `.minisig` file.
    pub signature: Option<String>,
}

/// A component that was pulled; every digest has been checked.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Digest of the manifest: what `@sha256:...` in a reference means.
    pub digest: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The component's bytes.
    pub component: Vec<u8>,
    /// The manifest's annotations, the signature's left out.
    pub annotations: BTreeMap<String, String>,
    /// The text of its `.minisig` file.
    pub signature: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    pub digest: String,
    pub size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    created: String,
    author: Option<String>,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [&'a str; 1],
    component: Component<'a>,
}

#[derive(Serialize)]
struct Component<'a> {
    exports: &'a [String],
    imports: &'a [String],
    target: Option<String>,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Descriptor { media_type: media_type.to_owned(), digest: digest(bytes), size: bytes.len() as u64 }
    }
}

impl Artifact {
    /// The bytes of config and manifest.
    pub(crate) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let layer = Descriptor::of(LAYER, &self.component);
        let config = Config {
            created: rfc3339(self.created),
            author: None,
            architecture: "wasm",
            // What readers of this config want of every component, WASI or not.
            os: "wasip2",
            layer_digests: [&layer.digest],
            component: Component { exports: &self.exports, imports: &self.imports, target: None },
        };
        let config = json(&config);
        let mut annotations = self.annotations.clone();
        annotations.extend(self.signature.iter().map(|text| (SIGNATURE_ANNOTATION.to_owned(), text.clone())));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config: Descriptor::of(CONFIG, &config),
            layers: vec![layer],
            annotations,
        };
        (config, json(&manifest))
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and lists of them: nothing that JSON cannot say.
    serde_json::to_vec(value).unwrap_or_default()
}

impl Manifest {
    /// Reads a manifest and finds the one layer that is a component. `reference` is for the error.
    pub(crate) fn read(bytes: &[u8], reference: &str) -> Result<(Manifest, Descriptor), RegistryError> {
        let wrong = |why: String| RegistryError::Layout { reference: reference.to_owned(), why };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| wrong(format!("its manifest is not JSON: {e}")))?;
        if value.get("manifests").is_some() {
            return Err(wrong("it is an index of several images; name one of them by its digest".into()));
        }
        let manifest: Manifest = serde_json::from_value(value)
            .map_err(|e| wrong(format!("its manifest is not an OCI image manifest: {}", clean(&e.to_string()))))?;
        let mut wasm = manifest.layers.iter().filter(|l| [LAYER, OLD_LAYER].contains(&l.media_type.as_str()));
        match (wasm.next(), wasm.next()) {
            (Some(layer), None) if !is_digest(&layer.digest) => Err(wrong(format!(
                "the digest of its layer is \"{}\", not sha256: and 64 lower-case hexadecimal digits",
                clean(&layer.digest)
            ))),
            (Some(layer), None) => {
                let layer = layer.clone();
                Ok((manifest, layer))
            }
            (Some(_), Some(_)) => Err(wrong("it has several WebAssembly layers; one is wanted".into())),
            (None, _) => {
                let seen: Vec<&str> = manifest.layers.iter().map(|l| l.media_type.as_str()).take(8).collect();
                Err(wrong(format!(
                    "none of its layers is {LAYER}; it has {}. It may be a container image",
                    if seen.is_empty() { "none".to_owned() } else { clean(&seen.join(", ")) }
                )))
            }
        }
    }
}

/// Seconds since 1970 (UTC) as `2024-01-31T23:59:59Z`.
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date by 400-year eras that begin on 1 March: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

impl Artifact {
    /// The time for [`Self::created`]: `$SOURCE_DATE_EPOCH` where it is set, so that a push can be repeated byte for byte,
    /// else now.
    pub fn now() -> u64 {
        let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|s| s.trim().parse().ok());
        given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn the_layout_is_the_one_that_wkg_wants() {
        let artifact = Artifact {
            component: b"\0asm".to_vec(),
            exports: vec!["ovhost:plugin/filter@0.1.0".into()],
            signature: Some("untrusted comment: x\n".into()),
            ..Artifact::default()
        };
        let (config, manifest) = artifact.encode();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["architecture"], "wasm");
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["layerDigests"][0], digest(b"\0asm"));
        assert_eq!(config["component"]["exports"][0], "ovhost:plugin/filter@0.1.0");
        let value: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(value["mediaType"], MANIFEST);
        assert_eq!(value["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        assert_eq!(value["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(value["layers"].as_array().unwrap().len(), 1);
        let (manifest, layer) = Manifest::read(&manifest, "x").unwrap();
        assert_eq!((layer.size, layer.digest), (4, digest(b"\0asm")));
        assert_eq!(manifest.annotations[SIGNATURE_ANNOTATION], "untrusted comment: x\n");
    }

    #[test]
    fn other_artifacts_are_named() {
        let error = |text: &str| Manifest::read(text.as_bytes(), "r/x:1").unwrap_err().to_string();
        assert!(error(r#"{"schemaVersion":2,"manifests":[]}"#).contains("an index of several"));
        let config = r#""config":{"mediaType":"c","digest":"sha256:0","size":1}"#;
        let image = format!(
            r#"{{"schemaVersion":2,{config},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"d","size":1}}]}}"#
        );
        assert!(error(&image).contains("application/vnd.oci.image.layer.v1.tar. It may be a container image"));
        assert!(error("[]").contains("not an OCI image manifest"));
        assert!(error("x").contains("not JSON"));
        // Nothing of the registry's reaches the terminal but letters.
        let painted = image.replace("vnd.oci", "\\u001b[2Jvnd\\u202e.oci");
        let said = error(&painted);
        assert!(said.contains("[2Jvnd.oci") && !said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
        let said = error(&format!(r#"{{"schemaVersion":"\\u001b[2J",{config}}}"#));
        assert!(said.contains("not an OCI image manifest") && !said.contains('\u{1b}'), "{said:?}");
    }

    #[test]
    fn a_digest_is_a_sha256_before_anything_is_asked_by_it() {
        let read = |digest: &str| {
            let layer = format!(r#"{{"mediaType":"application/wasm","digest":"{digest}","size":1}}"#);
            let config = r#"{"mediaType":"c","digest":"sha256:0","size":1}"#;
            let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
            Manifest::read(text.as_bytes(), "r/x:1").map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(read(&format!("sha256:{}", "a".repeat(64))), Ok(()));
        let (short, upper, long) = ("a".repeat(63), "A".repeat(64), "a".repeat(65));
        for bad in ["", "../../tags/list?", "sha512:aa", &short, &upper, &long].map(|d| d.to_owned()) {
            for bad in [bad.clone(), format!("sha256:{bad}")] {
                assert!(read(&bad).unwrap_err().contains("not sha256: and 64"), "{bad}");
            }
        }
    }
}
