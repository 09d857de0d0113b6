//! Tar headers → the index of samples. Contents are sought over, never read.
//!
//! Whatever the file holds, a scan ends: it takes no more memory than a small part of the file's own size, and it either
//! gives every member to a sample, knowingly leaves it out (folders, labels, names without a dot), gives its sample a fault,
//! or says where and why the file stops being readable.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{Error, Read, Result as IoResult, Seek, SeekFrom};

use tar::{Entry, EntryType};

use super::read::{Damage, Member, SampleIndex};

const BLOCK: u64 = 512;

/// Most bytes of headers that one member may have: long names and PAX records are read into memory.
const MOST_HEADERS: u64 = 1 << 20;

/// Most bytes of one sample: it is read into memory as a whole.
const MOST_SAMPLE: u64 = 1 << 32;

/// Most bytes behind the end mark. Writers fill up to a multiple of their record size, usually 10 KiB.
const MOST_PADDING: u64 = 1 << 20;

/// From so many members on, a sample's parts are looked up and no more compared one by one.
const MANY: usize = 32;

/// Where the file stops being readable, and why.
type Broken = (u64, String);

/// The index in the making.
#[derive(Default)]
pub(super) struct Scan {
    /// Whole samples.
    pub done: Vec<SampleIndex>,
    /// The sample whose members are being read.
    pub open: Option<SampleIndex>,
    /// Where the last whole sample ends.
    pub end: u64,
    /// Why the scan ended before the file did.
    pub damage: Option<Damage>,
    /// Members that no sample holds.
    pub unnamed: u64,
    /// Parts of the open sample, once it has many.
    parts: HashSet<String>,
}

/// Counts what is read between two members and keeps it in bounds.
struct Metered<'a, R> {
    inner: R,
    /// Position in the file.
    at: &'a Cell<u64>,
    /// Bytes that may still be read.
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(Error::other(format!("a member's name and PAX records take more than {MOST_HEADERS} bytes")));
        }
        let n = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - n as u64);
        self.at.set(self.at.get() + n as u64);
        Ok(n)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        let at = self.inner.seek(to)?;
        self.at.set(at);
        Ok(at)
    }
}

impl Scan {
    /// Where each sample begins, and where the last one ends.
    pub fn offsets(&self) -> Vec<u64> {
        self.done.iter().map(|s| s.start).chain([self.end]).collect()
    }

    /// Indexes a file of `length` bytes.
    pub fn run(&mut self, file: impl Read + Seek, length: u64) {
        match self.members(file, length, true) {
            Ok(()) => {
                let end = self.end;
                self.close(end);
            }
            // The sample in progress may have lost members: it is not whole.
            Err((offset, reason)) => {
                let cut = self.open.take();
                self.end = cut.as_ref().map_or(self.end, |sample| sample.start);
                let cut = cut.map(|sample| sample.key);
                self.damage = Some(Damage { offset, reason, cut });
            }
        }
    }

    /// `whole`: the archive has an end mark, else it is a cut out of one.
    pub fn members(&mut self, file: impl Read + Seek, length: u64, whole: bool) -> Result<(), Broken> {
        let (at, left) = (Cell::new(0), Cell::new(MOST_HEADERS));
        let mut archive = tar::Archive::new(Metered { inner: file, at: &at, left: &left });
        // End of the last member, padding included: where the next header or the end mark must be.
        let mut end = 0;
        let entries = archive.entries_with_seek().map_err(|e| (0, e.to_string()))?;
        for entry in entries {
            let mut entry = entry.map_err(|e| (end.min(length), format!("no readable tar header ({e})")))?;
            left.set(MOST_HEADERS);
            // A sparse file's own headers lie between the member's and its content, so what counts is what was read.
            end = self.member(&mut entry, end, at.get(), length)?;
        }
        if !whole {
            return Ok(());
        }
        if end >= length {
            return Err((end.min(length), "the file ends without the end-of-archive mark of a whole tar".into()));
        }
        padding(&mut archive.into_inner().inner, end, length)
    }

