//! Metadata: what Energon itself wrote, what it says by its rules, and what is refused.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;
use crate::shards::{IndexedShard, RawSample, Shard, ShardWriter, WriterOptions, index_path};

/// What Energon 5 and 7 prepared, from shards that webdataset wrote; `tests/whole/interop.py fixture` makes it.
fn fixture(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/fixtures/energon/{version}"))
}

fn line(raw: &RawSample) -> Value {
    let digest = |bytes: &[u8]| crate::loader::to_hex(&Sha256::digest(bytes));
    let parts = raw.parts.iter().map(|(name, bytes)| (name.clone(), Value::from(digest(bytes))));
    json!({"key": raw.key, "parts": Value::Object(parts.collect())})
}

#[test]
fn what_energon_and_webdataset_wrote_is_read_as_they_read_it() {
    for version in [5, 7] {
        let folder = fixture(version);
        assert!(is_prepared(&folder));
        let part = read_part(&folder, "train", None, None).unwrap();
        let names: Vec<String> =
            part.shards.iter().map(|s| s.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["wds-001.tar", "wds-000.tar"], "in the order of the split");
        assert_eq!(part.shards.iter().map(|s| s.samples).collect::<Vec<_>>(), [3, 4]);
        let text = fs::read_to_string(folder.join("expected.jsonl")).unwrap();
        let expected: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let mut read = Vec::new();
        for name in ["wds-000.tar", "wds-001.tar"] {
            let path = folder.join(name);
            let (indexed, scanned) = (IndexedShard::open(&path).unwrap(), Shard::open(&path).unwrap());
            assert_eq!(indexed.len(), scanned.len());
            for i in 0..indexed.len() {
                let raw = indexed.read(i).unwrap();
                assert_eq!(raw, scanned.read(i).unwrap());
                read.push(line(&raw));
            }
            // Our index of their shard is theirs, byte for byte.
            let ours: Vec<u8> = scanned.offsets().iter().flat_map(|at| at.to_ne_bytes()).collect();
            assert_eq!(ours, fs::read(index_path(&path)).unwrap());
        }
        assert_eq!(read, expected);
        assert!(read_part(&folder, "val", None, None).unwrap_err().to_string().contains("part val has no shards"));
    }
}

/// Three shards of two samples each: a-0 with keys 0, 1, a-1 with 2, 3, sub/b with 4, 5.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sub")).unwrap();
    let mut writer =
        ShardWriter::create(dir.path(), "a-%d.tar", WriterOptions { max_count: 2, ..Default::default() }).unwrap();
    (0..4).for_each(|i| writer.write(&i.to_string(), &[("txt", b"x")]).unwrap());
    writer.finish().unwrap();
    let mut writer = ShardWriter::create(dir.path().join("sub"), "b-%d.tar", WriterOptions::default()).unwrap();
    (4..6).for_each(|i| writer.write(&i.to_string(), &[("txt", b"x")]).unwrap());
    writer.finish().unwrap();
    dir
}

fn put(dir: &tempfile::TempDir, name: &str, text: &str) {
    fs::create_dir_all(dir.path().join(".nv-meta")).unwrap();
    fs::write(dir.path().join(".nv-meta").join(name), text).unwrap();
}

