//! Best fit decreasing: all samples in, the fewest bins that a simple rule finds out.
//!
//! ```text
//!  histogram   8191: 2   4100: 1   700: 3 …                longest first, equal ones in order of arrival
//!  rooms       1: bin 0    4092: bin 2   …                 bins by the room that they have left
//!  sample      ──► the bin with the least room that it fits in, the oldest of those; none: a new bin
//! ```
//! Then the samples are put into the order of their bins, and leave some thousand at a time.
//!
//! Both are queues per number of tokens with a bitmap over them, so a sample costs a few steps however many there are.

use ovhost_sdk::prelude::*;

use crate::bitmap::Bitmap;
use crate::held::Held;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// A bin that is being made.
struct Bin {
    items: u32,
    /// The next bin with as much room; once all samples have a bin, where its next sample is listed.
    next: u32,
}

/// Bins with room, by how much.
struct Rooms {
    /// Per room: the first and the last bin of its queue.
    queues: Vec<(u32, u32)>,
    rooms: Bitmap,
}

impl Rooms {
    #[inline(always)]
    fn add(&mut self, bins: &mut [Bin], bin: u32, room: u32) {
        let queue = &mut self.queues[room as usize];
        bins[bin as usize].next = NONE;
        if queue.0 == NONE {
            *queue = (bin, bin);
            self.rooms.insert(room);
        } else {
            bins[queue.1 as usize].next = bin;
            queue.1 = bin;
        }
    }

    /// The first of the bins with the least room that holds `length`, taken out; and that room.
    #[inline(always)]
    fn take(&mut self, bins: &[Bin], length: u32) -> Option<(u32, u32)> {
        let room = self.rooms.smallest_from(length)?;
        let queue = &mut self.queues[room as usize];
        let bin = queue.0;
        queue.0 = bins[bin as usize].next;
        if queue.0 == NONE {
            self.rooms.remove(room);
        }
        Some((bin, room))
    }
}

/// Bins of samples, in place of their lengths. `places`: by capacity less length, where the next sample of that length has its
/// bin in `bin_of`.
///
/// This and the two after it are short loops rather than one long: each waits for memory, and the less there is in its steps,
/// the more of them wait at once. In WebAssembly a longer one would write half of its variables to the stack in each step.
#[inline(never)]
fn look_up(places: &mut [u32], bin_of: &[u32], capacity: u32, lengths: &mut [u32]) {
    for length in lengths {
        let place = &mut places[(capacity - *length) as usize];
        *length = bin_of[*place as usize];
        *place += 1;
    }
}

/// Places of samples in the order of bins, in place of their bins. A bin gets its place when its first sample comes: `offsets`
/// says where bins begin and end, of which so many have a place before, and after.
#[inline(never)]
fn place(bins: &mut [Bin], offsets: &mut [u32], mut listed: usize, samples: &mut [u32]) -> usize {
    for sample in samples {
        let made = &mut bins[*sample as usize];
        if made.next == NONE {
            made.next = offsets[listed];
            listed += 1;
            offsets[listed] = made.next + made.items;
        }
        *sample = made.next;
        made.next += 1;
    }
    listed
}

/// Samples by their places: these, of which the first is number `first`.
#[inline(never)]
fn write(order: &mut [u32], first: u32, places: &[u32]) {
    for (place, sample) in places.iter().zip(first..) {
        order[*place as usize] = sample;
    }
}

/// Where the bins of each length begin, by capacity less length; and the sum of all lengths.
#[inline(never)]
fn histogram(held: &Held, capacity: u32) -> (Vec<u32>, u64) {
    let mut places = vec![0_u32; capacity as usize + 2];
    let mut tokens = 0_u64;
    for lengths in held.lengths() {
        for &length in lengths {
            places[(capacity - length) as usize + 1] += 1;
            tokens += u64::from(length);
        }
    }
    for place in 1..places.len() {
        places[place] += places[place - 1];
    }
    (places, tokens)
}

/// The bins of lengths, the longest first; and the bin of each in that order.
#[inline(never)]
fn fit(places: &[u32], tokens: u64, capacity: u32, max_items: usize) -> (Vec<Bin>, Vec<u32>) {
    // As many as there must be; the few more come by eighths rather than by doubling.
    let mut bins: Vec<Bin> = Vec::with_capacity((tokens / u64::from(capacity.max(1))) as usize + 1);
    let mut rooms = Rooms { queues: vec![(NONE, NONE); capacity as usize + 1], rooms: Bitmap::new(capacity) };
    // Which sample it is does not matter here: those of one length get these bins in order of arrival.
    let mut bin_of = vec![NONE; places.last().copied().unwrap_or(0) as usize];
    for (length, place) in (0..=capacity).rev().zip(places.windows(2)) {
        for bin_of in &mut bin_of[place[0] as usize..place[1] as usize] {
            let (bin, room) = rooms.take(&bins, length).unwrap_or_else(|| {
                if bins.len() == bins.capacity() {
                    bins.reserve_exact(bins.len() / 8 + 16);
                }
                bins.push(Bin { items: 0, next: NONE });
                (bins.len() as u32 - 1, capacity)
            });
            *bin_of = bin;
            let made = &mut bins[bin as usize];
            made.items += 1;
            if (made.items as usize) < max_items {
                rooms.add(&mut bins, bin, room - length);
            }
        }
    }
    bins.iter_mut().for_each(|bin| bin.next = NONE);
    (bins, bin_of)
}

/// Samples in bins, on their way out.
pub struct Packed {
    held: Held,
    /// Numbers of samples by arrival, bin after bin.
    order: Vec<u32>,
    /// Where each bin begins and ends in `order`.
    offsets: Vec<u32>,
    /// Bins that are out.
    given: usize,
}

/// Samples that leave with a call: few enough for the memory of one call to serve the next.
const AT_ONCE: u32 = 1 << 13;

/// Packs samples, of which none is longer than `capacity`, into bins of at most `max_items`. Bins come in the order of their
/// earliest samples, and each lists its samples in order of arrival.
///
/// Takes 4 bytes a sample beside `held`, 12 a bin and 12 a token of the capacity.
pub fn pack(mut held: Held, capacity: u32, max_items: usize) -> Packed {
    let (mut places, tokens) = histogram(&held, capacity);
    let (mut bins, bin_of) = fit(&places, tokens, capacity, max_items);
    held.lengths_mut().for_each(|lengths| look_up(&mut places, &bin_of, capacity, lengths));
    // Of bins that are known, the list is free for the order.
    let (mut order, mut offsets) = (bin_of, vec![0; bins.len() + 1]);
    let (mut first, mut listed) = (0, 0);
    for samples in held.lengths_mut() {
        listed = place(&mut bins, &mut offsets, listed, samples);
        write(&mut order, first, samples);
        first += samples.len() as u32;
    }
    Packed { held, order, offsets, given: 0 }
}

impl Packed {
    /// Whether all bins are out.
    pub fn is_empty(&self) -> bool {
        self.given + 1 == self.offsets.len()
    }

    /// Adds the next bins.
    pub fn give(&mut self, out: &mut Packing) {
        let (begin, rest) = (self.offsets[self.given], &self.offsets[self.given + 1..]);
        // One that has more samples leaves alone.
        let bins = rest.iter().take_while(|end| **end - begin <= AT_ONCE).count().max(rest.len().min(1));
        let ends = &rest[..bins];
        let samples = &self.order[begin as usize..ends.last().map_or(begin, |end| *end) as usize];
        out.listed(ends.iter().map(|end| end - begin), |ids| self.held.ids_of(samples, ids));
        self.given += bins;
    }
}
