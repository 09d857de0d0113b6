//! Samples → numbered tar shards with the same bytes every time, each put in place only when whole.
//!
//! A shard is USTAR, parts sorted by name, modification time 0, owner 0. It is written as `NAME.tar.tmp`, synced and
//! renamed; `NAME.tar.idx` beside it holds the byte offset of every sample and of the end mark (u64, native order). Its hash is made
//! while it is written: nothing is read back.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{ShardError, io_error};

const BLOCK: u64 = 512;

/// When finished shards get their final names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    /// Each as soon as it is whole: a long run can be continued.
    #[default]
    Each,
    /// All of them in [`ShardWriter::finish`]: a failed run leaves nothing that looks like a data set.
    AtEnd,
}

/// When to begin the next shard.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Most samples in a shard.
    pub max_count: u64,
    /// Most bytes of tar in a shard; a single larger sample still gets a shard of its own.
    pub max_bytes: u64,
    /// When shards get their final names.
    pub commit: Commit,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { max_count: 10_000, max_bytes: 1 << 30, commit: Commit::Each }
    }
}

/// A shard that was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WrittenShard {
    /// Final path.
    pub path: PathBuf,
    /// Samples in it.
    pub samples: u64,
    /// Bytes of the tar file.
    pub bytes: u64,
}

/// Writes samples into shards named after a pattern such as `train-%06d.tar`.
pub struct ShardWriter {
    folder: PathBuf,
    prefix: String,
    digits: usize,
    options: WriterOptions,
    open: Option<ShardFile>,
    written: Vec<WrittenShard>,
    /// Shards that still bear their temporary name.
    closed: Vec<ShardFile>,
}

/// One shard in the making, under its temporary name. Dropped before [`ShardFile::publish`] it leaves nothing.
pub struct ShardFile {
    path: PathBuf,
    /// None once it is closed.
    tar: Option<tar::Builder<BufWriter<Hashed>>>,
    /// Of the whole file, once it is closed.
    sha256: Option<[u8; 32]>,
    offsets: Vec<u64>,
    bytes: u64,
    /// The previous key: the same key twice in a row would merge two samples.
    last: String,
    /// Whether the final names are given.
    published: bool,
}

/// A file whose hash is made as it is written.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl ShardWriter {
    /// Starts a set of shards in `folder` (made where it is missing). `pattern` is a file name with `%0Nd` for the number.
    pub fn create(folder: impl AsRef<Path>, pattern: &str, options: WriterOptions) -> Result<Self, ShardError> {
        let folder = folder.as_ref().to_owned();
        let (prefix, digits) = parse_pattern(pattern)
            .map_err(|reason| ShardError::Pattern { pattern: pattern.to_owned(), reason: reason.to_owned() })?;
        fs::create_dir_all(&folder).map_err(io_error(&folder, "make the folder"))?;
        let options = WriterOptions { max_count: options.max_count.max(1), ..options };
        Ok(Self { folder, prefix, digits, options, open: None, written: vec![], closed: vec![] })
    }

    /// Adds one sample. Parts are (name after the key's dot, content), in any order.
    pub fn write(&mut self, key: &str, parts: &[(&str, &[u8])]) -> Result<(), ShardError> {
        let prepared = Prepared::new(&self.folder, key, parts)?;
        if let Some(open) = &self.open
            && (open.offsets.len() as u64 >= self.options.max_count
                || open.bytes + prepared.size > self.options.max_bytes)
        {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(ShardFile::create(self.folder.join(format!(
                "{}{:0width$}.tar",
                self.prefix,
                self.written.len(),
                width = self.digits
            )))?),
        };
        open.append(key, &prepared)
    }

    /// Samples written so far.
    pub fn samples(&self) -> u64 {
        self.written.iter().map(|s| s.samples).sum::<u64>() + self.open.as_ref().map_or(0, |o| o.offsets.len() as u64)
    }

    /// Closes the last shard, gives every shard its final name and removes higher-numbered shards of the same pattern
    /// that an earlier, longer run left. Returns what was written, in order.
    pub fn finish(mut self) -> Result<Vec<WrittenShard>, ShardError> {
        self.close()?;
        self.publish()?;
        self.remove_stale()?;
        Ok(std::mem::take(&mut self.written))
    }

    fn close(&mut self) -> Result<(), ShardError> {
        if let Some(mut open) = self.open.take() {
            self.written.push(open.close()?);
            self.closed.push(open);
            if self.options.commit == Commit::Each {
                self.publish()?;
            }
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), ShardError> {
        for mut shard in self.closed.drain(..) {
            shard.publish()?;
        }
        sync_folder(&self.folder)
    }

    fn remove_stale(&self) -> Result<(), ShardError> {
        for number in self.written.len().. {
            let path = self.folder.join(format!("{}{number:0width$}.tar", self.prefix, width = self.digits));
            if !path.is_file() {
                return Ok(());
            }
            fs::remove_file(&path).map_err(io_error(&path, "remove the shard of an earlier, longer run"))?;
            let index = with_suffix(&path, ".idx");
            if index.is_file() {
                fs::remove_file(&index).map_err(io_error(&index, "remove the index of an earlier, longer run"))?;
            }
        }
        Ok(())
    }
}

