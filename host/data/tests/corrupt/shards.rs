//! Tar shards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ovhost_data::Reject;
use ovhost_data::record::RecordOptions;
use ovhost_data::shards::Shard;

use crate::forge::{BLOCK, Tar, shard, sum, troubles};
use crate::mutate::Random;

/// What became of a shard's samples.
struct Seen {
    kept: Vec<String>,
    rejects: Vec<Reject>,
    /// Where the damage is.
    damage: Option<u64>,
}

fn read(path: &Path) -> Seen {
    let shard = Shard::open_damaged(path).unwrap();
    let mut seen = Seen { kept: Vec::new(), rejects: Vec::new(), damage: shard.damage().map(|d| d.offset) };
    let offsets = shard.offsets();
    assert!(offsets.is_sorted() && offsets.last() <= Some(&std::fs::metadata(path).unwrap().len()), "{offsets:?}");
    for i in 0..shard.len() {
        match shard.record(i, &RecordOptions::default()) {
            Ok(record) => seen.kept.push(record.key),
            Err(reject) => seen.rejects.push(reject),
        }
    }
    seen.rejects.extend(shard.damage_reject());
    // Whoever needs a whole shard is told where it is not.
    match Shard::open(path) {
        Ok(_) => assert!(seen.damage.is_none()),
        Err(error) => {
            let (error, damage) = (error.to_string(), seen.damage.unwrap());
            assert!(error.contains(&format!("damaged at byte {damage}")), "{error}");
        }
    }
    assert!(seen.rejects.iter().all(|r| !r.reason.is_empty() && !r.shard.is_empty()), "{:?}", seen.rejects);
    seen
}

impl Seen {
    /// Every key is kept or rejected; one that begins at or behind the damage is the damage's own.
    #[track_caller]
    fn accounts_for(&self, what: &str, keys: &[(&str, u64)]) {
        let mut left: Vec<&str> =
            self.kept.iter().chain(self.rejects.iter().map(|r| &r.key)).map(String::as_str).collect();
        for (key, start) in keys {
            match left.iter().position(|k| k == key) {
                Some(at) => drop(left.remove(at)),
                None => assert!(self.damage.is_some_and(|at| *start >= at), "{what}: {key} at {start} is lost"),
            }
        }
    }
}

const KEYS: [&str; 5] = ["a", "b", "dir/c", "d", "e"];

/// Keys of [`KEYS`] with the bytes where they begin.
fn places(bytes: &[u8], folder: &Path) -> Vec<(&'static str, u64)> {
    let path = folder.join("whole.tar");
    std::fs::write(&path, bytes).unwrap();
    let offsets = Shard::open(&path).unwrap().offsets();
    KEYS.iter().copied().zip(offsets).collect()
}

#[test]
fn cut_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let whole = shard(&KEYS);
    let places = places(&whole, dir.path());
    let path = dir.path().join("cut.tar");
    let odd = [1, 99, 511, 513, 700, 1023, 1025, 2000, whole.len() - 1, whole.len() - 513, whole.len() - 1023];
    for cut in (0..whole.len()).step_by(BLOCK).chain(odd) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let seen = read(&path);
        // One block of the end mark is enough; of less than one nothing can be told.
        assert_eq!(seen.damage.is_none(), cut >= whole.len() - BLOCK, "cut at {cut}");
        seen.accounts_for(&format!("cut at {cut}"), &places);
        // What was read is whole: at most the sample before the cut is given up with it.
        let before = places.iter().filter(|(_, start)| *start < cut as u64).count();
        assert!(seen.kept.len() + 2 >= before, "cut at {cut}: {:?} of {before}", seen.kept);
    }
}

#[test]
fn any_bit_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let whole = shard(&KEYS);
    let places = places(&whole, dir.path());
    let path = dir.path().join("flipped.tar");
    let mut random = Random(4);
    let (mut damaged, mut rejected) = (0, 0);
    for _ in 0..600 {
        let (at, bit) = (random.below(whole.len()), random.below(8));
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let seen = read(&path);
        seen.accounts_for(&format!("bit {bit} of byte {at}"), &places);
        assert!(seen.kept.len() + seen.rejects.len() >= 1);
        damaged += usize::from(seen.damage.is_some());
        rejected += usize::from(seen.damage.is_none() && !seen.rejects.is_empty());
    }
    assert!(damaged > 100 && rejected > 5, "{damaged} damaged, {rejected} rejected");
}

