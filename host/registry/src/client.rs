//! The part of the OCI distribution protocol that moves one component: manifests, blobs, uploads, tokens.
//!
//! ```text
//!  push: HEAD blob ─► POST uploads ─► PUT blob (component, config) ─► PUT manifest by tag
//!  pull: GET manifest ─► digest? ─► GET blob ─► size, digest?
//! ```
//! A request that is answered 401 is repeated once with what the challenge asks for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::artifact::{Artifact, MANIFEST, Manifest, Pulled, SIGNATURE_ANNOTATION};
use crate::auth::{Challenge, Credentials};
use crate::{RegistryError, clean, digest, is_tag};

/// Largest manifest, which is what registries themselves allow.
const MANIFEST_BYTES: u64 = 4 << 20;
/// Largest component that a host loads.
const COMPONENT_BYTES: u64 = 64 << 20;
/// Largest token answer, error text or list of tags.
const ANSWER_BYTES: u64 = 1 << 20;

/// A repository in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host, and port where one is given.
    pub registry: String,
    /// `lab/filters/caption`.
    pub repository: String,
}

/// How a [`Client`] works.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// HTTP without TLS, also where the registry is not on this machine (there it is always so).
    pub plain_http: bool,
    /// Who asks.
    pub credentials: Credentials,
}

/// Talks to the registry of one [`Place`].
pub struct Client {
    agent: Agent,
    place: Place,
    options: Options,
    base: String,
    /// Bearer tokens by action.
    tokens: RefCell<HashMap<&'static str, String>>,
}

enum Payload<'a> {
    None,
    Bytes(&'a [u8], &'a str),
}

