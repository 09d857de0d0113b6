//! Configuration: JSON text in; a typed value, its resolved form, its schema, or findings with JSON pointers out.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::bindings::exports::ovhost::plugin::lifecycle::Asset;
use crate::bindings::ovhost::plugin::types::Diagnostic;

/// Why a plugin refuses its configuration or assets: at least one finding that names a place in the configuration.
///
/// ```
/// use ovhost_sdk::ConfigError;
///
/// let error = ConfigError::at("/min_side", "must be at least 1");
/// assert_eq!(error.to_string(), "/min_side: must be at least 1");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    /// The findings; at least one is fatal.
    pub findings: Vec<Diagnostic>,
}

impl ConfigError {
    /// One finding. `pointer` is a JSON pointer into the configuration (`/min_side`, or empty for the whole).
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { findings: vec![Diagnostic { path: pointer.into(), message: message.into(), fatal: true }] }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            let place = if finding.path.is_empty() { "configuration" } else { finding.path.as_str() };
            write!(f, "{}{place}: {}", if i > 0 { "; " } else { "" }, finding.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects every finding, so that a user sees all of them at once.
///
/// ```
/// use ovhost_sdk::{ConfigError, Findings};
///
/// fn check(min: u32, max: u32) -> Result<(), ConfigError> {
///     let mut findings = Findings::new();
///     findings.require(min > 0, "/min", || "must be at least 1".into());
///     findings.require(min <= max, "/max", || format!("{max} is below `min`, which is {min}"));
///     findings.finish()
/// }
///
/// assert!(check(1, 2).is_ok());
/// assert_eq!(check(0, 2).unwrap_err().findings[0].path, "/min");
/// assert_eq!(check(3, 2).unwrap_err().findings[0].message, "2 is below `min`, which is 3");
/// ```
#[derive(Debug, Default)]
pub struct Findings(Vec<Diagnostic>);

impl Findings {
    /// No findings yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a finding at `pointer` unless `good`. The message says what is allowed.
    pub fn require(&mut self, good: bool, pointer: &str, message: impl FnOnce() -> String) {
        if !good {
            self.0.push(Diagnostic { path: pointer.into(), message: message(), fatal: true });
        }
    }

    /// `Ok` if nothing was found.
    ///
    /// # Errors
    /// All findings.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigError { findings: self.0 }) }
    }
}

/// The files that a plugin asked for in [`Plugin::ASSETS`](crate::Plugin::ASSETS), whole.
///
/// ```
/// use ovhost_sdk::prelude::*;
///
/// struct Blocked(Vec<String>);
///
/// impl Plugin for Blocked {
///     type Config = ();
///     const NAME: &'static str = "blocked";
///     const SUMMARY: &'static str = "Drops texts with a blocked word.";
///     const READS: &'static [Need] = &[Need::utf8("text")];
///     const ASSETS: &'static [&'static str] = &["words"];
///
///     fn new((): (), assets: &Assets) -> Result<Self, ConfigError> {
///         Ok(Self(assets.text("words")?.lines().map(str::to_owned).collect()))
///     }
/// }
/// # impl Filter for Blocked {
/// #     fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
/// #         let text = row.str("text").unwrap_or_default();
/// #         if self.0.iter().any(|word| text.contains(word)) { Verdict::drop("blocked") } else { Verdict::Keep }
/// #     }
/// # }
///
/// let mut plugin = ovhost_sdk::testing::filter_with_assets::<Blocked>(json!({}), &[("words", b"spam\neggs")]).unwrap();
/// assert_eq!(plugin.run(json!([{ "text": "eggs" }, { "text": "a chair" }])).kept(), [false, true]);
/// let missing = ovhost_sdk::testing::filter::<Blocked>(json!({})).err().unwrap();
/// assert!(missing.to_string().contains("the asset `words` is missing"));
/// ```
#[derive(Debug, Default)]
pub struct Assets(Vec<Asset>);

impl Assets {
    pub(crate) fn new(assets: Vec<Asset>) -> Self {
        Self(assets)
    }

