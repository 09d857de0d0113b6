//! One worker of a bench: an instance that is given the same batches over and over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ovhost_plugin::{
    Batch, CallCtx, ColumnData, Counters, FilterInstance, Kind, MetricInstance, Mode, PackLimits, PackerInstance,
    Packing, Plugin, PromptInstance,
};

/// An instance at work.
pub struct Worker {
    guest: Guest,
    plugin: Plugin,
    seed: u64,
    /// Of instances that were replaced.
    fuel: u64,
    peak: u64,
}

enum Guest {
    Filter(FilterInstance),
    Packer { packer: Box<PackerInstance>, limits: PackLimits, bins: Option<Bins> },
    Prompt(PromptInstance, Mode),
    Metric(MetricInstance),
}

/// How well a stream was packed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Bins {
    /// Bins made.
    pub bins: u64,
    /// Tokens in them ÷ what they hold.
    pub fill: f64,
    /// Samples that the packer gave up.
    pub given_up: u64,
    /// Tokens of samples that the packer gave up.
    pub tokens_given_up: u64,
    /// Room in the bins that no token took.
    pub room_left: u64,
}

/// What a round did.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Rows of all its passes.
    pub rows: u64,
    /// Fuel of its first pass.
    pub fuel: u64,
}

impl Worker {
    /// An instance of its own.
    pub fn new(plugin: &Plugin, limits: PackLimits, mode: Mode, seed: u64) -> Result<Self> {
        let guest = match plugin.kind() {
            Kind::Filter => Guest::Filter(plugin.filter()?),
            Kind::Packer => Guest::Packer { packer: Box::new(plugin.packer()?), limits, bins: None },
            Kind::Prompt => Guest::Prompt(plugin.prompt()?, mode),
            Kind::Metric => Guest::Metric(plugin.metric()?),
        };
        Ok(Worker { guest, plugin: plugin.clone(), seed, fuel: 0, peak: 0 })
    }

    /// Before a round: state of the last one goes.
    pub fn begin(&mut self) -> Result<()> {
        match &mut self.guest {
            Guest::Filter(filter) if filter.is_streaming() => {
                (self.fuel, self.peak) = (self.fuel(), self.peak_memory());
                self.guest = Guest::Filter(self.plugin.filter()?);
            }
            Guest::Metric(metric) => metric.reset()?,
            _ => {}
        }
        Ok(())
    }

    /// Gives it the batches, all of them again and again until `least` has passed; where calls build on one another, once.
    /// A pass is never cut short: rows differ, and every one of them is to count as often as the others.
    pub fn round(&mut self, batches: &[Batch], least: Duration) -> Result<Round> {
        let start = Instant::now();
        let (mut rows, mut row) = (0_u64, 0_u64);
        let seed = self.seed;
        let mut ctx = move |i: usize, batch: &Batch| {
            // A pass is a stream of its own, like the one before it.
            row = if i == 0 { 0 } else { row };
            let ctx = CallCtx { run_seed: seed, shard: 0, batch_index: i as u64, first_row: row };
            row += u64::from(batch.rows);
            ctx
        };
        let before = self.fuel();
        let mut first = None;
        while rows == 0 || (start.elapsed() < least && !self.streams()) {
            match &mut self.guest {
                Guest::Packer { packer, limits, bins } => {
                    let mut tally = Tally::new(*limits, batches, bins.is_none())?;
                    packer.start(limits)?;
                    for (i, batch) in batches.iter().enumerate() {
                        let packing = packer.push(&ctx(i, batch), batch)?;
                        tally.add(&packing);
                    }
                    while let Some(packing) = packer.flush()? {
                        tally.add(&packing);
                    }
                    // Every pass packs the same.
                    bins.get_or_insert_with(|| tally.bins());
                }
                guest => {
                    for (i, batch) in batches.iter().enumerate() {
                        let ctx = ctx(i, batch);
                        match guest {
                            Guest::Filter(filter) => drop(filter.process(&ctx, batch)?),
                            Guest::Prompt(prompt, mode) => drop(prompt.render(&ctx, *mode, batch)?),
                            Guest::Metric(metric) => drop(metric.update(&ctx, batch)?),
                            Guest::Packer { .. } => {}
                        }
                    }
                }
            }
            rows += batches.iter().map(|batch| u64::from(batch.rows)).sum::<u64>();
            first.get_or_insert_with(|| self.fuel() - before);
        }
        Ok(Round { rows, fuel: first.unwrap_or(0) })
    }

    /// Whether it remembers rows, so that a second pass would be another than the first.
    fn streams(&self) -> bool {
        matches!(&self.guest, Guest::Filter(filter) if filter.is_streaming())
    }

    fn counters(&self) -> &Counters {
        match &self.guest {
            Guest::Filter(filter) => filter.counters(),
            Guest::Packer { packer, .. } => packer.counters(),
            Guest::Prompt(prompt, _) => prompt.counters(),
            Guest::Metric(metric) => metric.counters(),
        }
    }

    /// Fuel used so far.
    pub fn fuel(&self) -> u64 {
        self.fuel + self.counters().fuel_total
    }

    /// Most linear memory, bytes.
    pub fn peak_memory(&self) -> u64 {
        self.peak.max(self.counters().peak_memory)
    }

    /// How well it packed, if it is a packer that did.
    pub fn bins(&self) -> Option<Bins> {
        match &self.guest {
            Guest::Packer { bins, .. } => *bins,
            _ => None,
        }
    }
}

/// Counts what comes out of a packer; only in the first round, as it costs time.
struct Tally {
    limits: PackLimits,
    lengths: Option<HashMap<u64, u32>>,
    bins: u64,
    tokens: u64,
    given_up: u64,
    tokens_given_up: u64,
}

impl Tally {
    fn new(limits: PackLimits, batches: &[Batch], on: bool) -> Result<Self> {
        let mut tally = Tally { limits, lengths: None, bins: 0, tokens: 0, given_up: 0, tokens_given_up: 0 };
        if !on {
            return Ok(tally);
        }
        let mut lengths = HashMap::new();
        for batch in batches {
            let (Some(ColumnData::S64s(ids)), Some(ColumnData::U32s(values))) =
                (batch.column("id").map(|c| &c.data), batch.column("length").map(|c| &c.data))
            else {
                bail!("a packer's rows need the columns id (s64s) and length (u32s)");
            };
            lengths.extend(ids.iter().map(|id| id.cast_unsigned()).zip(values.iter().copied()));
        }
        tally.lengths = Some(lengths);
        Ok(tally)
    }

    fn add(&mut self, packing: &Packing) {
        let Some(lengths) = &self.lengths else { return };
        let sum = |ids: &[u64]| ids.iter().filter_map(|id| lengths.get(id)).map(|n| u64::from(*n)).sum::<u64>();
        for ids in packing.bins.iter() {
            self.bins += 1;
            self.tokens += sum(ids);
        }
        self.given_up += packing.dropped.len() as u64;
        self.tokens_given_up += sum(&packing.dropped);
    }

    fn bins(&self) -> Bins {
        let room = self.bins * u64::from(self.limits.capacity);
        Bins {
            bins: self.bins,
            fill: self.tokens as f64 / room.max(1) as f64,
            given_up: self.given_up,
            tokens_given_up: self.tokens_given_up,
            room_left: room - self.tokens.min(room),
        }
    }
}
