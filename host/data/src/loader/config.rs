//! The recipe's `[data]` section.

use ovhost_plugin::OnTrap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::blend::BlendEntry;
use crate::image::DEFAULT_MAX_DECODE_PIXELS;

/// One string or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    pub fn list(&self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        }
    }
}

/// The recipe's `[data]` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Training shards: a path or a list of paths, with braces: "train-{000..007}.tar". Relative to the recipe.
    /// Single samples, or packs that `ovhost data pack` made. A folder with Energon's .nv-meta stands for a part of it,
    /// any other folder for its *.tar; a .yaml is a metadataset of Energon's.
    pub train: OneOrMany,
    /// Several sources mixed, instead of train: [[data.blend]] with a path and a weight or repetitions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blend: Vec<BlendEntry>,
    /// Part of prepared folders and metadatasets that is read; "train" if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_part: Option<String>,
    /// Samples in the shuffle window; 0 keeps the order of the files.
    pub shuffle_buffer: usize,
    /// Data threads; 0: one less than there are cores.
    pub workers: usize,
    /// Most tokens in a pack.
    pub capacity: u32,
    /// Packs in one micro-batch; they are concatenated, never padded.
    pub packs_per_batch: usize,
    /// Most samples in a pack; 0: no bound.
    pub max_items_per_pack: u32,
    /// Most samples that the packer may hold back; 0: the packer's choice.
    pub max_open_items: u32,
    /// Passes over the shards; none: for ever.
    pub epochs: Option<u64>,
    /// Largest share of samples that may be rejected (0 to 1) before the run stops. Filter drops do not count.
    pub max_reject_rate: f64,
    /// Largest number of rejected samples before the run stops.
    pub max_rejects: Option<u64>,
    /// What happens when a filter or prompt plugin fails on a row: "stop" the run, or "reject" the row.
    pub on_plugin_failure: OnTrap,
    /// Batches that are decoded ahead.
    pub prefetch: usize,
    /// Pictures whose header promises more pixels are rejected and never decoded: a guard against decompression bombs.
    pub max_image_pixels: u64,
    /// Replace every picture by a black one of its size: measures what a model knows from the text alone.
    pub blank_images: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: OneOrMany::Many(Vec::new()),
            blend: Vec::new(),
            split_part: None,
            shuffle_buffer: 10_000,
            workers: 0,
            capacity: 8192,
            packs_per_batch: 1,
            max_items_per_pack: 0,
            max_open_items: 0,
            epochs: None,
            max_reject_rate: 0.1,
            max_rejects: None,
            on_plugin_failure: OnTrap::Stop,
            prefetch: 4,
            max_image_pixels: DEFAULT_MAX_DECODE_PIXELS,
            blank_images: false,
        }
    }
}

/// Packs that may wait, decoded, for the trainer.
const MOST_PACKS_AHEAD: usize = 65_536;

impl DataConfig {
    /// Checks values. The error names the key, the value and what is allowed.
    pub fn check(&self) -> Result<(), DataError> {
        let bad = |key: &str, value: String, allowed: &str| {
            Err(DataError::Config(format!("data.{key} is {value}; allowed: {allowed}")))
        };
        if self.capacity == 0 || self.capacity > 1 << 24 {
            return bad("capacity", self.capacity.to_string(), "1 to 16777216 tokens");
        }
        if !(1..=65_536).contains(&self.packs_per_batch) {
            return bad("packs_per_batch", self.packs_per_batch.to_string(), "1 to 65536");
        }
        // A batch's token offsets are 32-bit.
        let tokens = self.packs_per_batch as u64 * u64::from(self.capacity);
        if tokens > i32::MAX as u64 {
            let most = format!("1 to {} with data.capacity = {}", i32::MAX as u32 / self.capacity, self.capacity);
            return bad("packs_per_batch", self.packs_per_batch.to_string(), &most);
        }
        // The queue of packs has its room from the start.
        let most = MOST_PACKS_AHEAD / self.packs_per_batch;
        if !(1..=most.min(4096)).contains(&self.prefetch) {
            let allowed = format!("1 to {} with data.packs_per_batch = {}", most.min(4096), self.packs_per_batch);
            return bad("prefetch", self.prefetch.to_string(), &allowed);
        }
        if self.workers > 1024 {
            return bad("workers", self.workers.to_string(), "0 (one less than there are cores) to 1024");
        }
        if !(1..=1 << 32).contains(&self.max_image_pixels) {
            return bad("max_image_pixels", self.max_image_pixels.to_string(), "1 to 4294967296");
        }
        if !(0.0..=1.0).contains(&self.max_reject_rate) {
            return bad("max_reject_rate", self.max_reject_rate.to_string(), "0 to 1");
        }
        if self.epochs == Some(0) {
            return bad("epochs", "0".into(), "1 or more, or leave it out to go on for ever");
        }
        Ok(())
    }

    /// Number of data threads.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1)),
            n => n,
        }
    }
}
