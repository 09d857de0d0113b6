//! Step `pack`: the lengths of all samples, in shuffled order, through the packer plugin into `packs.bin`.
//!
//! ```text
//!  NAME.len … ─► order (seeded) ─► packer, 4096 at a time ─► packs ─ shuffled (seeded) ─► packs.bin
//! ```
//! `packs.bin`, numbers little-endian: [`MAGIC`]; samples, packed samples, packs, dropped samples, tokens (u64 each); the
//! fingerprint of the plan (32 bytes); where each pack begins among the ordinals, and their number (u32); the ordinals of
//! all packs (u32); those of the samples that the packer gave up (u32). A sample's ordinal is its number among all samples
//! of all shards.
//!
//! **Memory** a sample, beyond a constant and what the packer itself holds open: 8 B lengths + 4 B order + 4 B ordinal + up
//! to 8 B where packs begin (a pack a sample, while its list grows) or in the list of what the packer gave up = 24 B while
//! packing; after that the lengths and the order are gone, and 4 B ordinal + 4 B beginning + 4 B order of the packs remain.
//! A test holds it to 32 B. The rejects of what was given up go to disk as they are made.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ovhost_data::loader::shuffle;
use ovhost_data::pipeline::PackStage;
use ovhost_data::rejects::Counters;
use ovhost_data::{DataError, Reject};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, PackLimits, Packing};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{AFRESH, PrepError, io};
use crate::files::put_with;
use crate::jobs::{Done, Made, MadeFile, Plan, Step, records};
use crate::lengths;
use crate::pack::PackSettings;
use crate::places::{Places, SampleReader};

/// Name of the step, and of its folder.
pub const STEP: &str = "pack";

/// First bytes of `packs.bin`.
pub const MAGIC: &[u8; 8] = b"OVPACKS\x01";

/// Bytes before the first table.
const HEADER: u64 = 80;

/// Samples that the packer gets at once.
const BATCH: usize = 4096;

/// How samples are packed.
#[derive(Debug, Clone, Copy)]
pub struct PackSpec {
    /// Bounds of a pack.
    pub limits: PackLimits,
    /// Seed of both shuffles and of the packer.
    pub seed: u64,
    /// Whether samples and packs are shuffled.
    pub shuffle: bool,
}

/// Packs of ordinals.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packs {
    /// Samples of all shards, those left out too.
    pub samples: u64,
    /// Tokens of the packed samples.
    pub tokens: u64,
    /// Where each pack begins in `ordinals`, and their number.
    pub begins: Vec<u32>,
    /// Pack after pack.
    pub ordinals: Vec<u32>,
    /// What the packer gave up.
    pub dropped: Vec<u32>,
    /// In which order the packs are written.
    pub order: Vec<u32>,
}

/// Packs the samples with these (tokens, patches); those without tokens are left out.
///
/// # Errors
/// What the packer plugin does wrong; whatever `tick` returns.
pub fn pack_lengths(
    stage: &mut dyn PackStage,
    lengths: Vec<[u32; 2]>,
    spec: &PackSpec,
    tick: &dyn Fn(u64) -> Result<(), PrepError>,
) -> Result<Packs, PrepError> {
    let samples = u32::try_from(lengths.len()).map_err(|_| {
        PrepError::Option(format!(
            "{} samples are too many for one data set (at most {}); split it",
            lengths.len(),
            u32::MAX
        ))
    })?;
    let kept = lengths.iter().filter(|l| l[0] > 0).count();
    let mut order = Vec::with_capacity(kept);
    order.extend((0..samples).filter(|i| lengths[*i as usize][0] > 0));
    if spec.shuffle {
        shuffle(&mut order, "samples to pack", spec.seed);
    }
    let mut packs = Packs { samples: samples.into(), ..Packs::default() };
    packs.ordinals.reserve_exact(kept);
    packs.begins.push(0);
    stage.start(&spec.limits)?;
    for (number, ordinals) in order.chunks(BATCH).enumerate() {
        tick(0)?;
        let first = number * BATCH;
        let ctx = CallCtx { run_seed: spec.seed, shard: 0, batch_index: number as u64, first_row: first as u64 };
        // The packer sees places in the order, which ascend: cheaper to keep than ordinals that leap.
        let of = |which: usize| ordinals.iter().map(|o| lengths[*o as usize][which]).collect();
        let columns = vec![
            Column::new("id", ColumnData::S64s((first as i64..).take(ordinals.len()).collect())),
            Column::new("length", ColumnData::U32s(of(0))),
            Column::new("patches", ColumnData::U32s(of(1))),
        ];
        let packing = stage.push(&ctx, &Batch { rows: ordinals.len() as u32, columns })?;
        packs.add(&packing, &order, &lengths)?;
    }
    while let Some(packing) = stage.flush()? {
        tick(0)?;
        packs.add(&packing, &order, &lengths)?;
    }
    let placed = packs.ordinals.len() + packs.dropped.len();
    if placed != kept {
        return Err(DataError::Worker(format!("the packer was given {kept} samples and placed {placed}")).into());
    }
    drop((lengths, order));
    packs.order = (0..packs.len() as u32).collect();
    if spec.shuffle {
        shuffle(&mut packs.order, "packs", spec.seed);
    }
    Ok(packs)
}

