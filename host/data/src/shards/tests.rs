use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::record::RecordOptions;

type Parts<'a> = &'a [(&'a str, &'a [u8])];

fn write(folder: &Path, samples: &[(&str, Parts)], options: WriterOptions) -> Vec<WrittenShard> {
    let mut writer = ShardWriter::create(folder, "s-%04d.tar", options).unwrap();
    for (key, parts) in samples {
        writer.write(key, parts).unwrap();
    }
    writer.finish().unwrap()
}

/// A tar file from (name, type, content), by hand: names and types that our writer refuses.
fn raw_tar(members: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, kind, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn braces() {
    let all = |p: &str| expand_braces(p).unwrap().join(" ");
    assert_eq!(all("a.tar"), "a.tar");
    assert_eq!(all("s-{000008..000011}.tar"), "s-000008.tar s-000009.tar s-000010.tar s-000011.tar");
    assert_eq!(all("{8..11}"), "8 9 10 11");
    assert_eq!(all("{a,b}/{0..1}.tar"), "a/0.tar a/1.tar b/0.tar b/1.tar");
    assert_eq!(all("x{a,{00..01},}y"), "xay x00y x01y xy");
    for (bad, why) in [
        ("{a", "{ without a }"),
        ("a}", "} without a {"),
        ("a}{b,c}", "} without a {"),
        ("{}", "is neither"),
        ("{3..1}", "write {1..3}"),
        ("{a..c}", "\"a\" is not a whole number"),
        ("{0..99999999}", "more than 1000000"),
        ("{0..9999}{0..9999}", "more than 1000000"),
    ] {
        let message = expand_braces(bad).unwrap_err().to_string();
        assert!(message.contains(why) && message.contains(bad), "{message}");
    }
}

#[test]
fn missing_shards_name_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a-000.tar", "a-001.tar", "b.tar"] {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    let find = |p: &str| expand(&[p.to_owned()], dir.path());
    assert_eq!(find("a-{000..001}.tar").unwrap().len(), 2);
    assert_eq!(find(".").unwrap().len(), 3);
    let message = find("a-{000..002}.tar").unwrap_err().to_string();
    assert!(message.contains("a-002.tar does not exist; beside it: a-000.tar, a-001.tar, b.tar"), "{message}");
    assert!(message.contains("a-{000..002}.tar"), "{message}");
    let message = find("no/such.tar").unwrap_err().to_string();
    assert!(message.contains("does not exist either"), "{message}");
    let message = find("{b,b}.tar").unwrap_err().to_string();
    assert!(message.contains("named twice"), "{message}");
    assert!(expand(&[], dir.path()).unwrap_err().to_string().contains("no shard is named"));
}