/// The names in a folder are only safe once the folder is on disk.
fn sync_folder(folder: &Path) -> Result<(), ShardError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error(folder, "sync the folder"))
}

/// A sample whose names were checked, with the headers of its members.
struct Prepared<'a> {
    parts: Vec<(&'a str, &'a [u8])>,
    headers: Vec<tar::Header>,
    /// Bytes that it takes in the tar.
    size: u64,
}

impl<'a> Prepared<'a> {
    fn new(place: &Path, key: &str, parts: &[(&'a str, &'a [u8])]) -> Result<Self, ShardError> {
        let mut parts: Vec<_> = parts.to_vec();
        parts.sort_by_key(|(name, _)| *name);
        let fail =
            |reason: String| ShardError::Sample { path: place.display().to_string(), key: key.to_owned(), reason };
        check_names(key, &parts).map_err(fail)?;
        let mut headers = Vec::with_capacity(parts.len());
        for (part, bytes) in &parts {
            headers.push(header(&format!("{key}.{part}"), bytes.len() as u64).map_err(fail)?);
        }
        let size = parts.iter().map(|(_, bytes)| BLOCK + (bytes.len() as u64).next_multiple_of(BLOCK)).sum();
        Ok(Prepared { parts, headers, size })
    }
}

impl ShardFile {
    /// Begins the shard `path` (`NAME.tar`). Nothing is under that name before [`ShardFile::publish`].
    pub fn create(path: PathBuf) -> Result<Self, ShardError> {
        let temporary = with_suffix(&path, ".tmp");
        let file = File::create(&temporary).map_err(io_error(&temporary, "create"))?;
        // What is hashed should still be in the core's own cache when it is written.
        let file = BufWriter::with_capacity(1 << 18, Hashed { file, hash: Sha256::new() });
        let tar = Some(tar::Builder::new(file));
        Ok(Self { path, tar, sha256: None, offsets: vec![], bytes: 0, last: String::new(), published: false })
    }

    /// Adds one sample. Parts are (name after the key's dot, content), in any order.
    pub fn write(&mut self, key: &str, parts: &[(&str, &[u8])]) -> Result<(), ShardError> {
        let prepared = Prepared::new(&self.path, key, parts)?;
        self.append(key, &prepared)
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Bytes so far, end mark not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the last sample has that key: another of the same key after it would be read as a part of it.
    pub fn ends_with(&self, key: &str) -> bool {
        !self.offsets.is_empty() && self.last == key
    }

    /// Adds a sample as it lies in another shard: `bytes` are its headers and contents, whole blocks.
    pub fn write_raw(&mut self, key: &str, bytes: &[u8]) -> Result<(), ShardError> {
        let refuse =
            |reason: String| ShardError::Sample { path: self.path.display().to_string(), key: key.to_owned(), reason };
        if !(bytes.len() as u64).is_multiple_of(BLOCK) || bytes.is_empty() {
            return Err(refuse(format!("{} bytes are no whole tar blocks", bytes.len())));
        }
        let Some(tar) = &mut self.tar else { return Err(refuse("the shard is closed already".into())) };
        self.offsets.push(self.bytes);
        tar.get_mut().write_all(bytes).map_err(io_error(&self.path, "write"))?;
        self.bytes += bytes.len() as u64;
        self.last = key.to_owned();
        Ok(())
    }

    fn append(&mut self, key: &str, sample: &Prepared<'_>) -> Result<(), ShardError> {
        let refuse = |reason: &str| ShardError::Sample {
            path: self.path.display().to_string(),
            key: key.to_owned(),
            reason: reason.to_owned(),
        };
        if self.last == key && !self.offsets.is_empty() {
            return Err(refuse("the key was just used; two neighbours with one key would be read as one sample"));
        }
        let Some(tar) = &mut self.tar else { return Err(refuse("the shard is closed already")) };
        self.offsets.push(self.bytes);
        for (header, (_, bytes)) in sample.headers.iter().zip(&sample.parts) {
            tar.append(header, *bytes).map_err(io_error(&self.path, "write"))?;
        }
        self.bytes += sample.size;
        self.last = key.to_owned();
        Ok(())
    }

    /// Writes the end mark and the index, both on disk, still under temporary names.
    pub fn close(&mut self) -> Result<WrittenShard, ShardError> {
        let temporary = self.temporary();
        let written = WrittenShard { path: self.path.clone(), samples: self.samples(), bytes: self.bytes + 2 * BLOCK };
        let Some(tar) = self.tar.take() else { return Ok(written) };
        let hash = tar
            .into_inner()
            .and_then(|buffer| buffer.into_inner().map_err(|e| e.into_error()))
            .and_then(|Hashed { file, hash }| file.sync_all().map(|()| hash))
            .map_err(io_error(&temporary, "finish"))?;
        self.sha256 = Some(hash.finalize().into());
        let index = with_suffix(&with_suffix(&self.path, ".idx"), ".tmp");
        let bytes: Vec<u8> = self.offsets.iter().chain([&self.bytes]).flat_map(|offset| offset.to_ne_bytes()).collect();
        let write = |mut file: File| file.write_all(&bytes).and_then(|()| file.sync_all());
        File::create(&index).and_then(write).map_err(io_error(&index, "write"))?;
        Ok(written)
    }

    /// sha256 of the whole tar; none before [`ShardFile::close`].
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.sha256
    }

