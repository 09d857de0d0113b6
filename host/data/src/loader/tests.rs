//! The loader over native stages: nothing is lost, nothing depends on threads, any batch is a restart point.

use std::collections::BTreeSet;
use std::io::Cursor;

use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Decisions, Message, Mode, Packing, Part, Rendered};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::{FilterStage, PackStage, PromptStage};
use crate::record::{Media, Record};
use crate::tokenizer_train::train_bpe;

mod packed;
mod plugins;
mod ranks;

struct Memory(Vec<Vec<Result<Record, Reject>>>);

impl SampleSource for Memory {
    fn shards(&self) -> Vec<(String, u64)> {
        self.0.iter().enumerate().map(|(i, s)| (format!("s{i}.tar"), s.len() as u64)).collect()
    }
    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject> {
        self.0[shard as usize][index as usize].clone()
    }
}

/// Drops records by a field, and hands a score on.
struct Scored;
impl FilterStage for Scored {
    fn name(&self) -> &str {
        "scored"
    }
    fn reads(&self) -> Vec<String> {
        vec!["id".into(), "record".into()]
    }
    fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, DataError> {
        let ColumnData::S64s(ids) = &batch.column("id").unwrap().data else { panic!() };
        // The contract that a plugin may rely on: row i of a call is sample first_row + i.
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(*id as u64, ctx.first_row + i as u64);
        }
        let scores: Vec<f32> = records(batch).iter().map(|r| r["score"].as_f64().unwrap_or(1.0) as f32).collect();
        Ok(Decisions {
            keep: scores.iter().map(|s| *s > 0.1).collect(),
            reason: scores.iter().map(|s| (*s <= 0.1).then(|| "low score".into())).collect(),
            add: vec![Column::new("score", ColumnData::F32s(scores))],
            errors: Vec::new(),
        })
    }
}

/// Reads what [`Scored`] added; cannot judge a negative score.
struct Second;
impl FilterStage for Second {
    fn name(&self) -> &str {
        "second"
    }
    fn reads(&self) -> Vec<String> {
        vec!["score".into(), "record".into()]
    }
    fn process(&mut self, _: &CallCtx, batch: &Batch) -> Result<Decisions, DataError> {
        let ColumnData::F32s(scores) = &batch.column("score").unwrap().data else { panic!() };
        assert!(scores.iter().all(|s| *s > 0.1), "a dropped row came back");
        let records = records(batch);
        let odd = |r: &Value| r["odd"].as_bool().unwrap_or(false);
        let errors = records.iter().enumerate().filter(|(_, r)| odd(r)).map(|(i, _)| (i as u32, "odd row".to_string()));
        Ok(Decisions {
            keep: records.iter().map(|r| !odd(r)).collect(),
            reason: vec![None; scores.len()],
            add: vec![],
            errors: errors.collect(),
        })
    }
}

fn records(batch: &Batch) -> Vec<Value> {
    let ColumnData::Utf8(text) = &batch.column("record").unwrap().data else { panic!() };
    (0..text.len()).map(|i| serde_json::from_str(text.str(i).unwrap()).unwrap()).collect()
}

struct Ask;
impl PromptStage for Ask {
    fn reads(&self) -> Vec<String> {
        vec!["record".into()]
    }
    fn render(&mut self, _: &CallCtx, mode: Mode, batch: &Batch) -> Result<Vec<Result<Rendered, String>>, DataError> {
        let one = |record: Value| {
            assert!(!record["panic"].as_bool().unwrap_or(false), "asked to panic");
            let text = |key: &str| record[key].as_str().map(|t| Part::Text(t.to_string()));
            let question = text("question").ok_or("the record has no question")?;
            let mut parts = vec![question];
            if !record["image"].is_null() {
                parts.insert(0, Part::Image(0));
            }
            let mut messages = vec![Message { role: "user".into(), parts, train: false }];
            if let (Mode::Train, Some(answer)) = (mode, text("answer")) {
                messages.push(Message { role: "assistant".into(), parts: vec![answer], train: true });
            }
            Ok(Rendered::Conversation(messages))
        };
        Ok(records(batch).into_iter().map(one).collect())
    }
}

