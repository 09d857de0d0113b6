//! What the sandbox itself costs: a call, a row, a start, a failure, an endless loop; each against its bar.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::{
    Batch, CallCtx, Column, ColumnData, FilterInstance, Host, HostOptions, PluginError, PluginSpec, Ragged, TrapCause,
};

use crate::{cpu_time, filter::captions, median, verdict};

/// Microseconds for a batch of one row.
const CALL_US: f64 = 3.0;
/// Nanoseconds for a row of 64 bytes in a batch of 1,024.
const ROW_NS: f64 = 120.0;
/// Milliseconds from a file whose compiled form is cached to an instance.
const START_MS: f64 = 5.0;
/// Milliseconds from a trap to the answer to the next batch.
const REARM_MS: f64 = 1.0;
/// Fuel that a millisecond buys at least, where a loop is to be stopped: half of what `limits` promises.
const FUEL_PER_MS: f64 = 1e6;

const ROW_BYTES: usize = 64;

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let real = root.join("target/plugins/filters/caption_quality.wasm");
    let guest = |name: &str| root.join(format!("tests/fixtures/guests/{name}.wasm"));
    let misbehave = guest("misbehave");
    let host = Host::new(HostOptions::default())?;

    // Text and two numbers in, a decision and a number out, and hardly any work between: what is left is the boundary.
    let mut filter = entry(&host, &guest("counting"), "letters")?;
    let call = per_call(&mut filter, 1, 2000)? * 1e6;
    report("a batch of one row", call, "us", call <= CALL_US, &format!("{CALL_US} us"));
    let row = per_call(&mut filter, 1024, 20)? * 1e9 / 1024.0;
    report("a row of 64 bytes in a batch of 1,024", row, "ns", row <= ROW_NS, &format!("{ROW_NS} ns"));

    let mut filter = host.load(&PluginSpec::new(&real))?.filter()?;
    println!("  (with caption_quality's work: {:.0} ns)", per_call(&mut filter, 1024, 20)? * 1e9 / 1024.0);

    let start = start(&real)? * 1e3;
    report("start of a cached plugin", start, "ms", start <= START_MS, &format!("{START_MS} ms"));
    let rearm = rearm(&host, &misbehave)? * 1e3;
    report("from a trap to the next answer", rearm, "ms", rearm <= REARM_MS, &format!("{REARM_MS} ms"));
    endless(&host, &misbehave)
}

fn report(what: &str, value: f64, unit: &str, holds: bool, bar: &str) {
    println!("{what:<40} {value:>9.3} {unit}   bar {bar:<10} {}", verdict(holds));
}

/// A batch of texts of 64 bytes, with sizes of pictures.
fn texts(rows: usize) -> Batch {
    let cut = captions(rows, 16).into_iter().map(|mut text| {
        text.truncate(ROW_BYTES);
        format!("{text:.<ROW_BYTES$}")
    });
    let texts: Vec<String> = cut.collect();
    let data = ColumnData::Utf8(Ragged::<u8>::from_strs(texts.iter().map(String::as_str)));
    let sizes = |from: u32| ColumnData::U32s((0..rows as u32).map(|row| from + row % 300).collect());
    let columns = vec![Column::new("text", data), Column::new("width", sizes(300)), Column::new("height", sizes(250))];
    Batch { rows: rows as u32, columns }
}

fn one(text: &str) -> Batch {
    Batch { rows: 1, columns: vec![Column::utf8("text", [text])] }
}

/// Seconds of one call, median of 25 stretches of `calls`.
fn per_call(filter: &mut FilterInstance, rows: usize, calls: usize) -> Result<f64> {
    let batch = texts(rows);
    let mut seconds = Vec::new();
    for _ in 0..25 {
        let (s, ()) = cpu_time(|| {
            for _ in 0..calls {
                ensure!(filter.process(&CallCtx::default(), &batch)?.keep.len() == rows, "a row is missing");
            }
            Ok(())
        })?;
        seconds.push(s / calls as f64);
    }
    Ok(median(seconds))
}

/// Seconds from the file to an instance, in a host that has not seen it and finds its compiled form on disk.
fn start(path: &Path) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..15 {
        let host = Host::new(HostOptions::default())?;
        let (s, _) = cpu_time(|| Ok(host.load(&PluginSpec::new(path))?.filter()?))?;
        seconds.push(s);
    }
    Ok(median(seconds))
}

fn entry(host: &Host, path: &Path, entry: &str) -> Result<FilterInstance> {
    let spec = PluginSpec { entry: Some(entry.into()), ..PluginSpec::new(PathBuf::from(path)) };
    Ok(host.load(&spec)?.filter()?)
}

/// Seconds from the error to the next answer.
fn rearm(host: &Host, path: &Path) -> Result<f64> {
    let mut filter = entry(host, path, "panic")?;
    let (poison, good) = (one("poison"), one("good"));
    let mut seconds = Vec::new();
    for _ in 0..101 {
        match filter.process(&CallCtx::default(), &poison) {
            Err(PluginError::Trap { .. }) => {}
            other => bail!("the poisoned row did not trap: {other:?}"),
        }
        let (s, answer) = cpu_time(|| Ok(filter.process(&CallCtx::default(), &good)?))?;
        ensure!(answer.keep == [true], "the instance after the trap answers wrongly");
        seconds.push(s);
    }
    Ok(median(seconds))
}

fn endless(host: &Host, path: &Path) -> Result<()> {
    let mut filter = entry(host, path, "loop")?;
    let poison = one("poison");
    let mut seconds = Vec::new();
    let mut fuel = None;
    for _ in 0..3 {
        let (s, error) = cpu_time(|| filter.process(&CallCtx::default(), &poison).err().context("the loop ended"))?;
        let PluginError::Trap { cause: TrapCause::OutOfFuel { budget }, .. } = error else {
            bail!("the loop ended otherwise: {error}");
        };
        ensure!(fuel.replace(budget).is_none_or(|before| before == budget), "the budget differs from call to call");
        seconds.push(s);
    }
    let (ms, fuel) = (median(seconds) * 1e3, fuel.unwrap_or_default() as f64);
    let bar = fuel / FUEL_PER_MS;
    let what = format!("an endless loop ended by {:.0} M fuel", fuel / 1e6);
    report(&what, ms, "ms", ms <= bar, &format!("{bar:.0} ms"));
    Ok(())
}
