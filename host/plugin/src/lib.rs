//! Loads and runs ovhost's plugins: WebAssembly components that filter, pack, prompt and score. Knows no torch and no tar.
//!
//! ```text
//!  PluginSpec ──Host::load──► Plugin (compiled, configured; clones share) ──filter()/packer()/prompt()/metric()──► instance
//!  Batch of named columns ──instance──► checked answer, or an error that names plugin, row, rule and next step
//! ```
//!
//! * [`load`](Host::load) finds everything that is wrong before any data is read;
//! * an instance belongs to one worker, keeps its store warm, and makes a new one after a failure;
//! * whatever a plugin answers is checked against the contract (`wit/plugin.wit`) before it is believed;
//! * no plugin can reach files, clocks, network, or end the host.

mod batch;
mod bindings;
mod cache;
mod contain;
mod describe;
mod engine;
mod error;
mod filter;
mod instance;
mod limits;
mod load;
mod log;
mod metric;
mod packer;
mod prompt;
mod resolve;
mod scan;
mod schema;

pub use batch::{Batch, CallCtx, Column, ColumnData, Ragged};
pub use contain::OnTrap;
pub use describe::{Description, Entry};
pub use engine::{Host, HostOptions};
pub use error::{Diagnostic, PluginError, RefusalKind, TrapCause};
pub use filter::{Decisions, FilterInstance};
pub use instance::Counters;
pub use limits::Limits;
pub use load::{AssetInfo, Inspection, Plugin, PluginInfo, PluginSpec};
pub use metric::{MetricInfo, MetricInstance, MetricValue, Scored};
pub use packer::{PackLimits, PackerInstance, Packing};
pub use prompt::{Message, Mode, Part, Piece, PromptInstance, PromptOutput, Rendered, Segment};
pub use resolve::resolve;
pub use scan::{Kind, WIT_VERSION};
