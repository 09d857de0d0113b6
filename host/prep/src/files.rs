//! Files that appear whole or not at all, and their hashes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{AFRESH, PrepError, io};

/// Writes a file, whole or not at all.
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), PrepError> {
    put_with(path, |file| file.write_all(bytes).map_err(io(path, "write")))
}

/// As [`put`], with content that is written piece by piece.
pub fn put_with(path: &Path, write: impl FnOnce(&mut File) -> Result<(), PrepError>) -> Result<(), PrepError> {
    let mut whole = ovhost_files::Whole::create(path).map_err(io(path, "write"))?;
    write(whole.file())?;
    whole.finish().map_err(io(path, "write"))
}

/// Writes pretty JSON with a final newline.
pub fn put_json(path: &Path, value: &impl Serialize) -> Result<(), PrepError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| PrepError::Record {
        path: path.display().to_string(),
        why: format!("cannot be written: {e}"),
        next: "this is a defect of the program",
    })?;
    put(path, (text + "\n").as_bytes())
}

/// Reads a record of a step; none where the file does not exist.
pub fn get_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PrepError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(path, "read")(e)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| PrepError::Record {
        path: path.display().to_string(),
        why: format!("it is damaged ({e})"),
        next: AFRESH,
    })
}

/// sha256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String, PrepError> {
    let mut file = File::open(path).map_err(io(path, "open"))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io(path, "read"))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Refuses an output folder that holds an input: a shard of the output could take its name.
pub fn apart(inputs: &[PathBuf], out: &Path) -> Result<(), PrepError> {
    let Ok(out_real) = fs::canonicalize(out) else { return Ok(()) };
    // What is in an object store is not in a folder of the disk.
    for input in inputs.iter().filter(|input| !input.to_str().is_some_and(ovhost_store::is_remote)) {
        let real = fs::canonicalize(input).map_err(io(input, "open the shard"))?;
        if real.parent() == Some(out_real.as_path()) {
            return Err(PrepError::Option(format!(
                "--out {} is the folder of the input {}, whose samples would be overwritten; give another --out",
                out.display(),
                input.display()
            )));
        }
    }
    Ok(())
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
