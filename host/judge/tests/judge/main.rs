//! Judges behind an endpoint in the test.

mod court;
mod endpoint;
mod server;
