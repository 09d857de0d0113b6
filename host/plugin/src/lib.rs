//! Loads and runs ovhost's plugins: WebAssembly components that filter, pack, prompt and score. Knows no torch and no tar.
//!
//! ```text
//!  PluginSpec ──Host::load──► Plugin (compiled, configured; clones share) ──filter()/packer()/prompt()/metric()──► instance
//!  Batch of named columns ──instance──► checked answer, or an error that names plugin, row, rule and next step
//! ```
//!
//! * [`load`](Host::load) finds everything that is wrong before any data is read;
//! * an instance belongs to one worker, keeps its store warm, and makes a new one after a failure (a filter that remembers rows: only to be restored);
//! * whatever a plugin answers is checked against the contract (`wit/plugin.wit`) before it is believed;
//! * no plugin can reach files, clocks, network, or end the host.

mod backtrace;
mod batch;
mod bindings;
mod bundle;
mod cache;
mod contain;
mod describe;
mod engine;
mod error;
mod files;
mod filter;
mod histogram;
mod independence;
mod instance;
pub mod json;
mod limits;
mod load;
mod log;
mod metric;
mod nesting;
mod oci;
mod package;
mod packer;
mod patience;
mod prompt;
mod replay;
mod resolve;
mod scan;
mod schema;
mod schema_bounds;
mod signature;
mod trust;
mod work;

pub use backtrace::Frames;
pub use batch::{Batch, CallCtx, Column, ColumnData, Ragged};
pub use bundle::{Bundle, Call, ComponentRecord, Earlier, Failure, RawColumn, Rows, Stream};
pub use contain::OnTrap;
pub use describe::{Description, Entry};
pub use engine::{Compiled, Host, HostOptions};
pub use error::{Diagnostic, PluginError, RefusalKind, TrapCause, plain, turns};
pub use filter::{Decisions, FilterInstance};
pub use histogram::Histogram;
pub use independence::{Independence, check_independence};
pub use instance::Counters;
pub use limits::Limits;
pub use load::{AssetInfo, Inspection, Plugin, PluginInfo, PluginSpec, read_component, surface};
pub use metric::{MetricInfo, MetricInstance, MetricValue, Scored};
pub use oci::{OciError, OciReference, OciStore, Stored};
pub use package::{PackageError, package_roots};
pub use packer::{Bins, PackContract, PackLimits, PackerInstance, Packing};
pub use prompt::{Message, Mode, Part, Piece, PromptInstance, PromptOutput, Rendered, Segment};
pub use replay::{Replay, Verdict};
pub use resolve::{Located, locate, resolve, split_pin};
pub use scan::{Kind, Surface, WIT_VERSION};
pub use signature::{Claims, KeyId, Signed, TrustedKey, signature_path, signatures_of, small_file};
pub use trust::{SignatureRecord, Trust, TrustError, TrustPolicy, TrustRecord, same_plugins};
