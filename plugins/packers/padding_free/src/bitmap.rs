//! A set of small numbers that answers "the largest up to" and "the smallest from" in a few steps.

/// Numbers up to a maximum: a bit each, and a bit for every word that is not zero.
pub struct Bitmap {
    words: Vec<u64>,
    /// Bit w says that `words[w]` is not zero.
    summary: Vec<u64>,
}

impl Bitmap {
    /// For values up to and with `max`.
    pub fn new(max: u32) -> Self {
        let words = max as usize / 64 + 1;
        Self { words: vec![0; words], summary: vec![0; words.div_ceil(64)] }
    }

    /// Adds a value.
    #[inline(always)]
    pub fn insert(&mut self, value: u32) {
        let word = value as usize / 64;
        self.words[word] |= 1 << (value % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }

    /// Takes a value out.
    pub fn remove(&mut self, value: u32) {
        self.view().remove(value);
    }

    /// The largest value that is not above `bound`.
    pub fn largest_up_to(&self, bound: u32) -> Option<u32> {
        largest_up_to(&self.words, &self.summary, bound)
    }

    /// Its memory, for a loop that changes other memory too.
    #[inline(always)]
    pub fn view(&mut self) -> View<'_> {
        View { words: &mut self.words, summary: &mut self.summary }
    }

    /// The smallest value that is not below `bound`.
    pub fn smallest_from(&self, bound: u32) -> Option<u32> {
        let from = |bit: usize| u64::MAX << bit;
        let word = bound as usize / 64;
        let here = self.words.get(word)? & from(bound as usize % 64);
        if here != 0 {
            return Some((word * 64) as u32 + here.trailing_zeros());
        }
        let above = word + 1;
        let first = self.summary.get(above / 64)? & from(above % 64);
        let masks = std::iter::once((above / 64, first))
            .chain((above / 64 + 1..).zip(self.summary[above / 64 + 1..].iter().copied()));
        let (at, mask) = masks.into_iter().find(|&(_, mask)| mask != 0)?;
        let word = at * 64 + mask.trailing_zeros() as usize;
        Some((word * 64) as u32 + self.words[word].trailing_zeros())
    }
}

/// A borrowed [`Bitmap`].
pub struct View<'a> {
    words: &'a mut [u64],
    summary: &'a mut [u64],
}

impl View<'_> {
    /// Takes a value out.
    #[inline(always)]
    pub fn remove(&mut self, value: u32) {
        let word = value as usize / 64;
        self.words[word] &= !(1 << (value % 64));
        if self.words[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
    }

    /// The largest value that is not above `bound`.
    #[inline(always)]
    pub fn largest_up_to(&self, bound: u32) -> Option<u32> {
        largest_up_to(self.words, self.summary, bound)
    }
}

#[inline(always)]
fn largest_up_to(words: &[u64], summary: &[u64], bound: u32) -> Option<u32> {
    let upto = |bit: usize| u64::MAX >> (63 - bit);
    let word = bound as usize / 64;
    let here = words[word] & upto(bound as usize % 64);
    if here != 0 {
        return Some((word * 64) as u32 + here.ilog2());
    }
    // Words below `word`, found through the summary.
    let below = word.checked_sub(1)?;
    let mut at = below / 64;
    let mut mask = summary[at] & upto(below % 64);
    while mask == 0 {
        at = at.checked_sub(1)?;
        mask = summary[at];
    }
    let word = at * 64 + mask.ilog2() as usize;
    Some((word * 64) as u32 + words[word].ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::Rng;

    #[test]
    fn it_finds_what_a_sorted_set_finds() {
        for max in [0, 63, 64, 4095, 20_000] {
            let (mut bitmap, mut set) = (Bitmap::new(max), std::collections::BTreeSet::new());
            let mut rng = Rng::new(1);
            for _ in 0..20_000 {
                let value = rng.below(u64::from(max) + 1) as u32;
                // Sparse: long stretches without a value exercise the summary.
                if set.len() > 40 || rng.below(2) == 0 {
                    if let Some(&old) = set.range(..=value).next_back() {
                        set.remove(&old);
                        bitmap.remove(old);
                    }
                } else {
                    set.insert(value);
                    bitmap.insert(value);
                }
                let bound = rng.below(u64::from(max) + 1) as u32;
                assert_eq!(bitmap.largest_up_to(bound), set.range(..=bound).next_back().copied());
                assert_eq!(bitmap.smallest_from(bound), set.range(bound..).next().copied());
            }
        }
    }
}
