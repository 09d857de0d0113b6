//! One sample from shard to tokens: read → filters → prompt → tokenise → lengths.
//!
//! ```text
//!  Item {ordinal, coord} ─► Record ─► filter 1 … filter n ─► prompt ─► ChatTokenizer ─► EncodedSample
//!                             │            │                   │            │
//!                             └── Reject   ├── Filtered        └── Reject   └── Reject
//!                                          └── Reject (the filter failed on it)
//! ```
//! Of a packed shard an item is a pack: each of its samples goes this way by itself (packs.rs).
//!
//! A worker thread owns one [`RowPipeline`]. Plugins are behind three small traits, so that the loader can be tested
//! with native stages and a native stage can take a plugin's place. Rows reach a plugin in runs of consecutive
//! ordinals: `first_row + i` is then right for every row, whatever was dropped before.

mod filters;
mod packs;
mod source;

use std::sync::Arc;

pub use filters::{Dropped, FilterChain, Row, Stream};
use filters::{reject, runs, with_key};
use ovhost_plugin::{
    Batch, CallCtx, Decisions, FilterInstance, Kind, Mode, OnTrap, PackLimits, PackerInstance, Packing, Plugin,
    PluginInfo, PromptInstance, Rendered,
};
use serde_json::{Value, json};
pub use source::{Mix, MixPart, SampleSource, ShardSource};

use crate::DataError;
use crate::chat::{ChatTokenizer, Encoded, IGNORE};
use crate::columns::{self, Compute};
use crate::image::ImageProcessor;
use crate::packed::{MARK, MadeFor};
use crate::record::{Media, Record, Reject};

/// A filter, in WASM or native.
pub trait FilterStage: Send {
    /// Name for reject reasons.
    fn name(&self) -> &str;
    /// Columns that it wants.
    fn reads(&self) -> Vec<String>;
    /// Judges rows.
    fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, DataError>;
    /// Whether it remembers rows: it then wants all rows of the stream, in order.
    fn is_streaming(&self) -> bool {
        false
    }
    /// What it remembers, as bytes.
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        Ok(Vec::new())
    }
    /// Goes on from saved bytes.
    fn restore(&mut self, _state: &[u8]) -> Result<(), DataError> {
        Ok(())
    }
}

/// A prompt, in WASM or native.
pub trait PromptStage: Send {
    /// Columns that it wants.
    fn reads(&self) -> Vec<String>;
    /// Special tokens that its segments use.
    fn special_tokens(&mut self) -> Result<Vec<String>, DataError> {
        Ok(Vec::new())
    }
    /// Further strings that end an answer.
    fn stop_strings(&mut self) -> Result<Vec<String>, DataError> {
        Ok(Vec::new())
    }
    /// Renders rows: one item each, or an error for the row.
    fn render(&mut self, ctx: &CallCtx, mode: Mode, batch: &Batch) -> Result<Vec<Result<Rendered, String>>, DataError>;
}

