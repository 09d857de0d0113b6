//! Why a judge said nothing, in words: what was asked, what came, what to do.

/// Settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The address.
    #[error("the judge's address \"{url}\": {why}")]
    Url {
        /// As given, less what may be secret.
        url: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// The model's name.
    #[error("the judge's model has no name; say as what the server knows it, for example \"gpt-4o-mini\"")]
    Model,
    /// The key.
    #[error("the variable {variable} holds no key: {why}")]
    Key {
        /// The environment variable.
        variable: String,
        /// What is wrong with it, without a part of it.
        why: &'static str,
    },
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The endpoint could not be reached, or the connection broke, in every try.
    #[error("the judge at {url} cannot be reached ({tries} tries): {why}; check that it runs, and its address")]
    Unreachable {
        /// What was asked.
        url: String,
        /// How often.
        tries: u32,
        /// The transport's words of the last try.
        why: String,
    },
    /// Another status than success; of several tries the last one.
    #[error("the judge at {url} answered {status} ({tries} tries){}{}", said(.message), next(*.status))]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How often.
        tries: u32,
        /// The server's words, may be empty.
        message: String,
    },
    /// The server wants a longer pause than is allowed.
    #[error(
        "the judge at {url} answered {status} and wants to be left alone for {asked} s, of which at most {most} s are waited{}; \
         ask later, what was answered so far is kept", said(.message)
    )]
    Waits {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its `Retry-After`, seconds.
        asked: u64,
        /// The longest wait, seconds.
        most: u64,
        /// The server's words, may be empty.
        message: String,
    },
    /// Success, but with a body that is no chat completion.
    #[error("the judge at {url} answered what is no chat completion ({why}): {seen:?}; check the address")]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
        /// The beginning of what came.
        seen: String,
    },
    /// A completion without text.
    #[error("the judge's reply has no text: {why}")]
    NoText {
        /// Why not.
        why: NoText,
        /// Tokens of the request, as in [`Reply`](crate::Reply): they are spent.
        prompt_tokens: u64,
        /// Tokens of the reply, likewise.
        completion_tokens: u64,
    },
    /// The run was told to stop while this waited.
    #[error("stopped before the judge replied")]
    Stopped,
    /// A judge of another kind failed, in its words.
    #[error("{0}")]
    Other(String),
}

/// Why a completion has no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoText {
    /// The model refused, in its words.
    #[error("it refuses: {0:?}")]
    Refused(String),
    /// The server's content filter took it away.
    #[error("the server's content filter took it away")]
    Filtered,
    /// All tokens were used up before the text began, as by a model that thinks first.
    #[error("{tokens} tokens were used up before it began; allow the judge more tokens")]
    Cut {
        /// Most tokens, of the last try.
        tokens: u32,
    },
    /// None of these.
    #[error("it ended with {finish:?} and without a word")]
    Silent {
        /// The server's reason of the end.
        finish: String,
    },
}

impl AskError {
    /// Whether it is this request alone that is not answered: others may well be.
    pub fn is_of_the_request(&self) -> bool {
        match self {
            AskError::NoText { .. } | AskError::Stopped => true,
            AskError::Status { status, .. } => matches!(status, 400 | 413 | 422),
            _ => false,
        }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What to do about a status.
fn next(status: u16) -> &'static str {
    match status {
        400 | 422 => {
            "; a parameter that this model refuses can be changed or left out (null) among the judge's parameters"
        }
        401 | 403 => "; check the key, and which environment variable it is read from",
        404 | 405 => "; check the model's name, and the address, which for most servers ends in /v1",
        408 | 409 | 425 | 429 | 500.. => "; ask later, what was answered so far is kept",
        _ => "; check the address",
    }
}
