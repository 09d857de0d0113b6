//! Data that is wrong in every way that anybody thought of: nothing panics, hangs or takes memory without bound, and every
//! sample is kept, or rejected with its key and a reason, or lies behind damage that is itself a reject.

mod forge;
mod fuzz;
mod json;
#[path = "../../../../tests/fuzz/src/mutate.rs"]
mod mutate;
mod pictures;
mod shards;
#[path = "../../../../tests/fuzz/src/data.rs"]
mod targets;
