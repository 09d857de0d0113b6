//! One file: its size, all of it, a part of it, or a stream.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::StoreError;
use crate::error::broke;
use crate::place::Place;
use crate::stores::Options;
use crate::stream::Stream;

/// A file that is not on the local disk. Clones share the connections.
#[derive(Clone)]
pub struct Object {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    pub(crate) place: Place,
    pub(crate) options: Options,
    /// Where a listing said it.
    pub(crate) size: Option<u64>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The store's own text would have its settings.
        write!(f, "Object({})", self.place)
    }
}

/// Runs an operation to its end, on this thread.
pub(crate) fn wait<F: Future>(place: &Place, operation: F) -> Result<F::Output, StoreError> {
    thread_local! {
        static RUNTIME: std::io::Result<tokio::runtime::Runtime> =
            tokio::runtime::Builder::new_current_thread().enable_time().build();
    }
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => Ok(runtime.block_on(operation)),
        Err(e) => Err(StoreError::failed(place, "start reading", e.to_string(), "lower the number of threads")),
    })
}

impl Options {
    /// The wait before trying for the `tried`-th time again, from 0; none when it was tried often enough.
    pub(crate) fn pause(&self, tried: usize) -> Option<Duration> {
        let doubled = self.first_wait.saturating_mul(1 << tried.min(16));
        (tried < self.retries).then(|| doubled.min(self.most_wait))
    }
}

impl Object {
    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its bytes.
    ///
    /// # Errors
    /// It is not there, or the server refuses or fails.
    pub fn size(&self) -> Result<u64, StoreError> {
        if let Some(size) = self.size {
            return Ok(size);
        }
        let meta = wait(&self.place, self.store.head(&self.path))?;
        Ok(meta.map_err(|e| StoreError::of(&self.place, "read its size", &e))?.size)
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::size`]; more than `limit` bytes.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut stream = self.open()?;
        let size = stream.size();
        if size > limit {
            let next = "check that it is the right file";
            return Err(StoreError::failed(
                &self.place,
                "read it",
                format!("it has {size} bytes, most are {limit}"),
                next,
            ));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        while let Some(chunk) = stream.chunk()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Bytes `range`, all of them.
    ///
    /// # Errors
    /// As [`Self::size`]; the file is shorter; the server does not send parts of files.
    pub fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut tried = 0;
        loop {
            let error = match wait(&self.place, self.store.get_range(&self.path, range.clone()))? {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes.into()),
                Ok(bytes) => {
                    let asked = range.end - range.start;
                    let answer = format!("{} bytes came instead of {asked} from byte {}", bytes.len(), range.start);
                    let next = "it is shorter than its index says; make the index or the file again";
                    return Err(StoreError::failed(&self.place, "read a part of it", answer, next));
                }
                Err(error) => error,
            };
            // Requests that fail were repeated already; this is about answers that break off.
            let pause = self.options.pause(tried).filter(|_| broke(&error));
            let Some(pause) = pause else { return Err(StoreError::of(&self.place, "read a part of it", &error)) };
            tried += 1;
            std::thread::sleep(pause);
        }
    }

    /// Begins to read it from its first byte.
    ///
    /// # Errors
    /// As [`Self::size`].
    pub fn open(&self) -> Result<Stream, StoreError> {
        Stream::open(self.clone())
    }
}
