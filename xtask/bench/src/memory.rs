//! Memory of every step over samples at two sizes of the set: what it takes at most beyond what it began with, and by how much
//! that grows with each sample. The bar: no step keeps more than 32 bytes a sample.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use ovhost_data::pipeline::PluginStages;
use ovhost_data::rejects::RejectBudget;
use ovhost_data::{ChatTokenizer, ImageProcessor, image::DEFAULT_MAX_DECODE_PIXELS, packed::Layout, shards::expand};
use ovhost_plugin::{OnTrap, PackLimits, Plugin};
use ovhost_prep::{FilterSettings, PackSettings, Packed, Part, Phase, RunOptions, WORDS, filter, pack, plugin_record};
use serde_json::{Value, json};

use crate::process::ovhost;
use crate::{data, plugin, verdict};

/// Both fill every buffer and window: what still grows between them grows with the samples.
const SIZES: [usize; 2] = [50_000, 200_000];
/// Most bytes a sample.
const BAR: f64 = 32.0;
const STEPS: [&str; 5] = ["convert", "filter", "lengths", "packs", "write"];

/// Runs the benchmark.
pub fn run() -> Result<()> {
    // The first run of everything fills caches that stay: it is not measured.
    steps(1_000)?;
    let [few, many] = [steps(SIZES[0])?, steps(SIZES[1])?];
    println!("peak MB beyond the beginning (convert: of the whole process), one worker, shards of 10000 samples");
    println!("{:<8} {:>12} {:>12}  bytes a sample", "", SIZES[0], SIZES[1]);
    for ((step, few), many) in STEPS.iter().zip(few).zip(many) {
        let growth = (many as f64 - few as f64) / (SIZES[1] - SIZES[0]) as f64;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{step:<8} {:>12.1} {:>12.1}  {growth:>6.1}, bar {BAR}: {}",
            mb(few),
            mb(many),
            verdict(growth <= BAR)
        );
    }
    Ok(())
}

/// Peak bytes of each step over so many samples.
fn steps(samples: usize) -> Result<[u64; 5]> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path();
    data::write(folder, samples)?;
    let convert = ["data", "convert", "--input", "rows.jsonl", "--image-dir", "images", "--out", "shards"];
    let convert = ovhost(folder, &convert)?.peak;
    let chat = Arc::new(ChatTokenizer::from_folder(folder.join("model"))?);
    let images = ImageProcessor::from_folder(folder.join("model"))?;
    let filters: Vec<Plugin> =
        vec![plugin("filters/image_geometry.wasm", json!({}))?, plugin("filters/caption_quality.wasm", json!({}))?];
    let prompt = plugin("prompts/conversation.wasm", json!({}))?;
    let packer = plugin("packers/padding_free.wasm", json!({}))?;
    let shards = |name: &str| expand(&[folder.join(name).display().to_string()], Path::new(""));
    let stop = AtomicBool::new(false);
    let options = |out: &str| RunOptions {
        out: folder.join(out),
        workers: 1,
        part: Part::default(),
        budget: RejectBudget { max_rate: 0.01, max_count: None, words: WORDS },
        stop: &stop,
        progress: &|_| {},
    };

    let settings = FilterSettings {
        draw: None,
        inputs: shards("shards")?,
        filters,
        on_trap: OnTrap::Stop,
        seed: 0,
        chat: None,
        max_pixels: DEFAULT_MAX_DECODE_PIXELS,
        split: "train".into(),
        dry: false,
        save_state: None,
    };
    let begin = Mark::set()?;
    let summary = filter(&settings, &options("clean"))?;
    let filter = begin.peak()?;
    ensure!(summary.finished && summary.counts.samples > 0, "the filters left nothing");

    let stages = PluginStages::new(Vec::new(), prompt, Some(packer.clone()))?;
    let settings = PackSettings {
        inputs: shards("clean")?,
        out: folder.join("packed"),
        stages: Arc::new(stages),
        filters: Value::Array(Vec::new()),
        packer: plugin_record(&packer),
        on_trap: OnTrap::Stop,
        chat,
        images: Arc::new(images),
        limits: PackLimits { capacity: 8192, max_items_per_bin: 0, max_open_items: 0 },
        seed: 1,
        shuffle: true,
        packs_per_shard: 1000,
        layout: Layout::Packed,
        split: "train".into(),
    };
    let marks: Mutex<Vec<Result<Mark>>> = Mutex::default();
    let peaks: Mutex<Vec<Result<u64>>> = Mutex::default();
    let turn = || {
        if let (Ok(mut marks), Ok(mut peaks)) = (marks.lock(), peaks.lock()) {
            peaks.extend(marks.pop().map(|mark| mark.and_then(|mark| mark.peak())));
            marks.push(Mark::set());
        }
    };
    let packed = pack(&settings, &options("packed"), &|_: Phase| turn())?;
    turn();
    ensure!(matches!(packed, Packed::Written(s) if s.finished), "the packs were not all written");
    let peaks = peaks.into_inner().map_err(|_| anyhow!("a thread failed"))?;
    let [lengths, packs, write] = <[u64; 3]>::try_from(peaks.into_iter().collect::<Result<Vec<_>>>()?)
        .map_err(|p| anyhow!("packing has {} phases, not 3", p.len()))?;
    Ok([convert, filter, lengths, packs, write])
}

/// What the process held at a moment from which its peak is counted anew.
struct Mark {
    held: u64,
}

impl Mark {
    fn set() -> Result<Mark> {
        // SAFETY: takes no pointer; it gives back memory that nobody holds.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        std::fs::write("/proc/self/clear_refs", "5").context("this system cannot count a peak of memory anew")?;
        Ok(Mark { held: status("VmRSS")? })
    }

    fn peak(&self) -> Result<u64> {
        Ok(status("VmHWM")?.saturating_sub(self.held))
    }
}

/// A number of bytes out of the process's status.
fn status(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    let kilobytes = line.split_whitespace().nth(1).with_context(|| format!("{line:?} holds no number"))?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
