//! Three filters in front of the loader, on 1 to N data threads, against the same loader without any: samples a second
//! from shards to decoded packs.
//!
//! JPEG shards ─ filters ─ prompt ─ tokens ─ packs ─ decode, resize, normalise ─► batches, thrown away. The bar: with
//! filters at least 95 % of the throughput without, since one decoded picture costs more than all of them.

use std::{io::Cursor, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use image::{RgbImage, codecs::jpeg::JpegEncoder};
use ovhost_data::{
    ChatTokenizer, DataConfig, ImageProcessor, Loader, LoaderParts,
    pipeline::{PluginStages, ShardSource},
    shards::{ShardWriter, WriterOptions},
    tokenizer_train::train_bpe,
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

use crate::{filter::captions, images::PROCESSOR, median, plugin, time, verdict};

const SAMPLES: usize = 1_500;
const ROUNDS: usize = 7;
const FILTERS: [&str; 3] = ["filters/caption_quality.wasm", "filters/image_geometry.wasm", "filters/repetition.wasm"];

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path())?;
    let chat = Arc::new(ChatTokenizer::from_folder(dir.path().join("tokenizer"))?);
    let images = Arc::new(ImageProcessor::from_json(PROCESSOR).map_err(|e| anyhow::anyhow!(e))?);
    let source = Arc::new(ShardSource::open(&[dir.path().join("shard-0.tar")], 1 << 24)?);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let filters = FILTERS.iter().map(|name| plugin(name, json!({}))).collect::<Result<Vec<_>>>()?;
    let prompt = plugin("prompts/conversation.wasm", json!({}))?;
    let packer = plugin("packers/padding_free.wasm", json!({}))?;
    let mut counts = vec![1];
    counts.extend((1..).map(|power| 1 << power).take_while(|n| *n < cores));
    counts.extend((cores > 1).then_some(cores));
    let mut one = None;
    for workers in counts {
        let load = |filters: Vec<_>| -> Result<usize> {
            let stages = PluginStages::new(filters, prompt.clone(), Some(packer.clone()))?;
            let parts = LoaderParts {
                source: source.clone(),
                stages: Arc::new(stages),
                chat: chat.clone(),
                images: images.clone(),
                seed: 1,
                rank: 0,
                world: 1,
            };
            let config = DataConfig { workers, epochs: Some(1), ..DataConfig::default() };
            let mut loader = Loader::start(&config, parts)?;
            let mut samples = 0;
            while let Some(batch) = loader.next()? {
                samples += batch.stats.samples;
            }
            Ok(samples)
        };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (filters, times) in [(filters.clone(), &mut with), (Vec::new(), &mut without)] {
                let (seconds, samples) = time(|| load(filters))?;
                ensure!(samples == SAMPLES, "{samples} of {SAMPLES} samples came through: a filter drops good ones");
                times.push(seconds);
            }
        }
        // Pairs ran one after the other, so their ratio is steadier than that of two medians.
        let ratio = median(without.iter().zip(&with).map(|(a, b)| a / b).collect());
        let rate = |times| SAMPLES as f64 / median(times);
        let (with, without) = (rate(with), rate(without));
        let scaling = with / *one.get_or_insert(with);
        println!(
            "{workers:>2} threads: {with:>7.0} samples/s with 3 filters, {without:>7.0} without: {:.1} % kept (bar 95 %: {}); \
             {scaling:.2} times one thread",
            100.0 * ratio,
            verdict(ratio >= 0.95)
        );
    }
    Ok(())
}

/// A shard of 320 × 240 JPEGs with captions of 60 words, and a tokenizer for them.
fn write(dir: &Path) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let texts = captions(SAMPLES, 60);
    train_bpe(texts.iter().take(200).cloned(), 600, &dir.join("tokenizer"))?;
    let mut pictures = Vec::new();
    for _ in 0..40 {
        let (a, b) = (random.random_range(0.02..0.2), random.random_range(0.02..0.3));
        let picture = RgbImage::from_fn(320, 240, |x, y| {
            let wave = |f: f32| (127.0 + 60.0 * ((x as f32 * a * f).sin() + (y as f32 * b * f).cos())) as u8;
            image::Rgb([wave(1.0), wave(1.7), wave(2.9)])
        });
        let mut jpeg = Cursor::new(Vec::new());
        JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&picture)?;
        pictures.push(jpeg.into_inner());
    }
    let mut shard = ShardWriter::create(dir, "shard-%01d.tar", WriterOptions::default())?;
    for (i, text) in texts.iter().enumerate() {
        let record = json!({ "caption": text }).to_string();
        let picture = pictures.get(i % pictures.len()).context("there are pictures")?;
        shard.write(&format!("{i:06}"), &[("json", record.as_bytes()), ("jpg", picture)])?;
    }
    shard.finish()?;
    Ok(())
}