#[test]
fn written_shards_read_back_roll_and_are_identical() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let keys: Vec<String> = (0..7).map(|i| format!("dir/{i:03}")).collect();
    for dir in &dirs {
        fs::write(dir.path().join("s-0004.tar"), "left by a longer run").unwrap();
        let mut writer =
            ShardWriter::create(dir.path(), "s-%04d.tar", WriterOptions { max_count: 2, ..Default::default() })
                .unwrap();
        for key in &keys {
            writer.write(key, &[("txt", key.as_bytes()), ("json", b"{\"a\":1}")]).unwrap();
        }
        assert_eq!(writer.samples(), 7);
        let shards = writer.finish().unwrap();
        assert_eq!(shards.iter().map(|s| s.samples).collect::<Vec<_>>(), [2, 2, 2, 1]);
        write_nv_meta(dir.path(), "train", &shards).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(dirs[0].path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 9, "four shards, four indices, .nv-meta: {names:?}");
    let mut key = keys.iter();
    for name in names.iter().filter(|n| n.to_string_lossy().ends_with(".tar")) {
        let path = dirs[0].path().join(name);
        assert_eq!(fs::read(&path).unwrap(), fs::read(dirs[1].path().join(name)).unwrap());
        let shard = Shard::open(&path).unwrap();
        let index = fs::read(path.with_extension("tar.idx")).unwrap();
        let index: Vec<u64> = index.chunks(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect();
        assert_eq!(index.len(), shard.len() + 1);
        assert_eq!(index[shard.len()] + 1024, fs::metadata(&path).unwrap().len());
        for (i, start) in index[..shard.len()].iter().enumerate() {
            let raw = shard.read(i).unwrap();
            let key = key.next().unwrap();
            assert_eq!(raw.key, *key);
            assert_eq!(raw.parts, [("json".into(), b"{\"a\":1}".to_vec()), ("txt".into(), key.as_bytes().to_vec())]);
            assert_eq!(shard.samples()[i].members[0].offset, start + 512);
            assert_eq!(shard.record(i, &RecordOptions::default()).unwrap().index, i as u64);
        }
    }
    assert!(key.next().is_none());
}

#[test]
fn energon_metadata_keeps_other_splits() {
    let dir = tempfile::tempdir().unwrap();
    let part = |pattern: &str, n: usize| {
        let options = WriterOptions { max_count: 1, ..Default::default() };
        let mut writer = ShardWriter::create(dir.path(), pattern, options).unwrap();
        (0..n).for_each(|i| writer.write(&format!("{i}"), &[("txt", b"x")]).unwrap());
        writer.finish().unwrap()
    };
    write_nv_meta(dir.path(), "train", &part("train-%03d.tar", 3)).unwrap();
    write_nv_meta(dir.path(), "test", &part("test-%03d.tar", 1)).unwrap();
    // Again and shorter: the removed shard leaves the metadata too.
    write_nv_meta(dir.path(), "train", &part("train-%03d.tar", 2)).unwrap();
    let load = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.path().join(".nv-meta").join(name)).unwrap()).unwrap()
    };
    let counts = serde_json::json!({"train-000.tar": 1, "train-001.tar": 1, "test-000.tar": 1});
    assert_eq!(load(".info.json")["shard_counts"], counts);
    assert_eq!(load(".info.yaml"), serde_json::json!({"shard_counts": counts}));
    let split = load("split.yaml");
    assert_eq!(split["split_parts"]["train"], serde_json::json!(["train-000.tar", "train-001.tar"]));
    assert_eq!(split["split_parts"]["test"], serde_json::json!(["test-000.tar"]));
    fs::write(dir.path().join(".nv-meta/split.yaml"), "split_parts:\n  train: []\n").unwrap();
    let message = write_nv_meta(dir.path(), "train", &[]).unwrap_err().to_string();
    assert!(message.contains("split.yaml") && message.contains("will not be overwritten"), "{message}");
    assert!(write_nv_meta(dir.path(), "dev", &[]).unwrap_err().to_string().contains("train, val or test"));
}

#[test]
fn grouping_rules_and_hostile_names() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.tar");
    let bytes = raw_tar(&[
        ("d", Directory, b""),
        ("__meta__", Regular, b"skipped"),
        ("noext", Regular, b"skipped"),
        ("../../etc/a.b.txt", Regular, b"1"),
        ("link.txt", Symlink, b""),
        ("k.txt", Regular, b"2"),
        ("k.json", Regular, b"{}"),
        ("l.txt", Regular, b"3"),
        ("l.txt", Regular, b"4"),
        ("k.txt", Regular, b"5"),
        ("m.json", Regular, b"{}"),
        ("m.jpg", Link, b""),
    ]);
    fs::write(&path, bytes).unwrap();
    let shard = Shard::open(&path).unwrap();
    let keys: Vec<_> = shard.samples().iter().map(|s| (s.key.as_str(), s.members.len())).collect();
    assert_eq!(keys, [("../../etc/a", 1), ("link", 0), ("k", 2), ("l", 2), ("k", 1), ("m", 1)]);
    assert_eq!(shard.unnamed(), 2);
    assert_eq!(shard.read(0).unwrap().parts, [("b.txt".to_owned(), b"1".to_vec())]);
    let message = shard.read(3).unwrap_err().to_string();
    assert!(message.contains("odd.tar, sample \"l\": part \"txt\" occurs twice"), "{message}");
    assert_eq!(shard.record(3, &RecordOptions::default()).unwrap_err().key, "l");
    // Links are not followed; the sample says so instead of lacking a part in silence.
    let reject = |i: usize| shard.record(i, &RecordOptions::default()).unwrap_err();
    assert!(reject(1).reason.contains("part \"txt\" is a symbolic link"), "{:?}", reject(1));
    assert!(reject(5).key == "m" && reject(5).reason.contains("part \"jpg\" is a hard link"), "{:?}", reject(5));
    assert!(shard.read(6).is_err());
    ranges_read_as_samples(&shard);
}

