//! What is asked of a judge, and what is kept: known replies, the budget, counters, the way to stop.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::Value;

use crate::cache::{Hash, hash};
use crate::{AskError, Cache, CacheError, Judge, Reply, Request, Work};

/// After so many failures in a row that no request is to blame for, the rest is not asked: each has been tried for a minute.
const GIVE_UP: u64 = 8;

/// The most that is asked. What is known already costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Most requests; further tries of one request are not counted.
    pub requests: Option<u64>,
    /// Most tokens, of requests and replies together: once so many are spent, nothing more is asked. What is under way then is
    /// still waited for and kept.
    pub tokens: Option<u64>,
}

/// What was done, of all that a [`Court`] heard so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests that the judge was asked.
    pub asked: u64,
    /// Requests whose reply was known, from the file or from the same request before.
    pub cached: u64,
    /// Requests that got no reply.
    pub failed: u64,
    /// Further tries.
    pub retried: u64,
    /// Requests that were not asked because the budget was spent.
    pub over_budget: u64,
    /// Requests that were not asked because the run stopped, or the judge failed too often.
    pub left: u64,
    /// Tokens of the requests that were asked, as the judge counts.
    pub prompt_tokens: u64,
    /// Tokens of its replies.
    pub completion_tokens: u64,
}

/// Why a request was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// The budget is spent.
    Budget,
    /// The run was told to stop.
    Stopped,
    /// The judge failed too often in a row.
    GivenUp,
}

impl std::fmt::Display for Unasked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unasked::Budget => "the judge was not asked: its budget is spent",
            Unasked::Stopped => "the judge was not asked: the run was stopped",
            Unasked::GivenUp => "the judge was not asked: it had failed 8 times in a row",
        })
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The judge's reply, now or before.
    Reply(Reply),
    /// It was asked, and there is none. It is asked again the next time.
    Failed(AskError),
    /// It was not asked.
    Unasked(Unasked),
}

/// How far a hearing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are settled, one way or another.
    pub done: usize,
    /// All requests.
    pub of: usize,
    /// Of this and all hearings before.
    pub counters: Counters,
}

/// Why a hearing as a whole failed. What was answered until then is in the file.
#[derive(Debug, thiserror::Error)]
pub enum CourtError {
    /// The file of replies.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A request that cannot be written as JSON.
    #[error("a request to the judge: {0}")]
    Request(#[from] serde_json::Error),
    /// A budget of tokens where nobody counts them.
    #[error(
        "the judge does not say how many tokens it takes, so a budget of {budget} tokens cannot be kept; set one of requests instead"
    )]
    Uncounted {
        /// The budget, tokens.
        budget: u64,
    },
}

/// A judge, what it said, and what it may cost.
pub struct Court<'a> {
    judge: Box<dyn Judge + 'a>,
    identity: Value,
    cache: Option<Cache>,
    budget: Budget,
    counters: Counters,
}

impl<'a> Court<'a> {
    /// Without a file: nothing is known, and nothing is kept beyond a hearing.
    pub fn new(judge: Box<dyn Judge + 'a>, budget: Budget) -> Self {
        let identity = judge.identity();
        Court { judge, identity, cache: None, budget, counters: Counters::default() }
    }

    /// With the file of replies, `judge.jsonl`.
    ///
    /// # Errors
    /// As of [`Cache::open`].
    pub fn with_cache(mut self, path: &Path) -> Result<Self, CacheError> {
        self.cache = Some(Cache::open(path)?);
        Ok(self)
    }

