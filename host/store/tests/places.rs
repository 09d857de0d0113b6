//! Reading from a web server and from one that speaks S3, also when they fail.

#[allow(dead_code, reason = "other tests use more of it")]
mod server;

use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use ovhost_store::{Options, Place, StoreError, Stores};
use server::{Fault, Server};

/// Nobody waits long in a test.
fn stores() -> Stores {
    Stores::new(Options {
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_millis(300),
        retries: 3,
        first_wait: Duration::from_millis(5),
        most_wait: Duration::from_millis(20),
    })
}

fn object(server: &Server, path: &str) -> ovhost_store::Object {
    stores().object(&Place::parse(&format!("{}{path}", server.url)).unwrap()).unwrap()
}

/// More than the read-ahead holds, and different everywhere.
fn big() -> Vec<u8> {
    (0..6_000_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 16).to_le_bytes()[..1].to_vec()).collect()
}

fn all(object: &ovhost_store::Object) -> Result<Vec<u8>, StoreError> {
    let mut stream = object.open()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn text(result: Result<impl Sized, StoreError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn sizes_parts_streams_and_jumps() {
    let server = Server::start(true);
    let bytes = big();
    server.put("/a dir/x.tar", bytes.clone());
    server.put("/empty", b"");
    let object = object(&server, "/a%20dir/x.tar");
    assert_eq!(object.size().unwrap(), bytes.len() as u64);
    assert_eq!(object.read_range(70_000..900_001).unwrap(), bytes[70_000..900_001]);
    assert_eq!(object.read_range(5..5).unwrap(), b"");
    assert!(object.read_all(10).unwrap_err().to_string().contains("it has 6000000 bytes, most are 10"));
    assert_eq!(all(&object).unwrap(), bytes);
    assert!(all(&self::object(&server, "/empty")).unwrap().is_empty());

    // Jumps: a short one reads over the bytes, a long one and one back ask again.
    let mut stream = object.open().unwrap();
    let mut four = [0; 4];
    let mut at = |stream: &mut ovhost_store::Stream, to: u64| {
        stream.seek(SeekFrom::Start(to)).unwrap();
        stream.read_exact(&mut four).unwrap();
        assert_eq!(four, bytes[to as usize..][..4]);
    };
    let before = server.ranges("/a%20dir/x.tar").len();
    for to in [0, 4, 1000, 400_000, 399_000, 5_000_000, 5_999_996] {
        at(&mut stream, to);
    }
    let asked = &server.ranges("/a%20dir/x.tar")[before..];
    assert_eq!(asked, ["bytes=399000-5999999", "bytes=5000000-5999999"]);
    assert_eq!(stream.read(&mut four).unwrap(), 0);
    stream.seek(SeekFrom::End(-1)).unwrap();
    assert_eq!(stream.read(&mut four).unwrap(), 1);
    assert!(stream.seek(SeekFrom::Start(0)).and_then(|_| stream.seek(SeekFrom::Current(-1))).is_err());
}

#[test]
fn broken_downloads_go_on_at_their_byte() {
    for tags in [true, false] {
        let server = Server::start(tags);
        let bytes = big();
        server.put("/x.tar", bytes.clone());
        let stall = Fault::Stall(200_000, Duration::from_secs(2));
        server.fail(
            "/x.tar",
            &[Fault::Break(1_000_000), Fault::Break(0), stall, Fault::Status(503, ""), Fault::Break(7)],
        );
        let object = object(&server, "/x.tar");
        assert!(all(&object).unwrap() == bytes, "tags {tags}");
        let asked = server.ranges("/x.tar");
        assert_eq!(asked[0], "");
        assert_eq!(asked.last().unwrap(), "bytes=1200007-5999999", "{asked:?}");
        server.fail("/x.tar", &[Fault::Break(1000), Fault::Status(429, "slow down"), Fault::Break(0)]);
        assert_eq!(object.read_range(10..5000).unwrap(), bytes[10..5000]);
    }
}

#[test]
fn failures_are_repeated_only_if_they_may_pass_and_not_for_ever() {
    let server = Server::start(true);
    server.put("/x.tar", "content");
    let object = object(&server, "/x.tar");
    let tries = |fault: Fault| {
        let before = server.seen().len();
        server.fail_always("/x.tar", fault);
        let error = text(object.read_range(0..3));
        assert!(error.starts_with(&format!("{}/x.tar: cannot read a part of it: ", server.url)), "{error}");
        (error, server.seen().len() - before)
    };
    for (status, word) in [(503, "fewer workers"), (429, "fewer workers"), (500, "run again later")] {
        let (error, tries) =
            tries(Fault::Status(status, "<Error><Code>SlowDown</Code><Message>Reduce.</Message></Error>"));
        assert!(error.contains(&status.to_string()) && error.contains("SlowDown: Reduce.; "), "{error}");
        assert!(error.contains(word) && tries == 4, "{error} {tries}");
    }
    let (error, tries_403) = tries(Fault::Status(403, "<html>no</html>"));
    assert!(error.contains("403 Forbidden; the server wants a login") && tries_403 == 1, "{error}");
    let begin = Instant::now();
    let (error, _) = tries(Fault::Silent(Duration::from_secs(3)));
    assert!(error.contains("no answer in time") && begin.elapsed() < Duration::from_secs(8), "{error}");
    let (error, _) = tries(Fault::NoRange);
    assert!(error.contains("range requests"), "{error}");

    // A stream that never gets on.
    server.fail_always("/x.tar", Fault::Break(0));
    let error = text(all(&object));
    assert!(error.contains("cannot read on: the connection broke"), "{error}");
    let missing = self::object(&server, "/y.tar").size().unwrap_err();
    assert!(missing.is_missing() && missing.to_string().contains("/y.tar does not exist (404"), "{missing}");
    assert!(self::object(&server, "/y.tar").open().err().unwrap().is_missing());
    let gone = stores().object(&Place::parse("http://127.0.0.1:1/x").unwrap()).unwrap();
    assert!(text(gone.open()).contains("no connection"), "{}", text(gone.open()));
}

#[test]
fn lengths_that_are_lies_redirects_and_files_that_change() {
    let server = Server::start(true);
    let bytes = big();
    server.put("/x.tar", bytes.clone());
    server.fail_always("/x.tar", Fault::Longer(100));
    let error = text(all(&object(&server, "/x.tar")));
    assert!(error.contains("/x.tar: cannot read on: 416") && error.contains("shorter than it was said"), "{error}");

    server.put("/y.tar", bytes.clone());
    server.fail_always("/old.tar", Fault::Redirect(format!("{}/y.tar", server.url)));
    let old = object(&server, "/old.tar");
    assert!(old.size().unwrap() == 6_000_000 && all(&old).unwrap() == bytes);
    assert_eq!(old.read_range(100..200).unwrap(), bytes[100..200]);
    server.fail_always("/loop", Fault::Redirect(format!("{}/loop", server.url)));
    assert!(text(object(&server, "/loop").open()).contains("redirect"));

    for tags in [true, false] {
        let server = Server::start(tags);
        server.put("/z.tar", bytes.clone());
        server.fail("/z.tar", &[Fault::Break(1_000_000)]);
        let object = object(&server, "/z.tar");
        let mut stream = object.open().unwrap();
        server.put("/z.tar", &bytes[1..]);
        let error = loop {
            match stream.chunk() {
                Ok(chunk) => assert!(chunk.is_some(), "the other file was taken for the first"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Changed { .. }), "{error}");
    }
}

#[test]
fn web_servers_have_no_listing() {
    let server = Server::start(true);
    let error = text(stores().list(&Place::parse(&format!("{}/data", server.url)).unwrap()));
    assert!(error.contains("has no listing") && error.contains("{000000..000099}"), "{error}");
}

/// The environment is the process's, so this is one test: credentials, endpoint, listing, reading.
#[test]
fn clouds_by_their_environment() {
    let server = Server::start(true);
    for i in 0..5 {
        server.put(&format!("/box/data/train-{i}.tar"), vec![i; 1000 + i as usize]);
    }
    server.put("/box/data/deep/other.tar", "x");
    // SAFETY: no other test of this file reads or writes the environment of the clouds, and the library reads it on this thread.
    unsafe {
        std::env::set_var("AWS_ENDPOINT_URL", &server.url);
        std::env::set_var("AWS_ACCESS_KEY_ID", "me");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "hunter2");
        std::env::set_var("AWS_REGION", "eu-west-1");
        std::env::set_var("GOOGLE_BASE_URL", &server.url);
        std::env::set_var("GOOGLE_SKIP_SIGNATURE", "true");
        std::env::set_var("AZURE_STORAGE_ENDPOINT", &server.url);
        std::env::set_var("AZURE_STORAGE_ACCOUNT_NAME", "me");
        std::env::set_var("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==");
    }
    let stores = stores();
    let place = |text: &str| Place::parse(text).unwrap();
    let files = stores.list(&place("s3://box/data/")).unwrap();
    let names: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.size)).collect();
    assert_eq!(
        names,
        [1000, 1001, 1002, 1003, 1004]
            .map(|s| (["train-0.tar", "train-1.tar", "train-2.tar", "train-3.tar", "train-4.tar"][s - 1000], s as u64))
    );
    let asked = server.seen().len();
    let object = stores.object(&place("s3://box/data/train-3.tar")).unwrap();
    assert_eq!(object.size().unwrap(), 1003);
    assert_eq!(server.seen().len(), asked, "the listing said the size");
    server.fail("/box/data/train-3.tar", &[Fault::Break(500)]);
    assert_eq!(all(&object).unwrap(), [3; 1003]);
    let signed = server.seen().pop().unwrap();
    assert!(signed.headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential=me/"), "{signed:?}");
    assert!(signed.headers["authorization"].contains("/eu-west-1/s3/"), "{signed:?}");
    assert!(stores.list(&place("s3://box/none")).unwrap().is_empty());
    assert!(stores.object(&place("s3://box/data/no.tar")).unwrap().size().unwrap_err().is_missing());
    server.fail_always("/box/data/train-1.tar", Fault::Status(403, "<Error><Code>AccessDenied</Code></Error>"));
    let refused = stores.object(&place("s3://box/data/train-1.tar")).unwrap().open().err().unwrap();
    let error = refused.to_string();
    assert!(error.contains("403") && error.contains("AccessDenied; set AWS_ACCESS_KEY_ID"), "{error}");
    assert!(refused.is_missing_or_hidden() && !refused.is_missing() && !error.contains("hunter2"), "{error}");
    assert!(text(stores.object(&place("s3://box/../x"))).contains("name cannot be used"));

    // The same bucket, as the other two clouds speak.
    assert_eq!(stores.list(&place("gs://box/data")).unwrap(), files);
    server.fail("/box/data/train-2.tar", &[Fault::Break(500)]);
    assert_eq!(all(&stores.object(&place("gs://box/data/train-2.tar")).unwrap()).unwrap(), [2; 1002]);
    assert!(!server.seen().pop().unwrap().headers.contains_key("authorization"));
    for name in ["az://box/data/train-4.tar", "abfs://box/data/train-4.tar"] {
        let object = stores.object(&place(name)).unwrap();
        assert_eq!((object.size().unwrap(), object.read_range(1..4).unwrap()), (1004, vec![4; 3]));
        let signed = server.seen().pop().unwrap();
        assert!(signed.headers["authorization"].starts_with("SharedKey me:"), "{signed:?}");
    }
}