#[test]
fn braces_excludes_and_other_names_of_the_files() {
    let dir = folder();
    put(&dir, ".info.yaml", "shard_counts:\n  a-0.tar: 2\n  a-1.tar: 2\n  sub/b-0.tar: 2\n");
    put(
        &dir,
        "split.json",
        r#"{"split_parts": {"train": ["a-{0..1}.tar", "sub/b-0.tar"], "holdout": ["a-0.tar"]}, "exclude": ["a-1.tar", "sub/b-0.tar/{4,9}"]}"#,
    );
    let part = read_part(dir.path(), "train", None, None).unwrap();
    let seen: Vec<_> =
        part.shards.iter().map(|s| (s.path.strip_prefix(dir.path()).unwrap().to_owned(), s.exclude.len())).collect();
    assert_eq!(seen, [("a-0.tar".into(), 0), ("sub/b-0.tar".into(), 2)]);
    assert_eq!(read_part(dir.path(), "holdout", None, None).unwrap().shards.len(), 1);
    // A key that no sample has is a slip: the sample that was meant would be read.
    let mut shard = IndexedShard::open(&part.shards[1].path).unwrap();
    let error = shard.choose(0..2, &part.shards[1].exclude).unwrap_err().to_string();
    assert!(error.contains("\"9\"") && error.contains("leaves out"), "{error}");
    shard.choose(0..2, &["4".to_owned()].into()).unwrap();
    assert_eq!((shard.len(), shard.read(0).unwrap().key.as_str()), (1, "5"));
    assert!(shard.read(1).is_err());
    // Version 7's own file comes first, another split file by its name.
    put(&dir, ".info.json", r#"{"energon_version": "7.4.1", "shard_counts": {"a-0.tar": 1, "a-1.tar": 2}}"#);
    put(&dir, "mine.yaml", "split_parts: {train: [a-0.tar]}\n");
    assert_eq!(read_part(dir.path(), "train", Some("mine.yaml"), None).unwrap().shards[0].samples, 1);
}

#[test]
fn metadata_that_contradicts_itself_is_refused() {
    let dir = folder();
    let says = |part: &str, words: &[&str]| {
        let error = read_part(dir.path(), part, None, None).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    };
    says("train", &["neither .info.json nor .info.yaml", "ovhost data index"]);
    put(&dir, ".info.yaml", "shards: 3\n");
    says("train", &[".info.yaml", "no shard_counts"]);
    put(&dir, ".info.yaml", "shard_counts: {a-0.tar: two, a-1.tar: 2}\n");
    says("train", &["split.yaml", "does not exist"]);
    put(&dir, "split.yaml", "split_parts: {train: [a-0.tar], val: [a-1.tar, a-1.tar], test: [c.tar]}\n");
    says("train", &["the count of a-0.tar is \"two\""]);
    says("val", &["lists a-1.tar twice"]);
    says("test", &["lists c.tar", "no count of it"]);
    says("dev", &["no part \"dev\"", "train, val, test"]);
    put(&dir, "split.yaml", "split_parts: {train: [a-1.tar]}\nexclude: [a-7.tar]\n");
    says("train", &["exclude names \"a-7.tar\""]);
    put(&dir, "split.yaml", "split_parts: {train: [a-1.tar]}\nexclude: [a-1.tar]\n");
    says("train", &["part train has no shards"]);
    put(&dir, "split.yaml", "split_parts: [a-1.tar");
    says("train", &["split.yaml", "not valid YAML"]);
}

#[test]
fn fields_are_mapped_as_dataset_yaml_says() {
    let map = |yaml: &str| FieldMap::of(&ovhost_yaml::parse(yaml).unwrap(), Path::new("dataset.yaml"));
    let raw = || RawSample {
        key: "k".into(),
        parts: vec![
            ("jpg".into(), b"picture".to_vec()),
            ("extra.png".into(), b"other".to_vec()),
            ("json".into(), br#"{"qa": [{"q": "What?", "a": ["yes", "aye"]}], "n": 3}"#.to_vec()),
            ("txt".into(), "words\n".into()),
        ],
    };
    let vqa = map("sample_type: {__module__: megatron.energon, __class__: VQASample}\nfield_map:\n  image: png,jpg\n  context: json[qa][0][q]\n  answers: json[qa][0][a]\n").unwrap().unwrap();
    let mapped = vqa.apply(raw()).unwrap();
    let fields: Value = serde_json::from_slice(&mapped.parts[0].1).unwrap();
    assert_eq!(fields, json!({"question": "What?", "answers": ["yes", "aye"]}));
    assert_eq!(mapped.parts[1..], [("jpg".to_owned(), b"picture".to_vec())]);
    // The older form has the class at the top.
    let caption =
        map("__module__: megatron.energon\n__class__: CaptioningWebdataset\nfield_map: {image: jpg, caption: txt}\n")
            .unwrap()
            .unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&caption.apply(raw()).unwrap().parts[0].1).unwrap(),
        json!({"caption": "words"})
    );
    let fails = |yaml: &str, words: &str| {
        let error = match map(yaml) {
            Err(error) => error.to_string(),
            Ok(map) => map.unwrap().apply(raw()).unwrap_err(),
        };
        assert!(error.contains(words), "{error}");
    };
    fails("field_map: {caption: cap}", "takes caption from part cap, and the sample has jpg, extra.png, json, txt");
    fails("field_map: {caption: \"json[qa][1]\"}", "nothing at [qa][1]");
    fails("field_map: {caption: \"json[qa\"}", "neither a part");
    fails("field_map: {caption: 3}", "must name a part");
    assert!(map("__module__: megatron.energon\n__class__: CrudeWebdataset\n").unwrap().is_none());
    assert!(
        map("sample_loader: sample_loader.py:sample_loader\npart_filter: sample_loader.py:part_filter\n")
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_version_is_written_and_read_back() {
    let counts = [("a-0.tar".to_owned(), 2), ("sub/b-0.tar".to_owned(), 2)];
    for (version, there, absent) in
        [(EnergonVersion::V5, ".info.yaml", ".info.json"), (EnergonVersion::V7, ".info.json", ".info.yaml")]
    {
        let dir = folder();
        write_nv_meta_for(version, dir.path(), "train", &counts).unwrap();
        let has = |name: &str| dir.path().join(".nv-meta").join(name).is_file();
        assert!(has(there) && !has(absent));
        let part = read_part(dir.path(), "train", None, None).unwrap();
        assert_eq!(part.shards.iter().map(|s| s.samples).collect::<Vec<_>>(), [2, 2]);
        // Excludes and parts that somebody added stay.
        let path = dir.path().join(".nv-meta/split.yaml");
        let mut split: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        split["exclude"] = json!(["a-0.tar"]);
        split["split_parts"]["holdout"] = json!(["sub/b-0.tar"]);
        fs::write(&path, split.to_string()).unwrap();
        write_nv_meta_for(version, dir.path(), "val", &counts[..1]).unwrap();
        let split: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (&split["exclude"], &split["split_parts"]["holdout"]),
            (&json!(["a-0.tar"]), &json!(["sub/b-0.tar"]))
        );
        assert_eq!(split["split_parts"]["train"], json!(["sub/b-0.tar"]), "a shard is in one of the parts");
    }
}

fn leaves(dir: &tempfile::TempDir, text: &str) -> Result<Vec<Leaf>, String> {
    let path = dir.path().join("mix.yaml");
    fs::write(&path, text).unwrap();
    metadataset(&path, "train").map_err(|e| e.to_string())
}

#[test]
fn metadatasets_of_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    ["a", "b", "c"].iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
    let short = |leaves: Vec<Leaf>| -> Vec<(String, String, Share)> {
        leaves
            .into_iter()
            .map(|l| (l.folder.file_name().unwrap().to_string_lossy().into_owned(), l.split_part, l.share))
            .collect()
    };
    let of = |name: &str, part: &str, share| (name.to_owned(), part.to_owned(), share);
    let v2 = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n";
    let blend = leaves(
        &dir,
        &format!(
            "{v2}    blend:\n    - {{weight: 3, path: ./a}}\n    - {{weight: 1, path: b, split_part: val, subflavors: {{x: 1}}}}\n"
        ),
    );
    assert_eq!(short(blend.unwrap()), [of("a", "train", Share::Weight(0.75)), of("b", "val", Share::Weight(0.25))]);
    let epochized = leaves(
        &dir,
        &format!(
            "{v2}    blend_epochized:\n    - {{repetitions: 2, path: a}}\n    - {{repetitions: 0.5, path: b}}\n    - path: c\n"
        ),
    );
    let repetitions = [2.0, 0.5, 1.0].map(Share::Repetitions);
    assert_eq!(short(epochized.unwrap()).iter().map(|l| l.2).collect::<Vec<_>>(), repetitions);
    let one = leaves(&dir, &format!("{v2}    path: a\n    split_config: mine.yaml\n")).unwrap();
    assert_eq!((one[0].share, one[0].split_config.as_deref()), (Share::Whole, Some("mine.yaml")));
    // Version 1, and one file in another: shares multiply.
    let v1 = "__module__: megatron.energon\n__class__: Metadataset\nsplits:\n  train:\n    datasets:\n    - {path: a, weight: 1}\n    - {path: b, weight: 4}\n";
    assert_eq!(
        short(leaves(&dir, v1).unwrap()),
        [of("a", "train", Share::Weight(0.2)), of("b", "train", Share::Weight(0.8))]
    );
    fs::write(dir.path().join("inner.yaml"), v1).unwrap();
    let nested =
        leaves(&dir, &format!("{v2}    blend:\n    - {{weight: 1, path: inner.yaml}}\n    - {{weight: 1, path: c}}\n"))
            .unwrap();
    assert_eq!(short(nested).iter().map(|l| l.2).collect::<Vec<_>>(), [0.1, 0.4, 0.5].map(Share::Weight));
}

