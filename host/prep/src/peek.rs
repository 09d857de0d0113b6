//! A shard's samples by number, through its `.tar.idx` where there is a usable one, else by reading its headers once.

use std::path::{Path, PathBuf};

use ovhost_data::shards::{Damage, IndexedShard, RawSample, Shard, ShardError, stored_size};

use crate::error::PrepError;

/// An open shard.
pub struct Peek {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Why its index is not used, where there is one.
    pub index_fault: Option<String>,
    samples: Samples,
}

enum Samples {
    Indexed(IndexedShard),
    Scanned(Shard),
}

impl Peek {
    /// Opens a shard.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, PrepError> {
        let bytes = stored_size(path)?;
        let (samples, index_fault) = match IndexedShard::by_index(path)? {
            Some(Ok(shard)) => (Samples::Indexed(shard), None),
            other => (Samples::Scanned(Shard::open_damaged(path)?), other.and_then(Result::err)),
        };
        Ok(Peek { path: path.to_owned(), bytes, index_fault, samples })
    }

    /// Whether the places of its samples come from its index.
    pub fn is_indexed(&self) -> bool {
        matches!(self.samples, Samples::Indexed(_))
    }

    /// Where it stops being readable, as far as its headers were read.
    pub fn damage(&self) -> Option<&Damage> {
        match &self.samples {
            Samples::Indexed(_) => None,
            Samples::Scanned(shard) => shard.damage(),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        match &self.samples {
            Samples::Indexed(shard) => shard.len() as u64,
            Samples::Scanned(shard) => shard.len() as u64,
        }
    }

    /// Reads sample `index`, which must be below [`Self::len`].
    ///
    /// # Errors
    /// What lies there is no whole sample; the words say why.
    pub fn read(&self, index: u64) -> Result<RawSample, String> {
        let read = match &self.samples {
            Samples::Indexed(shard) => shard.read(index as usize),
            Samples::Scanned(shard) => shard.read(index as usize),
        };
        read.map_err(|error| match error {
            ShardError::Sample { key, reason, .. } if !key.is_empty() => format!("{key}: {reason}"),
            ShardError::Sample { reason, .. } => reason,
            other => other.to_string(),
        })
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
        let at = ((u128::from(rng.next_u64()) * u128::from(last + 1)) >> 64) as u64;
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
        assert!(peek.is_indexed());
        assert_eq!((peek.len(), peek.read(3).unwrap().key.as_str()), (5, "k3"));
        let idx = dir.path().join("a.tar.idx");
        let good = std::fs::read(&idx).unwrap();
        let mut swapped = good.clone();
        swapped.swap(9, 17);
        for (bytes, word) in [
            (&good[..12], "whole numbers"),
            (&[&good[..], &[0, 0, 1, 0, 0, 0, 0, 0]].concat(), "65536"),
            (&swapped, "rising"),
        ] {
            std::fs::write(&idx, bytes).unwrap();
            let peek = Peek::open(&path).unwrap();
            assert!(peek.index_fault.as_ref().unwrap().contains(word), "{:?}", peek.index_fault);
            assert!(!peek.is_indexed() && peek.read(4).unwrap().parts[0].1 == b"text 4");
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
