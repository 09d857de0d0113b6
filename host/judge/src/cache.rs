//! `judge.jsonl`: what judges said, one line a reply, appended as replies come.
//!
//! A line holds the judge's identity, the request and the reply, under the SHA-256 of the first two: to read, to search, and to
//! be asked nothing twice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Reply, Request};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A line that is none, and is not the last one, cut short.
    #[error("{} line {line}: not a judge's reply ({why}); remove the line, or the file to ask anew", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Another process has it.
    #[error("{} is written by another process; wait for it, end it, or write elsewhere", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// "reading", "writing", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
}

/// SHA-256 over a judge's identity and a request.
pub(crate) type Hash = [u8; 32];

#[derive(Serialize)]
struct Asked<'a> {
    judge: &'a Value,
    request: &'a Request,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    judge: Value,
    request: Request,
    reply: Reply,
}

/// The file, open for appending, and all that it holds.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    file: File,
    known: HashMap<Hash, Reply>,
}

impl Cache {
    /// Opens or makes the file, for this process alone. The rest of a line that a kill cut short is removed.
    ///
    /// # Errors
    /// A damaged line, another process that writes there, or the file system's own.
    pub fn open(path: &Path) -> Result<Cache, CacheError> {
        let io = |action| move |source| CacheError::Io { action, path: path.into(), source };
        let new = !path.exists();
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::Busy { path: path.into() }),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    "{} cannot be locked ({error}): see to it that no other process writes it",
                    path.display()
                );
            }
        }
        if new && let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            File::open(folder).and_then(|f| f.sync_all()).map_err(io("making"))?;
        }
        let (mut known, mut whole) = (HashMap::new(), 0);
        let mut reader = BufReader::new(&file);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            reader.read_until(b'\n', &mut bytes).map_err(io("reading"))?;
            if bytes.last() != Some(&b'\n') {
                break;
            }
            let (hash, reply) =
                parse(&bytes).map_err(|why| CacheError::Damaged { path: path.into(), line: number, why })?;
            known.insert(hash, reply);
            whole += bytes.len() as u64;
        }
        if !bytes.is_empty() {
            file.set_len(whole).map_err(io("mending"))?;
        }
        Ok(Cache { path: path.into(), file, known })
    }

    /// Replies that it holds.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<&Reply> {
        self.known.get(hash)
    }

    /// Adds a reply; it is on disk when this returns.
    pub(crate) fn add(&mut self, hash: Hash, judge: &Value, request: Request, reply: &Reply) -> Result<(), CacheError> {
        let line = Line { key: hex(&hash), judge: judge.clone(), request, reply: reply.clone() };
        let written = serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            self.file.write_all(&bytes)?;
            self.file.sync_data()
        });
        written.map_err(|source| CacheError::Io { action: "writing", path: self.path.clone(), source })?;
        self.known.insert(hash, line.reply);
        Ok(())
    }
}

/// What a reply is found under.
pub(crate) fn hash(judge: &Value, request: &Request) -> Result<Hash, serde_json::Error> {
    Ok(Sha256::digest(serde_json::to_vec(&Asked { judge, request })?).into())
}

fn parse(bytes: &[u8]) -> Result<(Hash, Reply), String> {
    let line: Line = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let hash = hash(&line.judge, &line.request).map_err(|e| e.to_string())?;
    match hex(&hash) == line.key {
        true => Ok((hash, line.reply)),
        false => Err("its key is not that of its judge and request".into()),
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}
