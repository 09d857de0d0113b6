//! Shards that are not plain files of the local disk: compressed ones, and ones in object stores.
//!
//! ```text
//!  read in one go (data steps):   any place, any compression ─► unpacked copy without a name in the temporary folder ─► Shard
//!  read at random (training):     plain tars: ShardBytes under IndexedShard, a request for each sample
//! ```
//! A path may hold a place such as `s3://bucket/key` as its text: [`ovhost_store::Place::of`] tells.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ovhost_store::{Object, Place, StoreError, Stores, is_remote, try_at_once};

use super::{IndexedShard, Shard, ShardError, io_error, scan::Scan};

/// Endings of shards' names.
const SUFFIXES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"];

/// How a file is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Whether a name is that of a shard.
pub fn is_shard_name(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

/// A shard's file name without folders and without `.tar`, `.tar.gz` and the like.
pub fn shard_stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        Some(stem) if !stem.is_empty() => stem.to_owned(),
        _ => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// Bytes of a shard as it is stored.
pub fn stored_size(path: &Path) -> Result<u64, ShardError> {
    match Place::of(path) {
        Some(place) => Ok(object(&place?)?.size()?),
        None => Ok(std::fs::metadata(path).map_err(io_error(path, "open the shard"))?.len()),
    }
}

/// Samples of a shard; of a damaged one those before the damage. In an object store the index beside it says it, where there is
/// one; a compressed shard is unpacked for it.
pub fn count_samples(path: &Path) -> Result<u64, ShardError> {
    if let Some(place) = Place::of(path) {
        let place = place?;
        if let Some(Ok(shard)) = IndexedShard::by_index(path)? {
            return Ok(shard.len() as u64);
        }
        match scan_remote(path, &place) {
            Err(ShardError::Packing { .. }) => {}
            scan => return Ok(scan?.done.len() as u64),
        }
    }
    Ok(Shard::open_damaged(path)?.len() as u64)
}

/// Bytes as stored and samples of many shards: [`stored_size`], [`count_samples`]. Of object stores many at a time.
pub fn measure(paths: &[PathBuf]) -> Result<Vec<(u64, u64)>, ShardError> {
    let one = |path: &PathBuf| Ok((stored_size(path)?, count_samples(path)?));
    if !paths.iter().any(|path| path.to_str().is_some_and(is_remote)) {
        return paths.iter().map(one).collect();
    }
    try_at_once(paths, one)
}

/// Reads a remote shard through, for the places of its samples.
pub(super) fn scan_remote(path: &Path, place: &Place) -> Result<Scan, ShardError> {
    let mut stream = object(place)?.open()?;
    match Packing::of(&stream.peek(START)?) {
        Ok(Packing::Plain) => {}
        Ok(_) => return Err(not_at_random(path)),
        Err(kind) => return Err(unread(path, kind)),
    }
    tracing::warn!("{place}: no index beside it (.tar.idx), so all of it is read to find its samples");
    let (mut scan, size) = (Scan::default(), stream.size());
    scan.run(&mut stream, size);
    stream.take_error().map_or(Ok(scan), |error| Err(error.into()))
}

/// The error of a compressed shard where samples are read at random places.
pub(super) fn not_at_random(path: &Path) -> ShardError {
    ShardError::Packing {
        path: path.display().to_string(),
        reason: "it is compressed, and training and evaluation read samples at random places of a shard; unpack it (`ovhost data \
                 filter` reads compressed shards and writes plain ones)"
            .into(),
    }
}

/// Whether a small file is there.
pub(super) fn is_file(path: &Path) -> bool {
    match Place::of(path) {
        // What cannot be asked for cannot be read either, and reading says why.
        Some(place) => place.is_ok_and(|place| object(&place).is_ok_and(|object| object.size().is_ok())),
        None => path.is_file(),
    }
}

/// The text of a small file; none where it is not there.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, ShardError> {
    /// Longest text of a remote file.
    const MOST: u64 = 256 << 20;
    let Some(place) = Place::of(path) else {
        return match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(path, "read")(error)),
        };
    };
    match object(&place?)?.read_all(MOST) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
            text.map(Some).map_err(io_error(path, "read"))
        }
        Err(e) if e.is_missing_or_hidden() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn object(place: &Place) -> Result<Object, ShardError> {
    Ok(Stores::shared().object(place)?)
}

impl Packing {
    /// By the first bytes of a file. The error: a kind that is not read.
    pub(super) fn of(start: &[u8]) -> Result<Packing, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Packing::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err("xz"),
            [b'P', b'K', 3, 4, ..] => Err("zip"),
            _ => Ok(Packing::Plain),
        }
    }
}

/// Bytes of the start that tell the packing.
pub(super) const START: usize = 6;

