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

/// A sample in the order of decreasing length.
#[derive(Clone, Copy)]
struct Placed {
    /// Its place in the stream.
    index: u32,
    /// The sample that came into the same bin before it.
    before: u32,
}

/// A bin that is being made.
struct Bin {
    items: u32,
    /// The sample that came in last.
    last: u32,
    /// The next bin with as much room.
    next: u32,
    /// The earliest sample of it, as an index into the stream.
    earliest: u32,
}

/// Bins with room, by how much.
struct Rooms {
    /// Per room: the first and the last bin of its queue.
    queues: Vec<(u32, u32)>,
    rooms: Bitmap,
}

impl Rooms {
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
/// Takes 28 bytes a sample at most, those of `held` and `out` among them, 20 a bin and 12 a token of the capacity.
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
    let mut order = vec![Placed { index: 0, before: NONE }; held.len()];
    for (index, length) in (0..).zip(held.lengths()) {
        let start = &mut starts[(capacity - length) as usize];
        order[*start as usize].index = index;
        *start += 1;
    }
    held.forget_lengths();

    // As many as there must be; the few more come by eighths rather than by doubling.
    let mut bins: Vec<Bin> = Vec::with_capacity((tokens / u64::from(capacity.max(1))) as usize + 1);
    let mut rooms = Rooms { queues: vec![(NONE, NONE); capacity as usize + 1], rooms: Bitmap::new(capacity) };
    // Samples are known by their place in `order` from here on, so that memory is walked in order. Each entry of `starts`
    // has become the end of its length's places.
    let mut place = 0_u32;
    for (length, end) in (0..=capacity).rev().zip(starts) {
        while place < end {
            let index = order[place as usize].index;
            let (bin, room) = rooms.take(&bins, length).unwrap_or_else(|| {
                if bins.len() == bins.capacity() {
                    bins.reserve_exact(bins.len() / 8 + 16);
                }
                bins.push(Bin { items: 0, last: NONE, next: NONE, earliest: index });
                (bins.len() as u32 - 1, capacity)
            });
            let made = &mut bins[bin as usize];
            order[place as usize].before = made.last;
            made.last = place;
            made.items += 1;
            made.earliest = made.earliest.min(index);
            if (made.items as usize) < max_items {
                rooms.add(&mut bins, bin, room - length);
            }
            place += 1;
        }
    }

    drop(rooms);
    bins.sort_unstable_by_key(|bin| bin.earliest);
    out.reserve(held.len(), bins.len());
    let mut samples: Vec<u32> = Vec::new();
    for bin in &bins {
        samples.clear();
        let mut at = bin.last;
        while at != NONE {
            let Placed { index, before } = order[at as usize];
            samples.push(index);
            at = before;
        }
        samples.sort_unstable();
        out.bin(samples.iter().map(|&index| held.id(index)));
    }
}