/// A packer, in WASM or native.
pub trait PackStage: Send {
    /// Begins a stream.
    fn start(&mut self, limits: &PackLimits) -> Result<(), DataError>;
    /// Adds samples (columns `id`, `length`, `patches`); finished bins come out.
    fn push(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Packing, DataError>;
    /// Ends the stream: open samples come out, all of them or some with each call; `None` when all have. Called until then.
    fn flush(&mut self) -> Result<Option<Packing>, DataError>;
    /// Open state as bytes.
    fn save(&mut self) -> Result<Vec<u8>, DataError>;
    /// Continues from saved bytes, in a started stage.
    fn restore(&mut self, state: &[u8]) -> Result<(), DataError>;
}

/// Makes stages: one set of filters and one prompt per worker, one packer per stream.
pub trait StageFactory: Send + Sync {
    /// Filters in recipe order.
    fn filters(&self) -> Result<Vec<Box<dyn FilterStage>>, DataError>;
    /// The prompt.
    fn prompt(&self) -> Result<Box<dyn PromptStage>, DataError>;
    /// The packer.
    fn packer(&self) -> Result<Box<dyn PackStage>, DataError>;
    /// What the stages are (name, hash, configuration): a change makes a saved position useless.
    fn fingerprint(&self) -> String;
    /// What the prompt is (hash, entry, configuration): packed shards hold for one prompt only.
    fn prompt_identity(&self) -> Value;
}

/// Stages that are plugins.
pub struct PluginStages {
    /// Filters in recipe order.
    pub filters: Vec<Plugin>,
    /// The prompt.
    pub prompt: Plugin,
    /// The packer; evaluation needs none.
    pub packer: Option<Plugin>,
    /// Whether a filter or prompt that fails on a row stops the run, or the row becomes a reject.
    pub on_trap: OnTrap,
}

impl PluginStages {
    /// Checks that every column a plugin requires is there when its turn comes, and that the plugins can do their work
    /// on several threads.
    ///
    /// # Errors
    /// A missing column; a filter that adds a column of the host's; a filter or prompt that is streaming.
    pub fn new(filters: Vec<Plugin>, prompt: Plugin, packer: Option<Plugin>) -> Result<Self, DataError> {
        let mut offered: Vec<String> = columns::STANDARD.map(String::from).into();
        filters.iter().try_for_each(|filter| check_pure("filter", filter.info()))?;
        check_filter_columns(&filters, &mut offered)?;
        prompt.check_columns(&offered.iter().map(String::as_str).collect::<Vec<_>>())?;
        check_pure("prompt", prompt.info())?;
        if let Some(packer) = &packer {
            packer.check_columns(&["id", "length", "patches"])?;
        }
        Ok(Self { filters, prompt, packer, on_trap: OnTrap::Stop })
    }

    /// Sets what a failing plugin does to the run.
    pub fn with_on_trap(mut self, policy: OnTrap) -> Self {
        self.on_trap = policy;
        self
    }
}

impl StageFactory for PluginStages {
    fn filters(&self) -> Result<Vec<Box<dyn FilterStage>>, DataError> {
        self.filters.iter().map(|p| plugin_filter(p, self.on_trap)).collect()
    }

    fn prompt(&self) -> Result<Box<dyn PromptStage>, DataError> {
        let mut instance = self.prompt.prompt()?;
        instance.set_on_trap(self.on_trap);
        Ok(Box::new(PluginPrompt(instance, self.prompt.clone())))
    }

    fn packer(&self) -> Result<Box<dyn PackStage>, DataError> {
        let packer = self.packer.as_ref().ok_or_else(|| {
            DataError::Config("no packer plugin is named; add one, such as packers/padding_free.wasm".into())
        })?;
        Ok(Box::new(packer.packer()?))
    }

    fn fingerprint(&self) -> String {
        let all = self.filters.iter().chain([&self.prompt]).chain(&self.packer);
        let words = all.map(|p| {
            let info = p.info();
            let assets: Vec<String> = info.assets.iter().map(|a| format!(" {}={}", a.name, a.sha256)).collect();
            format!("{} {} {} {}{}", info.name, info.sha256, info.entry, info.resolved_config, assets.concat())
        });
        words.collect::<Vec<_>>().join("; ")
    }

