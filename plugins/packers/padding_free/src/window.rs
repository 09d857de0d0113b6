//! The open samples of a packer: items in, "the oldest" and "the longest that fits" out, both in constant time.
//!
//! ```text
//!  slots      [ b:36 ][ free ][ a:700 ][ d:700 ] …      as many as were ever open at once; reused, so they stay in cache
//!  by length  700 → a → d      36 → b                   a queue per length, linked through the slots
//!  bitmap     …0010…0001…                               which lengths have a queue
//!  arrivals   2:700  1:700  0:36  3:700 …  1011…        by number: slot and length, and a bit for those still open
//! ```
//! Samples of one length leave in order of arrival, so the order of everything is fixed by the order of arrival alone.

use ovhost_sdk::Item;

use crate::bitmap::Bitmap;

/// No slot.
const NONE: u32 = u32::MAX;

/// Sixteen bytes, four to a cache line.
struct Slot {
    id: u64,
    /// Low bits of the number of the sample's arrival.
    number: u32,
    /// The next sample of the same length; of a free slot, the next free one.
    next: u32,
}

/// Samples by the number of their arrival, in a ring.
struct Arrivals {
    /// Slot and length, at the number modulo the size, which is a power of two and a multiple of 64.
    entries: Vec<(u32, u32)>,
    /// A bit for each entry whose sample is open.
    open: Vec<u64>,
    /// Every sample before has left.
    first: u64,
    /// The next sample's number.
    next: u64,
}

impl Arrivals {
    fn new() -> Self {
        Self { entries: vec![(NONE, 0); 64], open: vec![0], first: 0, next: 0 }
    }

    #[inline(always)]
    fn push(&mut self, slot: u32, length: u32) -> u32 {
        if self.next - self.first == self.entries.len() as u64 {
            self.grow();
        }
        let number = self.next as u32;
        let at = number as usize & (self.entries.len() - 1);
        self.entries[at] = (slot, length);
        self.open[at / 64] |= 1 << (at % 64);
        self.next += 1;
        number
    }

    #[cold]
    fn grow(&mut self) {
        self.skip();
        let (old, new) = (self.entries.len(), self.entries.len() * 2);
        let mut entries = vec![(NONE, 0); new];
        let mut open = vec![0_u64; new / 64];
        for number in self.first..self.next {
            let (from, to) = (number as usize & (old - 1), number as usize & (new - 1));
            entries[to] = self.entries[from];
            open[to / 64] |= (self.open[from / 64] >> (from % 64) & 1) << (to % 64);
        }
        (self.entries, self.open) = (entries, open);
    }

    /// Advances `first` to an open sample, if there is one.
    #[inline(always)]
    fn skip(&mut self) {
        while self.first < self.next {
            let at = self.first as usize & (self.entries.len() - 1);
            let rest = self.open[at / 64] >> (at % 64);
            if rest != 0 {
                self.first += u64::from(rest.trailing_zeros());
                return;
            }
            self.first += 64 - (at % 64) as u64;
        }
        self.first = self.next;
    }
}

/// Open samples.
pub struct Window {
    slots: Vec<Slot>,
    free: u32,
    arrivals: Arrivals,
    /// Per length: the first and the last slot of its queue.
    queues: Vec<(u32, u32)>,
    lengths: Bitmap,
    open: usize,
}

