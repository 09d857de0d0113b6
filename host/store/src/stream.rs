//! A file from some byte on, read ahead by a thread. Where the connection breaks it goes on at that byte.
//!
//! ```text
//!  thread: GET bytes=N- ─► chunk, chunk, … ─► (a few wait) ─► Read
//!            ▲      └ broke at byte M: wait, GET bytes=M-, if the file is still the same
//!            └ Seek to a byte that is far away: a new thread
//! ```

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore};

use crate::StoreError;
use crate::error::{broke, status};
use crate::object::{Object, wait};

/// Chunks (of 256 KiB) that wait to be read.
const AHEAD: usize = 16;
/// A jump over fewer bytes than this reads them: a new request costs more.
const READ_OVER: u64 = 1 << 20;

/// A file that is being read. Dropping it ends the download.
pub struct Stream {
    object: Object,
    meta: ObjectMeta,
    /// The byte that is read next.
    at: u64,
    /// Bytes before it that are thrown away: where the feed is, it is `at - skip`.
    skip: u64,
    chunk: Bytes,
    feed: Option<Receiver<Result<Bytes, StoreError>>>,
    failed: Option<StoreError>,
}

impl Stream {
    pub(crate) fn open(object: Object) -> Result<Self, StoreError> {
        // Without a range: this much every server can do.
        let result = wait(&object.place, object.store.get_opts(&object.path, GetOptions::default()))?;
        let result = result.map_err(|e| StoreError::of(&object.place, "read it", &e))?;
        let meta = result.meta.clone();
        let feed = Some(start(object.clone(), meta.clone(), 0, Some(result))?);
        Ok(Stream { object, meta, at: 0, skip: 0, chunk: Bytes::new(), feed, failed: None })
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.meta.size
    }

    /// The next bytes, at least one; none at the end.
    ///
    /// # Errors
    /// The download broke and could not be taken up again, or the file changed.
    pub fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.at < self.meta.size {
            if self.chunk.is_empty() {
                self.chunk = self.receive()?;
            }
            let over = self.skip.min(self.chunk.len() as u64);
            self.chunk.advance(over as usize);
            self.skip -= over;
            if !self.chunk.is_empty() {
                let chunk = std::mem::take(&mut self.chunk);
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// The next `n` bytes, without taking them; fewer at the end.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub fn peek(&mut self, n: usize) -> Result<Bytes, StoreError> {
        let mut start = Vec::new();
        while start.len() < n
            && let Some(chunk) = self.chunk()?
        {
            start.extend_from_slice(&chunk);
        }
        self.at -= start.len() as u64;
        self.chunk = start.into();
        Ok(self.chunk.slice(..n.min(self.chunk.len())))
    }

    /// Why reading failed last, for those to whom [`Read`] said it in other words.
    pub fn take_error(&mut self) -> Option<StoreError> {
        self.failed.take()
    }

    fn receive(&mut self) -> Result<Bytes, StoreError> {
        let feed = match &self.feed {
            Some(feed) => feed,
            None => {
                let from = self.at - self.skip;
                self.feed.insert(start(self.object.clone(), self.meta.clone(), from, None)?)
            }
        };
        let received = feed.recv().unwrap_or_else(|_| {
            let next = "this is a defect of the program";
            Err(StoreError::failed(&self.object.place, "read it", "the thread that reads it ended", next))
        });
        if let Err(error) = &received {
            self.feed = None;
            self.failed = Some(error.clone());
        }
        received
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let Some(mut chunk) = self.chunk().map_err(io::Error::other)? else { return Ok(0) };
        let n = chunk.len().min(buffer.len());
        chunk.copy_to_slice(&mut buffer[..n]);
        self.at -= chunk.len() as u64;
        self.chunk = chunk;
        Ok(n)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.meta.size.checked_add_signed(by),
        };
        let to = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the first byte"))?;
        let forward = to.checked_sub(self.at).map(|by| self.skip + by);
        match forward {
            Some(skip) if skip <= READ_OVER + self.chunk.len() as u64 => self.skip = skip,
            _ => {
                self.feed = None;
                self.chunk = Bytes::new();
                self.skip = 0;
            }
        }
        self.at = to;
        Ok(to)
    }
}

