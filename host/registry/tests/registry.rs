//! The client against a registry in this process.

mod support;

use ovhost_registry::{Artifact, Client, Credentials, Options, Place, RegistryError, Secret, digest};
use support::{Door, Registry};

fn client(registry: &Registry, credentials: Credentials) -> Client {
    let place = Place { registry: registry.host.clone(), repository: "lab/x".into() };
    Client::new(place, Options { plain_http: false, credentials })
}

fn me() -> Credentials {
    Credentials::Basic { user: "me".into(), password: Secret("secret".into()) }
}

fn artifact() -> Artifact {
    Artifact {
        component: b"\0asm\x0d\0\x01\0 and so on".repeat(5000),
        imports: vec!["ovhost:plugin/log@0.1.0".into()],
        exports: vec!["ovhost:plugin/filter@0.1.0".into()],
        created: 1_700_000_000,
        annotations: [("org.opencontainers.image.version".to_owned(), "1.2.0".to_owned())].into(),
        signature: Some("untrusted comment: s\nRU\ntrusted comment: t\tfile:x\nxx==\n".into()),
    }
}

#[test]
fn what_is_pushed_is_pulled() {
    for (door, credentials) in [(Door::Open, Credentials::Anonymous), (Door::Basic, me()), (Door::Bearer, me())] {
        let registry = Registry::start(door);
        let client = client(&registry, credentials);
        let pushed = client.push("1.2.0", &artifact()).unwrap();
        for reference in ["1.2.0", &pushed] {
            let pulled = client.pull(reference).unwrap();
            assert_eq!(pulled.component, artifact().component);
            assert_eq!(pulled.signature, artifact().signature);
            assert_eq!(pulled.annotations, artifact().annotations);
            assert_eq!((digest(&pulled.manifest), &pulled.digest), (pushed.clone(), &pushed));
        }
        // The same bytes are the same artifact, and are not sent twice.
        let uploads = || registry.store.lock().unwrap().seen.iter().filter(|s| s.starts_with("POST")).count();
        let before = uploads();
        assert_eq!(client.push("1.2", &artifact()).unwrap(), pushed);
        assert_eq!(uploads(), before);
        assert_eq!(client.tags().unwrap(), ["1.2", "1.2.0"]);
    }
}

#[test]
fn a_stranger_is_told_how_to_log_in() {
    let registry = Registry::start(Door::Bearer);
    let error = client(&registry, Credentials::Anonymous).push("1", &artifact()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RegistryError::Denied { action: "push to", status: 401, .. }), "{text}");
    for part in ["an anonymous user", "lab/x", "docker login", "OVHOST_REGISTRY_AUTH", &registry.host] {
        assert!(text.contains(part), "{part}: {text}");
    }
    client(&registry, me()).push("1", &artifact()).unwrap();
    assert!(client(&registry, Credentials::Anonymous).pull("1").is_ok(), "reading is free there");

    let registry = Registry::start(Door::Basic);
    let wrong = Credentials::Basic { user: "me".into(), password: Secret("guess".into()) };
    let text = client(&registry, wrong).pull("1").unwrap_err().to_string();
    assert!(text.contains("refuses to let me pull") && !text.contains("guess"), "{text}");
}

#[test]
fn a_tag_that_is_not_there_shows_those_that_are() {
    let registry = Registry::start(Door::Open);
    let client = client(&registry, Credentials::Anonymous);
    let text = client.pull("1.0.0").unwrap_err().to_string();
    assert!(text.contains("or there is no such repository"), "{text}");
    client.push("1.2.0", &artifact()).unwrap();
    let text = client.pull("1.0.0").unwrap_err().to_string();
    assert!(text.contains("lab/x has no 1.0.0; its tags: 1.2.0"), "{text}");
}

/// Puts another manifest under the tag "1", made from that of a good push.
fn with_manifest(change: impl Fn(&str) -> String) -> (Registry, RegistryError) {
    let registry = Registry::start(Door::Open);
    let client = client(&registry, Credentials::Anonymous);
    client.push("1", &artifact()).unwrap();
    {
        let mut store = registry.store.lock().unwrap();
        let (_, manifest) = store.manifests.get_mut("lab/x:1").unwrap();
        *manifest = change(std::str::from_utf8(manifest).unwrap()).into_bytes();
        store.seen.clear();
    }
    let error = client.pull("1").unwrap_err();
    (registry, error)
}

#[test]
fn a_manifest_that_lies_of_its_layer_is_refused() {
    let size = artifact().component.len();
    let (_registry, error) =
        with_manifest(|m| m.replace(&format!("\"size\":{size}"), &format!("\"size\":{}", size + 1)));
    let text = error.to_string();
    assert!(text.contains(&format!("the component has {} bytes, and it has {size}", size + 1)), "{text}");

    // A digest that is none names no blob: nothing is asked for by it.
    let (registry, error) = with_manifest(|m| m.replace(&digest(&artifact().component), "../../../v2/other/x"));
    assert!(error.to_string().contains("not sha256: and 64"), "{error}");
    let seen = registry.store.lock().unwrap().seen.clone();
    assert!(seen.iter().all(|path| path.contains("/manifests/")) && seen.len() == 1, "{seen:?}");
}

#[test]
fn only_tags_are_shown_as_tags() {
    let registry = Registry::start(Door::Open);
    let client = client(&registry, Credentials::Anonymous);
    client.push("1.2.0", &artifact()).unwrap();
    let painted = "lab/x:2\u{1b}[2J\u{202e}";
    {
        let mut store = registry.store.lock().unwrap();
        let good = store.manifests["lab/x:1.2.0"].clone();
        store.manifests.insert(painted.to_owned(), good.clone());
        store.manifests.insert("lab/x:-x".to_owned(), good);
    }
    assert_eq!(client.tags().unwrap(), ["1.2.0"]);
    let text = client.pull("3").unwrap_err().to_string();
    assert!(text.ends_with("its tags: 1.2.0"), "{text:?}");
}

#[test]
fn bytes_that_differ_from_their_digest_are_refused() {
    let registry = Registry::start(Door::Open);
    let client = client(&registry, Credentials::Anonymous);
    let pushed = client.push("1", &artifact()).unwrap();
    let layer = digest(&artifact().component);

    registry.store.lock().unwrap().blobs.get_mut(&layer).unwrap()[0] ^= 1;
    let error = client.pull("1").unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { what: "the component", wanted, .. } if *wanted == layer));
    registry.store.lock().unwrap().blobs.get_mut(&layer).unwrap().push(0);
    assert!(matches!(client.pull("1").unwrap_err(), RegistryError::TooLarge { what: "the component", .. }));

    let key = format!("lab/x:{pushed}");
    registry.store.lock().unwrap().manifests.get_mut(&key).unwrap().1.push(b' ');
    let error = client.pull(&pushed).unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { what: "the manifest", wanted, .. } if *wanted == pushed));
}

#[test]
fn a_registry_that_is_not_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = Place { registry: port.to_string(), repository: "lab/x".into() };
    let error = Client::new(place, Options::default()).pull("1").unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && error.contains(&port.to_string()), "{error}");
}
