//! What can go wrong with a place, in words: the place, the server's status, and what to do.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use crate::place::{Place, Scheme};

/// Why a place cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A text that names no place.
    #[error("\"{place}\": {reason}")]
    Place {
        /// As given, less what may be secret.
        place: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// Nothing is there.
    #[error("{place} does not exist ({answer}); check its name, and that the bucket or server is the right one")]
    Missing {
        /// The place.
        place: String,
        /// What the server said.
        answer: String,
    },
    /// The server refused, failed or could not be reached, also after waiting and asking again.
    #[error("{place}: cannot {action}: {answer}; {next}")]
    Failed {
        /// The place.
        place: String,
        /// What was tried.
        action: &'static str,
        /// What the server said, or what happened to the connection.
        answer: String,
        /// What to do.
        next: String,
    },
    /// The file became another one between two reads.
    #[error("{place} changed while it was read: {reason}; begin again when nobody writes to it")]
    Changed {
        /// The place.
        place: String,
        /// What was another.
        reason: String,
    },
}

/// Longest text of a server that an error repeats.
const ANSWER_CHARS: usize = 200;

impl StoreError {
    /// Whether nothing is there.
    pub fn is_missing(&self) -> bool {
        matches!(self, StoreError::Missing { .. })
    }

    /// Whether nothing is there, or the credentials do not show it: S3 says "forbidden" of what does not exist to those who may
    /// not list.
    pub fn is_missing_or_hidden(&self) -> bool {
        self.is_missing() || matches!(self, StoreError::Failed { answer, .. } if answer.starts_with("403"))
    }

    pub(crate) fn failed(place: &Place, action: &'static str, answer: impl Into<String>, next: &str) -> Self {
        StoreError::Failed { place: place.to_string(), action, answer: answer.into(), next: next.to_owned() }
    }

    /// In words what the store's crate reports. `action`: "read", "list".
    pub(crate) fn of(place: &Place, action: &'static str, error: &object_store::Error) -> Self {
        let (answer, status) = answer(error);
        if matches!(error, object_store::Error::NotFound { .. }) || status == Some(404) {
            return StoreError::Missing { place: place.to_string(), answer };
        }
        if matches!(error, object_store::Error::Precondition { .. }) || status == Some(412) {
            return StoreError::Changed { place: place.to_string(), reason: answer };
        }
        let next = match status {
            Some(401 | 403) => credentials(place.scheme).to_owned(),
            Some(416) => "it is shorter than it was said to be; make or upload the file again".to_owned(),
            Some(429 | 503) => {
                "the storage is asked for more than it gives; use fewer workers, or run again later".to_owned()
            }
            Some(301 | 307 | 308) => "check AWS_REGION (the bucket's) and the endpoint".to_owned(),
            Some(400..500) => "check the name and the endpoint".to_owned(),
            Some(_) => "run again later".to_owned(),
            None if matches!(error, object_store::Error::NotSupported { .. }) => {
                "the server does not send parts of files (HTTP range requests), which reading samples needs; use another \
                 server, or copy the files to the local disk"
                    .to_owned()
            }
            None => format!("check the network and the endpoint, and the credentials: {}", credentials(place.scheme)),
        };
        StoreError::failed(place, action, answer, &next)
    }
}

/// What a store's users have to set.
fn credentials(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION (and AWS_SESSION_TOKEN, AWS_ENDPOINT_URL), or \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Gcs => "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
        Scheme::Azure => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY), or \
             AZURE_SKIP_SIGNATURE=true for a public container"
        }
        Scheme::Http => "the server wants a login, which is not supported; use a place that needs none",
    }
}

/// What happened, and the status if there was one. The crate's own text has the whole address and the whole body; the
/// status, and of the body the store's code and message, say it shorter.
fn answer(error: &object_store::Error) -> (String, Option<u16>) {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            let what = http.source().map_or_else(|| http.to_string(), ToString::to_string);
            let kind = match http.kind() {
                HttpErrorKind::Timeout => "no answer in time: ",
                HttpErrorKind::Connect => "no connection: ",
                HttpErrorKind::Interrupted | HttpErrorKind::Request => "the connection broke: ",
                _ => "",
            };
            return (cut(&format!("{kind}{what}")), None);
        }
        last = inner.to_string();
        source = inner.source();
    }
    let Some((_, after)) = last.split_once("status code: ") else { return (cut(&last), None) };
    let (status, body) = after.split_once(": ").unwrap_or((after, ""));
    let number = status.get(..3).and_then(|n| n.parse().ok());
    let tag = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(text, _)| text.to_owned())
    };
    let said = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(text), None) | (None, Some(text)) => text,
        // A page for people says nothing.
        (None, None) if body.trim_start().starts_with('<') => String::new(),
        (None, None) => body.to_owned(),
    };
    let said = cut(&said);
    (if said.is_empty() { status.to_owned() } else { format!("{status}: {said}") }, number)
}

/// On one line, not too long, nothing that a terminal would obey.
fn cut(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = words.char_indices().nth(ANSWER_CHARS) {
        words.truncate(at);
        words.push('…');
    }
    words
}

/// The status of the answer that an error is about, if there was one.
pub(crate) fn status(error: &object_store::Error) -> Option<u16> {
    answer(error).1
}

/// Whether an answer began and broke off, or did not go on in time: what asking again may mend.
pub(crate) fn broke(error: &object_store::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return matches!(
                http.kind(),
                HttpErrorKind::Timeout | HttpErrorKind::Interrupted | HttpErrorKind::Request | HttpErrorKind::Connect
            );
        }
        source = inner.source();
    }
    false
}
