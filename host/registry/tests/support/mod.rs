//! A registry in this process: the part of the OCI distribution protocol that one component needs, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tiny_http::{Header, Method, Request, Response, Server};

/// Whom the registry lets in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Everybody.
    Open,
    /// `me:secret`, by basic authentication.
    Basic,
    /// Holders of a token, which the registry's own `/token` gives to `me:secret` (and, to pull only, to anybody).
    Bearer,
}

/// What it holds.
#[derive(Default)]
pub struct Store {
    /// By digest.
    pub blobs: HashMap<String, Vec<u8>>,
    /// By "repository:reference": type and bytes.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    /// Every request that came, "METHOD path".
    pub seen: Vec<String>,
}

/// A running registry; it ends when this is dropped.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    /// What it holds.
    pub store: Arc<Mutex<Store>>,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Starts one on a free port.
    pub fn start(door: Door) -> Registry {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a free port"));
        let host = server.server_addr().to_string();
        let store = Arc::new(Mutex::new(Store::default()));
        let thread = std::thread::spawn({
            let (server, store, host) = (server.clone(), store.clone(), host.clone());
            move || {
                for request in server.incoming_requests() {
                    answer(request, door, &host, &mut store.lock().unwrap());
                }
            }
        });
        Registry { host, store, server, thread: Some(thread) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const ME: &str = "Basic bWU6c2VjcmV0";

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("a header")
}

fn answer(mut request: Request, door: Door, host: &str, store: &mut Store) {
    let mut body = Vec::new();
    request.as_reader().read_to_end(&mut body).expect("a body");
    let url = request.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let method = request.method().clone();
    store.seen.push(format!("{method} {path}"));
    let sent = |name: &'static str| {
        request.headers().iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str().to_owned()).unwrap_or_default()
    };
    let (authorization, kind) = (sent("Authorization"), sent("Content-Type"));
    let status = |code: u16| Response::from_data(Vec::new()).with_status_code(code);
    let refused = |code: u16, text: &str| {
        Response::from_data(format!(r#"{{"errors":[{{"code":"X","message":"{text}"}}]}}"#)).with_status_code(code)
    };

    let response = if path == "/token" {
        let write = query.contains("push");
        if authorization == ME || (authorization.is_empty() && !write) {
            let token = if authorization == ME { "all" } else { "read" };
            Response::from_data(format!(r#"{{"token":"{token}"}}"#))
        } else {
            refused(401, "who are you?")
        }
    } else if door == Door::Basic && authorization != ME {
        refused(401, "authentication required").with_header(header("WWW-Authenticate", "Basic realm=\"r\""))
    } else if door == Door::Bearer && !["Bearer all", "Bearer read"].contains(&authorization.as_str()) {
        let action = if method == Method::Get { "pull" } else { "pull,push" };
        let challenge =
            format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:lab/x:{action}\"");
        refused(401, "authentication required").with_header(header("WWW-Authenticate", &challenge))
    } else if let Some((repository, reference)) = path.strip_prefix("/v2/").and_then(|p| p.split_once("/manifests/")) {
        let key = format!("{repository}:{reference}");
        match method {
            Method::Put => {
                let digest = ovhost_registry::digest(&body);
                store.manifests.insert(format!("{repository}:{digest}"), (kind.clone(), body.clone()));
                store.manifests.insert(key, (kind, body));
                status(201)
            }
            _ => match store.manifests.get(&key) {
                Some((kind, bytes)) => Response::from_data(bytes.clone()).with_header(header("Content-Type", kind)),
                None => refused(404, "manifest unknown"),
            },
        }
    } else if let Some((_, rest)) = path.split_once("/blobs/uploads/") {
        match method {
            Method::Post => status(202).with_header(header("Location", &format!("{path}7?state=x"))),
            Method::Put if rest == "7" => {
                let digest = query.split('&').find_map(|p| p.strip_prefix("digest=")).unwrap_or_default();
                if digest == ovhost_registry::digest(&body) {
                    store.blobs.insert(digest.to_owned(), body);
                    status(201)
                } else {
                    refused(400, "digest did not match")
                }
            }
            _ => refused(404, "upload unknown"),
        }
    } else if let Some((_, digest)) = path.split_once("/blobs/") {
        match store.blobs.get(digest) {
            Some(bytes) => Response::from_data(bytes.clone()),
            None => refused(404, "blob unknown"),
        }
    } else if let Some(repository) = path.strip_prefix("/v2/").and_then(|p| p.strip_suffix("/tags/list")) {
        let mut tags: Vec<&str> =
            store.manifests.keys().filter_map(|k| k.strip_prefix(repository)?.strip_prefix(':')).collect();
        tags.retain(|t| !t.contains(':'));
        tags.sort_unstable();
        Response::from_data(serde_json::json!({"name": repository, "tags": tags}).to_string())
    } else {
        refused(404, "no such place")
    };
    // A client that has gone needs no answer.
    let _ = request.respond(response);
}