/// Every sample by its bytes alone is what it is by the index, or fails as it does.
fn ranges_read_as_samples(shard: &Shard) {
    let bytes = fs::read(shard.path()).unwrap();
    let offsets = shard.offsets();
    assert_eq!(offsets.len(), shard.len() + 1);
    for (i, ends) in offsets.windows(2).enumerate() {
        let found = RawSample::from_tar(&bytes[ends[0] as usize..ends[1] as usize]);
        match (shard.read(i), found) {
            (Ok(whole), found) => assert_eq!(found.as_ref(), Ok(&whole), "sample {i}"),
            (Err(whole), Err(found)) => assert!(whole.to_string().contains(&found), "sample {i}: {whole}, {found}"),
            (Err(whole), Ok(found)) => panic!("sample {i}: {whole}, but its bytes give {found:?}"),
        }
    }
}

#[test]
fn samples_by_their_bytes_with_every_kind_of_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tar");
    let long = "long".repeat(40);
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let add = |builder: &mut tar::Builder<fs::File>, name: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        builder.append_data(&mut header, name, content).unwrap();
    };
    use tar::EntryType::{Directory, Regular, XGlobalHeader};
    add(&mut builder, "pax", XGlobalHeader, b"17 comment=hello\n");
    // A long name has a header and a block of its own before the member's.
    add(&mut builder, &format!("{long}/a.json"), Regular, b"{}");
    add(&mut builder, &format!("{long}/a.bin"), Regular, &[1; 700]);
    builder.append_pax_extensions([("comment", b"of b".as_slice()), ("path", b"renamed.json")]).unwrap();
    add(&mut builder, "b.json", Regular, b"{\"b\": 1}");
    add(&mut builder, "folder", Directory, b"");
    add(&mut builder, "noext", Regular, &[2; 600]);
    add(&mut builder, &format!("{long}/c.json"), Regular, b"{}");
    add(&mut builder, "d.json", Regular, b"[]");
    builder.finish().unwrap();
    let shard = Shard::open(&path).unwrap();
    let keys: Vec<&str> = shard.samples().iter().map(|s| s.key.rsplit('/').next().unwrap()).collect();
    assert_eq!(keys, ["a", "renamed", "c", "d"]);
    ranges_read_as_samples(&shard);
    let [first, .., end] = shard.offsets()[..] else { panic!() };
    assert_eq!((first, end + 1024), (1024, fs::metadata(&path).unwrap().len()), "behind the global header");
    // Of a damaged shard the last whole sample ends where the cut one begins.
    let bytes = fs::read(&path).unwrap();
    let cut = dir.path().join("cut.tar");
    fs::write(&cut, &bytes[..shard.offsets()[3] as usize + 600]).unwrap();
    let damaged = Shard::open_damaged(&cut).unwrap();
    assert!(damaged.damage().is_some() && (2..=3).contains(&damaged.len()), "{}", damaged.len());
    ranges_read_as_samples(&damaged);
    for end in [100, 512, 1000] {
        RawSample::from_tar(&bytes[first as usize..first as usize + end]).unwrap_err();
    }
}

