//! `[plugins]`: which components a run uses, how they are configured, and what they must bring to be loaded.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use ovhost_plugin::{Limits, PluginSpec, Trust, TrustError, TrustPolicy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

/// One use of a plugin.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginUse {
    /// The component. A path: beside the recipe, else as given, in $OVHOST_PLUGIN_PATH, or a first-party one
    /// ("packers/padding_free.wasm"). A package, "ns:name@1.2", out of $OVHOST_PACKAGES. A pulled artifact,
    /// "oci://registry/repository:tag"; a run never downloads.
    pub plugin: String,
    /// Name of this use in logs and records; the file's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// SHA-256 that the file must have; `ovhost plugin lock` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Which of the component's plugins; needed only where it holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The plugin's own configuration, checked against its schema.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: Map<String, Value>,
    /// Files that the plugin may read at its start, by the names that it documents: a path relative to the recipe, or
    /// { path = "...", sha256 = "..." }.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assets: BTreeMap<String, AssetUse>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
}

impl PluginUse {
    /// A use by name alone, as `--plugins` names it.
    pub fn bare(plugin: impl Into<String>) -> Self {
        PluginUse {
            plugin: plugin.into(),
            name: None,
            sha256: None,
            entry: None,
            config: Default::default(),
            assets: Default::default(),
            limits: Limits::default(),
        }
    }

    /// The loader's request for this use; relative assets are taken from `recipe_dir`.
    pub fn spec(&self, path: PathBuf, recipe_dir: &Path, seed: u64) -> PluginSpec {
        let pin = |(name, asset): (&String, &AssetUse)| Some((name.clone(), asset.sha256.clone()?));
        PluginSpec {
            path,
            name: self.name.clone(),
            sha256: self.sha256.clone(),
            entry: self.entry.clone(),
            config: Value::Object(self.config.clone()),
            assets: self.assets.iter().map(|(k, v)| (k.clone(), recipe_dir.join(&v.path))).collect(),
            asset_pins: self.assets.iter().filter_map(pin).collect(),
            limits: self.limits.clone(),
            seed,
            ..PluginSpec::default()
        }
    }
}