/// Adds to a list of which there may be one for each of `samples`: doubling would need room for twice as many.
fn push_exact(list: &mut Vec<u32>, number: u32, samples: usize) {
    if list.len() == list.capacity() {
        list.reserve_exact((samples / 32).max(1 << 12));
    }
    list.push(number);
}

impl Packs {
    /// Number of packs.
    pub fn len(&self) -> usize {
        self.begins.len().saturating_sub(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add(&mut self, packing: &Packing, order: &[u32], lengths: &[[u32; 2]]) -> Result<(), PrepError> {
        let ordinal = |id: &u64| -> Result<u32, PrepError> {
            let found = usize::try_from(*id).ok().and_then(|i| order.get(i)).copied();
            found
                .ok_or_else(|| DataError::Worker(format!("the packer returned id {id}, which it was not given")).into())
        };
        for bin in &packing.bins {
            for id in bin {
                let ordinal = ordinal(id)?;
                self.tokens += u64::from(lengths[ordinal as usize][0]);
                self.ordinals.push(ordinal);
            }
            push_exact(&mut self.begins, self.ordinals.len() as u32, order.len());
        }
        for id in &packing.dropped {
            push_exact(&mut self.dropped, ordinal(id)?, order.len());
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write, fingerprint: &[u8]) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        let numbers =
            [self.samples, self.ordinals.len() as u64, self.len() as u64, self.dropped.len() as u64, self.tokens];
        numbers.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))?;
        out.write_all(fingerprint)?;
        let members = |pack: u32| {
            let at = pack as usize;
            &self.ordinals[self.begins[at] as usize..self.begins[at + 1] as usize]
        };
        let mut begin = 0_u32;
        for pack in &self.order {
            out.write_all(&begin.to_le_bytes())?;
            begin += members(*pack).len() as u32;
        }
        out.write_all(&begin.to_le_bytes())?;
        for ordinal in self.order.iter().flat_map(|p| members(*p)).chain(&self.dropped) {
            out.write_all(&ordinal.to_le_bytes())?;
        }
        Ok(())
    }
}

/// `packs.bin`, open. Nothing of it is in memory.
pub struct PacksFile {
    file: File,
    path: PathBuf,
    /// Number of packs.
    pub packs: u64,
    /// Number of packed samples.
    pub packed: u64,
}

impl PacksFile {
    /// Where it lies.
    pub fn path(out: &Path) -> PathBuf {
        records(out, STEP).join("packs.bin")
    }

