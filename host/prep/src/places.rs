//! From a sample's ordinal to its bytes: shard and byte range by the tables of step `lengths`, then one read.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ovhost_data::shards::{RawSample, ShardBytes, ShardError};

use crate::error::{PrepError, io};
use crate::lengths::Input;

/// Shards that one reader keeps open.
const OPEN: usize = 64;

/// Which ordinals lie in which shard.
pub struct Places {
    /// The shards.
    pub inputs: Vec<Input>,
    /// Ordinal of the first sample of each, and at last the number of samples.
    firsts: Vec<u64>,
}

impl Places {
    /// Of shards whose lengths are in `out`.
    pub fn new(inputs: Vec<Input>, out: &Path) -> Result<Self, PrepError> {
        let mut firsts = Vec::with_capacity(inputs.len() + 1);
        let mut next = 0;
        for input in &inputs {
            firsts.push(next);
            let path = input.lengths(out);
            next += std::fs::metadata(&path).map_err(io(&path, "read its size"))?.len() / 8;
        }
        firsts.push(next);
        Ok(Places { inputs, firsts })
    }

    /// Samples of all shards.
    pub fn samples(&self) -> u64 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// Shard and number in it.
    fn locate(&self, ordinal: u32) -> Option<(usize, u64)> {
        let ordinal = u64::from(ordinal);
        let shard = self.firsts.partition_point(|first| *first <= ordinal).checked_sub(1)?;
        (shard < self.inputs.len()).then(|| (shard, ordinal - self.firsts[shard]))
    }
}

/// A sample, found.
pub struct Found {
    /// Its members.
    pub raw: RawSample,
    /// File name of its shard.
    pub shard: String,
    /// Number of its shard.
    pub input: usize,
    /// Its number there.
    pub index: u64,
    /// Its tokens.
    pub tokens: u32,
    /// Its patches.
    pub patches: u32,
}

/// Reads samples from anywhere; keeps a few shards open.
pub struct SampleReader<'a> {
    places: &'a Places,
    out: PathBuf,
    open: HashMap<usize, Files>,
    /// The open ones, oldest first.
    queue: VecDeque<usize>,
}

struct Files {
    tar: ShardBytes,
    lengths: File,
    offsets: File,
}

impl<'a> SampleReader<'a> {
    /// A reader of samples whose tables lie in `out`.
    pub fn new(places: &'a Places, out: &Path) -> Self {
        SampleReader { places, out: out.to_owned(), open: HashMap::new(), queue: VecDeque::new() }
    }

    /// Reads a sample.
    ///
    /// # Errors
    /// It is not where it was when it was measured.
    pub fn read(&mut self, ordinal: u32) -> Result<Found, PrepError> {
        let located = self.places.locate(ordinal);
        let (input, index) = located.ok_or_else(|| PrepError::Record {
            path: self.out.display().to_string(),
            why: format!("sample {ordinal} is in no shard"),
            next: crate::error::AFRESH,
        })?;
        let shard = &self.places.inputs[input];
        self.ensure_open(input)?;
        let files = &self.open[&input];
        let mut pair = [[0_u8; 8]; 2];
        let at = |file: &File, bytes: &mut [u8], at: u64, path: &Path| {
            file.read_exact_at(bytes, at).map_err(io(path, "read a sample's place in it"))
        };
        at(&files.offsets, pair.as_flattened_mut(), 8 * index, &shard.offsets(&self.out))?;
        let [start, end] = pair.map(u64::from_le_bytes);
        let mut numbers = [[0_u8; 4]; 2];
        at(&files.lengths, numbers.as_flattened_mut(), 8 * index, &shard.lengths(&self.out))?;
        let [tokens, patches] = numbers.map(u32::from_le_bytes);
        let changed = |why: String| {
            PrepError::Option(format!(
                "{}, bytes {start} to {end}: {why}. The sample was whole when it was measured; do not change shards under a \
                 running step, or begin again in another folder",
                shard.path.display()
            ))
        };
        let bytes = files.tar.read(start, end).map_err(|e| match e {
            ShardError::Sample { reason, .. } => changed(reason),
            ShardError::Io { source, .. } => changed(source.to_string()),
            other => PrepError::from(other),
        })?;
        let raw = RawSample::from_tar(&bytes).map_err(changed)?;
        let name = shard.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Found { raw, shard: name, input, index, tokens, patches })
    }

    fn ensure_open(&mut self, input: usize) -> Result<(), PrepError> {
        if self.open.contains_key(&input) {
            return Ok(());
        }
        if self.queue.len() >= OPEN
            && let Some(oldest) = self.queue.pop_front()
        {
            self.open.remove(&oldest);
        }
        let shard = &self.places.inputs[input];
        let open = |path: &Path| File::open(path).map_err(io(path, "open"));
        let files = Files {
            tar: ShardBytes::open(&shard.path)?,
            lengths: open(&shard.lengths(&self.out))?,
            offsets: open(&shard.offsets(&self.out))?,
        };
        self.open.insert(input, files);
        self.queue.push_back(input);
        Ok(())
    }
}
