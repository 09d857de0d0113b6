//! Every step needs at most 32 bytes a sample beyond a constant, whatever becomes of the samples: counted where every allocation
//! passes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ovhost_data::pipeline::{FilterStage, PackStage, PromptStage, StageFactory};
use ovhost_data::rejects::RejectBudget;
use ovhost_data::shards::ShardFile;
use ovhost_data::tokenizer_train::train_bpe;
use ovhost_data::{ChatTokenizer, DataError, ImageProcessor};
use ovhost_plugin::{Batch, CallCtx, ColumnData, Message, Mode, OnTrap, PackLimits, Packing, Part as Piece, Rendered};
use ovhost_prep::inspect::{InspectOptions, inspect};
use ovhost_prep::packs::{PackSpec, pack_lengths};
use ovhost_prep::stats::{StatsSettings, Tokens, stats};
use ovhost_prep::validate::{ValidateSettings, validate};
use ovhost_prep::{ConvertSettings, Converted, Input, PackSettings, Packed, Part, RunOptions, WORDS, convert, pack};
use serde_json::{Value, json};

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

/// A pack for every sample, or for so many: the most and the fewest packs that there can be. Of 0: none is packed, all are
/// given up.
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
            if self.items == 0 {
                packing.dropped.push(*id as u64);
                continue;
            }
            self.open.push(*id as u64);
            if self.open.len() == self.items {
                packing.bins.push(&self.open);
                self.open.clear();
            }
        }
        Ok(packing)
    }
    fn flush(&mut self) -> Result<Option<Packing>, DataError> {
        let bin = std::mem::take(&mut self.open);
        Ok((!bin.is_empty()).then(|| Packing { bins: [bin].iter().collect(), dropped: Vec::new() }))
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
    match items {
        0 => assert_eq!((packs.dropped.len(), packs.len()), (n, 0)),
        _ => assert_eq!((packs.ordinals.len(), packs.len()), (n, n.div_ceil(items))),
    }
    PEAK.load(Relaxed) - before
}

/// One measurement at a time: the counts are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn at_most_32_bytes_a_sample() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for items in [0, 1, 8] {
        let (one, two) = (peak(1_000_000, items), peak(2_000_000, items));
        let each = (two - one) as f64 / 1e6;
        println!("{items} samples a pack: {one} and {two} bytes, {each:.1} a sample");
        assert!(each <= 32.0, "{items} samples a pack: {each} bytes a sample");
        assert!(one <= 32_000_000 + (1 << 20), "{one}");
    }
}

/// What a step does with samples that are all given up: by the prompt, or by the packer.
struct GiveUp {
    prompt: bool,
}

struct Caption {
    refuse: bool,
}

impl PromptStage for Caption {
    fn reads(&self) -> Vec<String> {
        vec!["text".into()]
    }
    fn render(&mut self, _: &CallCtx, _: Mode, batch: &Batch) -> Result<Vec<Result<Rendered, String>>, DataError> {
        let message = |role: &str, train| {
            let parts = vec![Piece::Text("some words".into())];
            Message { role: role.into(), parts, train }
        };
        let talk = || Rendered::Conversation(vec![message("user", false), message("assistant", true)]);
        let refusal = || "refused ".repeat(20);
        Ok((0..batch.rows).map(|_| if self.refuse { Err(refusal()) } else { Ok(talk()) }).collect())
    }
}

impl StageFactory for GiveUp {
    fn filters(&self) -> Result<Vec<Box<dyn FilterStage>>, DataError> {
        Ok(Vec::new())
    }
    fn prompt(&self) -> Result<Box<dyn PromptStage>, DataError> {
        Ok(Box::new(Caption { refuse: self.prompt }))
    }
    fn packer(&self) -> Result<Box<dyn PackStage>, DataError> {
        Ok(Box::new(Every { items: 0, open: Vec::new() }))
    }
    fn fingerprint(&self) -> String {
        "native".into()
    }
    fn prompt_identity(&self) -> Value {
        json!({ "prompt": self.prompt })
    }
}

/// Most bytes in use while shards of 2,000 samples are packed of which none is left, and what was left out.
fn peak_of_pack(shards: &[PathBuf], out: &Path, chat: &Arc<ChatTokenizer>, prompt: bool) -> (usize, u64) {
    let limits = PackLimits { capacity: 512, max_items_per_bin: 0, max_open_items: 0 };
    let settings = PackSettings {
        inputs: shards.to_vec(),
        out: out.to_owned(),
        stages: Arc::new(GiveUp { prompt }),
        filters: json!([]),
        packer: json!({}),
        on_trap: OnTrap::Stop,
        chat: chat.clone(),
        images: Arc::new(ImageProcessor::from_json("{}").unwrap()),
        limits,
        seed: 1,
        shuffle: true,
        packs_per_shard: 100,
        layout: ovhost_data::packed::Layout::Packed,
        split: "train".into(),
    };
    let stop = AtomicBool::new(false);
    let options = RunOptions {
        out: out.to_owned(),
        workers: 1,
        part: Part::default(),
        budget: RejectBudget { max_rate: 1.0, max_count: None, words: WORDS },
        stop: &stop,
        progress: &|_| {},
    };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let Packed::Written(summary) = pack(&settings, &options, &|_| ()).unwrap() else { panic!("it was waiting") };
    let peak = PEAK.load(Relaxed) - before;
    assert_eq!((summary.counts.packs, summary.counts.read), (0, summary.counts.rejected_total()));
    let lines = std::fs::read_to_string(out.join("rejects.jsonl")).unwrap().lines().count() as u64;
    assert_eq!(lines, summary.counts.read);
    (peak, summary.counts.read)
}

