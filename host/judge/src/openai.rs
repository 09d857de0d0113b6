//! Endpoints that speak OpenAI's chat completions: OpenAI, and most servers of local models.
//!
//! ```text
//!  request ─► body ─► POST, again after a wait where that may help ─► completion ─► reply
//!                └──────────── cut before its text or JSON was whole: twice the tokens ◄──┘
//! ```

use std::fmt;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use ureq::Agent;
use ureq::http::{HeaderValue, Uri};
use ureq::tls::{RootCerts, TlsConfig};

use crate::retry::{passing, retry_after};
use crate::wire::{self, Completion, Hidden};
use crate::{AskError, Judge, Reply, Request, Retries, SettingsError, Work};

/// Where a key is looked for unless another variable is named.
pub const DEFAULT_KEY_VARIABLE: &str = "OPENAI_API_KEY";
/// Path of the one method that is used.
const METHOD: &str = "/chat/completions";
/// Most bytes of a response that are read.
const BODY_BYTES: u64 = 8 << 20;
/// How much longer than asked for a reply may become that was cut too early.
const CUT_FACTOR: u32 = 4;
/// How often a waiting request looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A key to an endpoint, which is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Key(Option<String>);

impl Key {
    /// No key: for servers that want none.
    pub fn none() -> Key {
        Key(None)
    }

    /// The key that an environment variable holds; none where it is not set or empty.
    ///
    /// # Errors
    /// What it holds cannot be sent.
    pub fn from_variable(variable: &str) -> Result<Key, SettingsError> {
        let wrong = |why| SettingsError::Key { variable: variable.into(), why };
        match std::env::var(variable) {
            Err(std::env::VarError::NotPresent) => Ok(Key(None)),
            Err(std::env::VarError::NotUnicode(_)) => Err(wrong("it is no text")),
            Ok(text) => Key::new(&text).ok_or_else(|| wrong("it holds characters that no key has")),
        }
    }

    /// A key; `None` where it cannot be sent. White space around it is no part of it.
    pub fn new(text: &str) -> Option<Key> {
        let text = text.trim();
        match text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Some(Key(Some(text.to_owned()).filter(|t| !t.is_empty()))),
            false => None,
        }
    }

    /// A server's words without the key, which some servers repeat.
    fn hide(&self, text: String) -> String {
        match &self.0 {
            Some(key) if text.contains(key.as_str()) => text.replace(key.as_str(), "(the key)"),
            _ => text,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Key(set)" } else { "Key(none)" })
    }
}

/// How an endpoint is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base address, as in `http://localhost:8000/v1`; one that ends in `/chat/completions` is taken whole.
    pub url: String,
    /// As what the server knows the model.
    pub model: String,
    /// Who asks.
    pub key: Key,
    /// For servers that draw tokens also at temperature 0.
    pub seed: i64,
    /// Further keys of the request's body, merged over it; null takes one away, as `{"seed": null}` for servers that refuse it.
    pub parameters: Map<String, Value>,
    /// Longest time of one try.
    pub timeout: Duration,
    /// What is done when a try fails.
    pub retries: Retries,
    /// Requests that are under way at once.
    pub concurrency: usize,
    /// Ends waiting for the next try.
    pub stop: Arc<AtomicBool>,
}

impl Settings {
    /// The defaults: no key, the seed that lmms-eval uses, two minutes a try, 8 requests at once.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Settings {
            url: url.into(),
            model: model.into(),
            key: Key::none(),
            seed: 42,
            parameters: Map::new(),
            timeout: Duration::from_secs(120),
            retries: Retries::default(),
            concurrency: 8,
            stop: Arc::default(),
        }
    }
}

/// A model behind an endpoint.
#[derive(Debug)]
pub struct OpenAi {
    agent: Agent,
    /// With its query.
    endpoint: String,
    /// Without.
    shown: String,
    settings: Settings,
    retried: AtomicU64,
}

impl OpenAi {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the model's name cannot be used.
    pub fn new(settings: Settings) -> Result<OpenAi, SettingsError> {
        if settings.model.trim().is_empty() {
            return Err(SettingsError::Model);
        }
        let Place { endpoint, shown, local } = place(&settings.url)?;
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // The body and the key go where they were meant to go, or nowhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(settings.timeout.min(Duration::from_secs(30))))
            .timeout_global(Some(settings.timeout))
            .max_idle_connections(settings.concurrency.max(1))
            .max_idle_connections_per_host(settings.concurrency.max(1))
            .user_agent(concat!("ovhost/", env!("CARGO_PKG_VERSION")));
        if local {
            config = config.proxy(None);
        }
        Ok(OpenAi { agent: config.build().new_agent(), endpoint, shown, settings, retried: AtomicU64::new(0) })
    }

