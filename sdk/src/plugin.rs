//! What all four kinds have in common: who a plugin is, what it reads, how it is made.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::ovhost::plugin::lifecycle as wit;
pub use crate::bindings::ovhost::plugin::types::{ErrorKind, PluginError};
use crate::columns::{Need, Write};
use crate::config::{self, Assets, ConfigError};

/// A plugin of any kind: who it is, what it reads and writes, and how it is made.
///
/// ```
/// use ovhost_sdk::prelude::*;
///
/// /// What a recipe may say under `config`.
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// #[serde(default, crate = "ovhost_sdk::serde")]
/// #[schemars(crate = "ovhost_sdk::schemars")]
/// struct Config {
///     /// Least side of the first picture, pixels.
///     min_side: u32,
/// }
///
/// impl Default for Config {
///     fn default() -> Self {
///         Self { min_side: 32 }
///     }
/// }
///
/// struct Sides(Config);
///
/// impl Plugin for Sides {
///     type Config = Config;
///     const NAME: &'static str = "sides";
///     const SUMMARY: &'static str = "Drops rows whose first picture is small.";
///     const READS: &'static [Need] = &[Need::u32s("width"), Need::u32s("height")];
///
///     fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
///         Ok(Self(config))
///     }
/// }
/// # impl Filter for Sides {
/// #     fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
/// #         let side = row.u32("width").min(row.u32("height"));
/// #         if side.is_some_and(|side| side >= self.0.min_side) { Verdict::Keep } else { Verdict::drop("small") }
/// #     }
/// # }
///
/// assert_eq!(ovhost_sdk::testing::resolved::<Sides>(json!({})).unwrap(), json!({ "min_side": 32 }));
/// ```
///
/// Implement it beside one of [`Filter`](crate::Filter), [`Packer`](crate::Packer),
/// [`Prompt`](crate::Prompt), [`Metric`](crate::Metric).
pub trait Plugin: Sized + 'static {
    /// Configuration: a struct with `#[serde(default)]` whose doc comments become the schema's descriptions; `()` where
    /// there is nothing to configure.
    type Config: DeserializeOwned + Serialize + JsonSchema + Default;

    /// Name of the entry: what a recipe says when a component holds several.
    const NAME: &'static str;
    /// One sentence for `ovhost plugin inspect`.
    const SUMMARY: &'static str;
    /// Columns that it reads; no other reaches it.
    const READS: &'static [Need];
    /// Columns that its rows may set.
    const WRITES: &'static [Write] = &[];
    /// Names of files that it wants whole when it is made.
    const ASSETS: &'static [&'static str] = &[];
    /// Whether calls of a prompt or metric build on one another (one instance per stream); avoid it. For packers and
    /// [`StatefulFilter`](crate::StatefulFilter)s it is so without this, and other filters may not.
    const STREAMING: bool = false;
    /// Rows per call that would suit it; 0: any. A wish that is shown and recorded: the present host cuts the stream by its
    /// own measure, and no result may depend on the cut.
    const PREFER_ROWS: u32 = 0;

    /// Makes the plugin, once, before any data.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration or the assets; collect it with
    /// [`Findings`](crate::Findings).
    fn new(config: Self::Config, assets: &Assets) -> Result<Self, ConfigError>;
}

/// The description of `P` that the component gives.
pub(crate) fn entry<P: Plugin>(streaming: bool) -> wit::Entry {
    wit::Entry {
        name: P::NAME.into(),
        summary: P::SUMMARY.into(),
        config_schema: config::schema::<P::Config>(),
        reads: P::READS.iter().map(|n| wit::ColumnNeed { name: n.name.into(), required: n.required }).collect(),
        writes: P::WRITES.iter().map(|write| write.name.into()).collect(),
        assets: P::ASSETS.iter().map(|&name| name.into()).collect(),
        state: if streaming || P::STREAMING { wit::StateModel::Streaming } else { wit::StateModel::Pure },
        prefer_rows: P::PREFER_ROWS,
    }
}

/// Parses the configuration, makes the plugin, and gives the resolved configuration.
pub(crate) fn make<P: Plugin>(config: &str, assets: Vec<wit::Asset>) -> Result<(P, String), ConfigError> {
    let config: P::Config = config::parse(config)?;
    let resolved = config::canonical(&config)?;
    Ok((P::new(config, &Assets::new(assets))?, resolved))
}

/// A whole-call error.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> PluginError {
    PluginError { kind, message: message.into(), detail: None }
}
