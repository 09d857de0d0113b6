//! A set of 64-bit hashes that answers "is one within a Hamming distance of this?" exactly, without looking at all.
//!
//! ```text
//!  d = 4    hash │ part 0, 21 bits │ part 1, 21 │ part 2, 22 │     3 = d/2 + 1 parts
//! ```
//! Of two hashes within d bits, one of d/2 + 1 parts differs in at most one bit: were it two in each, the distance would be
//! d + 2 or more. So a search looks, for every part, at the hashes whose part is equal or one bit off (Norouzi, Punjani,
//! Fleet, "Fast search in Hamming space with multi-index hashing", 2012). A part's table has at most 2¹⁶ places, chosen by
//! its lowest bits, which differ no more than the part does.

/// Widest part of a hash that chooses a place in a table.
const MAX_KEY_BITS: u32 = 16;

/// One part of a hash, and its table.
#[derive(Debug)]
struct Part {
    shift: u32,
    bits: u32,
    places: Vec<Vec<u64>>,
}

impl Part {
    fn key(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize & ((1 << self.bits) - 1)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    distance: u32,
    parts: Vec<Part>,
    len: usize,
}

impl Index {
    /// An empty set for searches within `distance`, at most 31.
    pub fn new(distance: u32) -> Self {
        let count = distance / 2 + 1;
        let part = |i: u32| {
            let (shift, end) = (64 * i / count, 64 * (i + 1) / count);
            let bits = (end - shift).min(MAX_KEY_BITS);
            Part { shift, bits, places: vec![Vec::new(); 1 << bits] }
        };
        Self { distance, parts: (0..count).map(part).collect(), len: 0 }
    }

    /// Number of different hashes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that a hash takes, in all tables.
    pub fn bytes_per_hash(&self) -> usize {
        8 * self.parts.len()
    }

    /// Whether a hash of the set differs from `hash` in at most `distance` bits.
    pub fn has_near(&self, hash: u64) -> bool {
        let near = |place: &[u64]| place.iter().any(|other| (other ^ hash).count_ones() <= self.distance);
        self.parts.iter().any(|part| {
            let key = part.key(hash);
            near(&part.places[key])
                || (self.distance > 0 && (0..part.bits).any(|bit| near(&part.places[key ^ (1 << bit)])))
        })
    }

    /// Whether `hash` itself is in the set.
    pub fn contains(&self, hash: u64) -> bool {
        let first = &self.parts[0];
        first.places[first.key(hash)].contains(&hash)
    }

    /// Adds a hash, if it is not there.
    pub fn insert(&mut self, hash: u64) {
        if self.contains(hash) {
            return;
        }
        for part in &mut self.parts {
            let key = part.key(hash);
            let place = &mut part.places[key];
            if place.len() == place.capacity() {
                // By an eighth rather than by doubling: WebAssembly memory never shrinks.
                place.reserve_exact(place.len() / 8 + 2);
            }
            place.push(hash);
        }
        self.len += 1;
    }

    /// The hashes in ascending order.
    pub fn sorted(&self) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(self.len);
        self.parts[0].places.iter().for_each(|place| hashes.extend_from_slice(place));
        hashes.sort_unstable();
        hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::Rng;

    #[test]
    fn it_finds_what_a_scan_finds() {
        for distance in 0..=12 {
            let mut rng = Rng::new(u64::from(distance));
            let (mut index, mut all) = (Index::new(distance), Vec::<u64>::new());
            let (mut near, mut far) = (0, 0);
            for _ in 0..1500 {
                let hash = if all.is_empty() || rng.below(2) == 0 {
                    rng.next_u64()
                } else {
                    // A few bits off a known one, on both sides of the bound.
                    let mut hash = all[rng.below(all.len() as u64) as usize];
                    (0..rng.below(u64::from(2 * distance + 3))).for_each(|_| hash ^= 1 << rng.below(64));
                    hash
                };
                let scan = all.iter().any(|other| (other ^ hash).count_ones() <= distance);
                assert_eq!(index.has_near(hash), scan, "{hash:x} within {distance}");
                if scan {
                    near += 1
                } else {
                    far += 1
                }
                index.insert(hash);
                if !all.contains(&hash) {
                    all.push(hash);
                }
            }
            assert!(near > 150 && far > 150, "{near} near, {far} far");
            all.sort_unstable();
            assert_eq!((index.len(), index.sorted()), (all.len(), all));
        }
    }

    #[test]
    fn every_pair_of_changed_bits_is_found() {
        // All ways to change two bits: no part is forgotten, and no bit of one.
        let (mut index, hash) = (Index::new(2), 0x0123_4567_89AB_CDEF_u64);
        index.insert(hash);
        for a in 0..64 {
            for b in 0..a {
                let changed = hash ^ (1 << a) ^ (1 << b);
                assert!(index.has_near(changed), "bits {a} and {b}");
                let third = (0..64).find(|&c| c != a && c != b).unwrap();
                assert!(!index.has_near(changed ^ (1 << third)), "bits {a}, {b} and {third}");
            }
        }
    }
}
