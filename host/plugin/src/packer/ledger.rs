//! The host's own list of the samples that are in a packer: id to length.
//!
//! ```text
//!  ids of a stream nearly ascend:   base … │ front    front+1   front+2  …
//!  window                           left   │ [ 700 ]  [ left ]   [ 36 ]  …     one word per id: an index, no hash
//!  open                                    │    1         0         1            a bit per id
//!  sparse                           ids far from the window, and stragglers that would keep it long
//! ```

use rustc_hash::FxHashMap;

/// No sample. A length as large as this is kept in the map instead.
const VACANT: u32 = u32::MAX;
/// The window may be this long, or this many times as long as it has samples.
const FREE_SPAN: usize = 1 << 12;
const SPAN_PER_SAMPLE: usize = 16;

/// Lengths of the open samples. A few nanoseconds an operation where ids nearly ascend, and some hundred where they leap.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Id of `window[0]`. It wraps, so that a window may lie at the very end of the ids.
    base: u64,
    /// Lengths. Those of samples that left stay: a write to each would bring all of this memory back and forth once more.
    window: Vec<u32>,
    /// A bit for each place in the window whose sample is open; the last word's bits past the end are not set.
    open: Vec<u64>,
    /// The window begins here: with a sample, if it has any. What is before it has left, and is cut off now and then.
    front: usize,
    in_window: usize,
    sparse: FxHashMap<u64, u32>,
}

impl Ledger {
    /// Number of open samples.
    pub(super) fn len(&self) -> usize {
        self.in_window + self.sparse.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Ledger::default();
    }

    /// Where `id` is in `window`, or would be if it went on. Ids below the base wrap round to places past every end.
    #[inline]
    fn place(&self, id: u64) -> usize {
        usize::try_from(id.wrapping_sub(self.base)).unwrap_or(usize::MAX)
    }

