//! Judges: language models that are asked whether an answer is right.
//!
//! ```text
//!  requests of metrics ─► [`Court`]: known? ─► its file `judge.jsonl` ─────────────────────────► outcomes, in the requests' order
//!                            └─ new: within the budget? ─► [`Judge`] ([`OpenAi`], or a local model) ─┘ (and into the file)
//! ```
//!
//! A judge answers one request, as far as it can; the [`Court`] decides what is asked, and keeps what was said. What a judge
//! could not be brought to say is an [`Outcome`] of its own, never a score.

mod cache;
mod court;
mod error;
mod openai;
mod retry;
mod wire;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cache::{Cache, CacheError};
pub use court::{Budget, Counters, Court, CourtError, Outcome, Progress, Unasked};
pub use error::{AskError, NoText, SettingsError};
pub use openai::{DEFAULT_KEY_VARIABLE, Key, OpenAi, Settings};
pub use retry::Retries;

/// Most tokens of a reply where nothing else is said: judges are asked for a word, a number or a short JSON object.
pub const DEFAULT_MAX_TOKENS: u32 = 256;

/// What a judge is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Role (`system`, `user`, `assistant`) and text, in order.
    pub messages: Vec<(String, String)>,
    /// Most tokens of the reply.
    pub max_tokens: u32,
    /// Whether the reply must be a JSON object; the messages have to say so, too.
    pub json: bool,
}

impl Request {
    /// The messages of a metric, for a reply of at most [`DEFAULT_MAX_TOKENS`] tokens.
    pub fn new(messages: Vec<(String, String)>) -> Self {
        Request { messages, max_tokens: DEFAULT_MAX_TOKENS, json: false }
    }
}

/// What a judge said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The text, never empty.
    pub text: String,
    /// Tokens of the request; of all tries that were answered. 0 where the judge does not count.
    pub prompt_tokens: u64,
    /// Tokens of the reply, likewise.
    pub completion_tokens: u64,
}

/// Answers requests.
pub trait Judge {
    /// Who it is: all that its replies depend on besides the request, and no secret. Two judges with the same identity are the
    /// same judge, and one's replies are taken for the other's.
    fn identity(&self) -> Value;

    /// Answers one request.
    ///
    /// # Errors
    /// There is no reply; other requests may still have one.
    fn ask(&self, request: &Request) -> Result<Reply, AskError>;

    /// How many requests are worth having under way at once.
    fn concurrency(&self) -> usize {
        1
    }

    /// How often a request was tried again, so far.
    fn retried(&self) -> u64 {
        0
    }

    /// Answers what `work` holds. The default asks one after the other on this thread; a judge that can be asked on several
    /// threads, or that answers several requests in one batch, does otherwise.
    fn run(&self, work: &mut (dyn Work + Send)) {
        while let Some((id, request)) = work.next() {
            let reply = self.ask(&request);
            work.done(id, reply);
        }
    }
}

/// Requests that wait to be asked.
pub trait Work {
    /// The next request to ask and its number; `None`: there is no more to do. Whatever was taken must be given back to
    /// [`Work::done`].
    fn next(&mut self) -> Option<(usize, Request)>;

    /// What became of a request, in any order.
    fn done(&mut self, id: usize, reply: Result<Reply, AskError>);
}
