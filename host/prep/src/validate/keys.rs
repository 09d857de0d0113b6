//! Keys that come again anywhere in a folder, in eight bytes a sample: the keys' hashes, sorted a part at a time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use ovhost_data::shards::Shard;

use super::report::{Kind, Report};

/// Parts in which hashes are sorted: memory for one part is all that is needed beside the hashes.
const PARTS: u64 = 16;

/// Hashes of the keys of each shard, in order.
#[derive(Default)]
pub struct Keys(Vec<Box<[u64]>>);

/// The hash of a sample's key; equal keys of two folders have different ones.
pub fn hash(folder: usize, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (folder, key).hash(&mut hasher);
    hasher.finish()
}

impl Keys {
    /// Adds the next shard's.
    pub fn push(&mut self, hashes: Vec<u64>) {
        self.0.push(hashes.into_boxed_slice());
    }

    /// Places of keys that were there before, with the place of the first: (shard, sample) of both, in order of the later.
    fn again(&self, most: usize) -> (u64, Vec<[(u32, u32); 2]>) {
        let (mut count, mut first) = (0, Vec::new());
        for part in 0..PARTS {
            let mut hashes: Vec<(u64, u32, u32)> = Vec::new();
            for (shard, list) in (0u32..).zip(&self.0) {
                let of_part = |(i, h): (u32, &u64)| (h % PARTS == part).then_some((*h, shard, i));
                hashes.extend((0u32..).zip(list).filter_map(of_part));
            }
            hashes.sort_unstable();
            for equal in hashes.chunk_by(|a, b| a.0 == b.0).filter(|c| c.len() > 1) {
                count += equal.len() as u64 - 1;
                first.extend(equal[1..].iter().map(|later| [(equal[0].1, equal[0].2), (later.1, later.2)]));
            }
            // Parts are not in the order of the shards, so the first of all are known at the end.
            first.sort_unstable_by_key(|[_, later]| *later);
            first.truncate(most);
        }
        (count, first)
    }

    /// Reports them. `paths` are the shards.
    pub fn report(&self, paths: &[PathBuf], most: usize, report: &mut Report) {
        let (count, first) = self.again(most);
        let mut told = 0;
        for [one, other] in first {
            let name = |shard: u32| {
                paths[shard as usize].file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
            };
            // The shard was read a moment ago; if it has changed since, the place must do.
            let shard = Shard::open_damaged(&paths[other.0 as usize]).ok();
            let key = shard.and_then(|s| s.samples().get(other.1 as usize).map(|s| s.key.clone())).unwrap_or_default();
            let reason = format!("sample {} has the key of sample {} of {}", other.1, one.1, name(one.0));
            report.add(most, Kind::DuplicateKey, &paths[other.0 as usize].display().to_string(), &key, reason);
            told += 1;
        }
        if let Some(found) = report.faults.get_mut(&Kind::DuplicateKey) {
            found.count += count - told;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_comes_again_is_counted_and_the_first_are_named() {
        let mut keys = Keys::default();
        for shard in 0..20u32 {
            keys.push((0..100).map(|i| hash(0, &format!("{}", shard * 100 + i))).collect());
        }
        assert_eq!(keys.again(5), (0, vec![]));
        keys.push(["7", "1999", "7", "new"].map(|k| hash(0, k)).into());
        keys.push(["7"].map(|k| hash(1, k)).into());
        assert_eq!(keys.again(5), (3, vec![[(0, 7), (20, 0)], [(19, 99), (20, 1)], [(0, 7), (20, 2)]]));
        assert_eq!(keys.again(2), (3, vec![[(0, 7), (20, 0)], [(19, 99), (20, 1)]]));
    }
}