    fn is_open(&self, place: usize) -> bool {
        self.open.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    fn span_allowed(&self) -> usize {
        FREE_SPAN.max(SPAN_PER_SAMPLE * self.in_window)
    }

    /// Enters a sample; false, and nothing changes, if its id is open already.
    #[inline]
    pub(super) fn insert(&mut self, id: u64, length: u32) -> bool {
        // The id that comes next: nearly all of them.
        let next = self.place(id) == self.window.len() && self.window.len() - self.front < self.span_allowed();
        if next && length != VACANT && self.sparse.is_empty() {
            self.append(&[length]);
            return true;
        }
        self.insert_any(id, length)
    }

    /// Enters samples whose ids follow `first` and each other; false, and nothing changes, if they do not follow the window.
    pub(super) fn insert_run(&mut self, first: u64, lengths: &[u32]) -> bool {
        let follows = self.place(first) == self.window.len() && self.sparse.is_empty();
        // A search would stop at the first, and so look at one after the other.
        let vacant = lengths.iter().fold(false, |any, length| any | (*length == VACANT));
        if !follows || self.window.len() - self.front > self.span_allowed() || vacant {
            return false;
        }
        self.append(lengths);
        true
    }

    /// Adds samples at the window's end.
    fn append(&mut self, lengths: &[u32]) {
        let (mut from, to) = (self.window.len(), self.window.len() + lengths.len());
        self.window.extend_from_slice(lengths);
        self.open.resize(to.div_ceil(64), 0);
        while from < to {
            let count = (64 - from % 64).min(to - from);
            self.open[from / 64] |= u64::MAX >> (64 - count) << (from % 64);
            from += count;
        }
        self.in_window += lengths.len();
    }

    #[cold]
    fn insert_any(&mut self, id: u64, length: u32) -> bool {
        if self.sparse.contains_key(&id) {
            return false;
        }
        if self.in_window == 0 {
            self.begin(id);
        }
        let place = self.place(id);
        if self.is_open(place) {
            return false;
        }
        if length == VACANT || place < self.front || (place >= self.window.len() && id < self.base) {
            self.sparse.insert(id, length);
        } else if let Some(slot) = self.window.get_mut(place) {
            *slot = length;
            self.open[place / 64] |= 1 << (place % 64);
            self.in_window += 1;
        } else {
            self.make_room(id);
            self.window.resize(self.place(id), 0);
            self.append(&[length]);
        }
        true
    }

    /// An empty window, whose first place is that of `id`.
    fn begin(&mut self, id: u64) {
        (self.base, self.front) = (id, 0);
        self.window.clear();
        self.open.clear();
    }

    /// Moves samples off the front until a window that reaches `id` is no longer than it may be.
    fn make_room(&mut self, id: u64) {
        while self.in_window > 0 && self.place(id) - self.front >= self.span_allowed() {
            self.sparse.insert(self.base.wrapping_add(self.front as u64), self.window[self.front]);
            self.open[self.front / 64] &= !(1 << (self.front % 64));
            self.in_window -= 1;
            self.trim();
        }
        if self.in_window == 0 {
            self.begin(id);
        }
    }

    /// Advances the front to a sample.
    #[inline]
    fn trim(&mut self) {
        while self.front < self.window.len() {
            let rest = self.open[self.front / 64] >> (self.front % 64);
            if rest != 0 {
                self.front += rest.trailing_zeros() as usize;
                break;
            }
            self.front = self.window.len().min((self.front | 63) + 1);
        }
        if self.front > FREE_SPAN && self.front > self.window.len() / 2 {
            // Whole words of `open`.
            let gone = self.front / 64;
            self.window.drain(..gone * 64);
            self.open.drain(..gone);
            self.base = self.base.wrapping_add(gone as u64 * 64);
            self.front -= gone * 64;
        }
    }

    /// Strikes a sample off; none if it is not open.
    #[inline]
    pub(super) fn remove(&mut self, id: u64) -> Option<u32> {
        let place = self.place(id);
        if !self.is_open(place) {
            return self.sparse.remove(&id);
        }
        self.open[place / 64] &= !(1 << (place % 64));
        self.in_window -= 1;
        if place == self.front {
            self.trim();
        }
        Some(self.window[place])
    }

    /// Strikes samples off and puts their lengths into `lengths`. The error is the first that is not open; which of the
    /// others have left then is not said.
    ///
    /// Short loops, as they wait for memory: the less there is in a step, the more of them wait at once.
    pub(super) fn remove_all(&mut self, ids: &[u64], lengths: &mut Vec<u32>) -> Result<(), u64> {
        let (base, window) = (self.base, self.window.as_slice());
        let open = &mut self.open[..window.len().div_ceil(64)];
        lengths.clear();
        lengths.extend(ids.iter().map(|id| {
            let place = usize::try_from(id.wrapping_sub(base)).unwrap_or(usize::MAX);
            let Some(&length) = window.get(place) else { return VACANT };
            let (word, bit) = (&mut open[place / 64], 1 << (place % 64));
            let there = *word & bit != 0;
            *word &= !bit;
            if there { length } else { VACANT }
        }));
        let elsewhere = lengths.iter().map(|length| usize::from(*length == VACANT)).sum::<usize>();
        self.in_window -= ids.len() - elsewhere;
        if elsewhere > 0 {
            for (id, length) in ids.iter().zip(lengths).filter(|(_, length)| **length == VACANT) {
                *length = self.sparse.remove(id).ok_or(*id)?;
            }
        }
        self.trim();
        Ok(())
    }

    /// Ids and lengths in order of the ids.
    pub(super) fn sorted(&self) -> Vec<(u64, u32)> {
        let window = self.window.iter().enumerate().filter(|(place, _)| self.is_open(*place));
        let id = |place: usize| self.base.wrapping_add(place as u64);
        let mut all: Vec<(u64, u32)> = window.map(|(place, length)| (id(place), *length)).collect();
        all.extend(self.sparse.iter().map(|(id, length)| (*id, *length)));
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = u64> {
        prop_oneof![
            8 => 0..200_u64,
            2 => 1_000_000..1_000_100_u64,
            1 => prop::sample::select(vec![u64::MAX, u64::MAX - 1, 1 << 63, FREE_SPAN as u64, FREE_SPAN as u64 + 1]),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map_whatever_the_ids(
            steps in prop::collection::vec((any::<bool>(), id(), prop::sample::select(vec![0, 1, 7, VACANT])), 0..400),
        ) {
            let (mut ledger, mut map) = (Ledger::default(), BTreeMap::new());
            for (enter, id, length) in steps {
                if enter && length == 1 {
                    // Runs are entered whole or not at all.
                    let fresh = (0..5).all(|i| !map.contains_key(&id.wrapping_add(i)));
                    if ledger.insert_run(id, &[1, 2, 3, 4, 5]) {
                        prop_assert!(fresh);
                        map.extend((0..5).map(|i| (id.wrapping_add(i), i as u32 + 1)));
                    }
                } else if enter {
                    let new = !map.contains_key(&id);
                    prop_assert_eq!(ledger.insert(id, length), new);
                    map.entry(id).or_insert(length);
                } else if length == 0 {
                    prop_assert_eq!(ledger.remove(id), map.remove(&id));
                } else {
                    let ids = [id ^ 2, id ^ 4, id ^ 8, id ^ 16];
                    let open: Vec<u64> = ids.iter().copied().filter(|id| map.contains_key(id)).collect();
                    let mut lengths = Vec::new();
                    prop_assert_eq!(ledger.remove_all(&open, &mut lengths), Ok(()));
                    prop_assert!(open.iter().map(|id| map.remove(id)).eq(lengths.iter().copied().map(Some)));
                }
                prop_assert_eq!(ledger.len(), map.len());
                prop_assert_eq!(ledger.is_empty(), map.is_empty());
            }
            prop_assert_eq!(ledger.sorted(), map.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_that_is_not_open_is_named() {
        let mut ledger = Ledger::default();
        (0..4).for_each(|id| assert!(ledger.insert(id, 1)));
        assert!(ledger.insert(1 << 40, 2));
        let mut lengths = Vec::new();
        assert_eq!(ledger.remove_all(&[1 << 40, 3], &mut lengths), Ok(()));
        assert_eq!(lengths, [2, 1]);
        assert_eq!(ledger.remove_all(&[0, 9, 7, 1], &mut lengths), Err(9));
        assert_eq!(ledger.remove_all(&[2, 2], &mut lengths), Err(2), "twice");
    }

    #[test]
    fn a_straggler_does_not_make_the_window_long() {
        let mut ledger = Ledger::default();
        ledger.insert(0, 5);
        for id in 1..1_000_000 {
            ledger.insert(id, 1);
            ledger.remove(id);
        }
        assert!(ledger.window.capacity() <= 4 * FREE_SPAN, "{}", ledger.window.capacity());
        assert_eq!((ledger.len(), ledger.remove(0)), (1, Some(5)));
        // Neither do leaps.
        for i in 1..1000_u64 {
            ledger.insert(i << 40, 1);
        }
        assert!(ledger.window.capacity() <= 4 * FREE_SPAN);
        assert_eq!(ledger.len(), 999);
    }
}
