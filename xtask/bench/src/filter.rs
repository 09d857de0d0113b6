//! Text filters on batches of captions: nanoseconds a row in WebAssembly, metered, and of the same code native.

use anyhow::{Result, ensure};
use caption_quality::CaptionQuality;
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Ragged};
use ovhost_sdk::{Filter, testing};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

use crate::{cpu_time, entry, median, verdict};

/// Common words.
pub const WORDS: [&str; 30] = [
    "a", "the", "red", "bicycle", "leaning", "against", "old", "brick", "wall", "with", "painted", "door", "and",
    "two", "people", "walking", "past", "under", "bright", "sky", "near", "river", "bank", "where", "small", "boats",
    "wait", "for", "evening", "light",
];

/// Captions of `words` common words each.
pub fn captions(rows: usize, words: usize) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    (0..rows)
        .map(|_| (0..words).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Most that WebAssembly may take of the native time, in batches of 1,024 rows and more.
const RATIO: f64 = 2.0;

/// Runs the benchmark: the caption filter by size of the call, then every text filter on short and long captions.
pub fn run() -> Result<()> {
    println!("{:<16} {:>6} {:>6} {:>12} {:>8} {:>6}", "", "rows", "bytes", "WASM ns/row", "native", "ratio");
    for (rows, words) in [(1, 12), (16, 12), (256, 12), (4096, 12)] {
        one::<CaptionQuality>("caption_quality", rows, words)?;
    }
    for words in [12, 80, 400] {
        one::<CaptionQuality>("caption_quality", 1024, words)?;
        one::<refusal::Refusal>("refusal", 1024, words)?;
        one::<repetition::Repetition>("repetition", 1024, words)?;
        one::<symbols::Symbols>("symbols", 1024, words)?;
        one::<language_script::LanguageScript>("language_script", 1024, words)?;
        one::<length::Length>("length", 1024, words)?;
    }
    Ok(())
}

fn one<F: Filter>(name: &str, rows: usize, words: usize) -> Result<()> {
    let component = entry(&format!("filters/{name}.wasm"), Some(name), json!({}))?;
    let mut ours = component.filter()?;
    let mut native = testing::filter::<F>(json!({})).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let captions = captions(rows, words);
    let bytes = captions.iter().map(String::len).sum::<usize>() / rows;
    let text = ColumnData::Utf8(Ragged::<u8>::from_strs(captions.iter().map(String::as_str)));
    let batch = Batch { rows: rows as u32, columns: vec![Column { name: "text".into(), data: text, valid: None }] };
    let table: serde_json::Value = captions.iter().map(|c| json!({ "text": c })).collect();
    let prepared = testing::batch(F::READS, &table);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let repeats = (200_000 / (rows * words)).clamp(1, 2000);
    for _ in 0..15 {
        let (seconds, kept) = cpu_time(|| {
            let mut kept = Vec::new();
            for _ in 0..repeats {
                kept = ours.process(&CallCtx::default(), &batch)?.keep;
            }
            Ok(kept)
        })?;
        a.push(seconds);
        let (seconds, same) = cpu_time(|| {
            let mut kept = Vec::new();
            for _ in 0..repeats {
                kept = native.process(&prepared).map_err(|e| anyhow::anyhow!("{}", e.message))?.kept();
            }
            Ok(kept)
        })?;
        b.push(seconds);
        ensure!(kept == same, "{name} decides differently in WASM and natively");
    }
    let per_row = |s: f64| s * 1e9 / (rows * repeats) as f64;
    // Of neighbours in time: another program's load moves both.
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    let (a, b) = (per_row(median(a)), per_row(median(b)));
    print!("{name:<16} {rows:>6} {bytes:>6} {a:>12.0} {b:>8.0} {ratio:>6.2}");
    // Small batches pay for the call: `boundary` has their bar.
    if rows >= 1024 {
        println!("   bar {RATIO} {}", verdict(ratio <= RATIO))
    } else {
        println!()
    }
    Ok(())
}
