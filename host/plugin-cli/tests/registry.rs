//! `push`, `pull` and the signing commands of the built `ovhost-plugin`, against a registry in this process.

#[path = "../../registry/tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Door, Registry};

/// A folder with `x.wasm`, a store, and no logins.
struct Lab(tempfile::TempDir);

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        fs::copy(root.join("tests/fixtures/guests/counting.wasm"), dir.path().join("x.wasm")).unwrap();
        Lab(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_as("", args)
    }

    fn run_as(&self, auth: &str, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovhost-plugin"));
        command.args(args).current_dir(self.0.path()).env("OVHOST_OCI_STORE", self.at("store"));
        command.env("HOME", self.at("home")).env("OVHOST_REGISTRY_AUTH", auth).env("OVHOST_CACHE", self.at("cache"));
        command.env_remove("DOCKER_CONFIG").env_remove("REGISTRY_AUTH_FILE").env_remove("XDG_RUNTIME_DIR");
        let output = command.output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn fails_with(self, parts: &[&str]) {
        assert_eq!(self.code, 1, "{}\n{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "lacks {part:?}:\n{}", self.err);
        }
    }
}

#[test]
fn what_is_pushed_can_be_pulled_and_used() {
    let (lab, registry) = (Lab::new(), Registry::start(Door::Open));
    let name = format!("oci://{}/lab/counting:1.0.0", registry.host);
    lab.run(&["inspect", &name]).fails_with(&["never downloads", "plugin pull oci://"]);
    lab.run(&["keygen", "--out", "lab", "--no-password"]).ok();
    lab.run(&["keygen", "--out", "other", "--no-password"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).ok();
    let pushed = lab.run(&["push", "x.wasm", &name]).ok().out;
    assert!(pushed.contains("filter counting") && pushed.contains("pushed with it"), "{pushed}");

    {
        let store = registry.store.lock().unwrap();
        let (kind, manifest) = &store.manifests["lab/counting:1.0.0"];
        let manifest = String::from_utf8_lossy(manifest);
        assert_eq!(kind, "application/vnd.oci.image.manifest.v1+json");
        for part in ["application/vnd.wasm.config.v0+json", "\"application/wasm\"", "minisig", "image.licenses"] {
            assert!(manifest.contains(part), "{manifest}");
        }
        let configs = || store.blobs.values().filter(|b| b.starts_with(b"{"));
        assert!(configs().any(|c| String::from_utf8_lossy(c).contains("ovhost:plugin/filter@0.1.0")));
    }

    lab.run(&["pull", &name, "--key", "other.pub"]).fails_with(&["is signed by key", "it was not stored"]);
    lab.run(&["inspect", &name]).fails_with(&["never downloads"]);
    let pulled = lab.run(&["pull", &name, "--key", "lab.pub", "--out", "copy.wasm"]).ok().out;
    assert!(pulled.contains("verified") && pulled.contains("in a recipe:"), "{pulled}");
    let original = fs::read(lab.at("x.wasm")).unwrap();
    assert_eq!(fs::read(lab.at("copy.wasm")).unwrap(), original);
    lab.run(&["verify", "copy.wasm", "--key", "lab.pub"]).ok();
    // From here on without the registry.
    let digest = pulled.split("digest").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let fixed = format!("oci://{}/lab/counting@{digest}", registry.host);
    drop(registry);
    for name in [&name, &fixed] {
        let seen = lab.run(&["inspect", name, "--json"]).ok().out;
        assert!(seen.contains("\"counting\""), "{seen}");
    }
}

#[test]
fn strangers_are_told_how_to_log_in() {
    let (lab, registry) = (Lab::new(), Registry::start(Door::Bearer));
    let name = format!("oci://{}/lab/x:1.0.0", registry.host);
    lab.run(&["push", "x.wasm", &name]).fails_with(&["an anonymous user", "docker login", "OVHOST_REGISTRY_AUTH"]);
    lab.run_as(&format!("{}=me:secret", registry.host), &["push", "x.wasm", &name]).ok();
    // Docker's own file works as well.
    fs::create_dir_all(lab.at("home/.docker")).unwrap();
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, registry.host);
    fs::write(lab.at("home/.docker/config.json"), config).unwrap();
    lab.run(&["push", "x.wasm", &name]).ok();
}

#[test]
fn what_is_no_plugin_is_neither_pushed_nor_kept() {
    let (lab, registry) = (Lab::new(), Registry::start(Door::Open));
    let name = format!("oci://{}/lab/x:1.0.0", registry.host);
    fs::write(lab.at("text.wasm"), "hello").unwrap();
    lab.run(&["push", "text.wasm", &name]).fails_with(&["not a WebAssembly component"]);
    let place = ovhost_registry::Place { registry: registry.host.clone(), repository: "lab/x".into() };
    let client = ovhost_registry::Client::new(place, ovhost_registry::Options::default());
    let artifact = ovhost_registry::Artifact { component: b"hello".to_vec(), ..Default::default() };
    client.push("1.0.0", &artifact).unwrap();
    lab.run(&["pull", &name]).fails_with(&["was not stored", "not a WebAssembly component"]);
    lab.run(&["pull", &format!("oci://{}/lab/x:2", registry.host)]).fails_with(&["has no 2", "1.0.0"]);
    assert!(!lab.at("store").exists());
}

#[test]
fn keys_have_passwords() {
    let lab = Lab::new();
    fs::write(lab.at("password"), "open sesame\n").unwrap();
    fs::write(lab.at("wrong"), "guess\n").unwrap();
    lab.run(&["keygen", "--out", "k", "--password-file", "password"]).ok();
    let rights = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(lab.at("k.key")).unwrap().permissions());
    assert_eq!(rights & 0o777, 0o600, "the secret key is its owner's alone");
    lab.run(&["keygen", "--out", "k", "--no-password"]).fails_with(&["k.key exists", "--force"]);
    lab.run(&["sign", "x.wasm", "--key", "k.key", "--no-password"]).fails_with(&["has a password"]);
    lab.run(&["sign", "x.wasm", "--key", "k.key", "--password-file", "wrong"]).fails_with(&["k.key"]);
    lab.run(&["sign", "x.wasm", "--key", "k.pub", "--no-password"])
        .fails_with(&["k.pub cannot be used as a secret key"]);
    assert!(!lab.at("x.wasm.minisig").exists());
    lab.run(&["sign", "x.wasm", "--key", "k.key", "--password-file", "password"]).ok();
    lab.run(&["verify", "x.wasm", "--key", "k.pub"]).ok();
}
