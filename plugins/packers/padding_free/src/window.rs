//! The open samples of a packer: items in, "the oldest" and "the longest that fits" out, both in constant time.
//!
//! ```text
//!  arrivals   [ a:700 ][ b:36 ][ taken ][ d:700 ] …      a deque in order of arrival; `first` is its front's number
//!  by length  700 → a → d      36 → b                    a queue per length, linked through the deque
//!  bitmap     …0010…0001…                                which lengths have a queue; words, and a word per 64 words
//! ```
//! Samples of one length leave in order of arrival, so the order of everything is fixed by the order of arrival alone.

use std::collections::VecDeque;

use ovhost_sdk::Item;

/// No sample.
const NONE: u64 = u64::MAX;

/// Sixteen bytes, since the deque is walked all over.
struct Arrival {
    id: u64,
    /// `TAKEN` when the sample has left.
    length: u32,
    /// How many arrivals later the next sample of the same length came; 0 if none has.
    next: u32,
}

/// Above every capacity.
const TAKEN: u32 = u32::MAX;

/// Which lengths have a sample.
struct Bitmap {
    words: Vec<u64>,
    /// Bit w says that `words[w]` is not zero.
    summary: Vec<u64>,
}

impl Bitmap {
    /// For values up to and with `max`.
    fn new(max: u32) -> Self {
        let words = max as usize / 64 + 1;
        Self { words: vec![0; words], summary: vec![0; words.div_ceil(64)] }
    }

    fn insert(&mut self, value: u32) {
        let word = value as usize / 64;
        self.words[word] |= 1 << (value % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }

    fn remove(&mut self, value: u32) {
        let word = value as usize / 64;
        self.words[word] &= !(1 << (value % 64));
        if self.words[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
    }

    /// The largest value that is not above `bound`.
    fn largest_up_to(&self, bound: u32) -> Option<u32> {
        let upto = |bit: usize| u64::MAX >> (63 - bit);
        let word = bound as usize / 64;
        let here = self.words[word] & upto(bound as usize % 64);
        if here != 0 {
            return Some((word * 64) as u32 + here.ilog2());
        }
        // Words below `word`, found through the summary.
        let below = word.checked_sub(1)?;
        let first = self.summary[below / 64] & upto(below % 64);
        let masks = std::iter::once((below / 64, first));
        let masks = masks.chain((0..below / 64).rev().map(|i| (i, self.summary[i])));
        let (at, mask) = masks.into_iter().find(|&(_, mask)| mask != 0)?;
        let word = at * 64 + mask.ilog2() as usize;
        Some((word * 64) as u32 + self.words[word].ilog2())
    }
}

/// Open samples.
pub struct Window {
    arrivals: VecDeque<Arrival>,
    /// Number of the sample at the front of `arrivals`.
    first: u64,
    /// Per length: numbers of the first and last sample in its queue.
    queues: Vec<(u64, u64)>,
    lengths: Bitmap,
    open: usize,
}

impl Window {
    /// An empty window for lengths up to and with `capacity`.
    pub fn new(capacity: u32) -> Self {
        Self {
            arrivals: VecDeque::new(),
            first: 0,
            queues: vec![(NONE, NONE); capacity as usize + 1],
            lengths: Bitmap::new(capacity),
            open: 0,
        }
    }

    /// Number of open samples.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Open samples in order of arrival.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let open = self.arrivals.iter().filter(|arrival| arrival.length != TAKEN);
        open.map(|arrival| Item { id: arrival.id, length: arrival.length, patches: 0 })
    }

    /// Adds a sample, whose length must not be above the capacity.
    pub fn insert(&mut self, item: Item) {
        let number = self.first + self.arrivals.len() as u64;
        self.arrivals.push_back(Arrival { id: item.id, length: item.length, next: 0 });
        let (head, tail) = self.queues[item.length as usize];
        if head == NONE {
            self.queues[item.length as usize] = (number, number);
            self.lengths.insert(item.length);
        } else {
            self.arrivals[(tail - self.first) as usize].next = (number - tail) as u32;
            self.queues[item.length as usize].1 = number;
        }
        self.open += 1;
    }

    /// Length of the sample that has been open longest.
    pub fn oldest(&self) -> Option<u32> {
        // The front is never a taken one: `take` sees to it.
        self.arrivals.front().map(|arrival| arrival.length)
    }

    /// The longest length not above `room`.
    pub fn longest_up_to(&self, room: u32) -> Option<u32> {
        self.lengths.largest_up_to(room)
    }

    /// Takes the oldest sample of `length`, which there must be; gives its number and id.
    pub fn take(&mut self, length: u32) -> (u64, u64) {
        let queue = &mut self.queues[length as usize];
        let number = queue.0;
        let arrival = &mut self.arrivals[(number - self.first) as usize];
        arrival.length = TAKEN;
        let id = arrival.id;
        if arrival.next == 0 {
            queue.0 = NONE;
            self.lengths.remove(length);
        } else {
            queue.0 = number + u64::from(arrival.next);
        }
        self.open -= 1;
        while self.arrivals.front().is_some_and(|arrival| arrival.length == TAKEN) {
            self.arrivals.pop_front();
            self.first += 1;
        }
        (number, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::Rng;

    #[test]
    fn the_bitmap_finds_what_a_sorted_set_finds() {
        let max = 20_000;
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
        }
    }

    #[test]
    fn equal_lengths_leave_in_order_of_arrival() {
        let mut window = Window::new(10);
        for (id, length) in [(7, 3), (8, 5), (9, 3), (6, 3)] {
            window.insert(Item { id, length, patches: 0 });
        }
        assert_eq!((window.oldest(), window.longest_up_to(10), window.longest_up_to(4)), (Some(3), Some(5), Some(3)));
        assert_eq!([window.take(3), window.take(3), window.take(5), window.take(3)], [(0, 7), (2, 9), (1, 8), (3, 6)]);
        assert_eq!((window.len(), window.oldest(), window.longest_up_to(10)), (0, None, None));
    }
}
