//! A million lengths into packs of 8,192: how full, how fast, and what WebAssembly costs against the same code native.
//!
//! Lengths are drawn from a histogram of 5.5 million visual question-answer samples: 4,127,403 of 36 to 1,023 tokens,
//! 1,085,218 of 1,024 to 2,047, and 308,112 of 2,048 to 8,192.

use anyhow::{Result, ensure};
use ovhost_plugin::{Batch, Bins, CallCtx, Column, ColumnData, PackLimits, Plugin};
use ovhost_sdk::{Item, Limits, Packer, testing::pack_natively};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

use crate::{cpu_time, median, plugin, verdict};

const SAMPLES: usize = 1_000_000;
const CAPACITY: u32 = 8192;
const BATCH: usize = 4096;
const ROUNDS: usize = 7;
/// Most that WebAssembly and the host may take of the native time, fewest samples a second, and the least that packs are full.
const RATIO: f64 = 1.7;
const SAMPLES_PER_S: f64 = 5e6;
const FILL: f64 = 0.999;

fn lengths() -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    (0..SAMPLES)
        .map(|_| match random.random_range(0..5_520_733u32) {
            0..4_127_403 => random.random_range(36..1024),
            4_127_403..5_212_621 => random.random_range(1024..2048),
            _ => random.random_range(2048..=8192),
        })
        .collect()
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let lengths = lengths();
    println!("{SAMPLES} samples, {} tokens, packs of {CAPACITY}", lengths.iter().map(|&l| u64::from(l)).sum::<u64>());
    let padding_free = "packers/padding_free.wasm";
    one::<padding_free::PaddingFree>(padding_free, json!({}), &lengths)?.against_bars();
    one::<padding_free::PaddingFree>(padding_free, json!({"window": 65_536}), &lengths)?.against_bars();
    one::<padding_free::PaddingFree>(padding_free, json!({"mode": "offline"}), &lengths)?.against_bars();
    one::<sequential::Sequential>("packers/sequential.wasm", json!({}), &lengths)?;
    Ok(())
}

/// What one packer did.
struct Figures {
    fill: f64,
    lost: usize,
    per_second: f64,
    ratio: f64,
}

impl Figures {
    fn against_bars(&self) {
        let holds = self.ratio <= RATIO && self.per_second >= SAMPLES_PER_S && self.fill >= FILL && self.lost == 0;
        println!(
            "  bars: ratio {RATIO}, {:.0} M samples/s, {:.1} % full, 0 lost: {}",
            SAMPLES_PER_S / 1e6,
            100.0 * FILL,
            verdict(holds)
        );
    }
}

fn one<P: Packer>(name: &str, config: serde_json::Value, lengths: &[u32]) -> Result<Figures> {
    let component = plugin(name, config.clone())?;
    let items: Vec<Item> =
        lengths.iter().enumerate().map(|(i, &length)| Item { id: i as u64, length, patches: 0 }).collect();
    let batches: Vec<Batch> = items.chunks(BATCH).map(batch).collect();
    let limits = Limits { capacity: CAPACITY, max_items_per_bin: 0, max_open_items: 0 };
    let (mut ours, mut native, mut ratios, mut packed) = (Vec::new(), Vec::new(), Vec::new(), (0, 0_usize));
    for _ in 0..ROUNDS {
        let (wasm_s, bins) = cpu_time(|| in_wasm(&component, &batches))?;
        let (native_s, same) = cpu_time(|| Ok(pack_natively::<P>(config.clone(), limits, &items, BATCH)))?;
        ours.push(wasm_s);
        native.push(native_s);
        // Of neighbours in time: another program's load moves both.
        ratios.push(wasm_s / native_s);
        ensure!(same.bins().eq(bins.iter().flatten()), "{name} packs differently in WASM and natively");
        packed = (bins.iter().map(Bins::len).sum(), bins.iter().map(|bins| bins.ids().len()).sum());
    }
    let tokens: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
    let (ours, native) = (median(ours), median(native));
    let figures = Figures {
        fill: tokens as f64 / (packed.0 as f64 * f64::from(CAPACITY)),
        lost: lengths.len() - packed.1,
        per_second: SAMPLES as f64 / ours,
        ratio: median(ratios),
    };
    println!(
        "{name} {config}: {} packs, {:.3} % full, {} lost; WASM {:.2} M samples/s, native {:.2} M samples/s, ratio {:.2}",
        packed.0,
        100.0 * figures.fill,
        figures.lost,
        figures.per_second / 1e6,
        SAMPLES as f64 / native / 1e6,
        figures.ratio
    );
    Ok(figures)
}

fn batch(items: &[Item]) -> Batch {
    let column = |name: &str, data| Column { name: name.into(), data, valid: None };
    Batch {
        rows: items.len() as u32,
        columns: vec![
            column("id", ColumnData::S64s(items.iter().map(|i| i.id as i64).collect())),
            column("length", ColumnData::U32s(items.iter().map(|i| i.length).collect())),
        ],
    }
}

/// The bins of every call.
fn in_wasm(component: &Plugin, batches: &[Batch]) -> Result<Vec<Bins>> {
    let mut packer = component.packer()?;
    packer.start(&PackLimits { capacity: CAPACITY, max_items_per_bin: 0, max_open_items: 0 })?;
    let mut bins = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let ctx = CallCtx { batch_index: index as u64, first_row: (index * BATCH) as u64, ..CallCtx::default() };
        bins.push(packer.push(&ctx, batch)?.bins);
    }
    bins.push(packer.flush()?.bins);
    Ok(bins)
}
