//! One tar file → its samples, found by reading headers and seeking over payloads.
//!
//! The index holds offsets, so sample i is read directly and from any thread. A damaged file is an error by default;
//! [`Shard::open_damaged`] takes the whole samples before the damage and reports it.

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::places::{self, Tar};
use super::scan::Scan;
use super::section::{Ahead, Section};
use super::{ShardError, io_error};
use crate::image::{decode::is_picture_name, header_of};
use crate::record::{Content, Record, RecordOptions, Reject};

/// One file of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name after the key's dot: `json`, `img0.jpg`.
    pub part: String,
    /// Byte offset of the content.
    pub offset: u64,
    /// Bytes of content.
    pub size: u64,
}

/// Consecutive members with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleIndex {
    /// Member name up to the first dot of its last component; folders belong to it.
    pub key: String,
    /// In file order.
    pub members: Vec<Member>,
    /// Why the sample cannot be read: a part that occurs twice, or is a link, or has a name that is not UTF-8.
    pub fault: Option<String>,
    /// Byte offset of the first header that belongs to it, long-name and PAX headers included.
    pub start: u64,
}

/// A sample's files, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSample {
    /// The sample's key.
    pub key: String,
    /// (part, content) in file order.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// Where and why a shard stops being readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Byte offset of the first thing that is not whole.
    pub offset: u64,
    /// What was found there.
    pub reason: String,
    /// Key of the sample that was cut, if one had begun.
    pub cut: Option<String>,
}

/// An open shard. Reading needs no `&mut`: several threads may share it.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    name: String,
    pub(super) file: File,
    unpacked: bool,
    samples: Vec<SampleIndex>,
    end: u64,
    damage: Option<Damage>,
    unnamed: u64,
}

impl RawSample {
    /// Reads the bytes of one sample out of a shard, from its [`SampleIndex::start`] to the next one's.
    ///
    /// # Errors
    /// Bytes that are no tar members, or do not hold a whole sample.
    pub fn from_tar(bytes: &[u8]) -> Result<RawSample, String> {
        let mut scan = Scan::default();
        scan.members(Cursor::new(bytes), bytes.len() as u64, false).map_err(|(at, why)| format!("byte {at}: {why}"))?;
        let sample = scan.open.take().ok_or("no sample lies there")?;
        if let Some(before) = scan.done.first() {
            return Err(format!("samples \"{}\" and \"{}\" lie there, where one was", before.key, sample.key));
        }
        if let Some(fault) = sample.fault {
            return Err(fault);
        }
        let part = |member: Member| {
            let content = bytes.get(member.offset as usize..(member.offset + member.size) as usize);
            content.map(|content| (member.part, content.to_vec())).ok_or("a part lies outside")
        };
        Ok(RawSample { key: sample.key, parts: sample.members.into_iter().map(part).collect::<Result<_, _>>()? })
    }
}

impl RawSample {
    /// Whether those bytes are whole members that make no sample.
    pub(super) fn none_in(bytes: &[u8]) -> bool {
        let mut scan = Scan::default();
        let whole = scan.members(Cursor::new(bytes), bytes.len() as u64, false).is_ok();
        whole && scan.open.is_none() && scan.done.is_empty()
    }

    /// The key of the sample whose bytes those are, as far as it can be told; else empty.
    pub(super) fn key_of(bytes: &[u8]) -> String {
        let mut scan = Scan::default();
        // What is wrong further on was said by whoever read the sample.
        let _ = scan.members(Cursor::new(bytes), bytes.len() as u64, false);
        scan.open.or_else(|| scan.done.pop()).map(|sample| sample.key).unwrap_or_default()
    }
}

