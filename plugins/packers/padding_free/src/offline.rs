//! Best fit decreasing: all samples in, the fewest bins that a simple rule finds out.
//!
//! ```text
//!  histogram   8191: a c   4100: d   700: b e f …         longest first, equal ones in order of arrival
//!  rooms       1: bin 0    4092: bin 2   …                 bins by the room that they have left
//!  sample      ──► the bin with the least room that it fits in, the oldest of those; none: a new bin
//! ```
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

/// Packs `held`, of which none is longer than `capacity`, into bins of at most `max_items`. Bins come in the order of their
/// earliest samples, and each lists its samples in order of arrival.
///
/// Takes 28 bytes a sample at most, those of `held` and `out` among them, 12 a bin and 12 a token of the capacity.
pub fn pack(mut held: Held, capacity: u32, max_items: usize, out: &mut Packing) {
    // Indices of the samples by decreasing length: a counting sort over the histogram.
    let mut starts = vec![0_u32; capacity as usize + 2];
    let mut tokens = 0_u64;
    for length in held.lengths() {
        starts[(capacity - length) as usize + 1] += 1;
        tokens += u64::from(length);
    }
    for place in 1..starts.len() {
        starts[place] += starts[place - 1];
    }
    let mut order = vec![0_u32; held.len()];
    for (index, length) in (0..).zip(held.lengths()) {
        let start = &mut starts[(capacity - length) as usize];
        order[*start as usize] = index;
        *start += 1;
    }
    held.forget_lengths();

    // As many as there must be; the few more come by eighths rather than by doubling.
    let mut bins: Vec<Bin> = Vec::with_capacity((tokens / u64::from(capacity.max(1))) as usize + 1);
    let mut rooms = Rooms { queues: vec![(NONE, NONE); capacity as usize + 1], rooms: Bitmap::new(capacity) };
    // By index. Each entry of `starts` has become the end of its length's places.
    let mut bin_of = vec![NONE; order.len()];
    let mut place = 0;
    for (length, end) in (0..=capacity).rev().zip(starts) {
        for &index in &order[place..end as usize] {
            let (bin, room) = rooms.take(&bins, length).unwrap_or_else(|| {
                if bins.len() == bins.capacity() {
                    bins.reserve_exact(bins.len() / 8 + 16);
                }
                bins.push(Bin { items: 0, next: NONE });
                (bins.len() as u32 - 1, capacity)
            });
            bin_of[index as usize] = bin;
            let made = &mut bins[bin as usize];
            made.items += 1;
            if (made.items as usize) < max_items {
                rooms.add(&mut bins, bin, room - length);
            }
        }
        place = end as usize;
    }
    drop(rooms);

    // In order of arrival, every bin gets its place in the list when its first sample comes; so all is in order at once.
    let mut ends: Vec<u32> = Vec::with_capacity(bins.len());
    let (mut next, mut listed) = (0, order);
    for bin in &mut bins {
        bin.next = NONE;
    }
    for (index, &bin) in (0..).zip(&bin_of) {
        let bin = &mut bins[bin as usize];
        if bin.next == NONE {
            bin.next = next;
            next += bin.items;
            ends.push(next);
        }
        listed[bin.next as usize] = index;
        bin.next += 1;
    }
    drop((bins, bin_of));
    out.reserve(held.len(), ends.len());
    let mut start = 0;
    for end in ends {
        out.bin(listed[start..end as usize].iter().map(|&index| held.id(index)));
        start = end as usize;
    }
}