    fn prompt_identity(&self) -> Value {
        identity(self.prompt.info())
    }
}

/// What a plugin's results depend on, and what people call it: no paths, and not the name of this use of it.
pub fn identity(info: &PluginInfo) -> Value {
    let assets: Vec<Value> = info.assets.iter().map(|a| json!({ "name": a.name, "sha256": a.sha256 })).collect();
    json!({ "plugin": info.plugin_name, "version": info.version, "entry": info.entry, "sha256": info.sha256,
            "config": info.resolved_config, "assets": assets })
}

/// Every worker has an instance of its own, so none of them sees the whole stream.
fn check_pure(kind: &str, info: &PluginInfo) -> Result<(), DataError> {
    if info.state_pure {
        return Ok(());
    }
    let next = if info.kind == Kind::Filter {
        "run it once over the data beforehand (`ovhost data filter`) and train on what it keeps; of a plugin with two passes, \
         count with --judge-only --save-state and give that state to the second pass as its asset"
    } else {
        "let it treat each row on its own"
    };
    Err(DataError::Config(format!(
        "{kind} {} says that its calls build on one another (streaming); here {kind}s run on several threads and no \
         instance sees the whole stream, so only pure ones work: {next}",
        info.name
    )))
}

/// Checks that every column a filter requires is there when its turn comes. `offered` grows by what the filters add.
///
/// # Errors
/// A missing column; a filter that adds a column of the host's.
pub fn check_filter_columns(filters: &[Plugin], offered: &mut Vec<String>) -> Result<(), DataError> {
    for filter in filters {
        filter.check_columns(&offered.iter().map(String::as_str).collect::<Vec<_>>())?;
        check_writes(filter.info())?;
        offered.extend(filter.info().writes.iter().cloned());
    }
    Ok(())
}

/// A column of the host's would hide one of the same name that a filter adds.
fn check_writes(info: &PluginInfo) -> Result<(), DataError> {
    match info.writes.iter().find(|name| columns::STANDARD.contains(&name.as_str())) {
        None => Ok(()),
        Some(column) => Err(DataError::Config(format!(
            "filter {} says that it adds the column \"{column}\", which is the host's own; it must have another name, such \
             as \"{}/{column}\"",
            info.name, info.plugin_name
        ))),
    }
}

fn reads(plugin: &Plugin) -> Vec<String> {
    plugin.info().reads.iter().map(|(name, _)| name.clone()).collect()
}

struct PluginFilter(FilterInstance, Plugin);

/// An instance of a filter plugin as a stage.
///
/// # Errors
/// Another kind of plugin, one that cannot be instantiated, or [`OnTrap::Reject`] for a streaming one.
pub fn plugin_filter(plugin: &Plugin, on_trap: OnTrap) -> Result<Box<dyn FilterStage>, DataError> {
    let mut instance = plugin.filter()?;
    instance.set_on_trap(on_trap)?;
    Ok(Box::new(PluginFilter(instance, plugin.clone())))
}

impl FilterStage for PluginFilter {
    fn name(&self) -> &str {
        &self.1.info().name
    }
    fn reads(&self) -> Vec<String> {
        reads(&self.1)
    }
    fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, DataError> {
        Ok(self.0.process(ctx, batch)?)
    }
    fn is_streaming(&self) -> bool {
        self.0.is_streaming()
    }
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        if self.is_streaming() { Ok(self.0.save()?) } else { Ok(Vec::new()) }
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), DataError> {
        Ok(self.0.restore(state)?)
    }
}

struct PluginPrompt(PromptInstance, Plugin);

impl PromptStage for PluginPrompt {
    fn reads(&self) -> Vec<String> {
        reads(&self.1)
    }
    fn special_tokens(&mut self) -> Result<Vec<String>, DataError> {
        Ok(self.0.special_tokens()?)
    }
    fn stop_strings(&mut self) -> Result<Vec<String>, DataError> {
        Ok(self.0.stop_strings()?)
    }
    fn render(&mut self, ctx: &CallCtx, mode: Mode, batch: &Batch) -> Result<Vec<Result<Rendered, String>>, DataError> {
        let output = self.0.render(ctx, mode, batch)?;
        let mut items: Vec<Result<Rendered, String>> = output.items.into_iter().map(Ok).collect();
        for (row, message) in output.errors {
            if let Some(item) = items.get_mut(row as usize) {
                *item = Err(message);
            }
        }
        Ok(items)
    }
}

