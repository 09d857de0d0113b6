//! What filters that drop repeats remember: a set of hashes in steady memory, and ascending numbers as small bytes.
//!
//! ```text
//!  hash ─► top 16 bits: a bucket │ the rest: its place in the bucket's sorted list
//!  save: rules │ count │ gaps between the hashes in ascending order, 7 bits a byte
//! ```
//! A table that doubles would need three times its size at that moment, and WebAssembly memory never shrinks. Here every
//! bucket grows by an eighth when it is full, so the set takes what its hashes take and little more.

use crate::plugin::{ErrorKind, PluginError, error};

/// Bits of a hash that choose its bucket.
pub const BUCKET_BITS: u32 = 16;

const MAGIC: &[u8; 8] = b"OVSEEN\0\x01";

/// What is stored of a hash.
pub trait Tag: Copy + Ord {
    /// Bits of a whole hash.
    const WIDTH: u32;
    /// The stored part of `hash`, a number of `WIDTH` bits.
    fn of(hash: u128) -> Self;
    /// The hash of that part in `bucket`.
    fn whole(self, bucket: usize) -> u128;
}

/// 4 bytes a hash: 48 bits of it count.
impl Tag for u32 {
    const WIDTH: u32 = BUCKET_BITS + 32;

    fn of(hash: u128) -> Self {
        hash as u32
    }

    fn whole(self, bucket: usize) -> u128 {
        (bucket as u128) << 32 | u128::from(self)
    }
}

/// 16 bytes a hash: all of it counts.
impl Tag for u128 {
    const WIDTH: u32 = 128;

    fn of(hash: u128) -> Self {
        hash
    }

    fn whole(self, _bucket: usize) -> u128 {
        self
    }
}

/// A set of hashes, whose bits must be even (a good hash function's are).
///
/// ```
/// use ovhost_sdk::seen::Seen;
///
/// let mut seen = Seen::<u128>::new();
/// assert!(seen.insert(1 << 100) && !seen.insert(1 << 100));
/// let bytes = seen.save("texts, case ignored");
/// assert!(Seen::<u128>::restore("texts, case ignored", &bytes).unwrap().contains(1 << 100));
/// assert!(Seen::<u128>::restore("texts as they are", &bytes).unwrap_err().message.contains("case ignored"));
/// ```
#[derive(Clone, Debug)]
pub struct Seen<T> {
    buckets: Vec<Vec<T>>,
    len: usize,
}

impl<T: Tag> Default for Seen<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Tag> Seen<T> {
    /// An empty set.
    pub fn new() -> Self {
        Self { buckets: (0..1 << BUCKET_BITS).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Number of hashes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no hash.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `hash` is in the set.
    pub fn contains(&self, hash: u128) -> bool {
        self.buckets[bucket::<T>(hash)].binary_search(&T::of(hash)).is_ok()
    }

    /// Adds `hash`; says whether it is new.
    pub fn insert(&mut self, hash: u128) -> bool {
        let bucket = &mut self.buckets[bucket::<T>(hash)];
        let Err(at) = bucket.binary_search(&T::of(hash)) else { return false };
        if bucket.len() == bucket.capacity() {
            bucket.reserve_exact(bucket.len() / 8 + 4);
        }
        bucket.insert(at, T::of(hash));
        self.len += 1;
        true
    }

    /// The hashes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u128> {
        self.buckets.iter().enumerate().flat_map(|(at, bucket)| bucket.iter().map(move |tag| tag.whole(at)))
    }

    /// The set as bytes. `rules` says what the hashes are of; see [`save_ascending`].
    pub fn save(&self, rules: &str) -> Vec<u8> {
        save_ascending(rules, self.len, self.iter())
    }

    /// The set that `save` wrote under the same rules.
    ///
    /// # Errors
    /// As [`restore_ascending`].
    pub fn restore(rules: &str, bytes: &[u8]) -> Result<Self, PluginError> {
        let mut set = Self::new();
        restore_ascending(rules, T::WIDTH, bytes, |hash| _ = set.insert(hash))?;
        Ok(set)
    }
}

fn bucket<T: Tag>(hash: u128) -> usize {
    // A caller's stray upper bits must not lead out of the table.
    (hash >> (T::WIDTH - BUCKET_BITS)) as usize & ((1 << BUCKET_BITS) - 1)
}

/// Ascending numbers as bytes: a mark, the length of `rules` and `rules`, the count, then every number as the distance from
/// the one before it, 7 bits a byte, least significant first, the top bit saying that more follow. Lengths and count are
/// little-endian `u32` and `u64`.
///
/// `rules` says what makes the numbers comparable (the entry, and the configuration that they depend on).
pub fn save_ascending(rules: &str, count: usize, numbers: impl Iterator<Item = u128>) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + 12 + rules.len() + count * 4);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(rules.len() as u32).to_le_bytes());
    out.extend_from_slice(rules.as_bytes());
    out.extend_from_slice(&(count as u64).to_le_bytes());
    let mut last = 0;
    for number in numbers {
        let mut gap = number - last;
        last = number;
        while gap > 0x7F {
            out.push(gap as u8 | 0x80);
            gap >>= 7;
        }
        out.push(gap as u8);
        if out.len() == out.capacity() {
            // By an eighth rather than by doubling: the bytes share the guest's memory with what they are of.
            out.reserve_exact(out.len() / 8 + 64);
        }
    }
    out
}