#[test]
fn the_writer_refuses_names_that_would_not_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), "s-%04d.tar", WriterOptions::default()).unwrap();
    let long = "k".repeat(120);
    for key in ["", "a.b", "/a", "__x__", "a/../b", long.as_str()] {
        assert!(writer.write(key, &[("txt", b"x")]).is_err(), "{key:?}");
    }
    assert!(writer.write("a", &[]).is_err());
    assert!(writer.write("a", &[("__key__", b"x")]).unwrap_err().to_string().contains("two underscores"));
    assert!(writer.write("a", &[("txt", b"1"), ("txt", b"2")]).is_err());
    writer.write("a", &[("txt", b"1")]).unwrap();
    assert!(writer.write("a", &[("txt", b"1")]).unwrap_err().to_string().contains("just used"));
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "an abandoned run leaves nothing");
    for pattern in ["x.tar", "x-%6d.tar", "a/x-%06d.tar", "x-%06d.tgz"] {
        assert!(ShardWriter::create(dir.path(), pattern, WriterOptions::default()).is_err(), "{pattern}");
    }
}

#[test]
fn every_cut_is_noticed_and_whole_samples_survive() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![7u8; 1300];
    let parts: Parts = &[("bin", &big), ("json", b"{\"x\":1}")];
    let shards = write(dir.path(), &[("a", parts), ("b", parts), ("c", parts)], WriterOptions::default());
    let whole = fs::read(&shards[0].path).unwrap();
    let sample = (whole.len() - 1024) / 3;
    let cut_path = dir.path().join("cut.tar");
    for cut in (0..=whole.len()).step_by(512).chain([1, 700, whole.len() - 513]) {
        fs::write(&cut_path, &whole[..cut]).unwrap();
        let lenient = Shard::open_damaged(&cut_path).unwrap();
        // One zero block is enough of an end mark.
        if cut >= whole.len() - 512 {
            assert_eq!(Shard::open(&cut_path).unwrap().len(), 3);
            continue;
        }
        // The sample in progress counts as cut unless another key follows it.
        let expected = cut.saturating_sub(512) / sample;
        let damage = lenient.damage().unwrap();
        assert!(lenient.len() == expected || lenient.len() + 1 == expected, "cut {cut}: {} samples", lenient.len());
        assert!(damage.offset <= cut as u64);
        (0..lenient.len()).for_each(|i| assert_eq!(lenient.read(i).unwrap().parts[0].1, big));
        let message = Shard::open(&cut_path).unwrap_err().to_string();
        assert!(message.contains("cut.tar is damaged at byte") && message.contains("whole samples"), "{message}");
    }
    fs::write(&cut_path, &whole[..2 * sample + 600]).unwrap();
    let message = Shard::open(&cut_path).unwrap_err().to_string();
    assert!(message.contains(&format!("byte {}", 2 * sample)), "{message}");
    assert!(
        message.contains("2 whole samples come before it (the last is \"b\")") || message.contains("the last is \"a\"")
    );
    let reject = Shard::open_damaged(&cut_path).unwrap().damage_reject().unwrap();
    assert!(reject.shard == "cut.tar" && reject.reason.contains("what follows is lost"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_bytes_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let parts: Parts = &[("json", b"{\"x\":1}"), ("txt", b"hello")];
        let shards = write(dir.path(), &[("a", parts), ("b", parts)], WriterOptions::default());
        let mut bytes = fs::read(&shards[0].path).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let path = dir.path().join("edited.tar");
        fs::write(&path, &bytes).unwrap();
        if let Ok(shard) = Shard::open_damaged(&path) {
            for i in 0..shard.len() {
                let _ = shard.record(i, &RecordOptions::default());
            }
        }
    }
}

/// Every kind of picture: whole, cut, and with bytes changed.
fn pictures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !["json", "py"].contains(&path.extension().unwrap().to_str().unwrap()))
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let kind = path.extension().unwrap().to_str().unwrap().to_owned();
        (kind, fs::read(path).unwrap())
    };
    files.iter().map(read).collect()
}

