//! Packed data: the same batches as the samples themselves, one bad sample alone, any batch a restart point.

use super::*;
use crate::packed::{Head, MadeFor, Pack, SubSample, VERSION};

/// Samples as packs: each a list of (place in [`source`], id).
struct Packs {
    samples: Vec<Vec<Result<Record, Reject>>>,
    packs: Vec<Vec<usize>>,
    head: Head,
}

impl SampleSource for Packs {
    fn shards(&self) -> Vec<(String, u64)> {
        vec![("packed-0.tar".into(), self.packs.len() as u64)]
    }
    fn record(&self, _: u32, _: u64) -> Result<Record, Reject> {
        panic!("packs are not read as samples")
    }
    fn packed(&self) -> bool {
        true
    }
    fn heads(&self) -> Vec<(String, Head)> {
        vec![("packed-0.tar".into(), self.head.clone())]
    }
    fn pack(&self, _: u32, index: u64) -> Result<Pack, Reject> {
        if index == 5 {
            return Err(Reject {
                key: "p5".into(),
                shard: "packed-0.tar".into(),
                stage: "read",
                reason: "gone".into(),
            });
        }
        let sample = |i: &usize| SubSample { row: Some(*i as u64), record: self.samples[i / 90][i % 90].clone() };
        let samples = self.packs[index as usize].iter().map(sample).collect();
        Ok(Pack { head: Some(self.head.clone()), place: format!("p{index} of packed-0.tar"), samples })
    }
}

/// The samples of [`source`], a few in a pack, in an order of their own.
fn packed_parts() -> LoaderParts {
    let mut parts = parts(Memory(Vec::new()));
    let made_for = MadeFor::of(&parts.chat, &parts.images, parts.stages.prompt_identity());
    let order: Vec<usize> = (0..260).map(|i| i * 77 % 260).collect();
    let head = Head {
        version: VERSION,
        fingerprint: made_for.fingerprint(),
        made_for,
        seed: parts.seed,
        capacity: 400,
        tokens: 100,
        patches: 0,
    };
    parts.source = Arc::new(Packs { samples: source().0, packs: order.chunks(3).map(<[_]>::to_vec).collect(), head });
    parts
}

fn packed_config() -> DataConfig {
    DataConfig { shuffle_buffer: 20, capacity: 400, ..config() }
}

