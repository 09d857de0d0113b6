//! `pack`: shards in, packed shards out, in three steps that may each be stopped, split and begun again.
//!
//! ```text
//!  shards ─ lengths.rs ─► tokens, patches ─ packs.rs ─► packs.bin ─ write.rs ─► packed-000000.tar …, pack.json, .nv-meta
//!           (any part)                     (whoever comes)         (any part)
//! ```
//! The output is the same for any number of workers, parts and kills. Every sample read is packed, filtered, or a line of
//! `rejects.jsonl`.

use std::path::PathBuf;
use std::sync::Arc;

use ovhost_data::packed::{Layout, MadeFor};
use ovhost_data::pipeline::StageFactory;
use ovhost_data::shards::check_split;
use ovhost_data::{ChatTokenizer, ImageProcessor};
use ovhost_plugin::{OnTrap, PackLimits};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::PrepError;
use crate::files::{apart, hex};
use crate::jobs::{Part, RunOptions, Summary, done_jobs, run};
use crate::lengths::{Lengths, inputs};
use crate::packs::{PackAll, PacksFile};
use crate::places::Places;
use crate::write::Write;

/// What is packed, and how.
pub struct PackSettings {
    /// Shards, in order.
    pub inputs: Vec<PathBuf>,
    /// Output folder, the same as that of the run's options.
    pub out: PathBuf,
    /// Filters, prompt, packer.
    pub stages: Arc<dyn StageFactory>,
    /// The filters, as records name them.
    pub filters: Value,
    /// The packer, as records name it.
    pub packer: Value,
    /// What a plugin's failure on a row does, for the records.
    pub on_trap: OnTrap,
    /// Tokenizer and template.
    pub chat: Arc<ChatTokenizer>,
    /// Image sizes.
    pub images: Arc<ImageProcessor>,
    /// Bounds of a pack.
    pub limits: PackLimits,
    /// Seed of the plugins and the shuffles.
    pub seed: u64,
    /// Whether samples and packs are shuffled.
    pub shuffle: bool,
    /// Packs in a shard.
    pub packs_per_shard: u64,
    /// [`Layout::Packed`] or [`Layout::Reference`].
    pub layout: Layout,
    /// Energon split of the result.
    pub split: String,
}

impl PackSettings {
    pub(crate) fn made_for(&self) -> MadeFor {
        MadeFor::of(&self.chat, &self.images, self.stages.prompt_identity())
    }

    pub(crate) fn layout_name(&self) -> &'static str {
        if self.layout == Layout::Reference { "reference" } else { "packed" }
    }
}

/// The step that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Lengths of the samples of so many shards.
    Lengths(usize),
    /// Lengths to packs.
    Packing,
    /// Packs to shards: so many shards of so many samples.
    Writing(usize, u64),
}

/// How far it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Packed {
    /// This part's lengths are done, others' are not: nothing can be packed yet.
    Waiting(Summary),
    /// Packs were made; the summary is of writing them.
    Written(Summary),
}

/// Packs shards.
///
/// # Errors
/// See [`run`].
pub fn pack(settings: &PackSettings, options: &RunOptions<'_>, begins: &dyn Fn(Phase)) -> Result<Packed, PrepError> {
    if settings.packs_per_shard == 0 {
        return Err(PrepError::Option("packs per shard is 0; allowed: 1 or more".into()));
    }
    check_split(&settings.split)?;
    apart(&settings.inputs, &options.out)?;
    let inputs = inputs(&settings.inputs)?;
    begins(Phase::Lengths(inputs.len()));
    let step = Lengths { settings, inputs: &inputs };
    let plan = step.plan();
    let summary = run(&step, &plan, options)?;
    if !summary.finished {
        return Ok(Packed::Waiting(summary));
    }
    let mut hash = Sha256::new();
    for file in done_jobs(&plan, &options.out)?.iter().flat_map(|d| &d.files) {
        hash.update(&file.sha256);
    }
    let places = Places::new(inputs, &options.out)?;
    begins(Phase::Packing);
    let step = PackAll { settings, places: &places, lengths: hex(&hash.finalize()) };
    let plan = step.plan();
    // Whoever comes makes the packs: there is but one job, and who makes it twice makes it alike.
    let alone = RunOptions { out: options.out.clone(), part: Part::default(), ..*options };
    run(&step, &plan, &alone)?;
    let done = done_jobs(&plan, &options.out)?;
    let packs_sha256 = done.iter().flat_map(|d| &d.files).map(|f| f.sha256.clone()).collect();
    let packs = PacksFile::open(&options.out)?;
    begins(Phase::Writing(packs.packs.div_ceil(settings.packs_per_shard) as usize, packs.packed));
    let step = Write { settings, places: &places, packs, packs_sha256, made_for: settings.made_for() };
    Ok(Packed::Written(run(&step, &step.plan(), options)?))
}