/// A kind of packing that is not read.
pub(super) fn unread(path: &Path, kind: &str) -> ShardError {
    ShardError::Packing {
        path: path.display().to_string(),
        reason: format!(
            "it is compressed with {kind}; plain tar, gzip and zstd are read: unpack it, or compress it with zstd"
        ),
    }
}

/// A shard as a plain tar that can be read at any byte.
pub(super) struct Tar {
    pub(super) file: File,
    /// Whether it is an unpacked copy of a compressed file: byte offsets are not those of the file.
    pub(super) unpacked: bool,
    /// Why the unpacked copy ends where it does, if that is too early.
    pub(super) cut: Option<String>,
}

/// The shard itself where it is a plain file, else a copy of it in the temporary folder, which goes when it is closed.
pub(super) fn open(path: &Path) -> Result<Tar, ShardError> {
    if let Some(place) = Place::of(path) {
        return copy(path, object(&place?)?.open()?);
    }
    let mut file = File::open(path).map_err(io_error(path, "open the shard"))?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(START as u64).read_to_end(&mut start).map_err(io_error(path, "read"))?;
    file.rewind().map_err(io_error(path, "read"))?;
    match Packing::of(&start) {
        Ok(Packing::Plain) => Ok(Tar { file, unpacked: false, cut: None }),
        Ok(_) => copy(path, file),
        Err(kind) => Err(unread(path, kind)),
    }
}

fn copy(path: &Path, mut from: impl Read + 'static) -> Result<Tar, ShardError> {
    let mut start = Vec::new();
    from.by_ref().take(START as u64).read_to_end(&mut start).map_err(|e| read_error(path, e))?;
    let packing = Packing::of(&start).map_err(|kind| unread(path, kind))?;
    let from = io::Cursor::new(start).chain(from);
    let mut from: Box<dyn Read> = match packing {
        Packing::Plain => Box::new(from),
        // All members of it: several may lie one after the other.
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 18, from))),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(from).map_err(|e| read_error(path, e))?),
    };
    let folder = std::env::temp_dir();
    let action = "write a copy of a shard there (set TMPDIR to a folder with room for one shard a worker)";
    let mut file = tempfile::tempfile_in(&folder).map_err(io_error(&folder, action))?;
    let mut buffer = vec![0; 1 << 18];
    let cut = loop {
        match from.read(&mut buffer) {
            Ok(0) => break None,
            Ok(n) => file.write_all(&buffer[..n]).map_err(io_error(&folder, action))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The file is at fault, and not what reads it: what came before is a shard that ends early.
            Err(e) if packing != Packing::Plain && store_error(&e).is_none() && e.raw_os_error().is_none() => {
                let name = if packing == Packing::Gzip { "gzip" } else { "zstd" };
                break Some(format!("its {name} compression is damaged ({e})"));
            }
            Err(e) => return Err(read_error(path, e)),
        }
    };
    file.rewind().map_err(io_error(&folder, action))?;
    Ok(Tar { file, unpacked: packing != Packing::Plain, cut })
}

fn store_error(error: &io::Error) -> Option<&StoreError> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn read_error(path: &Path, error: io::Error) -> ShardError {
    match store_error(&error) {
        Some(error) => ShardError::Store(error.clone()),
        None => io_error(path, "read")(error),
    }
}

/// A plain shard of any place, read by byte offsets.
#[derive(Debug)]
pub struct ShardBytes(Bytes);

#[derive(Debug)]
enum Bytes {
    /// With its size when it was opened.
    File(File, PathBuf, u64),
    Object(Object),
}

impl ShardBytes {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        Ok(ShardBytes(match Place::of(path) {
            Some(place) => Bytes::Object(object(&place?)?),
            None => {
                let file = File::open(path).map_err(io_error(path, "open the shard"))?;
                let size = file.metadata().map_err(io_error(path, "read the size"))?.len();
                Bytes::File(file, path.to_owned(), size)
            }
        }))
    }

    /// Bytes `from..to`, all of them.
    pub fn read(&self, from: u64, to: u64) -> Result<Vec<u8>, ShardError> {
        match &self.0 {
            Bytes::Object(object) => Ok(object.read_range(from..to)?),
            Bytes::File(file, path, size) => {
                // The offsets may be of a file that is another one now.
                if from > to || to > *size {
                    let (path, reason) = (path.display().to_string(), format!("the file has {size}"));
                    return Err(ShardError::Sample { path, key: String::new(), reason });
                }
                let mut bytes = vec![0; (to - from) as usize];
                file.read_exact_at(&mut bytes, from).map_err(io_error(path, "read"))?;
                Ok(bytes)
            }
        }
    }
}