    /// One member, whose first header begins at `start` and whose content at `content`. Returns where it ends.
    fn member<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        start: u64,
        content: u64,
        length: u64,
    ) -> Result<u64, Broken> {
        let header_at = entry.raw_header_position();
        let kind = entry.header().entry_type();
        // Of a sparse file `Entry::size` is that of the unpacked file.
        let size = if kind.is_gnu_sparse() { entry.header().entry_size() } else { Ok(entry.size()) };
        let size = size.map_err(|e| (header_at, e.to_string()))?;
        let bytes = entry.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&bytes).into_owned();
        let stop = content.checked_add(size).filter(|stop| *stop <= length).ok_or_else(|| {
            let have = length.saturating_sub(content);
            (header_at, format!("member {name:?} should have {size} bytes but the file ends after {have}"))
        })?;
        let end = stop.div_ceil(BLOCK) * BLOCK;
        let fault = match kind {
            // Folders, a label, records about all that follows: no content of any sample.
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(end),
            _ if matches!(kind.as_byte(), b'D' | b'V') => return Ok(end),
            // The tar crate takes these as a part of the member behind them, unless their own header is of no known form.
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader => {
                return Err((header_at, "a long name or PAX header that is of no known tar format".into()));
            }
            EntryType::Regular | EntryType::Continuous => fault_of_file(entry, &bytes),
            EntryType::GNUSparse => Some("is a sparse file, which is not read; pack it as it is".into()),
            EntryType::Symlink | EntryType::Link => {
                // What it points to may lie in another sample, or outside the tar: the sample is not whole by itself.
                let to = entry.link_name_bytes().map(|to| String::from_utf8_lossy(&to).into_owned());
                Some(format!(
                    "is a {} link to {:?}, and links are not followed; pack the shard with tar's --dereference \
                     --hard-dereference",
                    if kind.is_symlink() { "symbolic" } else { "hard" },
                    to.unwrap_or_default()
                ))
            }
            _ => Some(format!(
                "is no file (tar type {:?}); samples are made of plain files",
                char::from(kind.as_byte()).escape_default().to_string()
            )),
        };
        match (split_name(&name), fault) {
            (Some((key, part)), None) => {
                let part = part.to_owned();
                self.add(key, start, Member { part, offset: content, size });
                self.end = end;
            }
            (Some((key, part)), Some(fault)) => {
                let fault = format!("part {part:?} {fault}");
                self.sample(key, start).fault.get_or_insert(fault);
                self.end = end;
            }
            (None, _) => self.unnamed += 1,
        }
        Ok(end)
    }

    fn add(&mut self, key: &str, start: u64, member: Member) {
        self.sample(key, start);
        let Some(sample) = &mut self.open else { return };
        let twice = match sample.members.len() {
            n if n < MANY => sample.members.iter().any(|m| m.part == member.part),
            n => {
                if n == MANY {
                    self.parts = sample.members.iter().map(|m| m.part.clone()).collect();
                }
                !self.parts.insert(member.part.clone())
            }
        };
        if twice {
            let fault = format!("part {:?} occurs twice; the sample is ambiguous", member.part);
            sample.fault.get_or_insert(fault);
        }
        sample.members.push(member);
    }

    /// The open sample if it has that key, else a new one, which begins at `start`.
    fn sample(&mut self, key: &str, start: u64) -> &mut SampleIndex {
        if self.open.as_ref().is_some_and(|sample| sample.key != key) {
            self.close(start);
        }
        self.open.get_or_insert_with(|| SampleIndex { key: key.to_owned(), members: Vec::new(), fault: None, start })
    }

    /// The open sample is whole; the next one begins at `end`, or the archive ends there.
    fn close(&mut self, end: u64) {
        let Some(mut sample) = self.open.take() else { return };
        let bytes = end - sample.start;
        if bytes > MOST_SAMPLE {
            let fault = format!("it has {bytes} bytes; at most {MOST_SAMPLE} are read into memory for a sample");
            sample.fault.get_or_insert(fault);
        }
        self.done.push(sample);
    }
}

/// What keeps a plain file's name or content from being known.
fn fault_of_file<R: Read>(entry: &mut Entry<'_, R>, name: &[u8]) -> Option<String> {
    if std::str::from_utf8(name).is_err() {
        return Some("has a name that is not UTF-8; rename it".into());
    }
    let field = entry.header().path_bytes().len();
    let (mut sparse, mut unreadable, mut named) = (false, false, false);
    for record in entry.pax_extensions().ok().flatten()? {
        match record {
            Ok(record) => {
                sparse |= record.key_bytes().starts_with(b"GNU.sparse.");
                named |= record.key_bytes() == b"path";
            }
            Err(_) => unreadable = true,
        }
    }
    if sparse {
        return Some("is a sparse file, which is not read; pack it as it is".into());
    }
    // Attributes may hold anything; but where the plain header's field is full, the name should have been among the records.
    let cut = unreadable && !named && field >= 100;
    cut.then(|| "has PAX records that cannot be read, so its name is not certain; make the shard again".into())
}

/// What follows the end mark may only be zeros, and not many. Anything else is a second archive put behind the first, or a
/// shard with a hole in it: samples that nobody would miss.
pub(super) fn padding(file: &mut (impl Read + Seek), end: u64, length: u64) -> Result<(), Broken> {
    let rest = length - end;
    let lost = |what: String| {
        Err((
            end,
            format!(
                "the end-of-archive mark stands here, but {what} follow: two archives in one file, or a hole in it"
            ),
        ))
    };
    if rest > MOST_PADDING {
        return lost(format!("{rest} bytes"));
    }
    let read = |e: Error| (end, format!("what follows the last member cannot be read ({e})"));
    file.seek(SeekFrom::Start(end)).map_err(read)?;
    let mut bytes = Vec::new();
    file.take(rest).read_to_end(&mut bytes).map_err(read)?;
    match bytes.iter().position(|b| *b != 0) {
        None => Ok(()),
        Some(at) => lost(format!("{} bytes that are not all zero", rest - at as u64)),
    }
}

/// (key, part), or nothing for names that belong to no sample.
fn split_name(name: &str) -> Option<(&str, &str)> {
    // Reserved names: `__x__` as the first component.
    let first = name.split('/').next().unwrap_or(name);
    if first.len() >= 4 && first.starts_with("__") && first.ends_with("__") {
        return None;
    }
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    // A hidden file (`dir/.x`) has no key of its own; an empty part (`a.`) has no kind.
    if dot == base || dot + 1 == name.len() {
        return None;
    }
    Some((&name[..dot], &name[dot + 1..]))
}
