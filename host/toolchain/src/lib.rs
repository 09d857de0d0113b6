//! From a plugin's source folder to a component, whatever the language.
//!
//! ```text
//!  folder ─► Project (ovhost-plugin.toml, else Cargo.toml) ─► rust   cargo, wasm-component-ld
//!                                                         ├► python componentize-py
//!                                                         └► js     componentize-qjs
//!                                                                    └─► dist/NAME.wasm, its size and sha256
//! ```
//!
//! Nothing here runs a component or knows the contract's functions: that is the host's part (`ovhost_plugin`), and it is what
//! `ovhost-plugin check` and `test` are for. So this crate stays light, and `cargo xtask` can build the first-party plugins
//! with it before anything else is compiled.

pub mod build;
pub mod doctor;
pub mod files;
pub mod js;
pub mod process;
pub mod project;
pub mod python;
pub mod rust;
pub mod tools;

pub use build::{BuildOptions, Built, build};
pub use project::{Kind, Lang, Manifest, Project};
