//! What the fuzz targets share. `load` and `frame` are also compiled into the tests of `host/plugin`.
//!
//! ```text
//!  bytes ─────────────────────────────────────► load::load_bytes ──► Host::inspect, Host::load, two rows
//!  bytes ──► smith: a random valid module ──► frame: a component ──┘
//! ```

pub mod frame;
pub mod load;
pub mod smith;

pub use load::load_bytes;