impl PackStage for PackerInstance {
    fn start(&mut self, limits: &PackLimits) -> Result<(), DataError> {
        Ok(PackerInstance::start(self, limits)?)
    }
    fn push(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Packing, DataError> {
        Ok(PackerInstance::push(self, ctx, batch)?)
    }
    fn flush(&mut self) -> Result<Option<Packing>, DataError> {
        Ok(PackerInstance::flush(self)?)
    }
    fn save(&mut self) -> Result<Vec<u8>, DataError> {
        Ok(PackerInstance::save(self)?)
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), DataError> {
        Ok(PackerInstance::restore(self, state)?)
    }
}

/// One sample to make, by its place in the stream and in the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Ordinal in the stream: the sample's id.
    pub ordinal: u64,
    /// Shard, by its number in the source.
    pub shard: u32,
    /// Sample of the shard.
    pub index: u64,
}

/// An image of an encoded sample, in the order of the runs of pads.
#[derive(Debug, Clone)]
pub struct SampleImage {
    /// The picture as the record holds it.
    pub media: Media,
    /// Tokens that its header promises.
    pub tokens: usize,
}

/// A sample ready for the packer: tokens and labels made, pictures not decoded yet.
#[derive(Debug, Clone)]
pub struct EncodedSample {
    /// Where it came from; `item.ordinal` is its id.
    pub item: Item,
    /// Key in its shard.
    pub key: String,
    /// Shard's file name.
    pub source: String,
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Labels, not shifted.
    pub labels: Vec<i32>,
    /// Pictures in the order of their pads.
    pub images: Vec<SampleImage>,
    /// Vision patches of all pictures.
    pub patches: u32,
}

/// What became of an item.
#[derive(Debug)]
pub enum Outcome {
    /// Ready.
    Sample(Box<EncodedSample>),
    /// A filter dropped it. That is wanted: it is listed with the rejects, and counts as none.
    Filtered(Reject),
    /// It cannot be used.
    Reject(Reject),
}

/// What every worker shares.
#[derive(Clone)]
pub struct PipelineShared {
    /// Samples.
    pub source: Arc<dyn SampleSource>,
    /// Tokenizer and template.
    pub chat: Arc<ChatTokenizer>,
    /// Image sizes.
    pub images: Arc<ImageProcessor>,
    /// Seed of the run.
    pub seed: u64,
    /// Data-parallel stream.
    pub rank: u32,
}

impl PipelineShared {
    fn stream(&self) -> Stream<'_> {
        let compute = Compute { chat: Some(&self.chat), max_pixels: self.images.max_decode_pixels };
        Stream { seed: self.seed, rank: self.rank, compute }
    }
}

/// The stages of one worker.
pub struct RowPipeline {
    shared: PipelineShared,
    filters: FilterChain,
    prompt: Box<dyn PromptStage>,
    prompt_reads: Vec<String>,
    capacity: u32,
    /// What a pack must have been made for.
    made_for: MadeFor,
    reshape: Option<Reshape>,
}

/// Changes a record that the filters kept, before the prompt sees it. The error is the reason of its reject.
pub type Reshape = fn(Record) -> Result<Record, String>;

/// Rows per plugin call, and the unit of scheduling.
pub const CHUNK: u64 = 64;

impl RowPipeline {
    /// Stages for one worker. `capacity`: most tokens of a sample.
    pub fn new(shared: PipelineShared, factory: &dyn StageFactory, capacity: u32) -> Result<Self, DataError> {
        let filters = FilterChain::new(factory.filters()?);
        let mut prompt = factory.prompt()?;
        shared.chat.check_special_tokens(&prompt.special_tokens()?)?;
        let made_for = MadeFor::of(&shared.chat, &shared.images, factory.prompt_identity());
        Ok(Self { filters, prompt_reads: prompt.reads(), prompt, shared, capacity, made_for, reshape: None })
    }

    /// Records go through `reshape` between filters and prompt.
    pub fn with_reshape(mut self, reshape: Reshape) -> Self {
        self.reshape = Some(reshape);
        self
    }