impl Window {
    /// An empty window for lengths up to and with `capacity`.
    pub fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            arrivals: Arrivals::new(),
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
        let Arrivals { entries, open, first, next } = &self.arrivals;
        let places = (*first..*next).map(|number| number as usize & (entries.len() - 1));
        let open = places.filter(|at| open[at / 64] >> (at % 64) & 1 == 1).map(|at| entries[at]);
        open.map(|(slot, length)| Item { id: self.slots[slot as usize].id, length, patches: 0 })
    }

    /// Adds a sample, whose length must not be above the capacity.
    #[inline(always)]
    pub fn insert(&mut self, id: u64, length: u32) {
        let slot = if self.free == NONE { self.slots.len() as u32 } else { self.free };
        let number = self.arrivals.push(slot, length);
        match self.slots.get_mut(slot as usize) {
            Some(place) => {
                self.free = place.next;
                *place = Slot { id, number, next: NONE };
            }
            None => self.slots.push(Slot { id, number, next: NONE }),
        }
        let queue = &mut self.queues[length as usize];
        if queue.0 == NONE {
            *queue = (slot, slot);
            self.lengths.insert(length);
        } else {
            self.slots[queue.1 as usize].next = slot;
            queue.1 = slot;
        }
        self.open += 1;
    }

    /// Length of the sample that has been open longest.
    #[inline(always)]
    pub fn oldest(&mut self) -> Option<u32> {
        self.arrivals.skip();
        let Arrivals { entries, first, next, .. } = &self.arrivals;
        (first < next).then(|| entries[*first as usize & (entries.len() - 1)].1)
    }

    /// The longest open length.
    pub fn longest(&self) -> Option<u32> {
        self.lengths.largest_up_to(self.queues.len() as u32 - 1)
    }

    /// Takes the oldest sample of length `first`, which there must be, and then again and again the oldest of the longest
    /// that fit into the `room` that is left, until there are `most`. They are put into `taken`, to be sorted into the order
    /// of their arrival and shown to [`Self::id`].
    #[inline(always)]
    pub fn take(&mut self, first: u32, mut room: u32, most: usize, taken: &mut Vec<u64>) {
        // Slices, so that the loop need not ask the vectors for their memory again after each write.
        let (slots, queues) = (self.slots.as_mut_slice(), self.queues.as_mut_slice());
        let (open, mask) = (self.arrivals.open.as_mut_slice(), self.arrivals.entries.len() - 1);
        let (mut lengths, since) = (self.lengths.view(), self.arrivals.first as u32);
        let mut length = first;
        loop {
            let queue = &mut queues[length as usize];
            let at = queue.0;
            let slot = &mut slots[at as usize];
            let (number, next) = (slot.number, slot.next);
            queue.0 = next;
            if next == NONE {
                lengths.remove(length);
            }
            slot.next = self.free;
            self.free = at;
            open[(number as usize & mask) / 64] &= !(1 << (number % 64));
            // Numbers since the oldest are fewer than 2³² apart, so their distance from it orders them.
            taken.push(u64::from(number.wrapping_sub(since)) << 32 | u64::from(at));
            room -= length;
            if taken.len() == most {
                break;
            }
            match lengths.largest_up_to(room) {
                Some(longest) => length = longest,
                None => break,
            }
        }
        self.open -= taken.len();
    }

    /// Id of a sample that was taken after the last `insert`.
    #[inline(always)]
    pub fn id(&self, taken: u64) -> u64 {
        self.slots[taken as u32 as usize].id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(window: &mut Window, length: u32, room: u32, most: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        window.take(length, room, most, &mut taken);
        taken.sort_unstable();
        taken.iter().map(|&taken| window.id(taken)).collect()
    }

    #[test]
    fn equal_lengths_leave_in_order_of_arrival() {
        let mut window = Window::new(10);
        for (id, length) in [(7, 3), (8, 5), (9, 3), (6, 3)] {
            window.insert(id, length);
        }
        assert_eq!((window.oldest(), window.longest(), window.len()), (Some(3), Some(5), 4));
        assert_eq!(take(&mut window, 3, 10, 9), [7, 8]);
        assert_eq!(window.items().map(|item| (item.id, item.length)).collect::<Vec<_>>(), [(9, 3), (6, 3)]);
        assert_eq!(take(&mut window, 3, 10, 1), [9]);
        assert_eq!(take(&mut window, 3, 10, 9), [6]);
        assert_eq!((window.len(), window.oldest(), window.longest()), (0, None, None));
    }

    #[test]
    fn slots_are_used_again_and_a_straggler_stays_the_oldest() {
        let mut window = Window::new(10);
        window.insert(0, 1);
        for id in 1..1000 {
            window.insert(id, 2 + (id % 3) as u32);
            let longest = window.longest().unwrap();
            assert_eq!(take(&mut window, longest, longest, 1), [id]);
            assert_eq!(window.oldest(), Some(1));
        }
        assert_eq!((window.slots.len(), window.arrivals.entries.len(), window.len()), (2, 1024, 1));
        assert_eq!(window.items().map(|item| item.id).collect::<Vec<_>>(), [0]);
        assert_eq!(take(&mut window, 1, 10, 9), [0]);
        assert_eq!(window.oldest(), None);
        window.insert(5, 4);
        assert_eq!(window.oldest(), Some(4));
        assert_eq!(window.items().map(|item| item.id).collect::<Vec<_>>(), [5]);
    }
}