#[test]
fn subsets_of_metadatasets() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    let v2 = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n";
    let range = |text: &str, total| leaves(&dir, &format!("{v2}{text}")).unwrap()[0].subset.range(total);
    assert_eq!(range("    path: a\n    subset: {range: [25%, 75%]}\n", 100), Ok(25..75));
    assert_eq!(range("    path: a\n    subset: {range: [10, end]}\n", 100), Ok(10..100));
    assert_eq!(range("    path: a\n    subset: {range: [10, 20]}\n", 100), Ok(10..20));
    assert!(range("    path: a\n    subset: {range: [10, 200]}\n", 100).unwrap_err().contains("100 samples"));
    // The first half of what the entry leaves.
    assert_eq!(
        range("    subset: {range: [0%, 50%]}\n    blend:\n    - {path: a, subset: {range: [10, 50]}}\n", 100),
        Ok(10..30)
    );
    assert_eq!(
        range("    subset: {range: [50%, 100%]}\n    blend:\n    - {path: a, subset: {range: [0%, 50%]}}\n", 100),
        Ok(25..50)
    );
    let error = leaves(&dir, &format!("{v2}    path: a\n    subset: {{range: [75%, 25%]}}\n")).unwrap_err();
    assert!(error.contains("subset is"), "{error}");
}

