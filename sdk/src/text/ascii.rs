//! The ASCII that a text starts with, taken 16 bytes at a time: its length, and counts of its bytes.
//!
//! Captions are mostly ASCII, and which class its next byte has cannot be foreseen, so these loops have no branch on it;
//! compilers make vector instructions of them, in WebAssembly as in native code.

/// Bytes of a WebAssembly vector.
const LANES: usize = 16;
/// Bytes of one step of a loop: the metering of a step costs as much as a vector's work.
const STEP: usize = 4 * LANES;

/// How many bytes of ASCII `bytes` start with.
///
/// ```
/// use ovhost_sdk::text::ascii_prefix;
///
/// assert_eq!(ascii_prefix("a cup of café".as_bytes()), 12);
/// ```
#[inline]
pub fn ascii_prefix(bytes: &[u8]) -> usize {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let other = steps.iter().position(|step| {
        let (blocks, _) = step.as_chunks();
        blocks.iter().fold(0, |all, block| all | u128::from_ne_bytes(*block)) & HIGH != 0
    });
    let (from, end) = match other {
        Some(at) => (at * STEP, &steps[at][..]),
        None => (steps.len() * STEP, rest),
    };
    let (blocks, rest) = end.as_chunks::<LANES>();
    let is_other = |block: &[u8; LANES]| u128::from_ne_bytes(*block) & HIGH != 0;
    let (from, end) = match blocks.iter().position(is_other) {
        Some(at) => (from + at * LANES, &blocks[at][..]),
        // The last bytes once more together with those before them.
        None if bytes.last_chunk().is_some_and(|last| !is_other(last)) => return bytes.len(),
        None => (from + blocks.len() * LANES, rest),
    };
    from + end.iter().position(|byte| !byte.is_ascii()).unwrap_or(end.len())
}

/// The bits that no ASCII character has.
const HIGH: u128 = u128::from_ne_bytes([0x80; LANES]);

/// What [`count_runs`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Bytes of the class.
    pub inside: usize,
    /// Bytes of the class after one that is not: where runs of the class start.
    pub starts: usize,
    /// Whether the last byte is of the class.
    pub open: bool,
}

/// Counts the bytes of a class and the runs of them; `open` says whether a run goes on where `bytes` start. `is` decides the
/// class, best without branches or tables; see [`is_ascii_letter`].
///
/// ```
/// use ovhost_sdk::text::{Runs, count_runs, is_ascii_letter};
///
/// let words = count_runs(b"two cats", false, is_ascii_letter);
/// assert_eq!(words, Runs { inside: 7, starts: 2, open: true });
/// ```
#[inline]
pub fn count_runs(bytes: &[u8], open: bool, is: impl Fn(u8) -> bool) -> Runs {
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return Runs { open, ..Runs::default() };
    };
    let (mut inside, mut starts) = (usize::from(is(first)), usize::from(is(first) && !open));
    // Every byte beside the one before it.
    let (before, after) = (&bytes[..bytes.len() - 1], &bytes[1..]);
    let (before_blocks, _) = before.as_chunks::<LANES>();
    let (after_blocks, after_rest) = after.as_chunks::<LANES>();
    // A lane's count is a byte: it holds that of 254 blocks.
    for (before, after) in before_blocks.chunks(254).zip(after_blocks.chunks(254)) {
        let mut lanes = Lanes::default();
        let ((before, before_odd), (after, after_odd)) = (before.as_chunks::<4>(), after.as_chunks::<4>());
        for (before, after) in before.iter().zip(after) {
            for i in 0..4 {
                lanes.add(&before[i], &after[i], &[1; LANES], &is);
            }
        }
        for (before, after) in before_odd.iter().zip(after_odd) {
            lanes.add(before, after, &[1; LANES], &is);
        }
        lanes.sum(&mut inside, &mut starts);
    }
    let rest = after_rest.len();
    match (before.last_chunk(), after.last_chunk(), COUNTED[rest..].first_chunk()) {
        _ if rest == 0 => {}
        // The last bytes together with some that are counted, and are not again.
        (Some(before), Some(after), Some(counted)) => {
            let mut lanes = Lanes::default();
            lanes.add(before, after, counted, &is);
            lanes.sum(&mut inside, &mut starts);
        }
        _ => {
            let mut was = is(first);
            for &byte in after_rest {
                let now = is(byte);
                inside += usize::from(now);
                starts += usize::from(now & !was);
                was = now;
            }
        }
    }
    Runs { inside, starts, open: is(last) }
}

