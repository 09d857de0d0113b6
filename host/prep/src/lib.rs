//! Offline steps over shards: each a plan of independent jobs whose results are committed one by one.
//!
//! ```text
//!  shards ─ plan (settings, jobs) ─► job 0 … job n, on any number of threads and machines ─► finish
//!                                     └ OUT/.ovhost/STEP/jobs/NAME.json: done, with counts and hashes
//! ```
//! * A job depends on nothing but the inputs, the settings and its own number, so the output is the same, byte for byte, for
//!   any number of workers, for any split over machines, and after any number of kills.
//! * A step that is run again skips what is done; with other settings it is refused.
//! * Every sample read is kept, filtered or rejected: the counts of every job say so and `rejects.jsonl` lists the others.

pub mod balance;
pub mod convert;
mod draw;
mod error;
mod files;
pub mod filter;
pub mod inspect;
pub mod jobs;
mod lengths;
mod ordered;
pub mod pack;
pub mod packs;
mod peek;
mod places;
mod rejects;
mod samples;
pub mod stats;
pub mod validate;
mod write;

pub use convert::{ConvertSettings, Converted, Input, convert};
pub use draw::put_png;
pub use error::PrepError;
pub use filter::{Draw, FilterSettings, filter, plugin_record};
pub use jobs::{Done, Part, Plan, Progress, RunOptions, Summary, WORDS};
pub use pack::{PackSettings, Packed, Phase, pack};
pub use rejects::Rejects;
pub use samples::Encoding;