    /// Opens it.
    ///
    /// # Errors
    /// It is missing, or not whole.
    pub fn open(out: &Path) -> Result<Self, PrepError> {
        let path = Self::path(out);
        let file = File::open(&path).map_err(io(&path, "open"))?;
        let size = file.metadata().map_err(io(&path, "read its size"))?.len();
        let mut head = [0; HEADER as usize];
        file.read_exact_at(&mut head, 0).map_err(io(&path, "read"))?;
        let number = |at: usize| head[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let (packed, packs, dropped) = (number(16), number(24), number(32));
        let numbers = packs.checked_add(1).and_then(|n| n.checked_add(packed)?.checked_add(dropped)?.checked_mul(4));
        if head[..8] != MAGIC[..] || numbers.and_then(|n| n.checked_add(HEADER)) != Some(size) {
            return Err(PrepError::Record {
                path: path.display().to_string(),
                why: "it is not whole".into(),
                next: AFRESH,
            });
        }
        Ok(PacksFile { file, path, packs, packed })
    }

    /// The ordinals of packs `from..to`.
    pub fn members(&self, from: u64, to: u64) -> Result<Vec<Vec<u32>>, PrepError> {
        let begins = self.numbers(HEADER + 4 * from, to - from + 1)?;
        let (Some(first), Some(last)) = (begins.first(), begins.last()) else { return Ok(Vec::new()) };
        let wrong = || PrepError::Record {
            path: self.path.display().to_string(),
            why: "its table is damaged".into(),
            next: AFRESH,
        };
        let count = last.checked_sub(*first).filter(|_| u64::from(*last) <= self.packed).ok_or_else(wrong)?;
        let ordinals = self.numbers(HEADER + 4 * (self.packs + 1 + u64::from(*first)), count.into())?;
        let cut = |w: &[u32]| {
            let (from, to) = (w[0].checked_sub(*first)?, w[1].checked_sub(*first)?);
            ordinals.get(from as usize..to as usize).map(<[u32]>::to_vec)
        };
        begins.windows(2).map(|w| cut(w).ok_or_else(wrong)).collect()
    }

    fn numbers(&self, at: u64, count: u64) -> Result<Vec<u32>, PrepError> {
        let mut bytes = vec![0; 4 * count as usize];
        self.file.read_exact_at(&mut bytes, at).map_err(io(&self.path, "read"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }
}

/// The step.
pub struct PackAll<'a> {
    /// What is packed.
    pub settings: &'a PackSettings,
    /// Where samples lie.
    pub places: &'a Places,
    /// Hash over all lengths.
    pub lengths: String,
}

impl PackAll<'_> {
    /// The plan: one job, since a packer sees one stream.
    pub fn plan(&self) -> Plan {
        let s = self.settings;
        let settings = json!({
            "lengths": self.lengths, "packer": s.packer, "limits": s.limits, "seed": s.seed, "shuffle": s.shuffle,
        });
        Plan { step: STEP, settings, jobs: vec!["packs".into()] }
    }

    fn read_lengths(&self, out: &Path) -> Result<Vec<[u32; 2]>, PrepError> {
        let total = self.places.samples() as usize;
        let mut all = Vec::with_capacity(total);
        for input in &self.places.inputs {
            let path = input.lengths(out);
            let mut file = BufReader::with_capacity(1 << 16, File::open(&path).map_err(io(&path, "open"))?);
            let mut pair = [0; 8];
            let size = std::fs::metadata(&path).map_err(io(&path, "read its size"))?.len();
            for _ in 0..size / 8 {
                file.read_exact(&mut pair).map_err(io(&path, "read"))?;
                let [a, b, c, d, e, f, g, h] = pair;
                all.push([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]);
            }
        }
        Ok(all)
    }
}

impl Step for PackAll<'_> {
    type Worker = ();

    fn worker(&self) -> Result<(), PrepError> {
        Ok(())
    }

    fn follows(&self) -> Option<&'static str> {
        Some(lengths::STEP)
    }

    fn is_last(&self) -> bool {
        false
    }

    fn job(
        &self,
        (): &mut (),
        _: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        let lengths = self.read_lengths(out)?;
        let s = self.settings;
        let spec = PackSpec { limits: s.limits, seed: s.seed, shuffle: s.shuffle };
        let packs = pack_lengths(s.stages.packer()?.as_mut(), lengths, &spec, tick)?;
        let mut made = Made::within(out);
        let mut reader = SampleReader::new(self.places, out);
        for ordinal in &packs.dropped {
            let found = reader.read(*ordinal)?;
            let reason = format!("the packer gave it up ({} tokens)", found.tokens);
            made.rejects.push(Reject { key: found.raw.key, shard: found.shard, stage: "pack", reason });
            *made.counts.rejected.entry("pack".into()).or_default() += 1;
        }
        let path = PacksFile::path(out);
        let fingerprint = Sha256::digest(self.plan().settings.to_string());
        put_with(&path, |file| {
            let mut buffer = BufWriter::with_capacity(1 << 16, file);
            packs.write(&mut buffer, &fingerprint).and_then(|()| buffer.flush()).map_err(io(&path, "write"))
        })?;
        let name = path.strip_prefix(out).unwrap_or(&path).to_string_lossy().into_owned();
        made.files.push(MadeFile::of(&path, &name, packs.len() as u64)?);
        Ok(made)
    }

    fn finish(&self, _: &Path, _: &[Done], _: &Counters) -> Result<(), PrepError> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "packs/tests.rs"]
mod tests;
