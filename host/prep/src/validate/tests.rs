//! A clean set is clean, and every fault that is planted is found, and nothing else.

use std::collections::BTreeMap;

use ovhost_data::shards::{ShardFile, write_nv_meta};
use serde_json::json;

use super::*;

fn png() -> Vec<u8> {
    let mut out = std::io::Cursor::new(vec![]);
    image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 7, y as u8 * 5, 9]))
        .write_to(&mut out, image::ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

fn settings(inputs: Vec<PathBuf>) -> ValidateSettings {
    ValidateSettings {
        inputs,
        decode: false,
        hashes: true,
        require_images: false,
        max_pixels: 1 << 20,
        encoding: None,
        most: 10,
        workers: 2,
    }
}

type Parts<'a> = Vec<(&'a str, Vec<u8>)>;

fn good(i: usize) -> Parts<'static> {
    vec![("json", json!({"question": "q", "answer": format!("a{i}")}).to_string().into()), ("png", png())]
}

fn set(dir: &Path, shards: &[Vec<(String, Parts<'_>)>]) -> Vec<PathBuf> {
    let written: Vec<_> = shards
        .iter()
        .enumerate()
        .map(|(s, samples)| {
            let mut file = ShardFile::create(dir.join(format!("s{s}.tar"))).unwrap();
            for (key, parts) in samples {
                let parts: Vec<(&str, &[u8])> = parts.iter().map(|(n, b)| (*n, b.as_slice())).collect();
                file.write(key, &parts).unwrap();
            }
            file.publish().unwrap()
        })
        .collect();
    write_nv_meta(dir, "train", &written).unwrap();
    written.into_iter().map(|w| w.path).collect()
}

fn counts(report: &Report) -> BTreeMap<Kind, u64> {
    report.faults.iter().map(|(kind, found)| (*kind, found.count)).collect()
}

fn check(settings: &ValidateSettings) -> Report {
    validate(settings, &|_| Ok(())).unwrap()
}

#[test]
fn faults_of_samples_are_all_found_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let text = |json: Value| ("json", json.to_string().into_bytes());
    let mut broken = png();
    let length = broken.len();
    broken[length / 2..length - 12].fill(0);
    let samples: Vec<(&str, Parts<'_>)> = vec![
        ("ok", good(0)),
        ("json", vec![("json", b"{".to_vec()), ("png", png())]),
        ("type", vec![("json", b"3".to_vec()), ("png", png())]),
        ("utf8", vec![("txt", b"\xff".to_vec()), ("png", png())]),
        ("image", vec![text(json!({"caption": "c"})), ("jpg", b"no".to_vec())]),
        ("body", vec![text(json!({"caption": "c"})), ("png", broken)]),
        ("lost", vec![text(json!({"caption": "c", "image": "a.png"}))]),
        ("silent", vec![text(json!({"id": 1})), ("png", png())]),
        ("place", vec![text(json!({"question": "<image><image>", "answer": "x"})), ("png", png())]),
        ("nothing", vec![("cls", b"1".to_vec())]),
        ("alone", vec![text(json!({"text": "only words"}))]),
        ("ok", good(1)),
    ];
    let samples: Vec<_> = samples.into_iter().map(|(k, p)| (k.to_owned(), p)).collect();
    let mut paths = set(dir.path(), &[samples, (0..100).map(|i| (format!("x{i}"), good(i))).collect()]);
    let report = check(&settings(paths.clone()));
    let mut expected: BTreeMap<Kind, u64> = [
        (Kind::Json, 1),
        (Kind::JsonType, 1),
        (Kind::Utf8, 1),
        (Kind::Image, 1),
        (Kind::MissingImage, 1),
        (Kind::MissingText, 1),
        (Kind::Placeholder, 1),
        (Kind::Record, 1),
        (Kind::DuplicateKey, 1),
    ]
    .into();
    assert_eq!(counts(&report), expected, "{report:#?}");
    assert_eq!((report.samples, report.shards, report.clean), (112, 2, false));
    assert_eq!(report.notes[&Kind::TextOnly].count, 1);
    let again = &report.faults[&Kind::DuplicateKey].first[0];
    assert_eq!((again.key.as_str(), again.reason.as_str()), ("ok", "sample 11 has the key of sample 0 of s0.tar"));
    assert_eq!(check(&ValidateSettings { workers: 1, ..settings(paths.clone()) }), report);
    // Decoding finds the picture whose header alone is right.
    expected.insert(Kind::Image, 2);
    expected.insert(Kind::MissingImage, 2);
    let all = check(&ValidateSettings { decode: true, require_images: true, ..settings(paths.clone()) });
    assert_eq!(counts(&all), expected, "{all:#?}");
    assert!(all.faults[&Kind::Image].first.iter().any(|f| f.key == "body"), "{all:#?}");
    let clean = check(&settings(vec![paths.remove(1)]));
    assert!(clean.clean && clean.total() == 0, "{clean:#?}");
}

#[test]
fn faults_of_files_are_all_found() {
    let dir = tempfile::tempdir().unwrap();
    let shard = |s: usize| (0..5).map(|i| (format!("k{s}{i}"), good(i))).collect();
    let paths = set(dir.path(), &(0..5).map(shard).collect::<Vec<_>>());
    assert!(check(&settings(paths.clone())).clean);
    let cut = std::fs::read(&paths[0]).unwrap();
    std::fs::write(&paths[0], &cut[..cut.len() - 2000]).unwrap();
    let idx = format!("{}.idx", paths[1].display());
    let mut index = std::fs::read(&idx).unwrap();
    index[17] ^= 2;
    std::fs::write(&idx, index).unwrap();
    std::fs::remove_file(format!("{}.idx", paths[2].display())).unwrap();
    std::fs::write(&paths[3], b"").unwrap();
    let info = dir.path().join(".nv-meta/.info.json");
    let said = std::fs::read_to_string(&info).unwrap().replace("\"s4.tar\": 5", "\"s4.tar\": 6");
    std::fs::write(&info, said).unwrap();
    let report = check(&settings(paths.clone()));
    let found = counts(&report);
    assert_eq!(found[&Kind::Tar], 2, "{report:#?}");
    // The cut shard's index, the flipped one, the empty shard's.
    assert_eq!(found[&Kind::Index], 3, "{report:#?}");
    // Two shards that have fewer samples, one count that was changed, and the two files that differ.
    assert_eq!(found[&Kind::Metadata], 4, "{report:#?}");
    assert_eq!((found.len(), report.notes[&Kind::NoIndex].count), (3, 1), "{report:#?}");
    // Metadata that agrees again: one shard without an index is clean.
    std::fs::copy(dir.path().join(".nv-meta/.info.yaml"), &info).unwrap();
    let bare = check(&settings(vec![paths[2].clone()]));
    assert!(bare.clean && bare.notes[&Kind::NoIndex].count == 1, "{bare:#?}");
    // Energon 5's own YAML is read too.
    std::fs::remove_file(&info).unwrap();
    let yaml = dir.path().join(".nv-meta/.info.yaml");
    std::fs::write(&yaml, "shard_counts:\n  s2.tar: 5\n").unwrap();
    std::fs::write(dir.path().join(".nv-meta/split.yaml"), "split_parts:\n  train: ['s{2..2}.tar']\n").unwrap();
    let one = check(&settings(vec![paths[2].clone()]));
    assert!(one.clean, "{one:#?}");
    std::fs::write(&yaml, "shard_counts:\n  s2.tar: 7\n").unwrap();
    assert_eq!(counts(&check(&settings(vec![paths[2].clone()]))), [(Kind::Metadata, 1)].into());
}
