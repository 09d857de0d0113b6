//! Python's notions of text and numbers, where Rust's differ.
//!
//! The reference implementation of every task is Python. A score that must equal its score for every answer has to strip,
//! split, parse and print as Python does: these modules are that, and nothing else.

pub mod literal;
pub mod number;
pub mod random;
pub mod text;