/// Starts the thread that sends the bytes from `from` on. `begun`: the answer to the first request.
fn start(
    object: Object,
    meta: ObjectMeta,
    from: u64,
    begun: Option<GetResult>,
) -> Result<Receiver<Result<Bytes, StoreError>>, StoreError> {
    let (sender, receiver) = sync_channel(AHEAD);
    let place = object.place.clone();
    let feed = Feed { object, meta, at: from, sender };
    let thread = std::thread::Builder::new().name("store-read".into());
    match thread.spawn(move || feed.run(begun)) {
        Ok(_) => Ok(receiver),
        Err(e) => Err(StoreError::failed(&place, "start reading", e.to_string(), "lower the number of threads")),
    }
}

/// How an attempt ended, as far as another one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection broke: the next one may hold.
    Broke,
    /// The server had too much to do. Such requests were repeated already; but if bytes came since, that was used up on the way.
    Busy,
    /// Another attempt would end alike.
    Fault,
}

impl End {
    fn of(error: &object_store::Error) -> Self {
        match status(error) {
            _ if broke(error) => End::Broke,
            Some(408 | 429 | 500..) => End::Busy,
            _ => End::Fault,
        }
    }
}

struct Feed {
    object: Object,
    meta: ObjectMeta,
    /// The byte that comes next.
    at: u64,
    sender: SyncSender<Result<Bytes, StoreError>>,
}

impl Feed {
    fn run(mut self, mut begun: Option<GetResult>) {
        let mut tried = 0;
        while self.at < self.meta.size {
            let before = self.at;
            let error = match self.attempt(begun.take()) {
                Ok(true) => continue,
                // Nobody listens any more.
                Ok(false) => return,
                Err(error) => error,
            };
            let got_on = self.at > before;
            tried = if got_on { 0 } else { tried };
            let (end, error) = error;
            let may_pass = end == End::Broke || (end == End::Busy && got_on);
            let Some(pause) = self.object.options.pause(tried).filter(|_| may_pass) else {
                let _ = self.sender.send(Err(error));
                return;
            };
            tried += 1;
            tracing::warn!("{}: broke at byte {} of {}; going on there", self.object.place, self.at, self.meta.size);
            std::thread::sleep(pause);
        }
    }

    /// Sends until the answer ends or breaks. False: the receiver is gone.
    fn attempt(&mut self, begun: Option<GetResult>) -> Result<bool, (End, StoreError)> {
        let place = self.object.place.clone();
        let failed = |e: object_store::Error| (End::of(&e), StoreError::of(&place, "read on", &e));
        let result = match begun {
            Some(result) => result,
            None => {
                // A weak tag never matches, by the protocol; size and date must do then.
                let if_match = self.meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
                let range = Some(GetRange::Bounded(self.at..self.meta.size));
                let options = GetOptions { range, if_match, ..GetOptions::default() };
                let get = wait(&place, self.object.store.get_opts(&self.object.path, options))
                    .map_err(|e| (End::Fault, e))?;
                get.map_err(failed)?
            }
        };
        let now = &result.meta;
        if now.size != self.meta.size || now.e_tag != self.meta.e_tag || now.last_modified != self.meta.last_modified {
            let reason = format!("it had {} bytes and has {}, or another date or tag", self.meta.size, now.size);
            return Err((End::Fault, StoreError::Changed { place: place.to_string(), reason }));
        }
        let GetResultPayload::Stream(mut stream) = result.payload;
        loop {
            match wait(&place, stream.next()).map_err(|e| (End::Fault, e))? {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(mut chunk)) => {
                    chunk.truncate(usize::try_from(self.meta.size - self.at).unwrap_or(usize::MAX));
                    self.at += chunk.len() as u64;
                    if self.sender.send(Ok(chunk)).is_err() {
                        return Ok(false);
                    }
                    if self.at == self.meta.size {
                        return Ok(true);
                    }
                }
                Some(Err(e)) => return Err(failed(e)),
                None => {
                    let answer = format!("it ended after {} of {} bytes", self.at, self.meta.size);
                    return Err((
                        End::Broke,
                        StoreError::failed(&place, "read on", answer, "make or upload the file again"),
                    ));
                }
            }
        }
    }
}