/// Hands the numbers that [`save_ascending`] wrote to `take`, in order.
///
/// # Errors
/// The bytes are damaged, hold a number of more than `width` bits, or were saved under other rules.
pub fn restore_ascending(rules: &str, width: u32, bytes: &[u8], mut take: impl FnMut(u128)) -> Result<(), PluginError> {
    let bad = |message: String| error(ErrorKind::BadInput, message);
    let damaged = || bad("the saved state is damaged or of something else".into());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (saved, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
    if saved != rules.as_bytes() {
        let saved = String::from_utf8_lossy(saved);
        return Err(bad(format!("the saved state is of {saved}, this is {rules}; continue with the same")));
    }
    let (count, mut rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let mut last: Option<u128> = None;
    for _ in 0..u64::from_le_bytes(*count) {
        let (mut gap, mut shift) = (0u128, 0);
        loop {
            let (&byte, tail) = rest.split_first().ok_or_else(damaged)?;
            rest = tail;
            let bits = u128::from(byte & 0x7F);
            if shift >= 128 || bits << shift >> shift != bits {
                return Err(damaged());
            }
            gap |= bits << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let number = match last {
            None => gap,
            Some(_) if gap == 0 => return Err(damaged()),
            Some(last) => last.checked_add(gap).ok_or_else(damaged)?,
        };
        if width < 128 && number >> width != 0 {
            return Err(damaged());
        }
        take(number);
        last = Some(number);
    }
    if rest.is_empty() { Ok(()) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Rng;

    fn hash(rng: &mut Rng, width: u32) -> u128 {
        let hash = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        hash >> (128 - width)
    }

    fn agrees_with_a_plain_set<T: Tag>() {
        let mut rng = Rng::new(3);
        let (mut seen, mut plain) = (Seen::<T>::new(), BTreeSet::new());
        for _ in 0..20_000 {
            // Few high bits, so that buckets hold many and repeats come.
            let hash = hash(&mut rng, T::WIDTH) & !(((1u128 << 12) - 1) << (T::WIDTH - 12)) & !0xFF00;
            let known = plain.iter().nth(rng.below(40) as usize).copied();
            let hash = known.filter(|_| rng.below(3) == 0).unwrap_or(hash);
            assert_eq!(seen.contains(hash), plain.contains(&hash));
            assert_eq!(seen.insert(hash), plain.insert(hash));
        }
        assert_eq!(seen.len(), plain.len());
        assert!(seen.iter().eq(plain.iter().copied()));
        let bytes = seen.save("r");
        let again = Seen::<T>::restore("r", &bytes).unwrap();
        assert!(again.iter().eq(plain) && again.save("r") == bytes);
    }

    #[test]
    fn a_set_holds_what_a_plain_set_holds() {
        agrees_with_a_plain_set::<u32>();
        agrees_with_a_plain_set::<u128>();
    }

    #[test]
    fn saved_bytes_are_small() {
        let mut rng = Rng::new(4);
        let mut seen = Seen::<u32>::new();
        for _ in 0..100_000 {
            seen.insert(hash(&mut rng, 48));
        }
        let bytes = seen.save("").len();
        assert!(bytes < 100_000 * 5, "{bytes}");
    }

    #[test]
    fn ends_and_odd_numbers_come_back() {
        for numbers in [vec![], vec![0], vec![0, 1, 127, 128, 129], vec![u128::MAX], vec![0, u128::MAX - 1, u128::MAX]]
        {
            let bytes = save_ascending("x", numbers.len(), numbers.iter().copied());
            let mut got = Vec::new();
            restore_ascending("x", 128, &bytes, |number| got.push(number)).unwrap();
            assert_eq!(got, numbers);
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = save_ascending("rules", 3, [5u128, 1 << 20, 1 << 47].into_iter());
        let refuse = |bytes: &[u8]| restore_ascending("rules", 48, bytes, |_| ()).unwrap_err().message;
        for end in 0..bytes.len() {
            assert!(refuse(&bytes[..end]).contains("damaged"), "cut at {end}");
        }
        assert!(refuse(&[&bytes[..], b"\0"].concat()).contains("damaged"));
        assert!(restore_ascending("rules", 47, &bytes, |_| ()).unwrap_err().message.contains("damaged"));
        assert!(
            restore_ascending("others", 48, &bytes, |_| ())
                .unwrap_err()
                .message
                .contains("is of rules, this is others")
        );
        let repeated = save_ascending("rules", 2, [5u128, 5].into_iter());
        assert!(refuse(&repeated).contains("damaged"));
        let endless = [&save_ascending("rules", 1, std::iter::empty())[..], &[0xFF; 30]].concat();
        assert!(refuse(&endless).contains("damaged"));
    }
}
