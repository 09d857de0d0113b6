//! `push`, `pull` and the signing commands of the built `ovhost-plugin`, against a registry in this process.

#[path = "../../registry/tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ovhost_plugin::{Host, HostOptions, PluginSpec, Trust, TrustPolicy};
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

    fs::create_dir(lab.at("got")).unwrap();
    lab.run(&["pull", &name, "--key", "other.pub"]).fails_with(&["is signed by key", "it was not stored"]);
    lab.run(&["inspect", &name]).fails_with(&["never downloads"]);
    let pulled = lab.run(&["pull", &name, "--key", "lab.pub", "--out", "got/x.wasm"]).ok().out;
    assert!(pulled.contains("verified") && pulled.contains("in a recipe:"), "{pulled}");
    let original = fs::read(lab.at("x.wasm")).unwrap();
    assert_eq!(fs::read(lab.at("got/x.wasm")).unwrap(), original);
    lab.run(&["verify", "got/x.wasm", "--key", "lab.pub"]).ok();
    // From here on without the registry.
    let digest = pulled.split("digest").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let fixed = format!("oci://{}/lab/counting@{digest}", registry.host);
    drop(registry);
    for name in [&name, &fixed] {
        let seen = lab.run(&["inspect", name, "--json"]).ok().out;
        assert!(seen.contains("\"counting\""), "{seen}");
    }
}