    /// One request with at most `tokens` tokens of reply, tried until it is answered or trying is of no use.
    fn complete(&self, request: &Request, tokens: u32) -> Result<Completion, AskError> {
        let Settings { model, seed, parameters, retries, .. } = &self.settings;
        let body = wire::body(model, *seed, parameters, request, tokens).to_string();
        for tries in 1.. {
            let (error, asked) = match self.once(&body, tries)? {
                Tried::Answered(completion) => return Ok(completion),
                Tried::Again(error, asked) => (error, asked),
            };
            if tries > retries.most {
                return Err(error);
            }
            let wait = match (asked, &error) {
                (Some(asked), AskError::Status { url, status, message, .. }) if asked > retries.longest_asked => {
                    let (asked, most) = (asked.as_secs(), retries.longest_asked.as_secs());
                    let (url, message) = (url.clone(), message.clone());
                    return Err(AskError::Waits { url, status: *status, asked, most, message });
                }
                // What the server asks for, and a little that differs, so that not all come back at once.
                (Some(asked), _) => asked + retries.wait(0).min(asked / 10),
                (None, _) => retries.wait(tries - 1),
            };
            tracing::debug!("{error}; again in {:.1} s", wait.as_secs_f64());
            self.pause(wait)?;
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
        Err(AskError::Stopped)
    }

    /// One try. Errors: those that another try would meet again.
    fn once(&self, body: &str, tries: u32) -> Result<Tried, AskError> {
        let url = || self.shown.clone();
        let failed = |why: String| AskError::Unreachable { url: url(), tries, why: self.settings.key.hide(why) };
        let mut post = self.agent.post(&self.endpoint).header("Content-Type", "application/json");
        if let Some(key) = &self.settings.key.0 {
            // Marked, so that no log of the client shows it.
            let value = HeaderValue::from_str(&format!("Bearer {key}")).map(|mut v| {
                v.set_sensitive(true);
                v
            });
            post = post.header("Authorization", value.map_err(|_| failed("the key cannot be sent".into()))?);
        }
        let response = match post.send(body) {
            Ok(response) => response,
            Err(error) => return again_or_final(&error, failed(error.to_string())),
        };
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        if let Err(error) = body.into_reader().take(BODY_BYTES).read_to_end(&mut bytes) {
            return Ok(Tried::Again(failed(format!("its answer broke off: {error}")), None));
        }
        let text = self.settings.key.hide(String::from_utf8_lossy(&bytes).into_owned());
        let asked = parts.headers.get("retry-after").and_then(|v| v.to_str().ok());
        let asked = asked.and_then(|v| retry_after(v, SystemTime::now()));
        let (status, message) = match parts.status.is_success() {
            true => match wire::completion(&self.shown, &text)? {
                Ok(completion) => return Ok(Tried::Answered(completion)),
                Err(Hidden { status, message }) => (status, message),
            },
            false => {
                let to = parts.headers.get("location").and_then(|v| v.to_str().ok());
                let moved = to.filter(|_| parts.status.is_redirection()).map(|to| format!("it is at {to} now"));
                (parts.status.as_u16(), moved.unwrap_or_else(|| wire::message(&text)))
            }
        };
        let error = AskError::Status { url: url(), status, tries, message };
        if passing(status) && !wire::out_of_quota(&text) { Ok(Tried::Again(error, asked)) } else { Err(error) }
    }

    /// Waits, unless the run stops.
    fn pause(&self, wait: Duration) -> Result<(), AskError> {
        let begin = Instant::now();
        loop {
            if self.settings.stop.load(Ordering::SeqCst) {
                return Err(AskError::Stopped);
            }
            match wait.checked_sub(begin.elapsed()) {
                Some(rest) if !rest.is_zero() => std::thread::sleep(rest.min(LOOK)),
                _ => return Ok(()),
            }
        }
    }
}

/// What one try came to.
enum Tried {
    Answered(Completion),
    /// It may be answered later; after a wait, where the server names one.
    Again(AskError, Option<Duration>),
}

/// Of errors without a response: whether the same may go well later.
fn again_or_final(error: &ureq::Error, shown: AskError) -> Result<Tried, AskError> {
    use ureq::Error as E;
    match error {
        E::Io(_) | E::Timeout(_) | E::ConnectionFailed | E::HostNotFound | E::Protocol(_) => {
            Ok(Tried::Again(shown, None))
        }
        _ => Err(shown),
    }
}

impl Judge for OpenAi {
    fn identity(&self) -> Value {
        let Settings { model, seed, parameters, .. } = &self.settings;
        json!({ "kind": "openai", "url": self.shown, "model": model, "temperature": 0, "seed": seed, "parameters": parameters })
    }

    fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        let most = request.max_tokens.saturating_mul(CUT_FACTOR);
        let (mut tokens, mut prompt, mut completed) = (request.max_tokens, 0, 0);
        loop {
            let completion = self.complete(request, tokens)?;
            // A cut text may still begin with the judgement; a cut object is none.
            let useless = completion.cut && (request.json || completion.text.is_err());
            if !useless || tokens >= most {
                return completion.reply(tokens, prompt, completed);
            }
            prompt += completion.prompt_tokens;
            completed += completion.completion_tokens;
            tokens = tokens.saturating_mul(2).min(most);
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn concurrency(&self) -> usize {
        self.settings.concurrency.max(1)
    }

    fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    fn run(&self, work: &mut (dyn Work + Send)) {
        let work = Mutex::new(work);
        let one = || loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((id, request)) = next else { return };
            let reply = self.ask(&request);
            work.lock().unwrap_or_else(PoisonError::into_inner).done(id, reply);
        };
        std::thread::scope(|scope| {
            for _ in 1..self.concurrency() {
                scope.spawn(one);
            }
            one();
        });
    }
}

/// Where an endpoint is.
#[derive(Debug, PartialEq)]
struct Place {
    /// What is asked.
    endpoint: String,
    /// The same without a query, which may hold secrets.
    shown: String,
    /// On this machine.
    local: bool,
}

fn place(url: &str) -> Result<Place, SettingsError> {
    let url = url.trim();
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    // Not even a part of what may be a password.
    let safe = plain.split_once('@').map_or(plain.to_owned(), |(_, rest)| format!("…@{rest}"));
    let wrong = |why: String| SettingsError::Url { url: safe.clone(), why };
    let example = "an address is like http://localhost:8000/v1";
    let uri: Uri = url.parse().map_err(|e| wrong(format!("{e}; {example}")))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong(format!("it has no http:// or https:// in front; {example}")));
    };
    if authority.as_str().contains('@') {
        return Err(wrong(format!(
            "it holds a name or password; keys come from an environment variable ({DEFAULT_KEY_VARIABLE})"
        )));
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.ends_with(METHOD) { path.to_owned() } else { format!("{path}{METHOD}") };
    let shown = format!("{scheme}://{authority}{path}");
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Ok(Place { endpoint: shown.clone() + &query, shown, local })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_bases_or_whole() {
        for (given, asked) in [
            ("http://localhost:8000/v1", "http://localhost:8000/v1/chat/completions"),
            ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
            ("https://h.example/v1/chat/completions", "https://h.example/v1/chat/completions"),
            ("https://h.example/v1/chat/completions/", "https://h.example/v1/chat/completions"),
            ("https://h.example/openai?api-version=7", "https://h.example/openai/chat/completions?api-version=7"),
            ("http://h", "http://h/chat/completions"),
        ] {
            assert_eq!(place(given).unwrap().endpoint, asked);
        }
        let place = place("https://h.example/v1?key=sesame").unwrap();
        assert_eq!((place.shown.as_str(), place.local), ("https://h.example/v1/chat/completions", false));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secrets() {
        for (given, why) in [
            ("localhost:8000/v1", "http://"),
            ("ftp://h/v1", "http://"),
            ("", "is like"),
            ("http://me:sesame@h/v1", "environment variable"),
        ] {
            let error = place(given).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("sesame"), "{error}");
        }
    }

    #[test]
    fn keys_are_trimmed_checked_and_hidden() {
        let key = Key::new(" sk-sesame\n").unwrap();
        assert_eq!(key.hide("bad key sk-sesame.".into()), "bad key (the key).");
        assert_eq!((format!("{key:?}"), format!("{:?}", Key::none())), ("Key(set)".into(), "Key(none)".into()));
        assert_eq!((Key::new("two\nlines"), Key::new("  ")), (None, Some(Key::none())));
    }
}