#[test]
fn what_metadatasets_ask_for_in_vain_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("x.jsonl"), "{}").unwrap();
    let v2 = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n";
    let says = |text: &str, words: &[&str]| {
        let error = leaves(&dir, text).unwrap_err();
        assert!(words.iter().all(|w| error.contains(w)) && error.contains("mix.yaml"), "{error}");
    };
    says(&format!("{v2}    join: [{{path: a}}]\n"), &["joins are not supported"]);
    says(&format!("{v2}    blend: [{{path: a, join: []}}]\n"), &["splits.train[0].join"]);
    says(&format!("{v2}    path: a\n    aux: {{media: a}}\n"), &["aux", "not supported"]);
    says(&format!("{v2}    path: a\n    shuffle_over_epochs_multiplier: -1\n"), &["multiplier is -1"]);
    says(&format!("{v2}    blend: [{{path: a, weight: 0}}]\n"), &["weight is 0", "above 0"]);
    says(&format!("{v2}    blend: [{{path: a, repetitions: 2}}]\n"), &["has repetitions"]);
    says(&format!("{v2}    blend: [{{path: b}}]\n"), &["b does not exist"]);
    says(&format!("{v2}    blend: [{{path: x.jsonl}}]\n"), &["JSONL"]);
    says(&format!("{v2}    blend: [{{path: a, wieght: 2}}]\n"), &["wieght"]);
    says(&format!("{v2}    blend: [{{path: mix.yaml}}]\n"), &["16 files deep"]);
    says("__module__: mine\n__class__: MetadatasetV2\nsplits: {}\n", &["mine.MetadatasetV2"]);
    says(&v2.replace("train", "val"), &["no split \"train\"", "val"]);
    says("a: 1\n", &["no splits"]);
    let inner =
        "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    blend_epochized: [{path: a}]\n";
    fs::write(dir.path().join("inner.yaml"), inner).unwrap();
    let error = leaves(&dir, &format!("{v2}    blend: [{{path: inner.yaml, weight: 2}}]\n")).unwrap_err();
    assert!(error.contains("inner.yaml") && error.contains("by weight") && error.contains("by repetitions"), "{error}");
}
