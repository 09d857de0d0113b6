//! A shard for training: byte offsets of its samples and nothing else, 8 bytes each.
//!
//! ```text
//!  NAME.tar.idx that fits NAME.tar ─┐
//!  else a scan of all headers ──────┴─► offsets ─► range, exclude ─► sample i: one read, then its members
//! ```
//! In an object store each of these reads is a request. A compressed shard cannot be read so.
//!
//! `.tar.idx` is Energon's: u64 in the machine's order, one for each sample's first header and one for where the last
//! sample ends. An index that another shard left behind is noticed here, or at the latest when a sample is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Cursor;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ovhost_store::Place;

use super::places::{self, ShardBytes, stored_size};
use super::scan::padding;
use super::{RawSample, Shard, ShardError, io_error};

const BLOCK: u64 = 512;

/// Most bytes of one sample: it is read into memory as a whole.
const MOST_SAMPLE: u64 = 1 << 32;

/// Most bytes before the first sample, and behind the last.
const MOST_AROUND: u64 = 1 << 20;

/// An open shard whose samples are read by their bytes. Several threads may share it.
#[derive(Debug)]
pub struct IndexedShard {
    path: PathBuf,
    name: String,
    bytes: ShardBytes,
    /// Begin of each sample, and the end of the last.
    offsets: Vec<u64>,
    /// Numbers of the samples that are used, where it is not all of them.
    chosen: Option<Vec<u32>>,
    unnamed: u64,
}