    /// Bytes of the asset `name`, if the recipe gives it.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|asset| asset.name == name).map(|asset| asset.data.as_slice())
    }

    /// Bytes of the asset `name`, which there must be.
    ///
    /// # Errors
    /// The recipe does not give it.
    pub fn required(&self, name: &str) -> Result<&[u8], ConfigError> {
        self.bytes(name).ok_or_else(|| {
            ConfigError::at("", format!("the asset `{name}` is missing; name its file under `assets` in the recipe"))
        })
    }

    /// Text of the asset `name`, without the byte order mark that some editors put at the start of a file.
    ///
    /// # Errors
    /// The recipe does not give it, or it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<&str, ConfigError> {
        let bytes = self.required(name)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| ConfigError::at("", format!("the asset `{name}` is not UTF-8: {e}")))?;
        Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text))
    }
}

/// Whether `C` holds nothing, as `()` and unit structs do. Its configuration is the empty object all the same: hosts give
/// and record objects.
fn is_unit<C: JsonSchema>() -> bool {
    schemars::schema_for!(C).get("type").is_some_and(|ty| ty == "null")
}

/// No keys; what a unit is in a recipe.
#[derive(Default, Serialize, serde::Deserialize, JsonSchema)]
struct Nothing {}

/// Parses `text`, an object (or nothing at all, which is the empty one); refuses keys that the type does not know,
/// whether or not it says `deny_unknown_fields`.
pub(crate) fn parse<C: DeserializeOwned + Serialize + JsonSchema + Default>(text: &str) -> Result<C, ConfigError> {
    if is_unit::<C>() {
        return parse_object::<Nothing>(text).map(|_| C::default());
    }
    parse_object(text)
}

fn parse_object<C: DeserializeOwned + Serialize + Default>(text: &str) -> Result<C, ConfigError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    if let Ok(value) = serde_json::from_str::<Json>(text)
        && !value.is_object()
    {
        return Err(ConfigError::at("", format!("it must be a table (JSON object), not {value}")));
    }
    let mut track = serde_path_to_error::Track::new();
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let parsed: Result<C, _> = serde_ignored::deserialize(tracked, |path| unknown.push(ignored_pointer(&path)));
    let config = match parsed {
        Ok(config) => config,
        Err(e) => return Err(ConfigError::at(tracked_pointer(&track.path()), without_position(&e))),
    };
    json.end().map_err(|e| ConfigError::at("", e.to_string()))?;
    let mut findings = Findings::new();
    for pointer in unknown {
        let known = known_keys::<C>();
        let root = pointer.matches('/').count() == 1 && !known.is_empty();
        let allowed = if root { format!("; allowed: {}", known.join(", ")) } else { String::new() };
        findings.require(false, &pointer, || format!("unknown key{allowed}"));
    }
    findings.finish()?;
    Ok(config)
}

