//! The open samples of a packer: items in, "the oldest" and "the longest that fits" out, both in constant time.
//!
//! ```text
//!  slots      [ b:36 ][ free ][ a:700 ][ d:700 ] …      as many as were ever open at once; reused, so they stay in cache
//!  by length  700 → a → d      36 → b                   a queue per length, linked through the slots
//!  bitmap     …0010…0001…                               which lengths have a queue
//!  arrivals   700  700  36  700 …  1011…                by number: length, and a bit for those still open
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
///
/// A short sample stays until it is the oldest, while thousands come and go: those that left would make the ring long. So
/// it does not grow while fewer than half of it are open, but numbers them anew.
struct Arrivals {
    /// Lengths, at the number modulo the size, which is a power of two and a multiple of 64.
    lengths: Vec<u32>,
    /// A bit for each entry whose sample is open.
    open: Vec<u64>,
    /// Every sample before has left.
    first: u64,
    /// The next sample's number.
    next: u64,
}

impl Arrivals {
    fn new() -> Self {
        Self { lengths: vec![0; 64], open: vec![0], first: 0, next: 0 }
    }

    fn is_full(&self) -> bool {
        self.next - self.first == self.lengths.len() as u64
    }

    #[inline(always)]
    fn push(&mut self, length: u32) -> u32 {
        let number = self.next as u32;
        let at = number as usize & (self.lengths.len() - 1);
        self.lengths[at] = length;
        self.open[at / 64] |= 1 << (at % 64);
        self.next += 1;
        number
    }

    /// Whether the sample of a number not before `first` is open.
    fn is_open(&self, number: u64) -> bool {
        let at = number as usize & (self.lengths.len() - 1);
        self.open[at / 64] >> (at % 64) & 1 == 1
    }

    /// Twice the room.
    fn grow(&mut self) {
        let new = self.lengths.len() * 2;
        let (mut lengths, mut open) = (vec![0; new], vec![0_u64; new / 64]);
        for number in self.first..self.next {
            let (from, to) = (number as usize & (self.lengths.len() - 1), number as usize & (new - 1));
            lengths[to] = self.lengths[from];
            open[to / 64] |= u64::from(self.is_open(number)) << (to % 64);
        }
        (self.lengths, self.open) = (lengths, open);
    }

    /// Gives the open samples numbers without gaps, in the same order; `slots` hold their numbers. The ring is full.
    fn close_gaps(&mut self, slots: &mut [Slot]) {
        let mask = self.lengths.len() - 1;
        // By place: how many open samples came before. Those at the ring's beginning may come after those at its end.
        let start = self.first as usize & mask;
        let mut before = vec![0_u32; self.lengths.len()];
        let mut count = 0;
        for at in (start..=mask).chain(0..start) {
            before[at] = count;
            if self.open[at / 64] >> (at % 64) & 1 == 1 {
                // Never past `at`, so nothing is overwritten that is still to be read.
                self.lengths[(start + count as usize) & mask] = self.lengths[at];
                count += 1;
            }
        }
        // Free slots too: what number they have does not matter.
        for slot in slots {
            slot.number = (self.first as u32).wrapping_add(before[slot.number as usize & mask]);
        }
        self.open.fill(0);
        self.next = self.first + u64::from(count);
        for number in self.first..self.next {
            let at = number as usize & mask;
            self.open[at / 64] |= 1 << (at % 64);
        }
    }

    /// Advances `first` to an open sample, if there is one.
    #[inline(always)]
    fn skip(&mut self) {
        while self.first < self.next {
            let at = self.first as usize & (self.lengths.len() - 1);
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
        let mut items: Vec<(u32, Item)> = Vec::with_capacity(self.open);
        for (length, queue) in (0..).zip(&self.queues) {
            let mut at = queue.0;
            while let Some(slot) = self.slots.get(at as usize) {
                let since = slot.number.wrapping_sub(self.arrivals.first as u32);
                items.push((since, Item { id: slot.id, length, patches: 0 }));
                at = slot.next;
            }
        }
        items.sort_unstable_by_key(|(since, _)| *since);
        items.into_iter().map(|(_, item)| item)
    }

    /// Adds a sample, whose length must not be above the capacity.
    #[inline(always)]
    pub fn insert(&mut self, id: u64, length: u32) {
        if self.arrivals.is_full() {
            self.make_room();
        }
        let number = self.arrivals.push(length);
        let slot = if self.free == NONE { self.slots.len() as u32 } else { self.free };
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

    /// Of a full ring of arrivals.
    #[cold]
    fn make_room(&mut self) {
        self.arrivals.skip();
        if !self.arrivals.is_full() {
            return;
        }
        if self.open > self.arrivals.lengths.len() / 2 {
            self.arrivals.grow();
        } else {
            self.arrivals.close_gaps(&mut self.slots);
        }
    }

    /// Length of the sample that has been open longest.
    #[inline(always)]
    pub fn oldest(&mut self) -> Option<u32> {
        self.arrivals.skip();
        let Arrivals { lengths, first, next, .. } = &self.arrivals;
        (first < next).then(|| lengths[*first as usize & (lengths.len() - 1)])
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
        let (open, mask) = (self.arrivals.open.as_mut_slice(), self.arrivals.lengths.len() - 1);
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
    use ovhost_sdk::Rng;

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
        assert_eq!((window.slots.len(), window.arrivals.lengths.len(), window.len()), (2, 64, 1));
        assert_eq!(window.items().map(|item| item.id).collect::<Vec<_>>(), [0]);
        assert_eq!(take(&mut window, 1, 10, 9), [0]);
        assert_eq!(window.oldest(), None);
        window.insert(5, 4);
        assert_eq!(window.oldest(), Some(4));
        assert_eq!(window.items().map(|item| item.id).collect::<Vec<_>>(), [5]);
    }
    #[test]
    fn numbering_anew_changes_nothing() {
        // Short samples stay long, among many that leave at once; the window grows and shrinks meanwhile.
        let (mut window, mut list, mut rng) = (Window::new(999), Vec::<(u64, u32)>::new(), Rng::new(1));
        let mut most = 0;
        for id in 0..60_000 {
            let length = if rng.below(50) == 0 { 1 } else { 2 + rng.below(998) as u32 };
            window.insert(id, length);
            list.push((id, length));
            let keep = if id / 10_000 % 2 == 0 { 700 } else { 90 };
            while list.len() > keep {
                let oldest = rng.below(10) == 0;
                let first = if oldest { window.oldest().unwrap() } else { window.longest().unwrap() };
                let longest = list.iter().map(|(_, length)| *length).max().unwrap();
                assert_eq!(first, if oldest { list[0].1 } else { longest });
                let place = list.iter().position(|(_, length)| *length == first).unwrap();
                assert_eq!(take(&mut window, first, first, 1), [list.remove(place).0]);
            }
            most = most.max(list.len());
            if id % 997 == 0 {
                assert!(window.items().map(|item| (item.id, item.length)).eq(list.iter().copied()));
            }
        }
        assert!(window.arrivals.lengths.len() <= 4 * most, "{} for {most}", window.arrivals.lengths.len());
    }
}
