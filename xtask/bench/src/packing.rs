//! A million lengths into packs of 8,192: how full, how fast, and what WebAssembly costs against the same code native.
//!
//! ```text
//!  batches ─► host's ledger ─► packer in WebAssembly ─► bins ─► struck off the ledger      streams of one instance
//!  batches ─► host's ledger ─► the same packer native ─► bins ─► struck off the ledger     the bar's peer
//!  samples ─► the same packer native ─► bins                                               nobody checks what comes out
//! ```
//! Both sides have used their memory before: an instance packs stream after stream, as the native one gets back what it freed.
//!
//! Lengths are drawn from a histogram of 5.5 million visual question-answer samples: 4,127,403 of 36 to 1,023 tokens,
//! 1,085,218 of 1,024 to 2,047, and 308,112 of 2,048 to 8,192.

use anyhow::{Context, Error, Result, ensure};
use ovhost_plugin::{Batch, Bins, CallCtx, Column, ColumnData, PackContract, PackLimits, PackerInstance};
use ovhost_sdk::{Assets, Item, Limits, Packer, Packing, testing::pack_natively};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

use crate::{cpu_time, median, plugin, verdict};

const SAMPLES: usize = 1_000_000;
const CAPACITY: u32 = 8192;
const BATCH: usize = 4096;
const ROUNDS: usize = 7;
/// Most that WebAssembly may take of the time of the same packer native, fewest samples a second, and the least that packs are full.
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
    let mut packer = component.packer()?;
    let (first_s, _) = cpu_time(|| in_wasm(&mut packer, &batches))?;
    let [mut ours, mut native, mut ratios, mut alone] = [const { Vec::new() }; 4];
    let mut packed = (0, 0_usize);
    for _ in 0..ROUNDS {
        let (wasm_s, bins) = cpu_time(|| in_wasm(&mut packer, &batches))?;
        let (native_s, same) = cpu_time(|| natively::<P>(&config, &batches))?;
        let (alone_s, unchecked) = cpu_time(|| Ok(pack_natively::<P>(config.clone(), SDK_LIMITS, &items, BATCH)))?;
        ours.push(wasm_s);
        native.push(native_s);
        // Of neighbours in time: another program's load moves both.
        ratios.push(wasm_s / native_s);
        alone.push(wasm_s / alone_s);
        ensure!(bins == same, "{name} packs differently in WASM and natively");
        let unchecked = unchecked.iter().flat_map(Packing::bins);
        ensure!(unchecked.eq(bins.iter().flatten()), "{name} packs differently in WASM and alone");
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
        "{name} {config}: {} packs, {:.3} % full, {} lost; WASM {:.2} M samples/s, native {:.2} M samples/s, ratio {:.2}\n  \
         (to the packer alone, unchecked: {:.2}; a new instance's first stream: {:.2} M samples/s)",
        packed.0,
        100.0 * figures.fill,
        figures.lost,
        figures.per_second / 1e6,
        SAMPLES as f64 / native / 1e6,
        figures.ratio,
        median(alone),
        SAMPLES as f64 / first_s / 1e6,
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

const LIMITS: PackLimits = PackLimits { capacity: CAPACITY, max_items_per_bin: 0, max_open_items: 0 };
const SDK_LIMITS: Limits = Limits { capacity: CAPACITY, max_items_per_bin: 0, max_open_items: 0 };

/// The bins of every call.
fn in_wasm(packer: &mut PackerInstance, batches: &[Batch]) -> Result<Vec<Bins>> {
    packer.start(&LIMITS)?;
    let mut bins = Vec::with_capacity(batches.len() + 1);
    for (index, batch) in batches.iter().enumerate() {
        let ctx = CallCtx { batch_index: index as u64, first_row: (index * BATCH) as u64, ..CallCtx::default() };
        bins.push(packer.push(&ctx, batch)?.bins);
    }
    while let Some(packing) = packer.flush()? {
        bins.push(packing.bins);
    }
    Ok(bins)
}

/// The same of the packer native, from the same batches and under the same checks.
fn natively<P: Packer>(config: &serde_json::Value, batches: &[Batch]) -> Result<Vec<Bins>> {
    let config = serde_json::from_value(config.clone()).context("the packer's configuration")?;
    let mut packer = P::new(config, &Assets::default()).map_err(|e| Error::msg(format!("{e:?}")))?;
    packer.start(SDK_LIMITS).map_err(Error::msg)?;
    let (mut contract, mut items) = (PackContract::default(), Vec::new());
    let mut bins = Vec::with_capacity(batches.len() + 1);
    let check = |contract: &mut PackContract, out: Packing| -> Result<Bins> {
        let (offsets, ids, dropped) = out.into_parts();
        Ok(contract.strike(&LIMITS, offsets, ids, dropped).map_err(Error::msg)?.bins)
    };
    for batch in batches {
        contract.enter(batch, &LIMITS).map_err(Error::msg)?;
        let (Some(ColumnData::S64s(ids)), Some(ColumnData::U32s(lengths))) =
            (batch.column("id").map(|c| &c.data), batch.column("length").map(|c| &c.data))
        else {
            return Err(Error::msg("a batch without ids and lengths"));
        };
        items.clear();
        items.extend(ids.iter().zip(lengths).map(|(&id, &length)| Item { id: id as u64, length, patches: 0 }));
        let mut out = Packing::with_room(items.len());
        packer.push(&items, &mut out);
        bins.push(check(&mut contract, out)?);
    }
    while contract.open_items() > 0 {
        let mut out = Packing::default();
        packer.flush(&mut out);
        let before = contract.open_items();
        bins.push(check(&mut contract, out)?);
        ensure!(contract.open_items() < before, "{before} samples never came back");
    }
    Ok(bins)
}