impl Shard {
    /// Opens and indexes a shard; a damaged one is an error that names file, byte and last whole sample. One that is
    /// compressed or not on the local disk is copied, unpacked, to the temporary folder for as long as it is open.
    pub fn open(path: impl AsRef<Path>) -> Result<Shard, ShardError> {
        let shard = Self::open_damaged(path)?;
        match &shard.damage {
            None => Ok(shard),
            Some(damage) => Err(ShardError::Damaged {
                path: shard.path.display().to_string(),
                offset: damage.offset,
                reason: damage.reason.clone(),
                whole: shard.samples.len(),
                last: shard.samples.last().map_or("-".into(), |s| format!("\"{}\"", s.key)),
            }),
        }
    }

    /// As [`Self::open`], but keeps the whole samples before any damage; see [`Self::damage`].
    pub fn open_damaged(path: impl AsRef<Path>) -> Result<Shard, ShardError> {
        let path = path.as_ref().to_owned();
        let Tar { file, unpacked, cut } = places::open(&path)?;
        let length = file.metadata().map_err(io_error(&path, "read the size"))?.len();
        let mut scan = Scan::default();
        scan.run(Ahead::new(Section::new(&file, 0, length)), length);
        if let Some(cut) = cut {
            let damage = scan.damage.get_or_insert_with(|| Damage { offset: length, reason: String::new(), cut: None });
            damage.reason = if damage.reason.is_empty() { cut } else { format!("{}; {cut}", damage.reason) };
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Scan { done: samples, end, damage, unnamed, .. } = scan;
        Ok(Shard { path, name, file, unpacked, samples, end, damage, unnamed })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without folders.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file is compressed: [`Self::offsets`] are then those of the tar that it holds.
    pub fn is_compressed(&self) -> bool {
        self.unpacked
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The index, in file order.
    pub fn samples(&self) -> &[SampleIndex] {
        &self.samples
    }

    /// Byte offset of every sample, and at last of where the last one ends: what a `.tar.idx` holds.
    pub fn offsets(&self) -> Vec<u64> {
        self.samples.iter().map(|s| s.start).chain([self.end]).collect()
    }

    /// Regular members without a dot in their name, or whose name is reserved (`__x__`): no sample holds them.
    pub fn unnamed(&self) -> u64 {
        self.unnamed
    }

    /// The damage, where there is one.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// The damage as one reject.
    pub fn damage_reject(&self) -> Option<Reject> {
        self.damage.as_ref().map(|damage| Reject {
            key: damage.cut.clone().unwrap_or_default(),
            shard: self.name.clone(),
            stage: "read",
            reason: format!(
                "the shard is damaged at byte {}: {}; {} whole samples before it were used, what follows is lost",
                damage.offset,
                damage.reason,
                self.samples.len()
            ),
        })
    }

    /// The bytes of sample `index` as they lie in the file, headers included. `offsets` are [`Self::offsets`].
    pub fn read_raw(&self, offsets: &[u64], index: usize) -> Result<Vec<u8>, ShardError> {
        let (Some(from), Some(to)) = (offsets.get(index), offsets.get(index + 1)) else {
            let path = self.path.display().to_string();
            return Err(ShardError::Sample { path, key: String::new(), reason: format!("there is no sample {index}") });
        };
        // The scan proved that the file is at least this long.
        let mut bytes = vec![0; to.saturating_sub(*from) as usize];
        self.file.read_exact_at(&mut bytes, *from).map_err(io_error(&self.path, "read"))?;
        Ok(bytes)
    }

    /// Reads the files of sample `index` (from 0).
    pub fn read(&self, index: usize) -> Result<RawSample, ShardError> {
        let (key, parts) = self.read_with(index, |member| self.content(member))?;
        Ok(RawSample { key, parts })
    }

    /// The key of sample `index`, and what `read` makes of each of its members.
    pub(super) fn read_with<T>(
        &self,
        index: usize,
        read: impl Fn(&Member) -> std::io::Result<T>,
    ) -> Result<(String, Vec<(String, T)>), ShardError> {
        let sample = self.samples.get(index).ok_or_else(|| ShardError::Sample {
            path: self.path.display().to_string(),
            key: String::new(),
            reason: format!("sample {index} was asked for, but the shard has {}", self.samples.len()),
        })?;
        let failed = |reason: String| ShardError::Sample {
            path: self.path.display().to_string(),
            key: sample.key.clone(),
            reason,
        };
        if let Some(fault) = &sample.fault {
            return Err(failed(fault.clone()));
        }
        let part = |member: &Member| {
            let content =
                read(member).map_err(|e| failed(format!("part \"{}\" at byte {}: {e}", member.part, member.offset)))?;
            Ok::<_, ShardError>((member.part.clone(), content))
        };
        Ok((sample.key.clone(), sample.members.iter().map(part).collect::<Result<_, _>>()?))
    }

    fn content(&self, member: &Member) -> std::io::Result<Vec<u8>> {
        // The scan proved that the file is at least this long, so the size is not a lie of the header.
        let mut bytes = vec![0; member.size as usize];
        self.file.read_exact_at(&mut bytes, member.offset)?;
        Ok(bytes)
    }

    /// Reads one part of sample `index`: the first whose name `wanted` takes.
    pub fn read_part(&self, index: usize, wanted: impl Fn(&str) -> bool) -> Result<Option<Vec<u8>>, ShardError> {
        let Some(sample) = self.samples.get(index) else { return Ok(None) };
        let Some(member) = sample.members.iter().find(|m| wanted(&m.part)) else { return Ok(None) };
        let mut bytes = vec![0; member.size as usize];
        self.file.read_exact_at(&mut bytes, member.offset).map_err(io_error(&self.path, "read"))?;
        Ok(Some(bytes))
    }

    /// Reads sample `index` and builds its record; whatever is wrong with it is a reject.
    pub fn record(&self, index: usize, options: &RecordOptions) -> Result<Record, Reject> {
        match self.read(index) {
            Ok(raw) => Record::build(raw, &self.name, index as u64, options),
            Err(error) => Err(self.reject(index, error)),
        }
    }

    /// As [`Self::record`], but of pictures no more is read than their size needs: [`Media::bytes`](crate::record::Media)
    /// is empty, and everything else as it would be.
    pub fn record_by_headers(&self, index: usize, options: &RecordOptions) -> Result<Record, Reject> {
        let read = |member: &Member| {
            if Content::is_text(&member.part) {
                return self.content(member).map(Content::Whole);
            }
            if !is_picture_name(&member.part) {
                return Ok(Content::Unread);
            }
            let section = Section::new(&self.file, member.offset, member.size);
            let mut file = BufReader::with_capacity(FIRST_READ.min(member.size.max(1) as usize), section);
            let sides = header_of(&mut file, options.max_pixels);
            match file.into_inner().failed {
                Some(error) => Err(error),
                None => Ok(Content::Header(member.size, sides)),
            }
        };
        match self.read_with(index, read) {
            Ok((key, parts)) => Record::of_parts(key, parts, &self.name, index as u64, options),
            Err(error) => Err(self.reject(index, error)),
        }
    }

    /// A sample that could not be read, as a reject.
    pub fn reject(&self, index: usize, error: ShardError) -> Reject {
        Reject {
            key: self.samples.get(index).map(|s| s.key.clone()).unwrap_or_default(),
            shard: self.name.clone(),
            stage: "read",
            reason: match error {
                ShardError::Sample { reason, .. } => reason,
                other => other.to_string(),
            },
        }
    }
}

/// Bytes of a picture that are read at once when only its size is wanted: enough for a header with the usual colour profile.
const FIRST_READ: usize = 4096;

/// Raises the process's bound on open files to what the system allows at most, once: shards stay open, and the usual
/// bound of 1024 is less than a large data set has. Where it cannot be raised, opening says so.
pub(crate) fn allow_many_files() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: getrlimit writes one rlimit through the pointer, which is to a live local of that type.
        let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
        if known && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: setrlimit only reads one rlimit through the pointer, which is to a live local of that type.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
                tracing::debug!("the bound on open files stays: {}", std::io::Error::last_os_error());
            }
        }
    });
}