/// What a run that wants the lab's signature says of a component.
fn signed_run(lab: &Lab, component: &Path) -> Result<(), String> {
    let policy = TrustPolicy::new(Trust::Signed, &["lab.pub".to_owned()], &lab.at("")).unwrap();
    let host = Host::new(HostOptions { cache_dir: Some(lab.at("cache/wasm")) }).unwrap();
    let spec = PluginSpec { trust: Arc::new(policy), ..PluginSpec::new(component) };
    host.inspect_spec(&spec).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn a_pull_takes_no_signature_away() {
    let (lab, registry) = (Lab::new(), Registry::start(Door::Open));
    let at = |repository: &str| format!("oci://{}/{repository}/x:1.0.0", registry.host);
    lab.run(&["keygen", "--out", "lab", "--no-password"]).ok();
    lab.run(&["keygen", "--out", "evil", "--no-password"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).ok();
    lab.run(&["push", "x.wasm", &at("lab")]).ok();
    lab.run(&["sign", "x.wasm", "--key", "evil.key", "--force"]).ok();
    lab.run(&["push", "x.wasm", &at("evil")]).ok();
    lab.run(&["pull", &at("lab"), "--key", "lab.pub"]).ok();
    let stored = || {
        let files = fs::read_dir(lab.at("store/blobs")).unwrap().map(|e| e.unwrap().path());
        files.filter(|f| f.extension().is_some_and(|e| e == "wasm")).collect::<Vec<_>>()
    };
    assert_eq!(signed_run(&lab, &stored()[0]), Ok(()));
    // The same bytes with another's signature: both are kept, whoever is trusted.
    lab.run(&["pull", &at("evil")]).ok();
    assert_eq!(stored().len(), 1);
    assert_eq!(signed_run(&lab, &stored()[0]), Ok(()));
    let shown = lab.run(&["inspect", &at("lab")]).ok().out;
    assert_eq!(shown.matches("by key").count(), 2, "{shown}");
    lab.run(&["pull", &at("lab"), "--key", "lab.pub"]).ok();

    // And what is no signature is not kept.
    let component = fs::read(lab.at("x.wasm")).unwrap();
    let place = ovhost_registry::Place { registry: registry.host.clone(), repository: "odd/x".into() };
    let signature = Some("\u{1b}[2J nonsense".to_owned());
    let artifact = ovhost_registry::Artifact { component, signature, ..Default::default() };
    ovhost_registry::Client::new(place, ovhost_registry::Options::default()).push("1.0.0", &artifact).unwrap();
    lab.run(&["pull", &at("odd")]).fails_with(&["cannot be read", "it was not stored"]);
    lab.run(&["inspect", &at("odd")]).fails_with(&["never downloads"]);
}

#[test]
fn a_signature_is_of_one_plugin_under_one_name() {
    let lab = Lab::new();
    lab.run(&["keygen", "--out", "lab", "--no-password"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).ok();
    lab.run(&["verify", "x.wasm", "--key", "lab.pub"]).ok();
    assert_eq!(signed_run(&lab, &lab.at("x.wasm")), Ok(()));

    // A renamed copy, as somebody would put an older or another plugin in a plugin's place.
    for suffix in ["", ".minisig"] {
        fs::copy(lab.at(&format!("x.wasm{suffix}")), lab.at(&format!("y.wasm{suffix}"))).unwrap();
    }
    lab.run(&["verify", "y.wasm", "--key", "lab.pub"]).fails_with(&["made for \"x.wasm\"", "this is \"y.wasm\""]);
    let error = signed_run(&lab, &lab.at("y.wasm")).unwrap_err();
    for part in ["y.wasm has a good signature", "\"x.wasm\"", "\"y.wasm\"", "plugin lock"] {
        assert!(error.contains(part), "{part}: {error}");
    }

    // A comment of another plugin's, signed under this name; and minisign's own, which names none.
    let password = ovhost_plugin_cli::keys::PasswordArgs::default();
    let key = ovhost_plugin_cli::keys::read_secret(&lab.at("lab.key"), &password).unwrap();
    let bytes = fs::read(lab.at("x.wasm")).unwrap();
    let sign = |comment: &str| {
        let text = ovhost_plugin_cli::keys::sign(&key, &bytes, comment).unwrap();
        fs::write(lab.at("x.wasm.minisig"), text).unwrap();
    };
    sign("timestamp:1\tfile:x.wasm\thashed\tplugin:other 9.9.9");
    lab.run(&["verify", "x.wasm", "--key", "lab.pub"]).fails_with(&["made for \"other 9.9.9\"", "this is \"counting "]);
    let error = signed_run(&lab, &lab.at("x.wasm")).unwrap_err();
    assert!(error.contains("\"other 9.9.9\"") && error.contains("\"counting "), "{error}");
    sign("timestamp:1\tfile:z.wasm\thashed");
    lab.run(&["verify", "x.wasm", "--key", "lab.pub"]).ok();
    assert_eq!(signed_run(&lab, &lab.at("x.wasm")), Ok(()));
}

#[test]
fn another_s_signature_is_replaced_only_when_told() {
    let lab = Lab::new();
    lab.run(&["keygen", "--out", "lab", "--no-password"]).ok();
    lab.run(&["keygen", "--out", "other", "--no-password"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "other.key"]).fails_with(&["is a signature by key", "--force"]);
    lab.run(&["verify", "x.wasm", "--key", "lab.pub"]).ok();
    lab.run(&["sign", "x.wasm", "--key", "other.key", "--force"]).ok();
    lab.run(&["verify", "x.wasm", "--key", "other.pub"]).ok();
    fs::write(lab.at("x.wasm.minisig"), "hello").unwrap();
    lab.run(&["sign", "x.wasm", "--key", "lab.key"]).fails_with(&["is no signature", "--force"]);
}

#[test]
fn pipes_and_devices_are_no_components() {
    let lab = Lab::new();
    lab.run(&["keygen", "--out", "lab", "--no-password"]).ok();
    assert!(Command::new("mkfifo").arg(lab.at("p.wasm")).arg(lab.at("x.wasm.minisig")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", lab.at("z.wasm")).unwrap();
    for args in [["verify", "p.wasm"], ["verify", "z.wasm"], ["verify", "x.wasm"]] {
        lab.run(&[args[0], args[1], "--key", "lab.pub"]).fails_with(&["no regular file"]);
    }
    // `inspect` takes names, and what is no file is none.
    lab.run(&["inspect", "p.wasm"]).fails_with(&["p.wasm"]);
    lab.run(&["inspect", "z.wasm"]).fails_with(&["z.wasm"]);
    lab.run(&["inspect", "x.wasm"]).fails_with(&["no regular file"]);
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
