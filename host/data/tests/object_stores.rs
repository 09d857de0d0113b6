//! Shards on a web server, in an S3 bucket and compressed: the same samples as from the plain file.

#[allow(dead_code, reason = "the tests of the store use more of it")]
#[path = "../../store/tests/server/mod.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ovhost_data::pipeline::{SampleSource, ShardSource};
use ovhost_data::shards::{
    IndexedShard, RawSample, Shard, ShardBytes, ShardError, ShardWriter, WriterOptions, count_samples, expand,
    shard_stem, stored_size, write_nv_meta,
};
use server::{Fault, Server};

/// `data/s-0.tar` … `s-3.tar` with indices and Energon's description; 20 samples each, of different sizes.
fn shards() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    let options = WriterOptions { max_count: 20, ..WriterOptions::default() };
    let mut writer = ShardWriter::create(&folder, "s-%d.tar", options).unwrap();
    for i in 0..80_usize {
        let text = format!("{{\"caption\":\"number {i}\"}}");
        // What does not compress.
        let filling: Vec<u8> = (0..i as u32 * 3001).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        writer.write(&format!("k{i:03}"), &[("json", text.as_bytes()), ("bin", &filling)]).unwrap();
    }
    let written = writer.finish().unwrap();
    write_nv_meta(&folder, "train", &written).unwrap();
    dir
}

fn samples(shard: &Shard) -> Vec<RawSample> {
    (0..shard.len()).map(|i| shard.read(i).unwrap()).collect()
}

fn remote(url: &str) -> Result<IndexedShard, ShardError> {
    IndexedShard::open(Path::new(url))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

#[test]
fn compressed_shards_read_like_plain_ones() {
    let dir = shards();
    let plain = dir.path().join("data/s-3.tar");
    let (bytes, expected) = (fs::read(&plain).unwrap(), samples(&Shard::open(&plain).unwrap()));
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    // Two members, as parallel compressors write them; the name says nothing.
    let (one, two) = bytes.split_at(bytes.len() / 2);
    let files = [
        put("a.tar.gz", &gzip(&bytes)),
        put("a.tgz", &[gzip(one), gzip(two)].concat()),
        put("a.tar.zst", &[zstd::encode_all(one, 1).unwrap(), zstd::encode_all(two, 3).unwrap()].concat()),
        put("b.tar", &zstd::encode_all(bytes.as_slice(), 1).unwrap()),
    ];
    for path in &files {
        let shard = Shard::open(path).unwrap();
        assert!(shard.is_compressed() && samples(&shard) == expected, "{}", path.display());
        assert_eq!(shard.read_raw(&shard.offsets(), 7).unwrap().len() % 512, 0);
        assert_eq!((count_samples(path).unwrap(), stored_size(path).unwrap()), (20, fs::metadata(path).unwrap().len()));
        assert!(shard_stem(path).len() == 1);
        let error = ShardSource::open(std::slice::from_ref(path), 1).err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("compressed"), "{error}");
    }
    assert_eq!(expand(&[dir.path().display().to_string()], Path::new("")).unwrap().len(), 4);
    assert!(!Shard::open(&plain).unwrap().is_compressed());

    // Damage: what was whole before it counts, in both kinds; a wrong checksum at the very end does, too.
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() * 2 / 3].to_vec();
    let mut wrong = gzip(&bytes);
    let end = wrong.len() - 6;
    wrong[end] ^= 1;
    for (name, content, whole) in [
        ("c.tar.gz", cut(gzip(&bytes)), 1..20),
        ("c.tar.zst", cut(zstd::encode_all(bytes.as_slice(), 1).unwrap()), 1..20),
        ("d.tar.gz", wrong, 20..21),
    ] {
        let path = put(name, &content);
        let error = Shard::open(&path).unwrap_err().to_string();
        assert!(error.contains("compression is damaged") && error.contains(name), "{error}");
        let shard = Shard::open_damaged(&path).unwrap();
        assert!(whole.contains(&shard.len()), "{name}: {}", shard.len());
        assert!(shard.damage_reject().unwrap().reason.contains("compression is damaged"));
    }
    for (name, start) in [("bzip2", &b"BZh91AY"[..]), ("xz", b"\xfd7zXZ\0"), ("zip", b"PK\x03\x04..")] {
        let error = Shard::open(put("e.tar", start)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("plain tar, gzip and zstd"), "{error}");
    }
}

