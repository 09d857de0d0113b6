//! The command line of plugin authors, without torch. `ovhost plugin …` and the small binary `ovhost-plugin` are both this.
//!
//! ```text
//!  arguments ─► Command ─► commands/* ─► ovhost_plugin (the real host) ─► tables, JSON, files, exit code
//! ```

pub mod commands;
pub mod console;
pub mod files;
pub mod golden;
pub mod input;
pub mod keys;
pub mod places;
pub mod recipe;
pub mod rows;
pub mod scaffold;
pub mod scoring;
pub mod table;

pub use commands::{Command, run};
