//! Who asks: credentials from the environment or docker's configuration, and the answer to a registry's challenge.
//!
//! ```text
//!  $OVHOST_REGISTRY_AUTH (HOST=USER:PASSWORD) ─┐
//!  docker's or podman's auth file, its helpers ┴─► Credentials ─► Basic, or a bearer token from the realm in the challenge
//! ```
//! Credentials are looked up by the registry's host. They go to that host and to the token server that it names, as docker sends
//! them; to one elsewhere only over HTTPS.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::RegistryError;

/// A password or token; not shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What is known of the user at one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A name and a password (or a personal token).
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's token server exchanges for short-lived ones.
    Identity(Secret),
}

impl Credentials {
    /// The user's name, for messages.
    pub fn user(&self) -> Option<&str> {
        match self {
            Credentials::Basic { user, .. } => Some(user),
            Credentials::Identity(_) => Some("the holder of an identity token"),
            Credentials::Anonymous => None,
        }
    }

    /// The credentials for `registry` (host, and port where one is given) that this user has: `$OVHOST_REGISTRY_AUTH`, then
    /// `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json`, `~/.docker/config.json` and podman's file, with the credential
    /// helpers that they name. Errors: a place has some for this registry that cannot be read.
    pub fn find(registry: &str) -> Result<Credentials, RegistryError> {
        if let Some(text) = std::env::var("OVHOST_REGISTRY_AUTH").ok().filter(|t| !t.is_empty())
            && let Some(found) = from_variable(registry, &text)?
        {
            return Ok(found);
        }
        for file in auth_files() {
            if let Some(found) = from_file(registry, &file)? {
                return Ok(found);
            }
        }
        Ok(Credentials::Anonymous)
    }

    /// The header value for basic authentication.
    pub(crate) fn basic(&self) -> Option<String> {
        let Credentials::Basic { user, password } = self else { return None };
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.0))))
    }
}

/// `HOST=USER:PASSWORD`; none where it is for another host.
fn from_variable(registry: &str, text: &str) -> Result<Option<Credentials>, RegistryError> {
    let wrong = || RegistryError::Credentials {
        registry: registry.to_owned(),
        place: "OVHOST_REGISTRY_AUTH".into(),
        // The value itself may be a password and is not repeated.
        why: "it must read HOST=USER:PASSWORD".into(),
    };
    let (host, rest) = text.split_once('=').ok_or_else(wrong)?;
    if host != registry {
        return Ok(None);
    }
    let (user, password) = rest.split_once(':').ok_or_else(wrong)?;
    Ok(Some(Credentials::Basic { user: user.to_owned(), password: Secret(password.to_owned()) }))
}

fn auth_files() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut files = Vec::new();
    files.extend(var("REGISTRY_AUTH_FILE"));
    files.extend(var("DOCKER_CONFIG").map(|d| d.join("config.json")));
    files.extend(var("HOME").map(|d| d.join(".docker/config.json")));
    files.extend(var("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")));
    files
}

/// What docker's (or podman's) file says of a registry; none where there is no such file or nothing in it.
fn from_file(registry: &str, file: &Path) -> Result<Option<Credentials>, RegistryError> {
    let wrong = |why: String| RegistryError::Credentials { registry: registry.to_owned(), place: file.to_owned(), why };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(wrong(e.to_string())),
    };
    let config: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("it is not JSON: {e}")))?;
    let names = names(registry);
    let entry = |table: &str| names.iter().find_map(|n| config.get(table)?.get(n));
    if let Some(helper) = entry("credHelpers").and_then(Value::as_str) {
        return from_helper(registry, helper, &names).map(Some);
    }
    if let Some(auth) = entry("auths") {
        let text = |key: &str| auth.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(Secret(token.to_owned()))));
        }
        if let Some(encoded) = text("auth") {
            let plain = STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok());
            let plain = plain.ok_or_else(|| wrong("its `auth` is not base64 of USER:PASSWORD".into()))?;
            let (user, password) =
                plain.split_once(':').ok_or_else(|| wrong("its `auth` is not base64 of USER:PASSWORD".into()))?;
            let password = Secret(password.trim_end_matches('\0').to_owned());
            return Ok(Some(Credentials::Basic { user: user.to_owned(), password }));
        }
        // An empty entry says that the store has it.
        if let Some(helper) = config.get("credsStore").and_then(Value::as_str).filter(|h| !h.is_empty()) {
            return from_helper(registry, helper, &names).map(Some);
        }
    }
    Ok(None)
}