#[test]
fn shards_of_a_web_server_are_read_by_their_index_or_without() {
    let dir = shards();
    let (server, tars) = (Server::start(true), |i: usize| dir.path().join(format!("data/s-{i}.tar")));
    server.put_folder("/data", &dir.path().join("data"));
    let url = |name: &str| format!("{}/data/{name}", server.url);
    let local = Shard::open(tars(2)).unwrap();
    let expected = samples(&local);
    let check = |shard: &IndexedShard| {
        assert_eq!((shard.len(), shard.name()), (20, "s-2.tar"));
        let read: Vec<_> = (0..20).map(|i| shard.read(i).unwrap()).collect();
        assert!(read == expected);
    };
    // By the index: its end and two headers, whether it is the shard's; then one part of the file for each sample.
    check(&remote(&url("s-2.tar")).unwrap());
    let ranges = server.ranges("/data/s-2.tar");
    assert_eq!(ranges.len(), 3 + 20);
    let offsets = local.offsets();
    assert_eq!(ranges[3 + 3], format!("bytes={}-{}", offsets[3], offsets[4] - 1));
    assert!(remote(&url("s-2.tar")).unwrap().read(20).is_err());

    // Without an index, or with another shard's: read through once.
    let index = fs::read(tars(2).with_extension("tar.idx")).unwrap();
    for wrong in
        [None, Some(fs::read(tars(0).with_extension("tar.idx")).unwrap()), Some(index[3..].to_vec()), Some(vec![])]
    {
        match wrong {
            None => server.fail("/data/s-2.tar.idx", &[Fault::Status(404, "")]),
            Some(bytes) => server.put("/data/s-2.tar.idx", bytes),
        }
        server.fail("/data/s-2.tar", &[Fault::Break(3_000_000)]);
        check(&remote(&url("s-2.tar")).unwrap());
    }
    // One that fits by its size, but has a sample less.
    let mut less: Vec<u8> = index[..40].to_vec();
    less.extend_from_slice(&index[48..]);
    server.put("/data/s-2.tar.idx", less);
    let error = remote(&url("s-2.tar")).unwrap().read(4).unwrap_err().to_string();
    assert!(error.contains("samples \"k044\" and \"k045\" lie there, where one was"), "{error}");
    server.put("/data/s-2.tar.idx", index);

    // A damaged one without an index, a compressed one, one that is not there.
    server.put("/data/cut.tar", &fs::read(tars(2)).unwrap()[..1_000_000]);
    let error = remote(&url("cut.tar")).unwrap_err().to_string();
    assert!(error.contains("/data/cut.tar is damaged at byte"), "{error}");
    assert_eq!(
        count_samples(Path::new(&url("cut.tar"))).unwrap(),
        Shard::open_damaged(url("cut.tar")).unwrap().len() as u64
    );
    server.put("/data/z.tar.gz", gzip(&fs::read(tars(2)).unwrap()));
    let error = remote(&url("z.tar.gz")).unwrap_err().to_string();
    assert!(error.contains("z.tar.gz: it is compressed") && error.contains("ovhost data filter"), "{error}");
    assert!(samples(&Shard::open(url("z.tar.gz")).unwrap()) == expected);
    assert_eq!(count_samples(Path::new(&url("z.tar.gz"))).unwrap(), 20);
    assert!(remote(&url("no.tar")).unwrap_err().to_string().contains("/data/no.tar does not exist (404"));

    // In one go, as the data steps do, and by byte offsets; the size is what is stored.
    assert!(samples(&Shard::open(url("s-2.tar")).unwrap()) == expected);
    let part = ShardBytes::open(Path::new(&url("s-2.tar"))).unwrap().read(offsets[5], offsets[6]).unwrap();
    assert_eq!(RawSample::from_tar(&part).unwrap(), expected[5]);
    assert_eq!(stored_size(Path::new(&url("s-2.tar"))).unwrap(), fs::metadata(tars(2)).unwrap().len());

    // As training reads: all shards of the folder, which Energon's description names.
    let paths = expand(&[format!("{}/data", server.url)], Path::new("here")).unwrap();
    let names: Vec<_> = paths.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    assert_eq!(names, [0, 1, 2, 3].map(|i| url(&format!("s-{i}.tar"))));
    let expanded = expand(&[url("s-{0..3}.tar")], Path::new("here")).unwrap();
    assert_eq!(expanded, paths);
    let source = ShardSource::open(&paths, 1 << 20).unwrap();
    let plain = ShardSource::open(&(0..4).map(tars).collect::<Vec<PathBuf>>(), 1 << 20).unwrap();
    assert_eq!(source.shards(), plain.shards());
    for (shard, index) in [(0, 0), (3, 19), (1, 7)] {
        let (a, b) = (source.record(shard, index).unwrap(), plain.record(shard, index).unwrap());
        assert_eq!((a.key, a.shard, a.index, a.fields), (b.key, b.shard, b.index, b.fields));
    }
    assert!(source.failure().is_none());
    // A refusal is no bad sample: it is remembered as what ends the run.
    server.fail("/data/s-1.tar", &[Fault::Status(403, "")]);
    assert!(source.record(1, 3).is_err());
    assert!(source.failure().unwrap().contains("/data/s-1.tar: cannot read a part of it: 403"));

    for (pattern, why) in [("none", "a web server has no listing"), ("s-{0,0}.tar", "named twice")] {
        let error = expand(&[url(pattern)], Path::new("")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&server.url), "{error}");
    }
    let error = ShardSource::open(&[paths[0].clone(), url("no.tar").into()], 1).err().unwrap().to_string();
    assert!(error.contains("no.tar does not exist"), "{error}");
    server.put("/evil/.nv-meta/.info.json", br#"{"shard_counts":{"../../secret/x.tar":1}}"#);
    let error = expand(&[format!("{}/evil", server.url)], Path::new("")).unwrap_err().to_string();
    assert!(error.contains("which is not a file of that folder"), "{error}");
}