/// First fit over a few open bins; the oldest goes when there are too many. Gives up samples of 41 tokens.
#[derive(Default)]
struct FirstFit {
    capacity: u32,
    bins: Vec<(Vec<u64>, u32)>,
}
impl PackStage for FirstFit {
    fn start(&mut self, limits: &PackLimits) -> Result<(), DataError> {
        *self = FirstFit { capacity: limits.capacity, bins: Vec::new() };
        Ok(())
    }
    fn push(&mut self, _: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
        let ColumnData::S64s(ids) = &batch.column("id").unwrap().data else { panic!() };
        let ColumnData::U32s(lengths) = &batch.column("length").unwrap().data else { panic!() };
        let mut packing = Packing::default();
        for (id, length) in ids.iter().zip(lengths) {
            if *length == 41 {
                packing.dropped.push(*id as u64);
                continue;
            }
            match self.bins.iter_mut().find(|b| b.1 + length <= self.capacity) {
                Some(bin) => {
                    bin.0.push(*id as u64);
                    bin.1 += length;
                }
                None => self.bins.push((vec![*id as u64], *length)),
            }
            if self.bins.len() > 3 {
                packing.bins.push(&self.bins.remove(0).0);
            }
        }
        Ok(packing)
    }
    /// A bin with each call.
    fn flush(&mut self) -> Result<Option<Packing>, DataError> {
        let bin = (!self.bins.is_empty()).then(|| self.bins.remove(0).0);
        Ok(bin.map(|bin| Packing { bins: [bin].iter().collect(), dropped: Vec::new() }))
    }
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        Ok(serde_json::to_vec(&self.bins).unwrap())
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), DataError> {
        self.bins = serde_json::from_slice(state).unwrap();
        Ok(())
    }
}

struct Native;
impl StageFactory for Native {
    fn filters(&self) -> Result<Vec<Box<dyn FilterStage>>, DataError> {
        Ok(vec![Box::new(Scored), Box::new(Second)])
    }
    fn prompt(&self) -> Result<Box<dyn PromptStage>, DataError> {
        Ok(Box::new(Ask))
    }
    fn packer(&self) -> Result<Box<dyn PackStage>, DataError> {
        Ok(Box::new(FirstFit::default()))
    }
    fn fingerprint(&self) -> String {
        "native".into()
    }
    fn prompt_identity(&self) -> Value {
        json!({"sha256": "native"})
    }
}

fn png(seed: u32, w: u32, h: u32) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(w, h, |x, y| image::Rgb([(x * 7 + seed) as u8, (y * 5) as u8, (seed * 31) as u8]));
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn record(i: u64, fields: Value, picture: Option<(Vec<u8>, u32, u32)>) -> Record {
    let Value::Object(fields) = fields else { panic!() };
    let media = picture.into_iter().map(|(bytes, width, height)| Media {
        name: "png".into(),
        size: bytes.len() as u64,
        bytes: bytes.into(),
        width,
        height,
    });
    Record {
        key: format!("k{i}"),
        shard: format!("s{}.tar", i / 90),
        index: i % 90,
        fields,
        media: media.collect(),
        ignored: 0,
    }
}

/// 260 samples in 3 shards; some of every kind of trouble.
fn source() -> Memory {
    let mut all = Vec::new();
    for i in 0..260u64 {
        let (w, h) = (16 + 8 * (i as u32 % 5), 16 + 8 * (i as u32 % 3));
        let picture = Some((png(i as u32, w, h), w, h));
        let fields = json!({"question": "What colour is the square?".repeat(1 + i as usize % 4), "answer": format!("a red square {i}"), "image": "png"});
        let with = |key: &str, value: Value| {
            let mut fields = fields.clone();
            fields[key] = value;
            fields
        };
        all.push(match i {
            7 | 70 | 207 => {
                Err(Reject { key: format!("k{i}"), shard: "s".into(), stage: "read", reason: "unreadable".into() })
            }
            20 | 21 | 120 => Ok(record(i, with("score", json!(0.05)), picture)),
            30 => Ok(record(i, with("odd", json!(true)), picture)),
            40 => Ok(record(i, with("question", Value::Null), picture)),
            50 => Ok(record(i, fields, None)),
            51 => Ok(record(i, with("image", Value::Null), picture)),
            60 => Ok(record(i, with("answer", Value::Null), picture)),
            80 => Ok(record(i, with("question", json!("word ".repeat(400))), picture)),
            // The header is whole, the pixels are not.
            90 | 200 => {
                let mut bytes = png(3, 24, 24);
                bytes.truncate(bytes.len() - 30);
                Ok(record(i, fields, Some((bytes, 24, 24))))
            }
            _ => Ok(record(i, fields, picture)),
        });
    }
    let mut shards: Vec<Vec<_>> = Vec::new();
    for chunk in all.chunks(90) {
        shards.push(chunk.to_vec());
    }
    Memory(shards)
}

