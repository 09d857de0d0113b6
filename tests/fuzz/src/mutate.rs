//! The small changes that fuzzers make, from a seed: the tests' stand-in for a fuzzer.

/// splitmix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// A number from 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// One small change: a bit, a byte, a stretch gone, twice or from `other`, a large number, a cut.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(63)).min(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        // The largest number that LEB128 can say, where a length or an index may be.
        5 => drop(bytes.splice(at..end.min(at + 1), [0xff, 0xff, 0xff, 0xff, 0x0f])),
        6 if !other.is_empty() => {
            let from = random.below(other.len());
            let to = (from + 1 + random.below(255)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        _ => bytes.truncate(at),
    }
}
