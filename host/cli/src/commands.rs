//! One module per subcommand: its arguments and what it calls.

pub mod data;
pub mod eval;
pub mod infer;
pub mod model;
pub mod recipe;
pub mod report;
pub mod tokenizer;
pub mod train;
