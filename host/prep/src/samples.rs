//! A shard's samples as records, packs taken apart, and what each becomes in training: tokens, labels, patches.
//!
//! ```text
//!  Shard ─ Reader ─► records of one sample, or of all samples of a pack ─ Encoder (prompt, tokenizer, image sizes) ─► Outcome
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovhost_data::packed::{Head, Layout, Pack, layout_of, parse};
use ovhost_data::pipeline::{Item, Outcome, PipelineShared, RowPipeline, SampleSource, StageFactory};
use ovhost_data::record::{Record, RecordOptions, Reject};
use ovhost_data::shards::{RawSample, Shard};
use ovhost_data::{ChatTokenizer, DataError, ImageProcessor};
use serde::Deserialize;

/// Samples that go through a prompt together.
pub const CHUNK: usize = 64;

/// What a member of a shard is, taken apart.
pub struct Unit {
    /// Of a pack: what it says of itself.
    pub pack: Option<PackNote>,
    /// The sample, or the samples of a pack.
    pub records: Vec<Result<Record, Reject>>,
}

/// What a pack says of itself.
pub struct PackNote {
    /// All of it; none in the reference's layout.
    pub head: Option<Head>,
    /// Tokens and patches of each sample; empty in the reference's layout.
    pub lengths: Vec<[u32; 2]>,
}

/// Reads a shard's members as what they are.
pub struct Reader<'a> {
    shard: &'a Shard,
    /// What they are.
    pub layout: Layout,
    options: RecordOptions,
    whole: bool,
}

#[derive(Deserialize)]
struct Lengths {
    samples: Vec<Length>,
}

#[derive(Deserialize)]
struct Length {
    tokens: u32,
    patches: u32,
}

impl<'a> Reader<'a> {
    /// A reader of the members of `shard`. `whole`: of pictures all is read; else of single samples no more than their sizes
    /// need.
    pub fn new(shard: &'a Shard, max_pixels: u64, whole: bool) -> Self {
        // A head that cannot be read is each pack's own fault, which `parse` tells.
        let layout = layout_of(shard).map_or(Layout::Packed, |(layout, _)| layout);
        Reader { shard, layout, options: RecordOptions { max_pixels }, whole }
    }

    /// Reads member `index`.
    pub fn read(&self, index: usize) -> Unit {
        if self.layout == Layout::Plain && !self.whole {
            return Unit { pack: None, records: vec![self.shard.record_by_headers(index, &self.options)] };
        }
        match self.shard.read(index) {
            Ok(raw) => self.take(raw, index),
            Err(error) => Unit { pack: None, records: vec![Err(self.shard.reject(index, error))] },
        }
    }

    /// Member `index`, which was read before.
    pub fn take(&self, raw: RawSample, index: usize) -> Unit {
        if self.layout == Layout::Plain {
            let record = Record::build(raw, self.shard.name(), index as u64, &self.options);
            return Unit { pack: None, records: vec![record] };
        }
        let json = raw.parts.iter().find(|(part, _)| part == "json").map(|(_, bytes)| bytes.as_slice());
        let lengths = json.and_then(|bytes| serde_json::from_slice::<Lengths>(bytes).ok());
        let lengths = lengths.map_or_else(Vec::new, |l| l.samples.iter().map(|s| [s.tokens, s.patches]).collect());
        match parse(raw, self.shard.name(), &self.options) {
            Ok(pack) => Unit {
                pack: Some(PackNote { head: pack.head, lengths }),
                records: pack.samples.into_iter().map(|sample| sample.record).collect(),
            },
            Err(reject) => Unit { pack: None, records: vec![Err(reject)] },
        }
    }
}

/// By what samples become tokens.
#[derive(Clone)]
pub struct Encoding {
    /// Tokenizer and template.
    pub chat: Arc<ChatTokenizer>,
    /// Image sizes.
    pub images: Arc<ImageProcessor>,
    /// The prompt, and filters if there are any.
    pub stages: Arc<dyn StageFactory>,
    /// Most tokens of a sample.
    pub capacity: u32,
    /// Seed that the prompt sees.
    pub seed: u64,
}

impl Encoding {
    /// For plans: everything that lengths depend on.
    pub fn record(&self) -> serde_json::Value {
        let made_for = ovhost_data::packed::MadeFor::of(&self.chat, &self.images, self.stages.prompt_identity());
        serde_json::json!({ "made_for": made_for, "capacity": self.capacity, "seed": self.seed })
    }
}

/// One thread's encoder.
pub struct Encoder {
    pipeline: RowPipeline,
    held: Arc<Held>,
}

/// What the pipeline is to read next.
#[derive(Default)]
struct Held(Mutex<Next>);

#[derive(Default)]
struct Next {
    records: Vec<Option<Record>>,
    pack: Option<Pack>,
    packed: bool,
}

impl Held {
    fn next(&self) -> MutexGuard<'_, Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_twice() -> Reject {
    let reason = "it was read twice: a defect of the program".into();
    Reject { key: String::new(), shard: String::new(), stage: "read", reason }
}

impl SampleSource for Held {
    fn shards(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn record(&self, _: u32, index: u64) -> Result<Record, Reject> {
        self.next().records.get_mut(index as usize).and_then(Option::take).ok_or_else(read_twice)
    }

    fn packed(&self) -> bool {
        self.next().packed
    }

    fn pack(&self, _: u32, _: u64) -> Result<Pack, Reject> {
        self.next().pack.take().ok_or_else(read_twice)
    }
}

impl Encoder {
    /// An encoder.
    pub fn new(encoding: &Encoding) -> Result<Self, DataError> {
        let held = Arc::new(Held::default());
        let shared = PipelineShared {
            source: held.clone(),
            chat: encoding.chat.clone(),
            images: encoding.images.clone(),
            seed: encoding.seed,
            rank: 0,
        };
        let pipeline = RowPipeline::new(shared, encoding.stages.as_ref(), encoding.capacity)?;
        Ok(Encoder { pipeline, held })
    }

    /// Whether its plugins look into pictures, so that headers will not do.
    pub fn reads_pixels(&self) -> bool {
        self.pipeline.reads_pixels()
    }

    /// What becomes of `records`, in order; `first` is the id of the first of them.
    ///
    /// # Errors
    /// A plugin that fails as a whole.
    pub fn run(&mut self, first: u64, records: Vec<Record>) -> Result<Vec<Outcome>, DataError> {
        let items: Vec<Item> =
            (0..records.len() as u64).map(|i| Item { ordinal: first + i, shard: 0, index: i }).collect();
        let records = records.into_iter().map(Some).collect();
        *self.held.next() = Next { records, ..Next::default() };
        self.pipeline.run(&items)
    }

    /// What becomes of a pack's samples, each under the seed and the id that it was measured with.
    ///
    /// # Errors
    /// The pack was made for other settings; a plugin that fails as a whole.
    pub fn run_pack(&mut self, ordinal: u64, pack: Pack) -> Result<Vec<Outcome>, DataError> {
        *self.held.next() = Next { pack: Some(pack), packed: true, ..Next::default() };
        self.pipeline.run(&[Item { ordinal, shard: 0, index: 0 }])
    }
}