#[test]
fn batches_are_those_of_the_samples_themselves() {
    let config = DataConfig { shuffle_buffer: 0, epochs: Some(1), packs_per_batch: 1, ..packed_config() };
    let (batches, trailing, counters) = all(Loader::start(&config, packed_parts()).unwrap());
    // The same samples one by one: a packer that makes a bin of each, without a shuffle.
    struct Alone;
    impl PackStage for Alone {
        fn start(&mut self, _: &PackLimits) -> Result<(), DataError> {
            Ok(())
        }
        fn push(&mut self, _: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
            let ColumnData::S64s(ids) = &batch.column("id").unwrap().data else { panic!() };
            Ok(Packing { bins: ids.iter().map(|id| vec![*id as u64]).collect(), dropped: Vec::new() })
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
    struct Singly;
    impl StageFactory for Singly {
        fn filters(&self) -> Result<Vec<Box<dyn FilterStage>>, DataError> {
            Native.filters()
        }
        fn prompt(&self) -> Result<Box<dyn PromptStage>, DataError> {
            Native.prompt()
        }
        fn packer(&self) -> Result<Box<dyn PackStage>, DataError> {
            Ok(Box::new(Alone))
        }
        fn fingerprint(&self) -> String {
            "singly".into()
        }
        fn prompt_identity(&self) -> Value {
            Native.prompt_identity()
        }
    }
    let single = LoaderParts { stages: Arc::new(Singly), ..parts(source()) };
    let (singles, ..) = all(Loader::start(&config, single).unwrap());
    let by_key: std::collections::HashMap<&str, &MicroBatch> =
        singles.iter().filter(|b| !b.keys.is_empty()).map(|b| (b.keys[0].as_str(), b)).collect();
    assert!(batches.len() > 80);
    let mut seen = 0;
    for batch in &batches {
        let parts: Vec<&MicroBatch> = batch.keys.iter().map(|k| by_key[k.as_str()]).collect();
        seen += parts.len();
        let longs = |of: fn(&MicroBatch) -> &Vec<i64>| parts.iter().flat_map(|p| of(p).clone()).collect::<Vec<_>>();
        assert_eq!(batch.input_ids, longs(|b| &b.input_ids));
        assert_eq!(batch.labels, longs(|b| &b.labels));
        assert_eq!(batch.positions, longs(|b| &b.positions));
        assert_eq!(batch.grid_thw, parts.iter().flat_map(|p| p.grid_thw.clone()).collect::<Vec<_>>());
        assert!(batch.pixel_values == parts.iter().flat_map(|p| p.pixel_values.clone()).collect::<Vec<_>>());
        let mut ends = vec![0];
        parts.iter().for_each(|p| ends.push(ends[ends.len() - 1] + p.input_ids.len() as i32));
        assert_eq!(batch.cu_seqlens, ends);
    }
    // Three samples of the pack that is gone; all others are there.
    let gone =
        (0..260).map(|i| i * 77 % 260).skip(15).take(3).filter(|i| by_key.contains_key(format!("k{i}").as_str()));
    assert_eq!(seen, by_key.len() - gone.count());
    assert_eq!(counters.samples, seen as u64);
    let rejects: Vec<&Reject> = batches.iter().flat_map(|b| &b.rejects).chain(&trailing).collect();
    assert_eq!(counters.read, counters.samples + counters.rejected_total() + counters.filtered_total());
    assert_eq!(counters.read, 260 - 3 + 1, "a pack that cannot be read counts once");
    for (key, stage) in [("k40", "prompt"), ("k90", "decode"), ("k20", "filter"), ("p5", "read")] {
        let reject = rejects.iter().find(|r| r.key == key).unwrap_or_else(|| panic!("{key}: {rejects:?}"));
        assert!(reject.stage == stage && reject.shard.contains("packed-0.tar"), "{reject:?}");
    }
}

#[test]
fn any_batch_is_a_restart_point() {
    let parts = packed_parts();
    let (whole, trailing, counters) = all(Loader::start(&packed_config(), parts.clone()).unwrap());
    for (i, batch) in whole.iter().enumerate() {
        assert_eq!(batch.state.held(), 0, "packs are not held apart");
        let state = serde_json::from_str(&serde_json::to_string(&batch.state).unwrap()).unwrap();
        let config = DataConfig { workers: 1 + i % 3, ..packed_config() };
        let (rest, rest_trailing, rest_counters) = all(Loader::resume(&config, parts.clone(), state).unwrap());
        assert_eq!(rest.len(), whole.len() - i - 1, "after batch {i}");
        whole[i + 1..].iter().zip(&rest).for_each(|(a, b)| same(a, b));
        assert_eq!((&rest_trailing, &rest_counters), (&trailing, &counters));
    }
}

#[test]
fn packs_that_do_not_fit_the_run_are_refused_at_its_start() {
    let start = |config: &DataConfig, parts: LoaderParts| Loader::start(config, parts).err().unwrap().to_string();
    let parts = packed_parts();
    let small = start(&DataConfig { capacity: 399, ..packed_config() }, parts.clone());
    assert!(small.contains("packed for 400") && small.contains("data.capacity is 399"), "{small}");
    let images = ImageProcessor { max_pixels: 2048, ..(*parts.images).clone() };
    let pixels = start(&packed_config(), LoaderParts { images: Arc::new(images), ..parts });
    assert!(pixels.contains("image_processor.max_pixels was 4096 and is 2048"), "{pixels}");
}