/// A sample read by the headers of its pictures is the sample read whole, but for the bytes of the pictures.
fn same_by_headers(shard: &Shard) -> usize {
    let options = RecordOptions { max_pixels: 10_000 };
    let mut rejects = 0;
    for index in 0..shard.len() {
        let whole = shard.record(index, &options).map(|mut record| {
            record.media.iter_mut().for_each(|media| {
                assert_eq!(media.size, media.bytes.len() as u64);
                media.bytes = std::sync::Arc::default();
            });
            record
        });
        rejects += usize::from(whole.is_err());
        assert_eq!(shard.record_by_headers(index, &options), whole, "sample {index}");
    }
    rejects
}

#[test]
fn records_by_headers_are_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), "s-%04d.tar", WriterOptions::default()).unwrap();
    let mut put = |key: String, parts: &[(&str, &[u8])]| writer.write(&key, parts).unwrap();
    let pictures = pictures();
    assert!(pictures.len() >= 18);
    for (i, (kind, bytes)) in pictures.iter().enumerate() {
        put(format!("whole-{i}"), &[("json", br#"{"caption": "c"}"#), (kind, bytes), ("npy", &[0; 70_000])]);
        put(format!("behind-{i}"), &[(kind, &[bytes.as_slice(), &[0; 300_000]].concat()), ("txt", b"a text\n")]);
        for cut in [0, 1, 3, 20, 60, 100, bytes.len() / 2, bytes.len() - 1] {
            put(format!("cut-{i}-{cut}"), &[("png", &bytes[..cut.min(bytes.len())])]);
        }
    }
    let (png, jpg) = (&pictures.iter().find(|p| p.0 == "png").unwrap().1, &pictures[0].1);
    put("two".into(), &[("img10.png", png), ("img2.jpg", jpg), ("a.JSON", br#"{"images": ["x", "y"]}"#)]);
    put("fewer".into(), &[("img10.png", png), ("json", br#"{"images": ["x", "y"]}"#)]);
    put("json".into(), &[("jpg", jpg), ("json", b"{")]);
    put("both".into(), &[("jpg", b"no picture"), ("json", b"{")]);
    put("text".into(), &[("txt", b"\xff")]);
    put("two-texts".into(), &[("a.txt", b"a"), ("b.txt", b"b")]);
    put("other".into(), &[("cls", b"3")]);
    put("nothing".into(), &[("jpg", b"")]);
    // Bigger than the bound, by its header.
    let mut wide = jpg.clone();
    let frame = wide.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    wide[frame + 5..frame + 9].copy_from_slice(&[9, 0, 9, 0]);
    put("wide".into(), &[("jpg", &wide)]);
    let shards = writer.finish().unwrap();
    let shard = Shard::open(&shards[0].path).unwrap();
    let rejects = same_by_headers(&shard);
    assert!(rejects > 60, "{rejects}");
    let past = shard.record_by_headers(shard.len(), &RecordOptions::default()).unwrap_err();
    assert!(past.reason.contains("was asked for"), "{past:?}");
    let links = raw_tar(&[("a.jpg", tar::EntryType::Regular, jpg), ("a.png", tar::EntryType::Symlink, b"")]);
    fs::write(dir.path().join("links.tar"), links).unwrap();
    assert_eq!(same_by_headers(&Shard::open(dir.path().join("links.tar")).unwrap()), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn damaged_records_by_headers_are_the_records(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..400, any::<u8>()), 40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), "s-%04d.tar", WriterOptions::default()).unwrap();
        let pictures = pictures();
        for (i, (which, at, value)) in edits.into_iter().enumerate() {
            let (kind, mut bytes) = pictures[which.index(pictures.len())].clone();
            let at = at % bytes.len();
            bytes[at] = value;
            writer.write(&format!("{i:03}"), &[(&kind, &bytes), ("txt", b"text")]).unwrap();
        }
        let shards = writer.finish().unwrap();
        same_by_headers(&Shard::open(&shards[0].path).unwrap());
    }
}
