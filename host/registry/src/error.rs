//! What can go wrong between here and a registry, with the next step.

use std::path::PathBuf;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry could not be reached, or the connection broke.
    #[error("{url} cannot be reached: {why}{}", plain_hint(.url, .why))]
    Transport {
        /// What was asked for.
        url: String,
        /// The transport's words.
        why: String,
    },
    /// The registry wants to know who asks, or does not let this user.
    #[error(
        "{registry} refuses to let {} {action} {repository} ({status}{}): log in with `docker login {registry}`, or set \
         OVHOST_REGISTRY_AUTH={registry}=USER:PASSWORD",
        .user.as_deref().unwrap_or("an anonymous user"), said(.message)
    )]
    Denied {
        /// Host, and port where one was given.
        registry: String,
        /// The repository in it.
        repository: String,
        /// "pull" or "push to".
        action: &'static str,
        /// As whom it was tried; none: without credentials.
        user: Option<String>,
        /// The HTTP status.
        status: u16,
        /// The registry's words, may be empty.
        message: String,
    },
    /// Nothing of that name.
    #[error(
        "{registry}/{repository} has no {reference}{}",
        if .tags.is_empty() { ", or there is no such repository".to_owned() } else { format!("; its tags: {}", .tags.join(", ")) }
    )]
    NotFound {
        /// Host, and port where one was given.
        registry: String,
        /// The repository in it.
        repository: String,
        /// Tag or digest.
        reference: String,
        /// Tags that are there, where the registry tells them.
        tags: Vec<String>,
    },
    /// Another status than the protocol allows here.
    #[error("{url} answered {status}{}", said(.message))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The registry's words, may be empty.
        message: String,
    },
    /// Bytes that are not what their name says.
    #[error(
        "{what} from {registry} is not what its digest says:\n  wanted {wanted}\n  got    {got}\nIt was changed or damaged; nothing was stored"
    )]
    Digest {
        /// "the manifest", "the component", ...
        what: &'static str,
        /// Host, and port where one was given.
        registry: String,
        /// As asked for.
        wanted: String,
        /// Of the bytes.
        got: String,
    },
    /// The artifact is not a WebAssembly component in the layout that is read here.
    #[error("{reference} is not a plugin that can be pulled: {why}")]
    Layout {
        /// What was pulled.
        reference: String,
        /// What was seen and what is wanted.
        why: String,
    },
    /// An answer over its size cap.
    #[error("{what} of {reference} has {size} bytes; at most {cap} are read")]
    TooLarge {
        /// "the manifest", "the component", ...
        what: &'static str,
        /// What was pulled.
        reference: String,
        /// Its size.
        size: u64,
        /// The cap.
        cap: u64,
    },
    /// Credentials that cannot be used.
    #[error("the credentials for {registry} in {} cannot be used: {why}", .place.display())]
    Credentials {
        /// Host, and port where one was given.
        registry: String,
        /// The docker configuration, the helper or the variable.
        place: PathBuf,
        /// What is wrong with them.
        why: String,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The commonest cause of a failed handshake in a cluster is a registry that speaks plain HTTP.
fn plain_hint(url: &str, why: &str) -> &'static str {
    let tls = why.contains("InvalidContentType") || why.contains("corrupt message") || why.contains("UnexpectedEof");
    if url.starts_with("https:") && tls { "\nIf this registry speaks plain HTTP, add --plain-http" } else { "" }
}