/// From place `n` on: a block whose last `n` lanes count.
const COUNTED: [u8; 2 * LANES] = {
    let mut lanes = [0; 2 * LANES];
    let mut i = LANES;
    while i < 2 * LANES {
        lanes[i] = 1;
        i += 1;
    }
    lanes
};

/// Counts by place in a block.
#[derive(Default)]
struct Lanes {
    inside: [u8; LANES],
    starts: [u8; LANES],
}

impl Lanes {
    /// Counts the bytes `after`, each with the one before it, where `counted` is 1 and not 0.
    #[inline]
    fn add(&mut self, before: &[u8; LANES], after: &[u8; LANES], counted: &[u8; LANES], is: &impl Fn(u8) -> bool) {
        for lane in 0..LANES {
            let (was, now) = (u8::from(is(before[lane])), u8::from(is(after[lane])) & counted[lane]);
            self.inside[lane] += now;
            self.starts[lane] += now & !was;
        }
    }

    #[inline]
    fn sum(&self, inside: &mut usize, starts: &mut usize) {
        *inside += sum(&self.inside);
        *starts += sum(&self.starts);
    }
}

/// The sum of a block, without sixteen steps.
#[inline]
fn sum(lanes: &[u8; LANES]) -> usize {
    const EVEN: u64 = 0x00FF_00FF_00FF_00FF;
    let all = u128::from_ne_bytes(*lanes);
    let (a, b) = (all as u64, (all >> 64) as u64);
    // Four sums of four bytes each, then the sum of those in the highest sixteen bits.
    let four = (a & EVEN) + (a >> 8 & EVEN) + (b & EVEN) + (b >> 8 & EVEN);
    (four.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize
}

/// Whether `byte` is a letter: [`u8::is_ascii_alphabetic`] in the one comparison of signed bytes that all
/// vector instructions have.
#[inline]
pub fn is_ascii_letter(byte: u8) -> bool {
    ((byte | 0x20).wrapping_add(0x80 - b'a') as i8) < i8::MIN + 26
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(bytes: &[u8], mut open: bool) -> Runs {
        let mut runs = Runs::default();
        for byte in bytes {
            let now = byte.is_ascii_alphabetic();
            runs.inside += usize::from(now);
            runs.starts += usize::from(now && !open);
            open = now;
        }
        Runs { open, ..runs }
    }

    #[test]
    fn blocks_count_what_bytes_count() {
        let mut rng = crate::Rng::new(4);
        for len in (0..70).chain([4079, 4080, 4081, 4096, 4097, 8200]) {
            let bytes: Vec<u8> = (0..len).map(|_| b"aZ .1"[rng.below(5) as usize]).collect();
            for open in [false, true] {
                let quick = count_runs(&bytes, open, is_ascii_letter);
                assert_eq!(quick, slow(&bytes, open), "{len} bytes");
            }
        }
        // All of one class: the lanes' counts are at their largest.
        let letters = [b'x'; 10_000];
        let all = count_runs(&letters, false, is_ascii_letter);
        assert_eq!(all, Runs { inside: 10_000, starts: 1, open: true });
    }

    #[test]
    fn letters_are_letters() {
        assert!((0..=u8::MAX).all(|byte| is_ascii_letter(byte) == byte.is_ascii_alphabetic()));
    }

    #[test]
    fn the_prefix_ends_at_the_first_other_byte() {
        for len in 0..50 {
            let mut bytes = vec![b'~'; len];
            assert_eq!(ascii_prefix(&bytes), len);
            for at in 0..len {
                bytes[at] = 0x80;
                assert_eq!(ascii_prefix(&bytes), at);
                bytes[at] = b'~';
            }
        }
    }
}