/// The environment is the process's: the only test here that speaks S3.
#[test]
fn folders_of_a_bucket_are_listed_once() {
    let dir = shards();
    let server = Server::start(true);
    server.put_folder("/box/set", &dir.path().join("data"));
    // SAFETY: no other test of this file reads or writes the environment of S3.
    unsafe {
        std::env::set_var("AWS_ENDPOINT_URL", &server.url);
        std::env::set_var("AWS_ACCESS_KEY_ID", "me");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "mine");
    }
    let find = |pattern: &str| expand(&[pattern.to_owned()], Path::new("/here"));
    let all = find("s3://box/set").unwrap();
    assert_eq!(all, [0, 1, 2, 3].map(|i| PathBuf::from(format!("s3://box/set/s-{i}.tar"))));
    let before = server.seen().len();
    assert_eq!(find("s3://box/set/s-{0..3}.tar").unwrap(), all);
    let lists = server.seen()[before..].iter().filter(|s| s.target.contains("list-type=2")).count();
    assert_eq!(
        (lists, server.seen().len() - before),
        (4, 4),
        "eight objects, two a page, and no request for each shard"
    );
    let error = find("s3://box/set/s-{2..4}.tar").unwrap_err().to_string();
    assert!(
        error.contains("s3://box/set/s-4.tar does not exist; beside it: s-0.tar, s-1.tar, s-2.tar and 1 more"),
        "{error}"
    );
    assert!(find("s3://box/other").unwrap_err().to_string().contains("holds no .tar file"));
    assert!(find("hdfs://box/x.tar").unwrap_err().to_string().contains("hdfs:// is not known"));
    let source = ShardSource::open(&all, 1 << 20).unwrap();
    assert_eq!(source.shards()[3], ("s-3.tar".to_owned(), 20));
    assert_eq!(source.record(3, 0).unwrap().key, "k060");
    let local = format!("file://{}", dir.path().join("data").display());
    assert_eq!(expand(&[local], Path::new("/here")).unwrap().len(), 4);
}
