//! The host's own list of the samples that are in a packer: id to length.
//!
//! ```text
//!  ids of a stream nearly ascend:   base … │ front    front+1   front+2  …
//!  window                           left   │ [ 700 ]  [ vacant ] [ 36 ]  …     one word per id: an index, no hash
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
    window: Vec<u32>,
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

    fn span_allowed(&self) -> usize {
        FREE_SPAN.max(SPAN_PER_SAMPLE * self.in_window)
    }

    /// Enters a sample; false, and nothing changes, if its id is open already.
    #[inline]
    pub(super) fn insert(&mut self, id: u64, length: u32) -> bool {
        // The id that comes next: nearly all of them.
        let next = self.place(id) == self.window.len() && self.window.len() - self.front < self.span_allowed();
        if next && length != VACANT && self.sparse.is_empty() {
            self.window.push(length);
            self.in_window += 1;
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
        self.window.extend_from_slice(lengths);
        self.in_window += lengths.len();
        true
    }

    #[cold]
    fn insert_any(&mut self, id: u64, length: u32) -> bool {
        if self.sparse.contains_key(&id) {
            return false;
        }
        if self.in_window == 0 {
            (self.base, self.front) = (id, 0);
            self.window.clear();
        }
        let place = self.place(id);
        match self.window.get_mut(place) {
            Some(slot) if *slot != VACANT => return false,
            Some(slot) if place >= self.front && length != VACANT => {
                *slot = length;
                self.in_window += 1;
            }
            None if length != VACANT && id >= self.base => {
                self.make_room(id);
                self.window.resize(self.place(id), VACANT);
                self.window.push(length);
                self.in_window += 1;
            }
            _ => {
                self.sparse.insert(id, length);
            }
        }
        true
    }

    /// Moves samples off the front until a window that reaches `id` is no longer than it may be.
    fn make_room(&mut self, id: u64) {
        while self.in_window > 0 && self.place(id) - self.front >= self.span_allowed() {
            self.sparse.insert(self.base.wrapping_add(self.front as u64), self.window[self.front]);
            self.window[self.front] = VACANT;
            self.in_window -= 1;
            self.trim();
        }
        if self.in_window == 0 {
            self.window.clear();
            (self.base, self.front) = (id, 0);
        }
    }

    /// Advances the front to a sample.
    #[inline]
    fn trim(&mut self) {
        while self.front < self.window.len() && self.window[self.front] == VACANT {
            self.front += 1;
        }
        if self.front > FREE_SPAN && self.front > self.window.len() / 2 {
            self.window.drain(..self.front);
            self.base = self.base.wrapping_add(self.front as u64);
            self.front = 0;
        }
    }

    /// Strikes a sample off; none if it is not open.
    #[inline]
    pub(super) fn remove(&mut self, id: u64) -> Option<u32> {
        let place = self.place(id);
        if let Some(slot) = self.window.get_mut(place)
            && *slot != VACANT
        {
            let length = std::mem::replace(slot, VACANT);
            self.in_window -= 1;
            if place == self.front {
                self.trim();
            }
            return Some(length);
        }
        self.sparse.remove(&id)
    }

    /// To strike many samples off, one by one.
    pub(super) fn striking(&mut self) -> Striking<'_> {
        Striking { struck: 0, ledger: self }
    }

    /// Ids and lengths in order of the ids.
    pub(super) fn sorted(&self) -> Vec<(u64, u32)> {
        let window = self.window.iter().zip(0..).filter(|(length, _)| **length != VACANT);
        let mut all: Vec<(u64, u32)> = window.map(|(length, place)| (self.base.wrapping_add(place), *length)).collect();
        all.extend(self.sparse.iter().map(|(id, length)| (*id, *length)));
        all.sort_unstable();
        all
    }
}

/// A ledger that many samples are struck off.
pub(super) struct Striking<'a> {
    ledger: &'a mut Ledger,
    /// Of the window; it is told at the end.
    struck: usize,
}

impl Striking<'_> {
    /// Strikes a sample off; none if it is not open.
    #[inline(always)]
    pub(super) fn remove(&mut self, id: u64) -> Option<u32> {
        let place = self.ledger.place(id);
        let length = self.ledger.window.get_mut(place).map_or(VACANT, |slot| std::mem::replace(slot, VACANT));
        if length == VACANT {
            return self.ledger.sparse.remove(&id);
        }
        self.struck += 1;
        Some(length)
    }
}

impl Drop for Striking<'_> {
    fn drop(&mut self) {
        self.ledger.in_window -= self.struck;
        self.ledger.trim();
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
                    let mut striking = ledger.striking();
                    for id in [id, id ^ 1, id] {
                        prop_assert_eq!(striking.remove(id), map.remove(&id));
                    }
                }
                prop_assert_eq!(ledger.len(), map.len());
                prop_assert_eq!(ledger.is_empty(), map.is_empty());
            }
            prop_assert_eq!(ledger.sorted(), map.into_iter().collect::<Vec<_>>());
        }
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