fn parts(source: Memory) -> LoaderParts {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["What colour is the square?", "a red square", "0 1 2 3 4 5 6 7 8 9"];
    train_bpe(texts.iter().cycle().take(30).map(|s| s.to_string()), 300, dir.path()).unwrap();
    let images = ImageProcessor::from_json(
        r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "merge_size": 2, "temporal_patch_size": 1,
            "min_pixels": 64, "max_pixels": 4096, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#,
    )
    .unwrap();
    LoaderParts {
        source: Arc::new(source),
        stages: Arc::new(Native),
        chat: Arc::new(ChatTokenizer::from_folder(dir.path()).unwrap()),
        images: Arc::new(images),
        seed: 11,
        rank: 0,
        world: 1,
    }
}

fn config() -> DataConfig {
    DataConfig {
        shuffle_buffer: 50,
        workers: 2,
        capacity: 160,
        packs_per_batch: 2,
        epochs: Some(2),
        ..DataConfig::default()
    }
}

fn all(mut loader: Loader) -> (Vec<MicroBatch>, Vec<Reject>, Counters) {
    let mut batches = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        batches.push(batch);
    }
    assert!(loader.next().unwrap().is_none());
    (batches, loader.take_rejects(), loader.counters().clone())
}

fn same(a: &MicroBatch, b: &MicroBatch) {
    assert_eq!((&a.keys, &a.input_ids, &a.labels, &a.positions), (&b.keys, &b.input_ids, &b.labels, &b.positions));
    assert_eq!((&a.cu_seqlens, &a.grid_thw, a.capacity), (&b.cu_seqlens, &b.grid_thw, b.capacity));
    assert!(a.pixel_values == b.pixel_values);
    assert_eq!(a.rejects, b.rejects);
    assert_eq!(a.state, b.state);
}

#[test]
fn every_sample_is_accounted_for() {
    let parts = parts(source());
    let pad = i64::from(parts.chat.image_pad_id().unwrap());
    let (batches, trailing, counters) = all(Loader::start(&config(), parts).unwrap());
    let rejects: Vec<&Reject> = batches.iter().flat_map(|b| &b.rejects).chain(&trailing).collect();
    assert_eq!(counters.read, 520);
    assert_eq!(counters.filtered, [("scored: low score".to_string(), 6)].into());
    // What filters dropped is listed with its reason too, and counted apart.
    let filtered = rejects.iter().filter(|r| r.stage == "filter").count() as u64;
    assert_eq!((filtered, counters.rejected.get("filter")), (6, None));
    assert_eq!(counters.rejected_total() + filtered, rejects.len() as u64);
    // The packer gave up what it did not like; that is counted too.
    let lengths = |b: &MicroBatch| b.cu_seqlens.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>();
    assert!(batches.iter().flat_map(lengths).all(|n| n != 41));
    let delivered: Vec<&String> = batches.iter().flat_map(|b| &b.keys).collect();
    assert_eq!(counters.samples, delivered.len() as u64);
    assert_eq!(counters.read, counters.samples + counters.rejected_total() + counters.filtered_total());
    assert_eq!(delivered.iter().collect::<BTreeSet<_>>().len(), delivered.len() / 2, "each twice in two epochs");
    let reason = |key: &str| {
        let found: Vec<_> = rejects.iter().filter(|r| r.key == key).collect();
        assert_eq!(found.len(), 2, "{key}");
        (found[0].stage, found[0].reason.clone())
    };
    for (key, stage, words) in [
        ("k7", "read", "unreadable"),
        ("k20", "filter", "scored: low score"),
        ("k30", "filter-error", "second: odd row"),
        ("k40", "prompt", "no question"),
        ("k50", "encode", "1 image placeholders and the record 0 images"),
        ("k51", "encode", "1 images and the prompt 0 image placeholders"),
        ("k60", "encode", "no token of it is to be learnt"),
        ("k80", "length", "data.capacity is 160"),
        ("k90", "decode", "png"),
    ] {
        let (at, reason) = reason(key);
        assert!(at == stage && reason.contains(words), "{key}: {at}: {reason}");
    }
    for batch in &batches {
        let tokens = batch.input_ids.len();
        assert!(tokens as u64 <= batch.capacity && *batch.cu_seqlens.last().unwrap() as usize == tokens);
        assert_eq!(batch.cu_seqlens.len(), batch.keys.len() + 1);
        for ends in batch.cu_seqlens.windows(2) {
            let (from, to) = (ends[0] as usize, ends[1] as usize);
            assert_eq!(batch.positions[from..to], (0..(to - from) as i64).collect::<Vec<_>>());
        }
        let patches: i64 = batch.grid_thw.iter().map(|g| g.iter().product::<i64>()).sum();
        assert_eq!(batch.pixel_values.len(), patches as usize * batch.patch_dim);
        assert_eq!(batch.input_ids.iter().filter(|id| **id == pad).count() as i64, patches / 4);
        // At every batch: read = delivered + rejected + filtered + held.
        let c = &batch.state.counters;
        assert_eq!(c.read, c.samples + c.rejected_total() + c.filtered_total() + batch.state.held());
    }
    assert!(batches.len() > 20);
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    let parts = parts(source());
    let run = |workers| all(Loader::start(&DataConfig { workers, ..config() }, parts.clone()).unwrap());
    let (one, three) = (run(1), run(3));
    assert_eq!(one.0.len(), three.0.len());
    one.0.iter().zip(&three.0).for_each(|(a, b)| same(a, b));
    assert_eq!((one.1, one.2), (three.1, three.2));
}

