//! Plugins in OCI registries, the ones that hold container images.
//!
//! ```text
//!  Artifact (component, labels, signature) ──Client::push──► registry/repository:tag ──Client::pull──► Pulled (checked)
//! ```
//! The layout is the one of `wkg` and of the CNCF's "Wasm OCI artifact": a manifest with one layer `application/wasm` and a
//! config `application/vnd.wasm.config.v0+json`. A minisign signature travels as an annotation of the manifest, which other
//! tools carry along and ignore. Everything that arrives is checked against the digest that named it.
//!
//! Only the commands `pull` and `push` use this crate: a training run never reaches the network.

mod artifact;
mod auth;
mod client;
mod error;

pub use artifact::{Artifact, Pulled, SIGNATURE_ANNOTATION, rfc3339};
pub use auth::{Credentials, Secret};
pub use client::{Client, Options, Place};
pub use error::RegistryError;

/// `sha256:` and the hash in lower-case hexadecimal, as registries name things.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    sha2::Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
