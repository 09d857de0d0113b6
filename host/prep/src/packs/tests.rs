//! Packs of numbers: all samples once, the same for the same seed, and read back as they were written.

use std::collections::BTreeSet;

use super::*;

/// Fills one bin after the other. Gives up lengths of 13.
#[derive(Default)]
struct InOrder {
    capacity: u32,
    open: (Vec<u64>, u32),
    /// Ids that it was given, to see that they ascend.
    next: i64,
}

impl PackStage for InOrder {
    fn start(&mut self, limits: &PackLimits) -> Result<(), DataError> {
        *self = InOrder { capacity: limits.capacity, ..InOrder::default() };
        Ok(())
    }
    fn push(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
        let ColumnData::S64s(ids) = &batch.column("id").unwrap().data else { panic!() };
        let ColumnData::U32s(lengths) = &batch.column("length").unwrap().data else { panic!() };
        assert_eq!(ctx.first_row, ids[0] as u64);
        let mut packing = Packing::default();
        for (id, length) in ids.iter().zip(lengths) {
            assert_eq!(*id, self.next);
            self.next += 1;
            if *length == 13 {
                packing.dropped.push(*id as u64);
                continue;
            }
            if self.open.1 + length > self.capacity {
                packing.bins.push(&self.open.0);
                self.open = (Vec::new(), 0);
            }
            self.open.0.push(*id as u64);
            self.open.1 += length;
        }
        Ok(packing)
    }
    fn flush(&mut self) -> Result<Option<Packing>, DataError> {
        let bin = (!self.open.0.is_empty()).then(|| std::mem::take(&mut self.open.0));
        Ok(bin.map(|bin| Packing { bins: [bin].iter().collect(), dropped: Vec::new() }))
    }
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        Ok(Vec::new())
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), DataError> {
        Ok(())
    }
}

fn lengths(n: u32) -> Vec<[u32; 2]> {
    (0..n).map(|i| if i % 10 == 0 { [0, 0] } else { [1 + i * 7919 % 40, 4] }).collect()
}

fn packed(n: u32, seed: u64, shuffle: bool) -> Packs {
    let limits = PackLimits { capacity: 100, max_items_per_bin: 0, max_open_items: 0 };
    pack_lengths(&mut InOrder::default(), lengths(n), &PackSpec { limits, seed, shuffle }, &|_| Ok(())).unwrap()
}

#[test]
fn every_sample_once_and_by_the_seed() {
    for shuffle in [false, true] {
        let packs = packed(20_000, 1, shuffle);
        let all: BTreeSet<u32> = packs.ordinals.iter().chain(&packs.dropped).copied().collect();
        assert_eq!((all.len(), packs.ordinals.len() + packs.dropped.len()), (18_000, 18_000));
        assert!(packs.dropped.len() > 100 && packs.dropped.iter().all(|o| lengths(20_000)[*o as usize][0] == 13));
        assert_eq!(packs.order.iter().collect::<BTreeSet<_>>().len(), packs.len());
        assert_eq!((packs.ordinals.is_sorted(), packs.order.is_sorted()), (!shuffle, !shuffle));
        assert_eq!(packed(20_000, 1, shuffle), packs);
        assert_eq!(packed(20_000, 2, shuffle) == packs, !shuffle);
    }
    let none = packed(0, 1, true);
    assert!(none.is_empty() && none.ordinals.is_empty());
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = PacksFile::path(dir.path());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let packs = packed(5000, 3, true);
    let mut bytes = Vec::new();
    packs.write(&mut bytes, &[7; 32]).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let file = PacksFile::open(dir.path()).unwrap();
    assert_eq!((file.packs, file.packed), (packs.len() as u64, packs.ordinals.len() as u64));
    let of = |pack: &u32| {
        let at = *pack as usize;
        packs.ordinals[packs.begins[at] as usize..packs.begins[at + 1] as usize].to_vec()
    };
    let expected: Vec<Vec<u32>> = packs.order.iter().map(of).collect();
    let mut read = file.members(0, 7).unwrap();
    read.extend(file.members(7, file.packs).unwrap());
    assert_eq!(read, expected);
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let Err(error) = PacksFile::open(dir.path()) else { panic!("a file that was cut short") };
    assert!(error.to_string().contains("not whole"), "{error}");
}

#[test]
fn a_packer_that_loses_samples_is_an_error() {
    struct Lossy(InOrder);
    impl PackStage for Lossy {
        fn start(&mut self, limits: &PackLimits) -> Result<(), DataError> {
            self.0.start(limits)
        }
        fn push(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
            self.0.push(ctx, batch)
        }
        fn flush(&mut self) -> Result<Option<Packing>, DataError> {
            Ok(None)
        }
        fn save(&mut self) -> Result<Vec<u8>, DataError> {
            Ok(Vec::new())
        }
        fn restore(&mut self, _: &[u8]) -> Result<(), DataError> {
            Ok(())
        }
    }
    let limits = PackLimits { capacity: 100, max_items_per_bin: 0, max_open_items: 0 };
    let spec = PackSpec { limits, seed: 1, shuffle: true };
    let error = pack_lengths(&mut Lossy(InOrder::default()), lengths(50), &spec, &|_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("was given 45 samples and placed"), "{error}");
}
