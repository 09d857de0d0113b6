//! Best fit decreasing: all samples in, the fewest bins that a simple rule finds out.
//!
//! ```text
//!  histogram   8191: 2   4100: 1   700: 3 …                longest first, equal ones in order of arrival
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

/// The lists that a packing is made of.
struct Lists {
    /// By capacity less length: where the next sample of that length has its bin in `bin_of`.
    places: Vec<u32>,
    /// By length, the longest first, then by arrival.
    bin_of: Vec<u32>,
    bins: Vec<Bin>,
    capacity: u32,
    /// Of the samples, bin after bin.
    ids: Vec<u64>,
    /// Where each bin begins and ends in `ids`; so many bins are there.
    offsets: Vec<u32>,
    listed: usize,
}

/// Samples that are looked up at once.
const AHEAD: usize = 256;

impl Lists {
    /// Puts the next samples into their bins. A bin gets its place in the list when its first sample comes.
    ///
    /// Three short loops rather than a long one: each waits for memory, and the less there is in its steps, the more of them
    /// wait at once. In WebAssembly a longer one would write half of its variables to the stack in each step.
    fn add(&mut self, mut ids: impl Iterator<Item = u64>, lengths: &[u32]) {
        let mut ahead = [0; AHEAD];
        for lengths in lengths.chunks(AHEAD) {
            let ahead = &mut ahead[..lengths.len()];
            look_up(&mut self.places, &self.bin_of, self.capacity, lengths, ahead);
            self.listed = place(&mut self.bins, &mut self.offsets, self.listed, ahead);
            write(&mut self.ids, &mut ids, ahead);
        }
    }
}

/// Bins of the next samples.
#[inline(never)]
fn look_up(places: &mut [u32], bin_of: &[u32], capacity: u32, lengths: &[u32], bins: &mut [u32]) {
    for (bin, length) in bins.iter_mut().zip(lengths) {
        let place = &mut places[(capacity - length) as usize];
        *bin = bin_of[*place as usize];
        *place += 1;
    }
}

/// Makes bins of samples their places in the list of ids. So many bins have a place before, and after.
#[inline(never)]
fn place(bins: &mut [Bin], offsets: &mut [u32], mut listed: usize, ahead: &mut [u32]) -> usize {
    for bin in ahead {
        let made = &mut bins[*bin as usize];
        if made.next == NONE {
            made.next = offsets[listed];
            listed += 1;
            offsets[listed] = made.next + made.items;
        }
        *bin = made.next;
        made.next += 1;
    }
    listed
}

#[inline(never)]
fn write(list: &mut [u64], ids: &mut impl Iterator<Item = u64>, places: &[u32]) {
    for (place, id) in places.iter().zip(ids) {
        list[*place as usize] = id;
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

/// Packs `held`, of which none is longer than `capacity`, into bins of at most `max_items`. Bins come in the order of their
/// earliest samples, and each lists its samples in order of arrival.
///
/// Takes 12 bytes a sample beside `held`, 16 a bin and 12 a token of the capacity.
pub fn pack(held: &Held, capacity: u32, max_items: usize, out: &mut Packing) {
    let (places, tokens) = histogram(held, capacity);
    let (bins, bin_of) = fit(&places, tokens, capacity, max_items);
    let (ids, offsets) = (vec![0; held.len()], vec![0; bins.len() + 1]);
    let mut lists = Lists { places, bin_of, bins, capacity, ids, offsets, listed: 0 };
    let run = |lists: &mut Lists, first: u64, lengths: &[u32]| {
        lists.add((0..).map(|i| first.wrapping_add(i)), lengths);
    };
    let listed = |lists: &mut Lists, ids: &[u64], lengths: &[u32]| lists.add(ids.iter().copied(), lengths);
    held.pieces(&mut lists, run, listed);
    out.flat(lists.offsets, lists.ids);
}
