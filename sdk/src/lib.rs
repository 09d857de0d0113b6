//! Write plugins for ovhost: data filters, packers, prompts and metrics, each a sandboxed WebAssembly component.
//!
//! ```text
//!  host ── columns ──► export macro ──► runner ── Row ──► your type (Filter, Packer, Prompt or Metric)
//!       ◄─ columns ──                         ◄─ Verdict, Packing, Rendered, scores
//! ```
//!
//! A plugin is an ordinary Rust type. It says who it is ([`Plugin`]), does its work row by row (one of [`Filter`],
//! [`Packer`], [`Prompt`], [`Metric`]), and is exported by one macro. Offsets, masks and the component's ABI stay in
//! this crate. The export macro does nothing natively, so the same crate is tested with plain `cargo test` through
//! [`testing`].
//!
//! ```
//! use ovhost_sdk::prelude::*;
//!
//! /// Drops rows whose text is short.
//! struct MinWords {
//!     config: Config,
//! }
//!
//! #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
//! #[serde(default, crate = "ovhost_sdk::serde")]
//! #[schemars(crate = "ovhost_sdk::schemars")]
//! struct Config {
//!     /// Fewest words that are kept.
//!     min_words: usize,
//! }
//!
//! impl Default for Config {
//!     fn default() -> Self {
//!         Self { min_words: 3 }
//!     }
//! }
//!
//! impl Plugin for MinWords {
//!     type Config = Config;
//!     const NAME: &'static str = "min_words";
//!     const SUMMARY: &'static str = "Keeps rows with enough words.";
//!     const READS: &'static [Need] = &[Need::utf8("text")];
//!
//!     fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
//!         let mut findings = Findings::new();
//!         findings.require(config.min_words > 0, "/min_words", || "must be at least 1 (0 keeps everything)".into());
//!         findings.finish()?;
//!         Ok(Self { config })
//!     }
//! }
//!
//! impl Filter for MinWords {
//!     fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
//!         let words = row.str("text").unwrap_or_default().split_whitespace().count();
//!         if words < self.config.min_words { Verdict::drop("too few words") } else { Verdict::Keep }
//!     }
//! }
//!
//! ovhost_sdk::export_filter!(MinWords);
//!
//! let mut plugin = ovhost_sdk::testing::filter::<MinWords>(json!({ "min_words": 2 })).unwrap();
//! let outcome = plugin.run(json!([{ "text": "a red square" }, { "text": "red" }]));
//! assert_eq!(outcome.kept(), [true, false]);
//! assert_eq!(outcome.reasons(), [None, Some("too few words")]);
//! ```
//!
//! `ovhost-sdk` is the only dependency that a plugin needs. The derives find `serde` and `schemars` in it through the two
//! `crate = "..."`; a crate that depends on the two itself leaves those out.
//!
//! Rules that the sandbox sets: a plugin has no clock, no files, no network and no randomness but [`RowCtx::rng`].
//! Results must depend on the row alone, never on how rows were cut into batches, so keep no state between the rows of
//! a filter or prompt, and never let the order of a `HashMap` reach the output. A filter that must remember rows, such as
//! one that drops duplicates, is a [`StatefulFilter`].

#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, unsafe_op_in_unsafe_fn, reason = "generated; the WIT has the documentation")]
#[rustfmt::skip]
pub mod bindings;
pub mod columns;
pub mod config;
pub mod ctx;
mod export;
pub mod fields;
pub mod filter;
pub mod log;
pub mod metric;
pub mod packer;
pub mod picture;
pub mod plugin;
pub mod prompt;
pub mod rows;
pub mod seen;
pub mod state;
pub mod testing;
pub mod text;

/// The programs of the tour, as tests; those of `docs/` are in the pages of the modules [`filter`] and so on.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub use export::private as __private;

/// What derives of `Serialize`, `Deserialize` and `JsonSchema` need, so that a plugin's `Cargo.toml` names this crate alone:
/// `#[serde(crate = "ovhost_sdk::serde")]` and `#[schemars(crate = "ovhost_sdk::schemars")]` say where the two are.
pub use {schemars, serde, serde_json};

pub use columns::{ColumnType, Need, Value, Write};
pub use config::{Assets, ConfigError, Findings};
pub use ctx::{Rng, RowCtx, SetValue};
pub use fields::Fields;
pub use filter::{Filter, StatefulFilter, Verdict};
pub use metric::{Judge, Metric, MetricInfo, MetricValue};
pub use packer::{Item, Limits, Packer, Packing};
pub use plugin::{ErrorKind, Plugin, PluginError};
pub use prompt::{Message, Mode, Part, Piece, Prompt, Rendered, Segment};
pub use rows::Row;

/// What most plugins use, with the three derives that a configuration needs and `json!` for tests. Each derive is told
/// where its crate is: `#[serde(crate = "ovhost_sdk::serde")]`, `#[schemars(crate = "ovhost_sdk::schemars")]`.
pub mod prelude {
    pub use crate::{
        Assets, ConfigError, Fields, Filter, Findings, Item, Judge, Limits, Message, Metric, MetricInfo, MetricValue,
        Mode, Need, Packer, Packing, Part, Piece, Plugin, PluginError, Prompt, Rendered, Row, RowCtx, Segment,
        StatefulFilter, Verdict, Write, log, state,
    };
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value as Json, json};
}