    /// Where the tar lies until it is published.
    fn temporary(&self) -> PathBuf {
        with_suffix(&self.path, ".tmp")
    }

    /// Closes the shard and gives it and its index their final names.
    pub fn publish(&mut self) -> Result<WrittenShard, ShardError> {
        let written = self.close()?;
        // The index first: a shard without its index is only slower, an index of another shard is wrong.
        let index = with_suffix(&self.path, ".idx");
        fs::rename(with_suffix(&index, ".tmp"), &index).map_err(io_error(&index, "put in place"))?;
        fs::rename(self.temporary(), &self.path).map_err(io_error(&self.path, "put in place"))?;
        self.published = true;
        if let Some(folder) = self.path.parent() {
            sync_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
        }
        Ok(written)
    }
}

impl Drop for ShardFile {
    fn drop(&mut self) {
        // An abandoned run: temporary files are of no use to anybody. Nothing can be done where removing fails.
        if !self.published {
            let _ = fs::remove_file(self.temporary());
            let _ = fs::remove_file(with_suffix(&with_suffix(&self.path, ".idx"), ".tmp"));
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Names of shards after a pattern such as `train-%06d.tar`, by number.
///
/// # Errors
/// A pattern that is none.
pub fn shard_name(pattern: &str) -> Result<impl Fn(usize) -> String, ShardError> {
    let (prefix, digits) = parse_pattern(pattern)
        .map_err(|reason| ShardError::Pattern { pattern: pattern.to_owned(), reason: reason.to_owned() })?;
    Ok(move |number| format!("{prefix}{number:0digits$}.tar"))
}

fn parse_pattern(pattern: &str) -> Result<(String, usize), &'static str> {
    const ADVICE: &str = "it must be a file name such as train-%06d.tar";
    let (prefix, rest) = pattern.split_once('%').ok_or(ADVICE)?;
    let digits = rest.strip_suffix("d.tar").ok_or(ADVICE)?;
    let width = match digits {
        "" => 0,
        d => d.strip_prefix('0').and_then(|d| d.parse().ok()).filter(|w| *w <= 12).ok_or(ADVICE)?,
    };
    if prefix.contains(['/', '{', '}', '%']) { Err(ADVICE) } else { Ok((prefix.to_owned(), width)) }
}

/// Names must read back as they were given: the key ends at the first dot of its last component.
fn check_names(key: &str, parts: &[(&str, &[u8])]) -> Result<(), String> {
    let base = key.rsplit('/').next().unwrap_or(key);
    let reserved = key.split('/').next().is_some_and(|c| c.len() >= 4 && c.starts_with("__") && c.ends_with("__"));
    if base.is_empty() || base.contains('.') || key.starts_with('/') || key.contains('\0') || reserved {
        return Err(
            "a key must not be empty, start with a slash, be of the form __x__ or have a dot in its last component"
                .into(),
        );
    }
    if parts.is_empty() {
        return Err("it has no parts".into());
    }
    for (index, (part, _)) in parts.iter().enumerate() {
        if part.is_empty() || part.contains(['/', '\0']) {
            return Err(format!("part name \"{part}\" must not be empty or contain a slash"));
        }
        // Readers put their own entries beside the parts: webdataset fails at a second `__key__`, Energon loses the first.
        if part.starts_with("__") {
            return Err(format!(
                "part name \"{part}\" must not start with two underscores: readers use such names themselves"
            ));
        }
        if index > 0 && parts[index - 1].0 == *part {
            return Err(format!("part \"{part}\" occurs twice"));
        }
    }
    Ok(())
}

fn header(name: &str, size: u64) -> Result<tar::Header, String> {
    // 8 GiB - 1 is the most that a plain USTAR size field holds.
    if size >= 1 << 33 {
        return Err(format!("member {name} has {size} bytes; a shard member must be under 8 GiB"));
    }
    let mut header = tar::Header::new_ustar();
    header
        .set_path(name)
        .map_err(|e| format!("member name {name} does not fit in a tar header ({e}); use a shorter key"))?;
    // `set_path` normalises; a name that reads back otherwise would change the key.
    if *header.path_bytes() != *name.as_bytes() {
        return Err(format!("member name {name} would be stored differently; leave out empty, . and .. components"));
    }
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}
