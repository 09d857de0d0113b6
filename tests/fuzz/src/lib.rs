//! What the fuzz targets share. `load`, `frame` and `mutate` are also compiled into the tests of `host/plugin`, `data` and
//! `mutate` into those of `host/data`.
//!
//! ```text
//!  bytes ─────────────────────────────────────► load::load_bytes ──► Host::inspect, Host::load, two rows
//!  bytes ──► smith: a random valid module ──► frame: a component ──┘
//!  bytes ─────────────────────────────────────► data::{tar, index, meta, picture, pack, chat} ──► samples, pixels, tokens
//! ```

pub mod data;
pub mod frame;
pub mod load;
pub mod mutate;
pub mod smith;

pub use load::load_bytes;