/// How the steps below run, with their rejects bounded by nothing.
fn options<'a>(out: &Path, stop: &'a AtomicBool) -> RunOptions<'a> {
    RunOptions {
        out: out.to_owned(),
        workers: 1,
        part: Part::default(),
        budget: RejectBudget { max_rate: 1.0, max_count: None, words: WORDS },
        stop,
        progress: &|_| {},
    }
}

/// Most bytes in use while `work` runs.
fn most(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// Holds a step to the bound: `peak(n)` is what it takes of `n` shards or tables of `each` samples. Few are enough that no buffer
/// is half full.
fn bounded(step: &str, each: usize, peak: impl Fn(usize) -> usize) {
    let _warm = peak(1);
    let (few, many) = (peak(4), peak(20));
    let grown = many.saturating_sub(few) as f64 / (16 * each) as f64;
    println!("{step}: {few} and {many} bytes, {grown:.1} a sample");
    assert!(grown <= 32.0, "{step}: {grown} bytes a sample");
    assert!(few > 1000, "{step}: nothing was counted");
}

#[test]
fn looking_at_samples_takes_no_memory() {
    // So that even few samples have more sources than are told apart.
    const EACH: usize = 3_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let shard = |i: usize| {
        let path = dir.path().join(format!("s-{i:03}.tar"));
        let mut file = ShardFile::create(path.clone()).unwrap();
        // A source and a length of its own for many samples, and some that cannot be read.
        for k in 0..EACH {
            let json = format!("{{\"caption\": \"{}\", \"source\": \"s{}\"}}", "word ".repeat(k % 50), i * EACH + k);
            let bytes = if k % 10 == 0 { b"{".as_slice() } else { json.as_bytes() };
            file.write(&format!("k{i:03}{k:06}"), &[("json", bytes)]).unwrap();
        }
        file.publish().unwrap();
        path
    };
    let shards: Vec<PathBuf> = (0..20).map(shard).collect();
    let stop = AtomicBool::new(false);
    bounded("stats", EACH, |n| {
        let out = tempfile::tempdir().unwrap();
        let inputs = shards[..n].to_vec();
        let settings = StatsSettings { inputs, tokens: Tokens::None, source_field: None, max_pixels: 1_000_000 };
        most(|| assert!(stats(&settings, &options(out.path(), &stop)).unwrap().finished))
    });
    bounded("inspect", EACH, |n| {
        let options = InspectOptions { sample: 0, examples: 3, seed: None, workers: 1, max_pixels: 1_000_000 };
        most(|| assert_eq!(inspect(&shards[..n], &options, &|| Ok(())).unwrap().len(), 1))
    });
    bounded("validate", EACH, |n| {
        let settings = ValidateSettings {
            inputs: shards[..n].to_vec(),
            decode: true,
            hashes: false,
            require_images: true,
            max_pixels: 1_000_000,
            encoding: None,
            most: 10,
            workers: 1,
        };
        most(|| assert!(!validate(&settings, &|_| Ok(())).unwrap().clean))
    });
}

#[test]
fn converting_takes_32_bytes_a_row_at_most() {
    const EACH: usize = 5_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let table = |i: usize| {
        let path = dir.path().join(format!("t-{i:03}.jsonl"));
        let row = |k: usize| format!("{{\"id\": \"{i}-{k}\", \"caption\": \"{}\"}}\n", "word ".repeat(k % 50));
        std::fs::write(&path, (0..EACH).map(row).collect::<String>()).unwrap();
        path
    };
    let tables: Vec<PathBuf> = (0..20).map(table).collect();
    let stop = AtomicBool::new(false);
    bounded("convert", EACH, |n| {
        let out = tempfile::tempdir().unwrap();
        let mut settings = ConvertSettings::new(Input::Rows(tables[..n].to_vec()));
        settings.max_count = 1_000;
        most(|| {
            let converted = convert(&settings, &options(out.path(), &stop), &|_| ()).unwrap();
            assert!(matches!(converted, Converted::Written { rows, .. } if rows == (n * EACH) as u64));
        })
    });
}

#[test]
fn samples_that_are_all_rejected_take_no_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let words = ["some words", "red square"];
    train_bpe(words.iter().cycle().take(20).map(|s| (*s).to_owned()), 280, dir.path()).unwrap();
    let chat = Arc::new(ChatTokenizer::from_folder(dir.path()).unwrap());
    let shard = |i: usize| {
        let path = dir.path().join(format!("s-{i:03}.tar"));
        let mut file = ShardFile::create(path.clone()).unwrap();
        (0..2_000).for_each(|k| file.write(&format!("k{k:06}"), &[("json", b"{\"caption\": \"c\"}")]).unwrap());
        file.publish().unwrap();
        path
    };
    let shards: Vec<PathBuf> = (0..20).map(shard).collect();
    for prompt in [true, false] {
        let peak = |n: usize| {
            let out = tempfile::tempdir().unwrap();
            peak_of_pack(&shards[..n], out.path(), &chat, prompt)
        };
        let _warm = peak(1);
        let ((few, some), (many, all)) = (peak(4), peak(20));
        assert_eq!((some, all), (8_000, 40_000));
        let each = (many.saturating_sub(few)) as f64 / (all - some) as f64;
        println!(
            "rejected by the {}: {few} and {many} bytes, {each:.1} a sample",
            if prompt { "prompt" } else { "packer" }
        );
        // The list itself would take 300 bytes and more.
        assert!(each <= 32.0, "{each} bytes a sample");
    }
}
