//! The open samples of a packer: items in, "the oldest" and "the longest that fits" out, both in constant time.
//!
//! ```text
//!  slots      [ b:36 ][ free ][ a:700 ][ d:700 ] …      as many as were ever open at once; reused, so they stay in cache
//!  by length  700 → a → d      36 → b                   a queue per length, linked through the slots
//!  bitmap     …0010…0001…                               which lengths have a queue
//!  arrivals   700  700  36  700 …  1011…                by number: length, and a bit for those still open
//! ```
//! Samples of one length leave in order of arrival, so the order of everything is fixed by the order of arrival alone.

use ovhost_sdk::{Item, Packing};

use crate::bitmap::Bitmap;

/// Samples of a bin that are looked up at once.
const AHEAD: usize = 64;

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

    /// Whether so many more have a place. Words of `open` count whole, so that none holds the ring's end and its beginning.
    fn fits(&self, more: usize) -> bool {
        self.next - (self.first & !63) + more as u64 <= self.lengths.len() as u64
    }

    /// Of a sample for which there is a place.
    #[inline(always)]
    fn push(&mut self, length: u32) -> u32 {
        let number = self.next as u32;
        let at = number as usize & (self.lengths.len() - 1);
        self.lengths[at] = length;
        self.open[at / 64] |= 1 << (at % 64);
        self.next += 1;
        number
    }

    /// Twice the room.
    fn grow(&mut self) {
        let (old, new) = (self.lengths.len(), self.lengths.len() * 2);
        let (mut lengths, mut open) = (vec![0; new], vec![0_u64; new / 64]);
        for number in self.first..self.next {
            let (from, to) = (number as usize & (old - 1), number as usize & (new - 1));
            lengths[to] = self.lengths[from];
            open[to / 64] |= (self.open[from / 64] >> (from % 64) & 1) << (to % 64);
        }
        (self.lengths, self.open) = (lengths, open);
    }

    /// Gives the open samples numbers without gaps, in the same order; `slots` hold their numbers.
    fn close_gaps(&mut self, slots: &mut [Slot]) {
        let (mask, words) = (self.lengths.len() - 1, self.open.len());
        self.first &= !63;
        let start = self.first as usize & mask;
        // Of each word of `open`: how many open samples came before its own.
        let mut before = vec![0_u32; words];
        let mut count = 0;
        for word in (start / 64..words).chain(0..start / 64) {
            before[word] = count as u32;
            let mut bits = self.open[word];
            while bits != 0 {
                // Never past the place that is read, so nothing is overwritten that is still to be read.
                self.lengths[(start + count) & mask] = self.lengths[word * 64 + bits.trailing_zeros() as usize];
                count += 1;
                bits &= bits - 1;
            }
        }
        // Free slots too: what number they have does not matter.
        for slot in slots {
            let at = slot.number as usize & mask;
            let earlier = self.open[at / 64] & ((1 << (at % 64)) - 1);
            slot.number = (self.first as u32).wrapping_add(before[at / 64] + earlier.count_ones());
        }
        self.next = self.first + count as u64;
        for (index, word) in (start / 64..words).chain(0..start / 64).enumerate() {
            let open = count.saturating_sub(index * 64);
            self.open[word] = if open < 64 { (1 << open) - 1 } else { u64::MAX };
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
    /// Per length: the first and the last slot of its queue. Where there is none, the first is none, and the last whichever
    /// was.
    queues: Vec<(u32, u32)>,
    /// Per length: how many are open.
    counts: Vec<u32>,
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
            counts: vec![0; capacity as usize + 1],
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

    /// Adds samples; gives those to `too_long` whose length is above the capacity.
    #[inline(always)]
    pub fn insert(&mut self, items: &[Item], mut too_long: impl FnMut(u64)) {
        if !self.arrivals.fits(items.len()) {
            self.make_room(items.len());
        }
        for _ in self.slots.len() - self.open..items.len() {
            self.slots.push(Slot { id: 0, number: 0, next: self.free });
            self.free = self.slots.len() as u32 - 1;
        }
        // Slices, so that the loop need not ask the vectors for their memory again after each write.
        let (slots, queues) = (self.slots.as_mut_slice(), self.queues.as_mut_slice());
        let counts = &mut self.counts[..queues.len()];
        let (mut free, mut entered) = (self.free, 0);
        for &Item { id, length, .. } in items {
            let Some(queue) = queues.get_mut(length as usize) else {
                too_long(id);
                continue;
            };
            let number = self.arrivals.push(length);
            let at = free;
            free = slots[at as usize].next;
            slots[at as usize] = Slot { id, number, next: NONE };
            counts[length as usize] += 1;
            if queue.0 == NONE {
                *queue = (at, at);
                self.lengths.insert(length);
            } else {
                slots[queue.1 as usize].next = at;
                queue.1 = at;
            }
            entered += 1;
        }
        self.free = free;
        self.open += entered;
    }

    /// For so many more in the ring of arrivals.
    #[cold]
    fn make_room(&mut self, more: usize) {
        self.arrivals.skip();
        while !self.arrivals.fits(more) {
            if self.open + more > self.arrivals.lengths.len() / 2 {
                self.arrivals.grow();
            } else {
                self.arrivals.close_gaps(&mut self.slots);
            }
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
    /// that fit into the `room` that is left, until there are `most`. Puts them into `taken`.
    ///
    /// Lengths are chosen first and their samples looked up after: the choice needs no sample's memory, and a short loop that
    /// waits for memory has more of its steps wait at once than a long one.
    #[inline(never)]
    pub fn take(&mut self, first: u32, mut room: u32, most: usize, taken: &mut Taken) {
        taken.0.clear();
        let (mut lengths, mut next) = ([0; AHEAD], Some(first));
        while let Some(length) = next
            && taken.0.len() < most
        {
            let most = AHEAD.min(most - taken.0.len());
            let chosen;
            (chosen, next) = self.choose(length, &mut room, &mut lengths[..most]);
            self.look_up(&lengths[..chosen], taken);
        }
    }

    /// Chooses lengths from `length` on, as many as fit into `room` and `lengths`; gives their number, and the length after
    /// them where the room allows one more.
    #[inline(always)]
    fn choose(&mut self, mut length: u32, room: &mut u32, lengths: &mut [u32]) -> (usize, Option<u32>) {
        let (counts, mut there) = (self.counts.as_mut_slice(), self.lengths.view());
        let mut left = *room;
        for (index, chosen) in lengths.iter_mut().enumerate() {
            *chosen = length;
            let count = &mut counts[length as usize];
            *count -= 1;
            if *count == 0 {
                there.remove(length);
            }
            left -= length;
            match there.largest_up_to(left) {
                Some(longest) => length = longest,
                None => return (index + 1, None),
            }
        }
        *room = left;
        (lengths.len(), Some(length))
    }

    /// Takes the oldest sample of each of `lengths`.
    #[inline(always)]
    fn look_up(&mut self, lengths: &[u32], taken: &mut Taken) {
        // Slices, so that the loop need not ask the vectors for their memory again after each write.
        let (slots, queues) = (self.slots.as_mut_slice(), self.queues.as_mut_slice());
        let (open, mask) = (self.arrivals.open.as_mut_slice(), self.arrivals.lengths.len() - 1);
        let (mut free, since) = (self.free, self.arrivals.first as u32);
        taken.0.extend(lengths.iter().map(|&length| {
            let queue = &mut queues[length as usize];
            let at = queue.0;
            let slot = &mut slots[at as usize];
            let (number, next) = (slot.number, slot.next);
            queue.0 = next;
            slot.next = free;
            free = at;
            open[(number as usize & mask) / 64] &= !(1 << (number % 64));
            (number.wrapping_sub(since), at)
        }));
        self.free = free;
        self.open -= lengths.len();
    }

    /// Makes a bin of samples that were taken after the last `insert`, in order of their arrival.
    #[inline(always)]
    pub fn bin(&self, taken: &mut Taken, out: &mut Packing) {
        match taken.0.len() {
            0..=8 => self.small_bin::<8>(taken, out),
            9..=16 => self.small_bin::<16>(taken, out),
            17..=32 => self.small_bin::<32>(taken, out),
            _ => self.large_bin(taken, out),
        }
    }

    /// Each goes to the place that the number of earlier ones gives: no branch to be foreseen, and vectors compare.
    #[inline(always)]
    fn small_bin<const MOST: usize>(&self, Taken(taken): &Taken, out: &mut Packing) {
        let (mut numbers, mut places) = ([u32::MAX; MOST], [0_u32; MOST]);
        for (place, (number, _)) in numbers.iter_mut().zip(taken) {
            *place = *number;
        }
        for (earlier, _) in taken {
            for (place, number) in places.iter_mut().zip(&numbers) {
                *place += u32::from(earlier < number);
            }
        }
        let slots = self.slots.as_slice();
        out.bin_with(taken.len(), |ids| {
            for ((_, slot), place) in taken.iter().zip(places) {
                ids[place as usize] = slots[*slot as usize].id;
            }
        });
    }

    #[cold]
    fn large_bin(&self, Taken(taken): &mut Taken, out: &mut Packing) {
        taken.sort_unstable();
        out.bin(taken.iter().map(|(_, slot)| self.slots[*slot as usize].id));
    }
}

/// Samples of a bin: numbers of arrival, counted from the oldest that was open, and slots. Kept for its memory.
#[derive(Default)]
pub struct Taken(Vec<(u32, u32)>);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::Rng;

    fn insert(window: &mut Window, id: u64, length: u32) {
        window.insert(&[Item { id, length, patches: 0 }], |id| panic!("{id} is too long"));
    }

    fn take(window: &mut Window, length: u32, room: u32, most: usize) -> Vec<u64> {
        let (mut taken, mut out) = (Taken::default(), Packing::default());
        window.take(length, room, most, &mut taken);
        window.bin(&mut taken, &mut out);
        out.bins().flatten().copied().collect()
    }

    #[test]
    fn equal_lengths_leave_in_order_of_arrival() {
        let mut window = Window::new(10);
        for (id, length) in [(7, 3), (8, 5), (9, 3), (6, 3)] {
            insert(&mut window, id, length);
        }
        assert_eq!((window.oldest(), window.longest(), window.len()), (Some(3), Some(5), 4));
        assert_eq!(take(&mut window, 3, 10, 9), [7, 8]);
        assert_eq!(window.items().map(|item| (item.id, item.length)).collect::<Vec<_>>(), [(9, 3), (6, 3)]);
        assert_eq!(take(&mut window, 3, 10, 1), [9]);
        assert_eq!(take(&mut window, 3, 10, 9), [6]);
        assert_eq!((window.len(), window.oldest(), window.longest()), (0, None, None));
    }

    #[test]
    fn bins_of_any_size_are_in_order_of_arrival() {
        for size in 1..=40 {
            let mut window = Window::new(40 * 41);
            // The last to come is the first to be taken.
            (1..=size).for_each(|i| insert(&mut window, i.into(), i));
            assert_eq!(
                take(&mut window, size, size * (size + 1) / 2, 99),
                (1..=size).map(u64::from).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn slots_are_used_again_and_a_straggler_stays_the_oldest() {
        let mut window = Window::new(10);
        insert(&mut window, 0, 1);
        for id in 1..1000 {
            insert(&mut window, id, 2 + (id % 3) as u32);
            let longest = window.longest().unwrap();
            assert_eq!(take(&mut window, longest, longest, 1), [id]);
            assert_eq!(window.oldest(), Some(1));
        }
        assert_eq!((window.slots.len(), window.arrivals.lengths.len(), window.len()), (2, 64, 1));
        assert_eq!(window.items().map(|item| item.id).collect::<Vec<_>>(), [0]);
        assert_eq!(take(&mut window, 1, 10, 9), [0]);
        assert_eq!(window.oldest(), None);
        insert(&mut window, 5, 4);
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
            insert(&mut window, id, length);
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