/// The names under which docker files a registry.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/")];
    if registry == "docker.io" {
        names.push("https://index.docker.io/v1/".into());
    }
    names
}

/// Asks `docker-credential-HELPER get`, as docker does.
fn from_helper(registry: &str, helper: &str, names: &[String]) -> Result<Credentials, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let wrong =
        |why: String| RegistryError::Credentials { registry: registry.to_owned(), place: program.clone().into(), why };
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(wrong(format!("{helper:?} is no name of a helper")));
    }
    let mut said = String::new();
    for name in names {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| wrong(format!("it cannot be started: {e}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that closes its input early says why on its output.
            let _ = stdin.write_all(name.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| wrong(e.to_string()))?;
        if !output.status.success() {
            said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            continue;
        }
        let answer: Value =
            serde_json::from_slice(&output.stdout).map_err(|e| wrong(format!("its answer is not JSON: {e}")))?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (user, secret) = (text("Username"), Secret(text("Secret")));
        return Ok(match user.as_str() {
            "<token>" => Credentials::Identity(secret),
            _ => Credentials::Basic { user, password: secret },
        });
    }
    Err(wrong(if said.is_empty() { "it has none".into() } else { said }))
}

/// A `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads one header; none for schemes that are not known here.
    pub(crate) fn parse(header: &str) -> Option<Challenge> {
        let header = header.trim();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Challenge::Bearer { realm: realm?, service, scope })
    }
}

/// `key="value, with commas",key=value`: the pairs.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches(|c: char| c == ',' || c.is_whitespace()).to_owned();
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((i, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = i + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, c)| c)),
                        c => value.push(c),
                    }
                }
                (value, &quoted[end..])
            }
            None => {
                let (value, next) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        out.push((key, value));
        rest = next;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry.example".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(Challenge::parse(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
        for odd in ["Bearer realm=\"", "Bearer =", "Bearer realm=\"a\\", "Bearer realm=é\"ü"] {
            // Whatever a server says is read without a panic.
            let _ = Challenge::parse(odd);
        }
    }

    #[test]
    fn the_variable_is_for_one_host() {
        let basic = |user: &str, password: &str| {
            Some(Credentials::Basic { user: user.into(), password: Secret(password.into()) })
        };
        assert_eq!(from_variable("ghcr.io", "ghcr.io=me:a:b=c").unwrap(), basic("me", "a:b=c"));
        assert_eq!(from_variable("other.io", "ghcr.io=me:x").unwrap(), None);
        let error = from_variable("ghcr.io", "ghcr.io=hunter2").unwrap_err().to_string();
        assert!(error.contains("HOST=USER:PASSWORD") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{:?}", basic("me", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn docker_s_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let find = |registry: &str, text: &str| {
            std::fs::write(&file, text).unwrap();
            from_file(registry, &file)
        };
        let auths = format!(
            r#"{{"auths":{{"r.example:5000":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"identitytoken":"t"}}}}}}"#,
            STANDARD.encode("me:pw")
        );
        let me = Credentials::Basic { user: "me".into(), password: Secret("pw".into()) };
        assert_eq!(find("r.example:5000", &auths).unwrap(), Some(me.clone()));
        assert_eq!(me.basic().unwrap(), format!("Basic {}", STANDARD.encode("me:pw")));
        assert_eq!(find("docker.io", &auths).unwrap(), Some(Credentials::Identity(Secret("t".into()))));
        assert_eq!(find("r.example", &auths).unwrap(), None);
        assert!(find("r", "{").unwrap_err().to_string().contains("not JSON"));
        assert!(find("r", r#"{"auths":{"r":{"auth":"???"}}}"#).unwrap_err().to_string().contains("not base64"));
        let helper = r#"{"credHelpers":{"r":"no-such-helper-at-all"}}"#;
        assert!(find("r", helper).unwrap_err().to_string().contains("docker-credential-no-such-helper-at-all"));
        assert!(find("r", r#"{"credHelpers":{"r":"../evil"}}"#).unwrap_err().to_string().contains("no name"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(from_file("r", &file).unwrap(), None);
    }
}