#[test]
fn resuming_at_every_batch_continues_exactly() {
    let parts = parts(source());
    let (whole, trailing, counters) = all(Loader::start(&config(), parts.clone()).unwrap());
    for (i, batch) in whole.iter().enumerate() {
        let text = serde_json::to_string(&batch.state).unwrap();
        let state = serde_json::from_str(&text).unwrap();
        let config = DataConfig { workers: 1 + i % 3, ..config() };
        let (rest, rest_trailing, rest_counters) = all(Loader::resume(&config, parts.clone(), state).unwrap());
        assert_eq!(rest.len(), whole.len() - i - 1, "after batch {i}");
        whole[i + 1..].iter().zip(&rest).for_each(|(a, b)| same(a, b));
        assert_eq!((&rest_trailing, &rest_counters), (&trailing, &counters));
    }
}

#[test]
fn a_saved_place_of_another_run_is_refused() {
    let parts = parts(source());
    let mut loader = Loader::start(&config(), parts.clone()).unwrap();
    let state = loader.next().unwrap().unwrap().state;
    let other = DataConfig { capacity: 161, ..config() };
    let error = Loader::resume(&other, parts.clone(), state.clone()).err().unwrap().to_string();
    assert!(error.contains("data.capacity was 160") && error.contains("161"), "{error}");
    let mut changed = state.clone();
    changed.open[0].tokens += 1;
    let mut loader = Loader::resume(&config(), parts.clone(), changed).unwrap();
    let error = (0..).find_map(|_| loader.next().err()).unwrap().to_string();
    assert!(error.contains("changed"), "{error}");
    let mut damaged = state;
    damaged.packer = Some("xyz".into());
    let mut loader = Loader::resume(&config(), parts, damaged).unwrap();
    assert!(loader.next().is_err());
}

fn first_error(config: &DataConfig, parts: LoaderParts) -> String {
    let mut loader = match Loader::start(config, parts) {
        Ok(loader) => loader,
        Err(error) => return error.to_string(),
    };
    loop {
        match loader.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => return error.to_string(),
        }
    }
}

#[test]
fn runs_that_must_stop() {
    let parts = parts(source());
    let error = first_error(&DataConfig { max_rejects: Some(5), ..config() }, parts.clone());
    assert!(error.contains("max_rejects is 5") && error.contains("rejects.jsonl"), "{error}");
    let error = first_error(&DataConfig { max_reject_rate: 0.01, ..config() }, parts.clone());
    assert!(error.contains("max_reject_rate is 0.01"), "{error}");
    // Endless epochs without a sample must not spin.
    let only = |fields: Value| LoaderParts {
        source: Arc::new(Memory(vec![vec![Ok(record(0, fields, None))]])),
        ..parts.clone()
    };
    let config = DataConfig { epochs: None, max_reject_rate: 1.0, ..config() };
    let error = first_error(&config, only(json!({"score": 0.0})));
    assert!(error.contains("no sample of epoch 0") && error.contains("low score"), "{error}");
    let error = first_error(&config, only(json!({"question": "q", "answer": "a", "panic": true})));
    assert!(error.contains("asked to panic"), "{error}");
    let error = first_error(&config, LoaderParts { source: Arc::new(Memory(vec![])), ..parts.clone() });
    assert!(error.contains("0 samples"), "{error}");
    let error = first_error(&DataConfig { capacity: 0, ..config }, parts);
    assert!(error.contains("data.capacity is 0"), "{error}");
}

