//! One sample from shard to tokens: read → filters → prompt → tokenise → lengths.
//!
//! ```text
//!  Item {ordinal, coord} ─► Record ─► filter 1 … filter n ─► prompt ─► ChatTokenizer ─► EncodedSample
//!                             │            │                   │            │
//!                             └── Reject   ├── Filtered        └── Reject   └── Reject
//!                                          └── Reject (the filter failed on it)
//! ```
//! A worker thread owns one [`RowPipeline`]. Plugins are behind three small traits, so that the loader can be tested
//! with native stages and a native stage can take a plugin's place. Rows reach a plugin in runs of consecutive
//! ordinals: `first_row + i` is then right for every row, whatever was dropped before.

use std::sync::Arc;

use ovhost_plugin::{
    Batch, CallCtx, Column, Decisions, FilterInstance, Mode, OnTrap, PackLimits, PackerInstance, Packing, Plugin,
    PluginError, PluginInfo, PromptInstance, Rendered,
};

use crate::DataError;
use crate::chat::{ChatTokenizer, Encoded, IGNORE};
use crate::columns::{self, RowView};
use crate::image::ImageProcessor;
use crate::record::{Media, Record, RecordOptions, Reject};
use crate::shards::{Shard, allow_many_files};

/// Where samples come from. Reading needs no order and happens on several threads.
pub trait SampleSource: Send + Sync {
    /// Name and number of samples of each shard, in a fixed order.
    fn shards(&self) -> Vec<(String, u64)>;
    /// Sample `index` of shard `shard`; whatever is wrong with it is a reject.
    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject>;
}

/// Tar shards as a source.
pub struct ShardSource {
    shards: Vec<Shard>,
    options: RecordOptions,
}

impl ShardSource {
    /// Opens and indexes `paths`. `max_pixels` bounds the header size of a picture. Every shard stays open: the
    /// process's bound on open files is raised as far as it goes.
    pub fn open(paths: &[std::path::PathBuf], max_pixels: u64) -> Result<Self, DataError> {
        allow_many_files();
        let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>, _>>()?;
        for shard in shards.iter().filter(|s| s.unnamed() > 0) {
            tracing::warn!(
                "{}: {} members belong to no sample (no dot in the name, or a reserved name __x__) and are not read",
                shard.path().display(),
                shard.unnamed()
            );
        }
        Ok(Self { shards, options: RecordOptions { max_pixels } })
    }
}

impl SampleSource for ShardSource {
    fn shards(&self) -> Vec<(String, u64)> {
        self.shards.iter().map(|s| (s.name().to_string(), s.len() as u64)).collect()
    }

    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject> {
        match self.shards.get(shard as usize) {
            Some(shard) => shard.record(index as usize, &self.options),
            None => {
                let reason = format!("there is no shard {shard}, only {}", self.shards.len());
                Err(Reject { key: String::new(), shard: String::new(), stage: "read", reason })
            }
        }
    }
}

/// A filter, in WASM or native.
pub trait FilterStage: Send {
    /// Name for reject reasons.
    fn name(&self) -> &str;
    /// Columns that it wants.
    fn reads(&self) -> Vec<String>;
    /// Judges rows.
    fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, DataError>;
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
    /// Ends the stream: all open samples come out.
    fn flush(&mut self) -> Result<Packing, DataError>;
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
        for filter in &filters {
            filter.check_columns(&offered.iter().map(String::as_str).collect::<Vec<_>>())?;
            check_pure("filter", filter.info())?;
            check_writes(filter.info())?;
            offered.extend(filter.info().writes.iter().cloned());
        }
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
        self.filters
            .iter()
            .map(|p| {
                let mut instance = p.filter()?;
                instance.set_on_trap(self.on_trap);
                Ok(Box::new(PluginFilter(instance, p.clone())) as Box<dyn FilterStage>)
            })
            .collect()
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
}

