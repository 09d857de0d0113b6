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

/// Whether a text is `sha256:` and 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether a registry may have a tag of that name.
pub(crate) fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A registry's words as an error shows them: at most 300 characters, none that moves a terminal's cursor or turns the text
/// around it.
pub(crate) fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|c| !c.is_control() && !turns(*c)).take(300).collect()
}