    /// Whether a filter or the prompt looks into pictures: then their headers alone will not do.
    pub fn reads_pixels(&self) -> bool {
        self.filters.reads().chain(&self.prompt_reads).any(|name| columns::PIXELS.contains(&name.as_str()))
    }

    /// Makes the samples of `items` (ascending ordinals). One outcome per item, in order; of packs one per sample of each.
    ///
    /// # Errors
    /// A plugin that fails as a whole, a pack that was made for other settings; a bad sample is an [`Outcome::Reject`].
    pub fn run(&mut self, items: &[Item]) -> Result<Vec<Outcome>, DataError> {
        if self.shared.source.packed() {
            let packs = items.iter().map(|item| self.run_pack(*item)).collect::<Result<Vec<_>, _>>()?;
            self.check_source()?;
            return Ok(packs.into_iter().flatten().collect());
        }
        let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
        let mut rows = Vec::with_capacity(items.len());
        for ((at, item), record) in items.iter().enumerate().zip(self.shared.source.records(items)) {
            match record {
                Ok(record) if record.fields.contains_key(MARK) => return Err(packs::among_samples(&record)),
                Ok(record) => rows.push(Row { at, ordinal: item.ordinal, record, added: Vec::new() }),
                Err(reject) => outcomes[at] = Some(Outcome::Reject(reject)),
            }
        }
        self.check_source()?;
        let shared = self.shared.clone();
        self.rows(rows, &shared.stream(), |at| items[at], &mut outcomes)?;
        let missing = || DataError::Worker("a prompt gave fewer items than rows".into());
        outcomes.into_iter().map(|o| o.ok_or_else(missing)).collect()
    }

    /// Samples that an object store does not give are not bad samples: leaving them out would train on other data.
    fn check_source(&self) -> Result<(), DataError> {
        self.shared.source.failure().map_or(Ok(()), |why| Err(DataError::Source(why)))
    }

    /// Filters, prompt and tokens of `rows`; the outcome of a row goes to its `at`.
    fn rows(
        &mut self,
        rows: Vec<Row>,
        stream: &Stream<'_>,
        item: impl Fn(usize) -> Item,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), DataError> {
        let mut rows = self.filters.run(rows, stream, |at, dropped| {
            outcomes[at] = Some(match dropped {
                Dropped::Filtered(reject) => Outcome::Filtered(reject),
                Dropped::Reject(reject) => Outcome::Reject(reject),
            });
        })?;
        if let Some(reshape) = self.reshape {
            let mut kept = Vec::with_capacity(rows.len());
            for row in rows {
                let Reject { key, shard, .. } = reject(&row.record, "pack", String::new());
                match reshape(row.record) {
                    Ok(record) => kept.push(Row { record, ..row }),
                    Err(reason) => {
                        outcomes[row.at] = Some(Outcome::Reject(Reject { key, shard, stage: "pack", reason }))
                    }
                }
            }
            rows = kept;
        }
        for run in runs(rows) {
            let batch = stream.batch(&run, &self.prompt_reads);
            let rendered = self.prompt.render(&stream.ctx(&run), Mode::Train, &batch);
            let rendered = rendered.map_err(|e| with_key(e, &run))?;
            for (row, rendered) in run.into_iter().zip(rendered) {
                let outcome = match rendered {
                    Ok(rendered) => self.encode(item(row.at), &row.record, &rendered),
                    Err(message) => Err(("prompt", message)),
                };
                outcomes[row.at] = Some(match outcome {
                    Ok(sample) => Outcome::Sample(Box::new(sample)),
                    Err((stage, reason)) => Outcome::Reject(reject(&row.record, stage, reason)),
                });
            }
        }
        Ok(())
    }