/// A file for a plugin. In TOML a string, or a table with `path` and `sha256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetUse {
    /// Where it is, relative to the recipe.
    pub path: PathBuf,
    /// SHA-256 that it must have.
    pub sha256: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PinnedAsset {
    /// Where it is, relative to the recipe.
    path: PathBuf,
    /// SHA-256 that it must have; `ovhost plugin lock` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Serialize for AssetUse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.sha256 {
            None => self.path.serialize(serializer),
            Some(_) => PinnedAsset { path: self.path.clone(), sha256: self.sha256.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AssetUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AssetUse;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table { path = \"...\", sha256 = \"...\" }")
            }
            fn visit_str<E>(self, path: &str) -> Result<AssetUse, E> {
                Ok(AssetUse { path: path.into(), sha256: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AssetUse, A::Error> {
                let PinnedAsset { path, sha256 } = PinnedAsset::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AssetUse { path, sha256 })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for AssetUse {
    fn schema_name() -> Cow<'static, str> {
        "AssetUse".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let pinned = generator.subschema_for::<PinnedAsset>();
        json_schema!({
            "description": "A file for a plugin: its path relative to the recipe, or a table with its sha256 too.",
            "anyOf": [{"type": "string"}, pinned],
        })
    }
}

/// `[plugins]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginSet {
    /// What a plugin must bring to be loaded. sandbox: nothing, it can reach nothing. pinned: its sha256 and those of its assets
    /// are in the recipe (`ovhost plugin lock`). signed: one of `trusted_keys` has signed it, and the assets are pinned.
    #[serde(default)]
    pub trust: Trust,
    /// Public keys (minisign's): "RW..." itself, or a file relative to the recipe. A signature by one of them must be good,
    /// whatever `trust` asks for; plugins without one are refused only where `trust` is "signed".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<String>,
    /// Keep or drop samples, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<PluginUse>,
    /// Turns a sample into a conversation.
    pub prompt: PluginUse,
    /// Groups samples into packs.
    pub packer: PluginUse,
    /// Score answers in `ovhost eval`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric: Vec<PluginUse>,
}

impl PluginSet {
    /// What the recipe in `recipe_dir` lets in. Errors: a key cannot be read, or none is given where signatures are wanted.
    pub fn policy(&self, recipe_dir: &Path) -> Result<TrustPolicy, TrustError> {
        TrustPolicy::new(self.trust, &self.trusted_keys, recipe_dir)
    }
}

/// A recipe as JSON without what says only whom it trusts: pins and keys may change between a run and its resumption, the
/// plugins themselves are compared by what they are.
pub(super) fn without_trust(recipe: &Value) -> Value {
    let mut recipe = recipe.clone();
    let Some(plugins) = recipe.get_mut("plugins").and_then(Value::as_object_mut) else { return recipe };
    plugins.remove("trust");
    plugins.remove("trusted_keys");
    for uses in plugins.values_mut() {
        match uses {
            Value::Array(uses) => uses.iter_mut().for_each(unpin),
            one => unpin(one),
        }
    }
    recipe
}

fn unpin(plugin: &mut Value) {
    let Some(plugin) = plugin.as_object_mut() else { return };
    plugin.remove("sha256");
    for asset in plugin.get_mut("assets").and_then(Value::as_object_mut).into_iter().flat_map(|a| a.values_mut()) {
        if let Some(path) = asset.get("path").cloned() {
            *asset = path;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_paths_or_tables() {
        let text = r#"
            plugin = "filters/x.wasm"
            [assets]
            words = "words.txt"
            table = { path = "table.json", sha256 = "ab" }
        "#;
        let use_: PluginUse = toml::from_str(text).unwrap();
        assert_eq!(use_.assets["words"], AssetUse { path: "words.txt".into(), sha256: None });
        assert_eq!(use_.assets["table"].sha256.as_deref(), Some("ab"));
        let spec = use_.spec("x.wasm".into(), Path::new("lab"), 1);
        assert_eq!(spec.assets["words"], Path::new("lab/words.txt"));
        assert_eq!(spec.asset_pins.into_iter().collect::<Vec<_>>(), [("table".to_owned(), "ab".to_owned())]);
        // Written as they were read.
        let back = toml::to_string(&use_).unwrap();
        assert!(back.contains("words = \"words.txt\"") && back.contains("sha256 = \"ab\""), "{back}");
        assert_eq!(toml::from_str::<PluginUse>(&back).unwrap().assets, use_.assets);

        let error = |asset: &str| {
            toml::from_str::<PluginUse>(&format!("plugin = \"x\"\nassets = {{ words = {asset} }}"))
                .unwrap_err()
                .to_string()
        };
        assert!(
            error("{ path = \"a\", sha265 = \"b\" }").contains("unknown field `sha265`, expected `path` or `sha256`")
        );
        assert!(error("3").contains("expected a path, or a table { path"));
    }

    #[test]
    fn pins_are_no_difference() {
        let plain = serde_json::json!({"plugins": {"filter": [{"plugin": "a", "assets": {"w": "w.txt"}}], "packer": {"plugin": "p"}}});
        let locked = serde_json::json!({"plugins": {"trust": "pinned", "trusted_keys": ["k"],
            "filter": [{"plugin": "a", "sha256": "1", "assets": {"w": {"path": "w.txt", "sha256": "2"}}}],
            "packer": {"plugin": "p", "sha256": "3"}}});
        assert_eq!(without_trust(&plain), without_trust(&locked));
        let other = serde_json::json!({"plugins": {"filter": [{"plugin": "b"}], "packer": {"plugin": "p"}}});
        assert_ne!(without_trust(&plain), without_trust(&other));
    }
}
