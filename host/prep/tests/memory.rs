//! Packing needs at most 32 bytes a sample beyond a constant: counted where every allocation passes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ovhost_data::DataError;
use ovhost_data::pipeline::PackStage;
use ovhost_plugin::{Batch, CallCtx, ColumnData, PackLimits, Packing};
use ovhost_prep::packs::{PackSpec, pack_lengths};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A pack for every sample, or for so many: the most and the fewest packs that there can be.
struct Every {
    items: usize,
    open: Vec<u64>,
}

impl PackStage for Every {
    fn start(&mut self, _: &PackLimits) -> Result<(), DataError> {
        Ok(())
    }
    fn push(&mut self, _: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
        let Some(ColumnData::S64s(ids)) = batch.column("id").map(|c| &c.data) else { panic!("no ids") };
        let mut packing = Packing::default();
        for id in ids {
            self.open.push(*id as u64);
            if self.open.len() == self.items {
                packing.bins.push(&self.open);
                self.open.clear();
            }
        }
        Ok(packing)
    }
    fn flush(&mut self) -> Result<Packing, DataError> {
        let mut packing = Packing::default();
        if !self.open.is_empty() {
            packing.bins.push(&self.open);
        }
        Ok(packing)
    }
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        Ok(Vec::new())
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), DataError> {
        Ok(())
    }
}

/// Most bytes in use while `n` samples are packed, their lengths included.
fn peak(n: usize, items: usize) -> usize {
    let limits = PackLimits { capacity: 8192, max_items_per_bin: 0, max_open_items: 0 };
    let spec = PackSpec { limits, seed: 1, shuffle: true };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let lengths = (0..n).map(|i| [1 + (i % 999) as u32, 4]).collect();
    let packs = pack_lengths(&mut Every { items, open: Vec::new() }, lengths, &spec, &|_| Ok(())).unwrap();
    assert_eq!((packs.ordinals.len(), packs.len()), (n, n.div_ceil(items)));
    PEAK.load(Relaxed) - before
}

#[test]
fn at_most_32_bytes_a_sample() {
    for items in [1, 8] {
        let (one, two) = (peak(1_000_000, items), peak(2_000_000, items));
        let each = (two - one) as f64 / 1e6;
        println!("{items} samples a pack: {one} and {two} bytes, {each:.1} a sample");
        assert!(each <= 32.0, "{items} samples a pack: {each} bytes a sample");
        assert!(one <= 32_000_000 + (1 << 20), "{one}");
    }
}