    fn encode(
        &self,
        item: Item,
        record: &Record,
        rendered: &Rendered,
    ) -> Result<EncodedSample, (&'static str, String)> {
        let sizes = image_tokens(record, &self.shared.images).map_err(|e| ("encode", e))?;
        let encoded = self.shared.chat.encode_train(rendered, &sizes.tokens).map_err(|e| ("encode", e.to_string()))?;
        // The first position is never predicted, so a label there teaches nothing.
        if encoded.labels.iter().skip(1).all(|l| *l == IGNORE) {
            return Err(("encode", "no token of it is to be learnt: no message of the prompt is marked train".into()));
        }
        let (tokens, capacity) = (encoded.input_ids.len(), self.capacity as usize);
        if tokens > capacity {
            let vision: usize = encoded.image_order.iter().map(|i| sizes.tokens[*i]).sum();
            return Err((
                "length",
                format!(
                    "it has {tokens} tokens ({vision} of images) and data.capacity is {capacity}; raise data.capacity, or \
                     lower the image processor's max_pixels"
                ),
            ));
        }
        let Encoded { input_ids, labels, image_order } = encoded;
        let patches = image_order.iter().map(|i| sizes.patches[*i]).sum::<usize>();
        let images = image_order
            .iter()
            .map(|i| SampleImage { media: record.media[*i].clone(), tokens: sizes.tokens[*i] })
            .collect();
        Ok(EncodedSample {
            item,
            key: record.key.clone(),
            source: record.shard.clone(),
            input_ids,
            labels,
            images,
            patches: u32::try_from(patches).unwrap_or(u32::MAX),
        })
    }
}

/// Per image of a record, by its header: decoder tokens and vision patches.
pub struct ImageSizes {
    /// Decoder tokens.
    pub tokens: Vec<usize>,
    /// Vision patches.
    pub patches: Vec<usize>,
}

/// Sizes of a record's images. The error names the image.
pub fn image_tokens(record: &Record, images: &ImageProcessor) -> Result<ImageSizes, String> {
    let mut sizes = ImageSizes { tokens: Vec::new(), patches: Vec::new() };
    for media in &record.media {
        let named = |e: crate::image::ImageError| format!("image {}: {e}", media.name);
        sizes.tokens.push(images.tokens(media.width, media.height).map_err(named)?);
        sizes.patches.push(images.grid(media.width, media.height).map_err(named)?.iter().product());
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state_pure: bool, writes: &[&str]) -> PluginInfo {
        PluginInfo {
            name: "use".into(),
            plugin_name: "mine".into(),
            version: String::new(),
            license: String::new(),
            path: "mine.wasm".into(),
            sha256: String::new(),
            bytes: 0,
            kind: ovhost_plugin::Kind::Filter,
            entry: "mine".into(),
            summary: String::new(),
            resolved_config: serde_json::Value::Null,
            reads: Vec::new(),
            writes: writes.iter().map(|w| w.to_string()).collect(),
            assets: Vec::new(),
            state_pure,
            prefer_rows: 0,
            wit_version: String::new(),
            limits: ovhost_plugin::Limits::default(),
            engine: String::new(),
            trust: Default::default(),
        }
    }

    #[test]
    fn plugins_that_cannot_work_on_several_threads_or_hide_columns_are_refused() {
        check_pure("prompt", &info(true, &[])).unwrap();
        let error = check_pure("filter", &info(false, &[])).unwrap_err().to_string();
        assert!(error.contains("filter use") && error.contains("streaming"), "{error}");
        assert!(error.contains("`ovhost data filter`") && error.contains("--save-state"), "{error}");
        let prompt = PluginInfo { kind: ovhost_plugin::Kind::Prompt, ..info(false, &[]) };
        let error = check_pure("prompt", &prompt).unwrap_err().to_string();
        assert!(
            error.contains("prompt use") && error.contains("on its own") && !error.contains("data filter"),
            "{error}"
        );
        check_writes(&info(true, &["score", "mine/text"])).unwrap();
        let error = check_writes(&info(true, &["score", "text"])).unwrap_err().to_string();
        assert!(error.contains("filter use") && error.contains("\"text\"") && error.contains("mine/text"), "{error}");
    }
}
