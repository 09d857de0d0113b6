//! A shard's samples by number, through its `.tar.idx` where there is a usable one, else by reading its headers once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ovhost_data::shards::{Damage, RawSample, Shard};

use crate::error::{PrepError, io};

/// An open shard.
pub struct Peek {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether the places of its samples come from its index.
    pub indexed: bool,
    /// Why its index is not used, where there is one.
    pub index_fault: Option<String>,
    /// Where it stops being readable; an index does not tell.
    pub damage: Option<Damage>,
    file: File,
    offsets: Vec<u64>,
}

impl Peek {
    /// Opens a shard.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, PrepError> {
        let file = File::open(path).map_err(io(path, "open the shard"))?;
        let bytes = file.metadata().map_err(io(path, "read its size"))?.len();
        let found = index(path).and_then(|found| match found {
            Some(offsets) => check(&offsets, bytes).map(|()| Some(offsets)),
            None => Ok(None),
        });
        let (offsets, index_fault) = match found {
            Ok(Some(offsets)) => (Some(offsets), None),
            Ok(None) => (None, None),
            Err(fault) => (None, Some(fault)),
        };
        let indexed = offsets.is_some();
        let (offsets, damage) = match offsets {
            Some(offsets) => (offsets, None),
            None => {
                let shard = Shard::open_damaged(path)?;
                (shard.offsets(), shard.damage().cloned())
            }
        };
        Ok(Peek { path: path.to_owned(), bytes, indexed, index_fault, damage, file, offsets })
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.offsets.len() as u64 - 1
    }

    /// Reads sample `index`, which must be below [`Self::len`].
    ///
    /// # Errors
    /// What lies there is no whole sample; the words say where and why.
    pub fn read(&self, index: u64) -> Result<RawSample, String> {
        let at = index as usize;
        let (from, to) = (self.offsets[at], self.offsets[at + 1]);
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact_at(&mut bytes, from).map_err(|e| format!("bytes {from} to {to}: {e}"))?;
        RawSample::from_tar(&bytes).map_err(|e| format!("bytes {from} to {to}: {e}"))
    }
}

/// The index beside a shard: byte offset of every sample, and of where the last one ends. None where there is none.
///
/// # Errors
/// It cannot be read, or is no list of numbers.
pub fn index(shard: &Path) -> Result<Option<Vec<u64>>, String> {
    let mut name = shard.as_os_str().to_owned();
    name.push(".idx");
    let bytes = match std::fs::read(&name) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("it cannot be read: {e}")),
    };
    match bytes.as_chunks::<8>() {
        (numbers, []) if !numbers.is_empty() => Ok(Some(numbers.iter().map(|n| u64::from_le_bytes(*n)).collect())),
        _ => Err(format!("it has {} bytes, which is no list of 8-byte numbers", bytes.len())),
    }
}

/// Whether offsets can be those of a shard of so many bytes.
fn check(offsets: &[u64], bytes: u64) -> Result<(), String> {
    if let Some(at) = (1..offsets.len()).find(|i| offsets[*i] <= offsets[*i - 1]) {
        return Err(format!("its number {at} is {}, after {}; they must grow", offsets[at], offsets[at - 1]));
    }
    if let Some(odd) = offsets.iter().find(|o| !o.is_multiple_of(512)) {
        return Err(format!("{odd} is in it, and members begin at multiples of 512 bytes"));
    }
    match offsets.last() {
        Some(last) if *last <= bytes => Ok(()),
        last => Err(format!("it ends at byte {}, and the shard has {bytes}", last.copied().unwrap_or_default())),
    }
}

/// `count` of the numbers below `total`: evenly spread, or drawn by a seed. In ascending order, each once.
pub fn spread(total: u64, count: u64, seed: Option<u64>) -> Vec<u64> {
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    let count = count.min(total);
    let Some(seed) = seed else {
        return (0..count).map(|i| (i as u128 * total as u128 / count as u128) as u64).collect();
    };
    // Floyd's way: memory for those that are drawn, not for all.
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = std::collections::BTreeSet::new();
    for last in total - count..total {
        let at = (u128::from(rng.next_u64()) * u128::from(last + 1) >> 64) as u64;
        if !drawn.insert(at) {
            drawn.insert(last);
        }
    }
    drawn.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use ovhost_data::shards::ShardFile;

    use super::*;

    #[test]
    fn an_index_saves_the_scan_and_a_wrong_one_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut file = ShardFile::create(path.clone()).unwrap();
        for i in 0..5 {
            file.write(&format!("k{i}"), &[("txt", format!("text {i}").as_bytes())]).unwrap();
        }
        file.publish().unwrap();
        let peek = Peek::open(&path).unwrap();
        assert!(peek.indexed);
        assert_eq!((peek.len(), peek.read(3).unwrap().key.as_str()), (5, "k3"));
        let idx = dir.path().join("a.tar.idx");
        let good = std::fs::read(&idx).unwrap();
        let mut swapped = good.clone();
        swapped.swap(9, 17);
        for (bytes, word) in
            [(&good[..12], "12 bytes"), (&[&good[..], &[0, 0, 1, 0, 0, 0, 0, 0]].concat(), "65536"), (&swapped, "grow")]
        {
            std::fs::write(&idx, bytes).unwrap();
            let peek = Peek::open(&path).unwrap();
            assert!(peek.index_fault.as_ref().unwrap().contains(word), "{:?}", peek.index_fault);
            assert!(!peek.indexed && peek.read(4).unwrap().parts[0].1 == b"text 4");
        }
    }

    #[test]
    fn drawn_numbers_are_different_and_the_same_again() {
        assert_eq!(spread(10, 4, None), [0, 2, 5, 7]);
        assert_eq!(spread(3, 10, None), [0, 1, 2]);
        let drawn = spread(1_000_000, 100, Some(7));
        assert_eq!((drawn.len(), drawn.clone()), (100, spread(1_000_000, 100, Some(7))));
        assert!(drawn.is_sorted_by(|a, b| a < b) && drawn != spread(1_000_000, 100, Some(8)));
        assert_eq!(spread(5, 5, Some(1)), [0, 1, 2, 3, 4]);
        assert!(spread(0, 5, Some(1)).is_empty() && spread(0, 5, None).is_empty());
    }
}