    /// Who judges.
    pub fn identity(&self) -> &Value {
        &self.identity
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Settles every request, in whatever order, and returns what became of them in theirs. The same request twice is asked
    /// once. `stop` is looked at before each request; `progress` is told of each that is settled, maybe on another thread.
    ///
    /// # Errors
    /// The file cannot be written, or the budget not be kept.
    pub fn hear(
        &mut self,
        requests: &[Request],
        stop: &AtomicBool,
        progress: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<Vec<Outcome>, CourtError> {
        let Court { judge, identity, cache, budget, counters } = self;
        let retried_before = judge.retried();
        let mut outcomes = vec![None; requests.len()];
        let mut waiting = Vec::new();
        let mut same: HashMap<Hash, Vec<usize>> = HashMap::new();
        for (id, request) in requests.iter().enumerate() {
            let hash = hash(identity, request)?;
            if let Some(reply) = cache.as_ref().and_then(|c| c.get(&hash)) {
                outcomes[id] = Some(Outcome::Reply(reply.clone()));
                counters.cached += 1;
                continue;
            }
            match same.entry(hash) {
                Entry::Occupied(mut first) => first.get_mut().push(id),
                Entry::Vacant(new) => {
                    new.insert(Vec::new());
                    waiting.push((id, hash));
                }
            }
        }
        let done = requests.len() - waiting.len() - same.values().map(Vec::len).sum::<usize>();
        let mut hearing = Hearing {
            requests,
            identity,
            cache,
            budget: *budget,
            counters: *counters,
            waiting: waiting.into_iter(),
            hashes: HashMap::new(),
            same,
            outcomes,
            done,
            failures: 0,
            error: None,
            stop,
            progress,
        };
        hearing.tell();
        judge.run(&mut hearing);
        let Hearing { counters: counted, outcomes, error, .. } = hearing;
        *counters = counted;
        counters.retried += judge.retried() - retried_before;
        match error {
            Some(error) => Err(error),
            // Nothing is left without an outcome: a judge gives back what it takes, and `next` settles what it does not hand out.
            None => Ok(outcomes.into_iter().map(|o| o.unwrap_or(Outcome::Unasked(Unasked::Stopped))).collect()),
        }
    }
}

/// The requests of one call of [`Court::hear`].
struct Hearing<'a> {
    requests: &'a [Request],
    identity: &'a Value,
    cache: &'a mut Option<Cache>,
    budget: Budget,
    counters: Counters,
    waiting: std::vec::IntoIter<(usize, Hash)>,
    /// Of the requests under way.
    hashes: HashMap<usize, Hash>,
    /// Requests that equal one that waits or is under way, by its hash.
    same: HashMap<Hash, Vec<usize>>,
    outcomes: Vec<Option<Outcome>>,
    done: usize,
    /// In a row, that no request is to blame for.
    failures: u64,
    error: Option<CourtError>,
    stop: &'a AtomicBool,
    progress: &'a mut (dyn FnMut(&Progress) + Send),
}

impl Hearing<'_> {
    fn tell(&mut self) {
        (self.progress)(&Progress { done: self.done, of: self.requests.len(), counters: self.counters });
    }

    /// Why nothing more is asked, if so.
    fn over(&self) -> Option<Unasked> {
        let spent = |most: Option<u64>, spent: u64| most.is_some_and(|most| spent >= most);
        let tokens = self.counters.prompt_tokens + self.counters.completion_tokens;
        if self.stop.load(Ordering::SeqCst) || self.error.is_some() {
            Some(Unasked::Stopped)
        } else if self.failures >= GIVE_UP {
            Some(Unasked::GivenUp)
        } else if spent(self.budget.requests, self.counters.asked) || spent(self.budget.tokens, tokens) {
            Some(Unasked::Budget)
        } else {
            None
        }
    }

    /// Sets the outcome of a request and of those that equal it.
    fn settle(&mut self, id: usize, hash: &Hash, outcome: &Outcome) {
        let others = self.same.remove(hash).unwrap_or_default();
        let rows = 1 + others.len() as u64;
        match outcome {
            Outcome::Reply(_) => self.counters.cached += rows - 1,
            Outcome::Failed(_) => self.counters.failed += rows,
            Outcome::Unasked(Unasked::Budget) => self.counters.over_budget += rows,
            Outcome::Unasked(_) => self.counters.left += rows,
        }
        for id in others.into_iter().chain([id]) {
            if let Some(place) = self.outcomes.get_mut(id) {
                *place = Some(outcome.clone());
            }
        }
        self.done += rows as usize;
        self.tell();
    }

    fn count(&mut self, prompt: u64, completion: u64) {
        self.counters.prompt_tokens += prompt;
        self.counters.completion_tokens += completion;
        if let (Some(budget), 0) = (self.budget.tokens, prompt + completion) {
            self.error.get_or_insert(CourtError::Uncounted { budget });
        }
    }
}

impl Work for Hearing<'_> {
    fn next(&mut self) -> Option<(usize, Request)> {
        while let Some((id, hash)) = self.waiting.next() {
            let Some(why) = self.over() else {
                self.counters.asked += 1;
                self.hashes.insert(id, hash);
                return self.requests.get(id).map(|request| (id, request.clone()));
            };
            self.settle(id, &hash, &Outcome::Unasked(why));
        }
        None
    }

    fn done(&mut self, id: usize, reply: Result<Reply, AskError>) {
        let Some(hash) = self.hashes.remove(&id) else { return };
        let outcome = match reply {
            Ok(reply) => {
                self.failures = 0;
                self.count(reply.prompt_tokens, reply.completion_tokens);
                if let (Some(cache), Some(request)) = (self.cache.as_mut(), self.requests.get(id))
                    && let Err(error) = cache.add(hash, self.identity, request.clone(), &reply)
                {
                    self.error.get_or_insert(error.into());
                }
                Outcome::Reply(reply)
            }
            Err(AskError::Stopped) => {
                // It may have been sent, yet nothing came of it.
                self.counters.asked -= 1;
                Outcome::Unasked(Unasked::Stopped)
            }
            Err(error) => {
                if let AskError::NoText { prompt_tokens, completion_tokens, .. } = error {
                    self.count(prompt_tokens, completion_tokens);
                }
                self.failures = if error.is_of_the_request() { 0 } else { self.failures + 1 };
                tracing::debug!("request {id}: {error}");
                Outcome::Failed(error)
            }
        };
        self.settle(id, &hash, &outcome);
    }
}