/// Every worker has an instance of its own, so none of them sees the whole stream.
fn check_pure(kind: &str, info: &PluginInfo) -> Result<(), DataError> {
    if info.state_pure {
        return Ok(());
    }
    Err(DataError::Config(format!(
        "{kind} {} says that its calls build on one another (streaming); here {kind}s run on several threads, so only pure \
         ones work: let it judge each row on its own",
        info.name
    )))
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
    fn flush(&mut self) -> Result<Packing, DataError> {
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

/// The stages of one worker.
pub struct RowPipeline {
    shared: PipelineShared,
    filters: Vec<(Box<dyn FilterStage>, Vec<String>)>,
    prompt: Box<dyn PromptStage>,
    prompt_reads: Vec<String>,
    capacity: u32,
}

struct Row {
    at: usize,
    item: Item,
    record: Record,
    added: Vec<Column>,
}

/// Rows per plugin call, and the unit of scheduling.
pub const CHUNK: u64 = 64;

/// Names the row that set a trap off by its key: an ordinal of a shuffled stream tells a user nothing. Plugins see the
/// `key` column only where they read it.
fn with_key(mut error: DataError, run: &[Row]) -> DataError {
    if let DataError::Plugin(PluginError::Trap { row: Some(ordinal), key: key @ None, .. }) = &mut error {
        *key = run.iter().find(|row| row.item.ordinal == *ordinal).map(|row| row.record.key.clone());
    }
    error
}

impl RowPipeline {
    /// Stages for one worker. `capacity`: most tokens of a sample.
    pub fn new(shared: PipelineShared, factory: &dyn StageFactory, capacity: u32) -> Result<Self, DataError> {
        let filters = factory.filters()?.into_iter().map(|f| {
            let reads = f.reads();
            (f, reads)
        });
        let mut prompt = factory.prompt()?;
        shared.chat.check_special_tokens(&prompt.special_tokens()?)?;
        Ok(Self { filters: filters.collect(), prompt_reads: prompt.reads(), prompt, shared, capacity })
    }

    /// Makes the samples of `items` (ascending ordinals). One outcome per item, in order.
    ///
    /// # Errors
    /// A plugin that fails as a whole; a bad sample is an [`Outcome::Reject`].
    pub fn run(&mut self, items: &[Item]) -> Result<Vec<Outcome>, DataError> {
        let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
        let mut rows = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match self.shared.source.record(item.shard, item.index) {
                Ok(record) => rows.push(Row { at, item: *item, record, added: Vec::new() }),
                Err(reject) => outcomes[at] = Some(Outcome::Reject(reject)),
            }
        }
        for (filter, wanted) in &mut self.filters {
            let mut kept = Vec::with_capacity(rows.len());
            for mut run in runs(rows) {
                let judged = filter.process(&ctx(&self.shared, &run), &batch(&run, wanted));
                let decisions = judged.map_err(|e| with_key(e, &run))?;
                let added = Batch { rows: run.len() as u32, columns: decisions.add };
                if !added.columns.is_empty() {
                    for (i, row) in run.iter_mut().enumerate() {
                        row.added.extend(added.slice(i as u32, i as u32 + 1).columns);
                    }
                }
                for (i, row) in run.into_iter().enumerate() {
                    let error = decisions.errors.iter().find(|(r, _)| *r as usize == i);
                    if let Some((_, message)) = error {
                        let reason = format!("{}: {message}", filter.name());
                        outcomes[row.at] = Some(Outcome::Reject(reject(&row.record, "filter-error", reason)));
                    } else if decisions.keep.get(i).copied().unwrap_or(false) {
                        kept.push(row);
                    } else {
                        let reason = decisions.reason.get(i).cloned().flatten();
                        let reason = reason.unwrap_or_else(|| "no reason given".into());
                        let reason = format!("{}: {reason}", filter.name());
                        outcomes[row.at] = Some(Outcome::Filtered(reject(&row.record, "filter", reason)));
                    }
                }
            }
            rows = kept;
        }
        for run in runs(rows) {
            let ctx = ctx(&self.shared, &run);
            let rendered = self.prompt.render(&ctx, Mode::Train, &batch(&run, &self.prompt_reads));
            let rendered = rendered.map_err(|e| with_key(e, &run))?;
            for (row, rendered) in run.into_iter().zip(rendered) {
                let outcome = match rendered {
                    Ok(rendered) => self.encode(&row, &rendered),
                    Err(message) => Err(("prompt", message)),
                };
                outcomes[row.at] = Some(match outcome {
                    Ok(sample) => Outcome::Sample(Box::new(sample)),
                    Err((stage, reason)) => Outcome::Reject(reject(&row.record, stage, reason)),
                });
            }
        }
        let missing = || DataError::Worker("a prompt gave fewer items than rows".into());
        outcomes.into_iter().map(|o| o.ok_or_else(missing)).collect()
    }

    fn encode(&self, row: &Row, rendered: &Rendered) -> Result<EncodedSample, (&'static str, String)> {
        let sizes = image_tokens(&row.record, &self.shared.images).map_err(|e| ("encode", e))?;
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
            .map(|i| SampleImage { media: row.record.media[*i].clone(), tokens: sizes.tokens[*i] })
            .collect();
        Ok(EncodedSample {
            item: row.item,
            key: row.record.key.clone(),
            source: row.record.shard.clone(),
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

fn reject(record: &Record, stage: &'static str, reason: String) -> Reject {
    Reject { key: record.key.clone(), shard: record.shard.clone(), stage, reason }
}

fn ctx(shared: &PipelineShared, run: &[Row]) -> CallCtx {
    let first_row = run.first().map_or(0, |r| r.item.ordinal);
    CallCtx { run_seed: shared.seed, shard: shared.rank, batch_index: first_row / CHUNK, first_row }
}

fn batch(run: &[Row], wanted: &[String]) -> Batch {
    let views: Vec<RowView<'_>> =
        run.iter().map(|r| RowView { ordinal: r.item.ordinal, record: &r.record, added: &r.added }).collect();
    columns::build(&views, wanted)
}

/// Cuts rows into runs of consecutive ordinals.
fn runs(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut out: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match out.last_mut() {
            Some(run) if run.last().is_some_and(|r| r.item.ordinal + 1 == row.item.ordinal) => run.push(row),
            _ => out.push(vec![row]),
        }
    }
    out
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
        }
    }

    #[test]
    fn plugins_that_cannot_work_on_several_threads_or_hide_columns_are_refused() {
        check_pure("prompt", &info(true, &[])).unwrap();
        let error = check_pure("prompt", &info(false, &[])).unwrap_err().to_string();
        assert!(error.contains("prompt use") && error.contains("streaming"), "{error}");
        check_writes(&info(true, &["score", "mine/text"])).unwrap();
        let error = check_writes(&info(true, &["score", "text"])).unwrap_err().to_string();
        assert!(error.contains("filter use") && error.contains("\"text\"") && error.contains("mine/text"), "{error}");
    }
}