impl IndexedShard {
    /// Opens a shard, by its index where it has one that fits.
    ///
    /// # Errors
    /// A file that cannot be read, or is damaged as far as its headers (or the index) tell.
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        match Self::by_index(path)? {
            Some(Ok(shard)) => return Ok(shard),
            Some(Err(why)) => tracing::warn!(
                "{} is not the index of {} ({why}), so all headers are read; make it again with `ovhost data index`",
                index_path(path).display(),
                path.display()
            ),
            None => {}
        }
        if let Some(place) = Place::of(path) {
            let scan = places::scan_remote(path, &place?)?;
            if let Some(damage) = scan.damage {
                let last = scan.done.last().map_or("-".into(), |s| format!("\"{}\"", s.key));
                let (path, whole) = (path.display().to_string(), scan.done.len());
                return Err(ShardError::Damaged { path, offset: damage.offset, reason: damage.reason, whole, last });
            }
            return Ok(IndexedShard { unnamed: scan.unnamed, ..Self::with(path, scan.offsets())? });
        }
        let scanned = Shard::open(path)?;
        if scanned.is_compressed() {
            return Err(places::not_at_random(path));
        }
        Ok(IndexedShard { unnamed: scanned.unnamed(), ..Self::with(path, scanned.offsets())? })
    }

    /// Opens a shard by its index, none where it has none. The inner error says why the index does not fit.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn by_index(path: &Path) -> Result<Option<Result<Self, String>>, ShardError> {
        let length = stored_size(path)?;
        let Some(offsets) = read_index(&index_path(path), length)? else { return Ok(None) };
        let shard = Self::with(path, offsets)?;
        match shard.check(length) {
            Ok(()) => Ok(Some(Ok(shard))),
            Err(Unfit::Index(why)) => Ok(Some(Err(why))),
            Err(Unfit::Store(error)) => Err(error),
        }
    }

    fn with(path: &Path, offsets: Vec<u64>) -> Result<Self, ShardError> {
        let bytes = ShardBytes::open(path)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(IndexedShard { path: path.to_owned(), name, bytes, offsets, chosen: None, unnamed: 0 })
    }

    /// Whether the offsets can be those of this file.
    fn check(&self, length: u64) -> Result<(), Unfit> {
        let Some(end) = self.offsets.last() else {
            return Err("it holds no whole numbers, or more than the shard has blocks".into());
        };
        if !self.offsets.iter().all(|at| at.is_multiple_of(BLOCK))
            || !self.offsets.windows(2).all(|pair| pair[0] < pair[1])
        {
            return Err("its offsets are no rising multiples of 512".into());
        }
        if end.checked_add(2 * BLOCK).is_none_or(|after| after > length) {
            return Err(format!("samples end at byte {end} by it, and the file has {length}").into());
        }
        // The end mark, and nothing behind it: an index made of the first of two archives in one file hides the second.
        let behind = length - end;
        if behind > MOST_AROUND {
            return Err(format!("{behind} bytes follow after byte {end}, where samples end by it").into());
        }
        padding(&mut Cursor::new(self.bytes.read(*end, length)?), 0, behind)
            .map_err(|_| format!("no end mark stands at byte {end}, or more follows"))?;
        // Before the first sample there may be headers for the whole archive and members of no sample, and no sample.
        let first = self.offsets[0];
        if first > MOST_AROUND {
            return Err(format!("samples begin at byte {first} by it").into());
        }
        if !RawSample::none_in(&self.bytes.read(0, first)?) {
            return Err("there is a sample before its first".into());
        }
        let samples = self.offsets.len() - 1;
        for header in [self.offsets[0], self.offsets[samples.saturating_sub(1)]].into_iter().take(samples) {
            let bytes = self.bytes.read(header, header + BLOCK)?;
            if !bytes.as_array().is_some_and(is_header) {
                return Err(format!("no tar header stands at byte {header}").into());
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name for messages: the file's without folders, unless [`Self::rename`] gave another.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another name for messages.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Number of samples that are used.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.offsets.len().saturating_sub(1), Vec::len)
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Members that belong to no sample, where the headers were read.
    pub fn unnamed(&self) -> u64 {
        self.unnamed
    }

    /// Leaves out the samples with these keys and those whose number is not in `range`.
    ///
    /// # Errors
    /// A key that no sample has, or samples that cannot be read to find out.
    pub fn choose(&mut self, range: Range<u64>, exclude: &BTreeSet<String>) -> Result<(), ShardError> {
        let all = self.offsets.len().saturating_sub(1);
        let mut missing: BTreeSet<&String> = exclude.iter().collect();
        let mut chosen = Vec::new();
        for number in 0..all {
            if !exclude.is_empty() {
                // The first header has the key; reading all of the sample is simpler, and done once a run.
                let key = RawSample::key_of(&self.bytes(number)?);
                if exclude.contains(&key) {
                    missing.remove(&key);
                    continue;
                }
            }
            if range.contains(&(number as u64)) {
                chosen.push(number as u32);
            }
        }
        if let Some(key) = missing.first() {
            let reason = "the data set's metadata leaves out a sample of that key, and the shard has none".to_owned();
            return Err(ShardError::Sample { path: self.path.display().to_string(), key: (*key).clone(), reason });
        }
        if chosen.len() < all {
            self.chosen = Some(chosen);
        }
        Ok(())
    }

    /// Number in the file of sample `index` of those that are used.
    fn number(&self, index: usize) -> Option<usize> {
        match &self.chosen {
            None => (index < self.len()).then_some(index),
            Some(chosen) => chosen.get(index).map(|n| *n as usize),
        }
    }

    fn bytes(&self, number: usize) -> Result<Vec<u8>, ShardError> {
        let (from, to) = (self.offsets[number], self.offsets[number + 1]);
        if to - from > MOST_SAMPLE {
            return Err(self.failed(
                String::new(),
                format!("it has {} bytes; at most {MOST_SAMPLE} are read into memory", to - from),
            ));
        }
        self.bytes.read(from, to)
    }

    fn failed(&self, key: String, reason: String) -> ShardError {
        ShardError::Sample { path: self.path.display().to_string(), key, reason }
    }

    /// Reads the files of sample `index` (from 0) of those that are used.
    ///
    /// # Errors
    /// What is wrong with it, with its key where that is known.
    pub fn read(&self, index: usize) -> Result<RawSample, ShardError> {
        let number = self.number(index).ok_or_else(|| {
            self.failed(String::new(), format!("sample {index} was asked for, but the shard has {}", self.len()))
        })?;
        let bytes = self.bytes(number)?;
        RawSample::from_tar(&bytes).map_err(|reason| self.failed(RawSample::key_of(&bytes), reason))
    }
}

/// Why an index is not used.
enum Unfit {
    /// It is not the shard's.
    Index(String),
    /// The object store failed: that says nothing of the index.
    Store(ShardError),
}

impl From<String> for Unfit {
    fn from(why: String) -> Self {
        Unfit::Index(why)
    }
}

impl From<&str> for Unfit {
    fn from(why: &str) -> Self {
        Unfit::Index(why.to_owned())
    }
}

impl From<ShardError> for Unfit {
    fn from(error: ShardError) -> Self {
        match error {
            ShardError::Store(_) => Unfit::Store(error),
            other => Unfit::Index(other.to_string()),
        }
    }
}

fn is_header(block: &[u8; BLOCK as usize]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    // As the sum of all bytes with the sum's own field as spaces.
    let sum =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum::<u32>();
    header.cksum().is_ok_and(|stated| stated == sum)
}

/// Where the index of a shard lies.
pub fn index_path(shard: &Path) -> PathBuf {
    let mut name = shard.as_os_str().to_owned();
    name.push(".idx");
    PathBuf::from(name)
}

/// The offsets of the index of a shard of `length` bytes; none where there is none, empty where it is no list of numbers.
///
/// # Errors
/// It is there and cannot be read.
pub fn read_index(path: &Path, length: u64) -> Result<Option<Vec<u64>>, ShardError> {
    // A sample takes a block at least. One number more than there can be is enough to see that it is no index of the shard.
    let most = 8 * (length / BLOCK + 2);
    let mut bytes = Vec::new();
    if let Some(place) = Place::of(path) {
        let object = places::object(&place?)?;
        match object.size() {
            Ok(size) => bytes = object.read_range(0..size.min(most))?,
            Err(e) if e.is_missing_or_hidden() => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    } else {
        match File::open(path) {
            Ok(file) => file.take(most).read_to_end(&mut bytes).map_err(io_error(path, "read"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(path, "read")(error)),
        };
    }
    let (numbers, rest) = bytes.as_chunks();
    if bytes.len() as u64 == most {
        return Ok(Some(Vec::new()));
    }
    // Part of a number: no index of this machine's. An empty list fails the check with a word about it.
    Ok(Some(if rest.is_empty() { numbers.iter().map(|b| u64::from_ne_bytes(*b)).collect() } else { Vec::new() }))
}