#[test]
fn every_kind_of_trouble() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, keys) in troubles() {
        let path = dir.path().join(format!("{name}.tar"));
        std::fs::write(&path, &bytes).unwrap();
        let seen = read(&path);
        // The order of a key in the list says nothing about its place: what lies behind the damage is not looked for.
        let places: Vec<(&str, u64)> = keys
            .iter()
            .map(|key| (key.as_str(), if seen.damage.is_some() && key != "first" { u64::MAX } else { 0 }))
            .collect();
        seen.accounts_for(name, &places);
        let says =
            |text: &str| assert!(seen.rejects.iter().any(|r| r.reason.contains(text)), "{name}: {:?}", seen.rejects);
        match name {
            "symbolic-link" => says("symbolic link"),
            "hard-link" => says("hard link"),
            "device" | "unknown-type" => says("is no file"),
            "not-utf8" | "key-not-utf8" => says("not UTF-8"),
            "twice" => says("occurs twice"),
            "sparse" | "sparse-tebibytes" | "pax-sparse" => says("sparse file"),
            "pax-damaged" => says("PAX records"),
            "hole" | "two-archives" | "long-tail" => says("end-of-archive mark"),
            "sparse-cut" | "pax-size" | "size-negative" | "size-8-eib" | "size-beyond-the-end" => {
                says("damaged at byte")
            }
            "sparse-overlapping" | "two-long-names" | "size-no-number" => says("no readable tar header"),
            "empty-file" | "no-end" => says("without the end-of-archive mark"),
            "long-name-without-member" | "text" => says("damaged at byte"),
            "contiguous" | "folder" | "parent" | "absolute" | "control-characters" | "apart" | "gnu-long-name"
            | "pax-long-name" | "padded" | "no-samples" | "many-parts" => {
                assert!(seen.rejects.is_empty(), "{name}: {:?}", seen.rejects);
                assert_eq!(seen.kept.len(), keys.len(), "{name}");
            }
            other => panic!("{other} is not expected to be anything"),
        }
    }
}

/// Claims of gigabytes cost what the file has, not what it says.
#[test]
fn names_and_holes_of_gigabytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.tar");
    let head = Tar::default().file("first.json", b"{\"text\": \"a\"}").gnu(b'L', "././@LongLink", 1 << 33, |_| ()).0;
    // On disk it is a hole: eight gigabytes of name that take no room.
    let file = File::create(&path).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.set_len(head.len() as u64 + (1 << 33) + 1024).unwrap();
    let seen = read(&path);
    assert_eq!((seen.kept.len(), seen.damage), (0, Some(1024)), "{:?}", seen.rejects);
    assert!(seen.rejects[0].key == "first" && seen.rejects[0].reason.contains("more than 1048576 bytes"));

    // A member of five gigabytes that is there: it is not taken into memory.
    let path = dir.path().join("large.tar");
    let big = 5u64 << 30;
    let head = Tar::default().file("first.json", b"{\"text\": \"a\"}").header("big.png", big, |_| ());
    let tail = Tar::default().file("last.json", b"{\"text\": \"b\"}").end();
    let file = File::create(&path).unwrap();
    file.write_all_at(&head.0, 0).unwrap();
    file.write_all_at(&tail, head.0.len() as u64 + big).unwrap();
    let seen = read(&path);
    assert_eq!(seen.kept, ["first", "last"]);
    assert!(
        seen.rejects[0].key == "big" && seen.rejects[0].reason.contains("at most 4294967296"),
        "{:?}",
        seen.rejects
    );
}

/// A sample of a great many members is one sample, and is looked at once.
#[test]
fn a_hundred_thousand_members_of_one_sample() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many.tar");
    let mut header = Tar::default().header("k.000000.cls", 0, |_| ()).0;
    let mut bytes = Vec::new();
    for i in 0..100_000 {
        header[2..8].copy_from_slice(format!("{i:06}").as_bytes());
        sum(&mut header);
        bytes.extend_from_slice(&header);
    }
    bytes.extend(Tar(header).file("k.json", b"{\"text\": \"a\"}").end());
    std::fs::write(&path, bytes).unwrap();
    let seen = read(&path);
    assert!(seen.kept.is_empty() && seen.rejects.len() == 1, "the last member occurs twice");
    assert!(seen.rejects[0].reason.contains("\"099999.cls\" occurs twice"), "{:?}", seen.rejects);
}