fn known_keys<C: Serialize + Default>() -> Vec<String> {
    match serde_json::to_value(C::default()) {
        Ok(Json::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Serde's message without "at line 1 column 12": the user wrote TOML, and the pointer says where.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) if !error.is_syntax() && !error.is_eof() => text[..at].to_owned(),
        _ => text,
    }
}

fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

fn tracked_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => write!(pointer, "/{index}").unwrap_or_default(),
            Segment::Map { key } => push_token(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn ignored_pointer(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", ignored_pointer(parent)),
        Path::Map { parent, key } => {
            let mut pointer = ignored_pointer(parent);
            push_token(&mut pointer, key);
            pointer
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_pointer(parent)
        }
    }
}

/// The configuration as JSON with sorted keys and no spaces: equal configurations give equal text.
pub(crate) fn canonical<C: Serialize>(config: &C) -> Result<String, ConfigError> {
    fn sorted(value: Json) -> Json {
        match value {
            Json::Object(map) => {
                let mut entries: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Json::Object(entries.into_iter().collect())
            }
            Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    let value = serde_json::to_value(config)
        .map_err(|e| ConfigError::at("", format!("the configuration cannot be written as JSON: {e}")))?;
    // A unit is the empty object, see `parse`.
    Ok(if value.is_null() { "{}".to_owned() } else { sorted(value).to_string() })
}

/// JSON Schema (2020-12) of `C`, with unknown keys refused at the root as [`parse`] does.
pub(crate) fn schema<C: JsonSchema>() -> String {
    if is_unit::<C>() {
        return r#"{"type":"object","properties":{},"additionalProperties":false}"#.to_owned();
    }
    let mut schema = schemars::schema_for!(C).to_value();
    if let Json::Object(map) = &mut schema
        && map.contains_key("properties")
        && !map.contains_key("additionalProperties")
    {
        map.insert("additionalProperties".into(), false.into());
    }
    schema.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Inner {
        size: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Config {
        /// Words.
        words: Vec<String>,
        inner: Inner,
        limit: Option<u32>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { words: vec!["a".into()], inner: Inner { size: 3 }, limit: Some(1) }
        }
    }

    fn finding(text: &str) -> (String, String) {
        let error = parse::<Config>(text).unwrap_err();
        (error.findings[0].path.clone(), error.findings[0].message.clone())
    }

    #[test]
    fn defaults_fill_in_and_resolve_canonically() {
        assert_eq!(parse::<Config>("").unwrap(), Config::default());
        let config = parse::<Config>(r#"{ "limit": null, "inner": {} }"#).unwrap();
        assert_eq!(config.inner.size, 0);
        assert_eq!(canonical(&config).unwrap(), r#"{"inner":{"size":0},"limit":null,"words":["a"]}"#);
    }

    #[test]
    fn texts_of_assets_have_no_byte_order_mark() {
        let asset = |name: &str, data: &[u8]| Asset { name: name.into(), data: data.into() };
        let marked = "\u{FEFF}a\n\u{FEFF}b";
        let assets = Assets::new(vec![asset("marked", marked.as_bytes()), asset("plain", b"a"), asset("bad", b"\xff")]);
        assert_eq!(assets.text("marked").unwrap(), "a\n\u{FEFF}b");
        assert_eq!((assets.text("plain").unwrap(), assets.bytes("marked").unwrap()), ("a", marked.as_bytes()));
        assert!(assets.text("bad").unwrap_err().findings[0].message.contains("not UTF-8"));
        assert!(assets.required("none").unwrap_err().findings[0].message.contains("`none` is missing"));
    }

    #[test]
    fn a_unit_is_the_empty_object() {
        #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
        struct Unit;
        for text in ["", "{}"] {
            parse::<()>(text).unwrap();
            parse::<Unit>(text).unwrap();
        }
        assert_eq!((canonical(&()).unwrap(), canonical(&Unit).unwrap()), ("{}".into(), "{}".into()));
        assert_eq!(serde_json::from_str::<Json>(&schema::<()>()).unwrap()["type"], "object");
        assert!(parse::<()>("null").unwrap_err().findings[0].message.contains("not null"));
        assert_eq!(parse::<()>(r#"{"a":1}"#).unwrap_err().findings[0].path, "/a");
        assert!(parse::<Config>("[]").unwrap_err().findings[0].message.contains("must be a table"));
    }

    #[test]
    fn findings_have_json_pointers() {
        assert_eq!(finding(r#"{"inner":{"size":"x"}}"#).0, "/inner/size");
        assert!(finding(r#"{"inner":{"size":"x"}}"#).1.contains("expected u32"));
        assert!(!finding(r#"{"inner":{"size":"x"}}"#).1.contains("line"));
        assert_eq!(finding(r#"{"words":["a",2]}"#).0, "/words/1");
        assert_eq!(finding(r#"{"inner":{"sise":1}}"#), ("/inner/sise".into(), "unknown key".into()));
        assert_eq!(finding(r#"{"w/o":1}"#), ("/w~1o".into(), "unknown key; allowed: words, inner, limit".into()));
        assert!(finding("[").1.contains("EOF"));
    }

    #[test]
    fn the_schema_refuses_unknown_keys_and_keeps_docs() {
        let schema: Json = serde_json::from_str(&schema::<Config>()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["words"]["description"], "Words.");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
}
