//! 100,000 captions through the caption filter, against the same rules in datatrove as its users write them (or in plain
//! Python where datatrove is not installed): one core each, rows in memory on both sides.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Ragged};
use serde::Deserialize;
use serde_json::json;

use crate::{filter::captions, median, plugin, time};

const ROWS: usize = 100_000;
const SCRIPT: &str = include_str!("peer.py");

#[derive(Deserialize)]
struct Peer {
    peer: String,
    seconds: f64,
    kept: usize,
}

/// Runs the benchmark. `$OVHOST_PYTHON` names an interpreter that has datatrove; else it is `python3`.
pub fn run() -> Result<()> {
    // Some of every kind that the rules know.
    let mut texts = captions(ROWS, 60);
    for (i, text) in texts.iter_mut().enumerate() {
        match i % 50 {
            0 => text.insert_str(0, "I'm sorry, but "),
            1 => text.truncate(30),
            2 => text.push_str(&" very".repeat(12)),
            _ => {}
        }
    }
    let component = plugin("filters/caption_quality.wasm", json!({}))?;
    let mut filter = component.filter()?;
    let batches: Vec<Batch> = texts
        .chunks(1024)
        .map(|rows| {
            let data = ColumnData::Utf8(Ragged::<u8>::from_strs(rows.iter().map(String::as_str)));
            Batch { rows: rows.len() as u32, columns: vec![Column { name: "text".into(), data, valid: None }] }
        })
        .collect();
    let (mut seconds, mut kept) = (Vec::new(), 0);
    for _ in 0..5 {
        let (s, n) = time(|| {
            let mut n = 0;
            for (i, batch) in batches.iter().enumerate() {
                let ctx = CallCtx { first_row: i as u64 * 1024, ..CallCtx::default() };
                n += filter.process(&ctx, batch)?.keep.iter().filter(|k| **k).count();
            }
            Ok(n)
        })?;
        seconds.push(s);
        kept = n;
    }
    let ours = median(seconds);
    println!("caption_quality in WASM: {:.0} captions/s on one core", ROWS as f64 / ours);

    let file = tempfile::NamedTempFile::new()?;
    let lines: Vec<String> = texts.iter().map(|text| json!({ "text": text }).to_string()).collect();
    std::fs::write(file.path(), lines.join("\n"))?;
    let python = std::env::var_os("OVHOST_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(&python).args(["-c", SCRIPT]).arg(file.path()).output();
    let output = output.with_context(|| format!("{} could not be started", python.display()))?;
    ensure!(output.status.success(), "the peer failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let peer: Peer = serde_json::from_slice(&output.stdout).context("the peer's answer")?;
    ensure!(peer.kept == kept, "the peer keeps {} captions, ours {kept}", peer.kept);
    println!(
        "{}: {:.0} captions/s; ours is {:.1} times as fast",
        peer.peer,
        ROWS as f64 / peer.seconds,
        peer.seconds / ours
    );
    Ok(())
}