#[test]
fn what_stopped_a_run_is_listed() {
    let parts = parts(source());
    // Two of the first samples of the files are rejected for good, and the second ends the run.
    let config = DataConfig { max_rejects: Some(1), shuffle_buffer: 0, ..config() };
    let mut loader = Loader::start(&config, parts).unwrap();
    let mut rejects = Vec::new();
    let error = loop {
        match loader.next() {
            Ok(Some(batch)) => rejects.extend(batch.rejects),
            Ok(None) => panic!("no error"),
            Err(error) => break error.to_string(),
        }
    };
    rejects.extend(loader.take_rejects());
    let keys: Vec<&str> = rejects.iter().map(|r| r.key.as_str()).collect();
    assert!(error.contains("max_rejects is 1") && keys.contains(&"k7") && keys.contains(&"k30"), "{error}: {keys:?}");
    assert!(loader.next().unwrap().is_none(), "nothing comes after an error");
}

#[test]
fn pictures_that_cannot_be_decoded_end_a_run() {
    let mut bytes = png(3, 24, 24);
    bytes.truncate(bytes.len() - 30);
    let fields = json!({"question": "What?", "answer": "a square", "image": "png"});
    let bad = |i: u64| Ok(record(i, fields.clone(), Some((bytes.clone(), 24, 24))));
    let good = Ok(record(0, fields.clone(), Some((png(3, 24, 24), 24, 24))));
    let with = |samples| LoaderParts { source: Arc::new(Memory(vec![samples])), ..parts(Memory(vec![])) };
    // Endless epochs and no bound: a whole epoch of nothing is the end.
    let endless = DataConfig { epochs: None, max_reject_rate: 1.0, ..config() };
    let error = first_error(&endless, with((0..6).map(bad).collect()));
    assert!(error.contains("more than a whole epoch") && error.contains("png"), "{error}");
    // Few samples are judged at the end; the batch with the good one comes first.
    let mut loader = Loader::start(&config(), with((1..6).map(bad).chain([good]).collect())).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert!(batch.keys.iter().all(|k| k == "k0"), "{:?}", batch.keys);
    let error = loop {
        if let Err(error) = loader.next() {
            break error.to_string();
        }
    };
    assert!(error.contains("max_reject_rate is 0.1") && error.contains("decode 10"), "{error}");
}

#[test]
fn configurations_out_of_bounds_name_the_key() {
    let says = |config: DataConfig, words: &[&str]| {
        let error = config.check().unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    };
    let good = DataConfig::default;
    good().check().unwrap();
    says(DataConfig { packs_per_batch: 65_537, ..good() }, &["data.packs_per_batch is 65537", "1 to 65536"]);
    let wide = DataConfig { packs_per_batch: 60_000, capacity: 100_000, prefetch: 1, ..good() };
    says(wide, &["data.packs_per_batch is 60000", "1 to 21474 with data.capacity = 100000"]);
    says(DataConfig { prefetch: 5000, ..good() }, &["data.prefetch is 5000", "1 to 4096"]);
    says(DataConfig { prefetch: 100, packs_per_batch: 1000, ..good() }, &["data.prefetch is 100", "1 to 65 with"]);
    says(DataConfig { workers: 2000, ..good() }, &["data.workers is 2000", "1024"]);
    says(DataConfig { max_image_pixels: 0, ..good() }, &["data.max_image_pixels is 0"]);
}

#[test]
fn dropping_a_loader_ends_its_threads() {
    let mut loader = Loader::start(&DataConfig { epochs: None, ..config() }, parts(source())).unwrap();
    assert_eq!(loader.next_step(3).unwrap().len(), 3);
    drop(loader);
}

#[test]
fn evaluation_asks_in_order() {
    let parts = parts(source());
    let mut reader =
        EvalReader::new(Some(parts.source.clone()), parts.stages.as_ref(), parts.chat.clone(), parts.images.clone(), 0)
            .unwrap();
    assert_eq!(reader.len(), 260);
    let sample = reader.read(91).unwrap().unwrap();
    assert_eq!((sample.key.as_str(), sample.references.as_slice()), ("k91", &["a red square 91".to_string()][..]));
    let text = parts.chat.decode(&sample.prompt.input_ids, false).unwrap();
    assert!(text.ends_with("<|im_start|>assistant\n") && !text.contains("a red square"), "{text}");
    let (seen, grid) = sample.pixels(&parts.images, false).unwrap();
    let (blank, blank_grid) = sample.pixels(&parts.images, true).unwrap();
    assert!(grid == blank_grid && seen.len() == blank.len() && seen != blank);
    assert_eq!(reader.read(7).unwrap().unwrap_err().stage, "read");
    assert_eq!(reader.read(40).unwrap().unwrap_err().stage, "prompt");
    let corrupt = reader.read(90).unwrap().unwrap();
    assert_eq!(corrupt.pixels(&parts.images, false).unwrap_err().stage, "decode");
    assert!(reader.read(260).is_err());
}