impl Client {
    /// A client for that repository; nothing is sent yet.
    pub fn new(place: Place, options: Options) -> Client {
        let host = match place.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let local = is_local(host);
        let plain = options.plain_http || local;
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .https_only(!plain)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(120)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("ovhost/", env!("CARGO_PKG_VERSION")));
        if local {
            config = config.proxy(None);
        }
        let base = format!("{}://{host}/v2/", if plain { "http" } else { "https" });
        Client { agent: config.build().new_agent(), place, options, base, tokens: RefCell::default() }
    }

    /// Fetches what a tag or digest (`sha256:...`) names. Errors: it is not there, may not be read, is no component, or is
    /// not what its digest says.
    pub fn pull(&self, reference: &str) -> Result<Pulled, RegistryError> {
        let shown = self.shown(reference);
        let url = self.url(&format!("manifests/{reference}"));
        let response = self.send("pull", "GET", &url, &[("Accept", MANIFEST)], Payload::None)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(RegistryError::NotFound {
                registry: self.place.registry.clone(),
                repository: self.place.repository.clone(),
                reference: reference.to_owned(),
                tags: self.tags().unwrap_or_default(),
            });
        }
        let manifest = self.body(response, &url, "the manifest", &shown, MANIFEST_BYTES)?;
        let found = digest(&manifest);
        if reference.starts_with("sha256:") {
            self.same("the manifest", reference, &found)?;
        }
        let (parsed, layer) = Manifest::read(&manifest, &shown)?;
        if layer.size > COMPONENT_BYTES {
            let size = layer.size;
            return Err(RegistryError::TooLarge {
                what: "the component",
                reference: shown,
                size,
                cap: COMPONENT_BYTES,
            });
        }
        let url = self.url(&format!("blobs/{}", layer.digest));
        let response = self.send("pull", "GET", &url, &[], Payload::None)?;
        let component = self.body(response, &url, "the component", &shown, layer.size)?;
        self.same("the component", &layer.digest, &digest(&component))?;
        let got = component.len() as u64;
        if got != layer.size {
            let why = format!("its manifest says that the component has {} bytes, and it has {got}", layer.size);
            return Err(RegistryError::Layout { reference: shown, why });
        }
        let mut annotations = parsed.annotations;
        let signature = annotations.remove(SIGNATURE_ANNOTATION);
        Ok(Pulled { digest: found, manifest, component, annotations, signature })
    }

    /// Stores an artifact under a tag and returns the digest of its manifest.
    pub fn push(&self, tag: &str, artifact: &Artifact) -> Result<String, RegistryError> {
        let (config, manifest) = artifact.encode();
        self.upload(&artifact.component)?;
        self.upload(&config)?;
        let url = self.url(&format!("manifests/{tag}"));
        let response = self.send("push", "PUT", &url, &[], Payload::Bytes(&manifest, MANIFEST))?;
        self.expect(response, &url, &[StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED])?;
        Ok(digest(&manifest))
    }

    /// The repository's tags, as many as the registry tells at once; what can be no tag is passed over.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let url = self.url("tags/list");
        let response = self.send("pull", "GET", &url, &[], Payload::None)?;
        let text = self.body(response, &url, "the list of tags", &self.place.repository, ANSWER_BYTES)?;
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let tags = value.get("tags").and_then(Value::as_array).into_iter().flatten();
        Ok(tags.filter_map(Value::as_str).filter(|t| is_tag(t)).map(str::to_owned).take(100).collect())
    }

    fn upload(&self, bytes: &[u8]) -> Result<(), RegistryError> {
        let name = digest(bytes);
        let url = self.url(&format!("blobs/{name}"));
        if self.send("push", "HEAD", &url, &[], Payload::None)?.status() == StatusCode::OK {
            return Ok(());
        }
        let url = self.url("blobs/uploads/");
        let response = self.send("push", "POST", &url, &[], Payload::Bytes(&[], "application/octet-stream"))?;
        let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
        self.expect(response, &url, &[StatusCode::ACCEPTED])?;
        let location = location.ok_or_else(|| RegistryError::Status {
            url: url.clone(),
            status: StatusCode::ACCEPTED.as_u16(),
            message: "without saying where the upload goes".into(),
        })?;
        let target = self.absolute(&location);
        let separator = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{separator}digest={name}");
        let response = self.send("push", "PUT", &target, &[], Payload::Bytes(bytes, "application/octet-stream"))?;
        self.expect(response, &target, &[StatusCode::CREATED])
    }

    fn url(&self, rest: &str) -> String {
        format!("{}{}/{rest}", self.base, self.place.repository)
    }

    fn shown(&self, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{reference}", self.place.registry, self.place.repository)
    }

    /// An upload's place may be given as a path alone.
    fn absolute(&self, location: &str) -> String {
        if location.starts_with('/') { format!("{}{location}", origin(&self.base)) } else { location.to_owned() }
    }

    fn same(&self, what: &'static str, wanted: &str, got: &str) -> Result<(), RegistryError> {
        if wanted == got {
            return Ok(());
        }
        let registry = self.place.registry.clone();
        Err(RegistryError::Digest { what, registry, wanted: wanted.to_owned(), got: got.to_owned() })
    }

    /// One request; after a 401 once more with credentials. Any other status is the caller's to judge.
    fn send(
        &self,
        action: &'static str,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        payload: Payload<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        // An upload may be handed to another host; credentials stay at home.
        let home = origin(url) == origin(&self.base);
        let token = self.tokens.borrow().get(action).cloned().filter(|_| home);
        let response = self.once(method, url, headers, &payload, token.as_deref())?;
        if response.status() != StatusCode::UNAUTHORIZED || !home {
            return self.allowed(action, response);
        }
        let challenges: Vec<Challenge> = response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .filter_map(|v| Challenge::parse(v.to_str().ok()?))
            .collect();
        let authorization = match challenges.into_iter().next() {
            Some(Challenge::Basic) => self.options.credentials.basic(),
            Some(Challenge::Bearer { realm, service, scope }) => {
                self.token(action, &realm, service.as_deref(), scope)?.map(|t| format!("Bearer {t}"))
            }
            None => None,
        };
        let Some(authorization) = authorization else { return self.allowed(action, response) };
        self.tokens.borrow_mut().insert(action, authorization.clone());
        let response = self.once(method, url, headers, &payload, Some(&authorization))?;
        self.allowed(action, response)
    }

    fn once(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        tracing::debug!("{method} {url}");
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers.iter().copied().chain(authorization.map(|a| ("Authorization", a))) {
            request = request.header(name, value);
        }
        let bad = |e: ureq::http::Error| RegistryError::Transport { url: url.to_owned(), why: e.to_string() };
        let answer = match payload {
            Payload::None => self.agent.run(request.body(()).map_err(bad)?),
            Payload::Bytes(bytes, kind) => {
                self.agent.run(request.header("Content-Type", *kind).body(*bytes).map_err(bad)?)
            }
        };
        answer.map_err(|e| RegistryError::Transport { url: url.to_owned(), why: e.to_string() })
    }

    /// A short-lived token from the realm that the challenge names.
    fn token(
        &self,
        action: &'static str,
        realm: &str,
        service: Option<&str>,
        scope: Option<String>,
    ) -> Result<Option<String>, RegistryError> {
        let refused = |why: &str| RegistryError::Transport { url: realm.to_owned(), why: why.to_owned() };
        if !realm.starts_with("https:") && origin(realm) != origin(&self.base) {
            return Err(refused(
                "the registry's token server is elsewhere and not on HTTPS; no credentials are sent to it",
            ));
        }
        let scope = scope.unwrap_or_else(|| {
            let rights = if action == "push" { "pull,push" } else { "pull" };
            format!("repository:{}:{rights}", self.place.repository)
        });
        let mut fields = vec![("scope", scope.as_str())];
        fields.extend(service.map(|s| ("service", s)));
        let transport = |e: ureq::Error| refused(&e.to_string());
        let response = match &self.options.credentials {
            Credentials::Identity(secret) => {
                fields.extend([("grant_type", "refresh_token"), ("refresh_token", &secret.0), ("client_id", "ovhost")]);
                self.agent.post(realm).send_form(fields).map_err(transport)?
            }
            other => {
                let mut request = self.agent.get(realm).query_pairs(fields);
                if let Some(basic) = other.basic() {
                    request = request.header("Authorization", basic);
                }
                request.call().map_err(transport)?
            }
        };
        let response = self.allowed(action, response)?;
        let text = self.body(response, realm, "the token", &self.place.registry, ANSWER_BYTES)?;
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|k| value.get(*k)?.as_str());
        Ok(token.map(str::to_owned))
    }

    /// Turns a refusal into an error that says how to log in.
    fn allowed(&self, action: &'static str, response: Response<Body>) -> Result<Response<Body>, RegistryError> {
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(response);
        }
        Err(RegistryError::Denied {
            registry: self.place.registry.clone(),
            repository: self.place.repository.clone(),
            action: if action == "push" { "push to" } else { "pull" },
            user: self.options.credentials.user().map(str::to_owned),
            status: response.status().as_u16(),
            message: message(response),
        })
    }

    fn expect(&self, response: Response<Body>, url: &str, good: &[StatusCode]) -> Result<(), RegistryError> {
        if good.contains(&response.status()) {
            return Ok(());
        }
        let status = response.status().as_u16();
        Err(RegistryError::Status { url: url.to_owned(), status, message: message(response) })
    }

    /// The whole body of a good answer, at most `cap` bytes of it.
    fn body(
        &self,
        response: Response<Body>,
        url: &str,
        what: &'static str,
        reference: &str,
        cap: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(RegistryError::Status { url: url.to_owned(), status, message: message(response) });
        }
        let mut bytes = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(cap + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| RegistryError::Transport { url: url.to_owned(), why: e.to_string() })?;
        if bytes.len() as u64 > cap {
            let reference = reference.to_owned();
            return Err(RegistryError::TooLarge { what, reference, size: bytes.len() as u64, cap });
        }
        Ok(bytes)
    }
}

/// `https://host:port` of a URL.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |i| i + 3);
    let end = url[after..].find(['/', '?', '#']).map_or(url.len(), |i| after + i);
    &url[..end]
}

/// Whether the host is this machine: there registries are spoken to without TLS, as docker does.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the registry says of an error: its JSON's messages, else the beginning of its text.
fn message(response: Response<Body>) -> String {
    let mut text = String::new();
    // The status says enough where the text cannot be read.
    let _ = response.into_body().into_reader().take(ANSWER_BYTES).read_to_string(&mut text);
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let said: Vec<&str> = value
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|e| e.get("message").and_then(Value::as_str).filter(|m| !m.is_empty()))
        .collect();
    let whole = if said.is_empty() { text.trim().to_owned() } else { said.join("; ") };
    clean(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_local_hosts() {
        assert_eq!(origin("https://r.example:5000/v2/x?y"), "https://r.example:5000");
        assert_eq!(origin("http://h"), "http://h");
        assert_eq!(origin("/v2/x"), "");
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "127.3.2.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["localhost.evil.example", "10.0.0.1:5000", "r.example", "[2001:db8::1]:5000", "127.evil"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
