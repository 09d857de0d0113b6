//! Safetensors folder → tensors by long name. Reads headers first; a tensor's bytes are read when the model asks for it, so
//! memory never holds more than the model and one tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use tch::{Kind, Tensor};

use crate::error::{ModelError, Result};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// A header longer than this is not one: the bound of the format's own implementation.
const MAX_HEADER: u64 = 100_000_000;

struct Entry {
    file: usize,
    /// Name as the file has it.
    name: String,
    kind: Kind,
    shape: Vec<i64>,
    offset: u64,
    bytes: usize,
}

/// The tensors of one or several safetensors files, by long name.
pub struct Checkpoint {
    files: Vec<(PathBuf, File)>,
    entries: BTreeMap<String, Entry>,
    taken: BTreeSet<String>,
}

/// Kind of a safetensors dtype that a parameter or an input may have.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        _ => return None,
    })
}

fn weights(message: String) -> ModelError {
    ModelError::Weights(message)
}

fn header(path: &Path, file: &mut File) -> Result<(u64, Metadata)> {
    let length = file.metadata().map_err(|e| ModelError::io(path, e))?.len();
    let damaged = |why: String| {
        weights(format!("{}: {why}; the file is damaged or cut off: copy or download it again", path.display()))
    };
    let mut size = [0u8; 8];
    if length < 8 {
        return Err(damaged(format!("only {length} bytes, no safetensors header")));
    }
    file.read_exact(&mut size).map_err(|e| ModelError::io(path, e))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > length - 8 {
        return Err(damaged(format!("the header would be {size} bytes of a file of {length}")));
    }
    let mut text = vec![0u8; size as usize];
    file.read_exact(&mut text).map_err(|e| ModelError::io(path, e))?;
    let metadata: Metadata =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("the safetensors header cannot be read: {e}")))?;
    let data = metadata.data_len() as u64;
    if 8 + size + data != length {
        return Err(damaged(format!("the file has {length} bytes but its header describes {}", 8 + size + data)));
    }
    Ok((8 + size, metadata))
}

/// File names of a model folder's weights, from the single file or the index.
fn file_names(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(SINGLE).is_file() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let index = dir.join(INDEX);
    let text = match std::fs::read(&index) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(weights(format!(
                "{}: no {SINGLE} and no {INDEX} there; name the folder of a model in Hugging Face layout",
                dir.display()
            )));
        }
        Err(e) => return Err(ModelError::io(&index, e)),
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| weights(format!("{}: {e}", index.display())))?;
    let map = value.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| {
        weights(format!("{}: no object \"weight_map\" that names each tensor's file", index.display()))
    })?;
    let names: BTreeSet<&str> = map.values().filter_map(|v| v.as_str()).collect();
    let mut out = Vec::new();
    for name in names {
        // A name with a folder in it could reach outside the model.
        if name.contains(['/', '\\']) {
            return Err(weights(format!("{}: the file name {name:?} contains a path separator", index.display())));
        }
        let path = dir.join(name);
        if !path.is_file() {
            return Err(weights(format!(
                "{}: names {name}, which is not in the folder: copy it there",
                index.display()
            )));
        }
        out.push(path);
    }
    Ok(out)
}

impl Checkpoint {
    /// Opens the weights of a model folder. `long` maps a name of the file to the model's own style.
    ///
    /// # Errors
    /// Missing, damaged or contradictory files.
    pub(crate) fn open_folder(dir: &Path, long: fn(&str) -> String) -> Result<Self> {
        Self::open(&file_names(dir)?, long)
    }

    /// Opens one file; names stay as they are.
    ///
    /// # Errors
    /// A missing or damaged file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::open(&[path.to_owned()], str::to_owned)
    }

    fn open(paths: &[PathBuf], long: fn(&str) -> String) -> Result<Self> {
        let mut out = Checkpoint { files: Vec::new(), entries: BTreeMap::new(), taken: BTreeSet::new() };
        for path in paths {
            let mut file = File::open(path).map_err(|e| ModelError::io(path, e))?;
            let (start, metadata) = header(path, &mut file)?;
            for (name, info) in metadata.tensors() {
                let kind = kind_of(info.dtype).ok_or_else(|| {
                    weights(format!(
                        "{}: tensor {name} has dtype {:?}; F32, F16, BF16 and F64 are supported: convert the model first",
                        path.display(),
                        info.dtype
                    ))
                })?;
                let entry = Entry {
                    file: out.files.len(),
                    kind,
                    shape: info.shape.iter().map(|&d| d as i64).collect(),
                    offset: start + info.data_offsets.0 as u64,
                    bytes: info.data_offsets.1 - info.data_offsets.0,
                    name: name.clone(),
                };
                if let Some(other) = out.entries.insert(long(&name), entry) {
                    let first = out.files.get(other.file).map_or(path.as_path(), |f| f.0.as_path());
                    return Err(weights(format!(
                        "tensor {} occurs twice: as {} in {} and as {name} in {}; remove one of the files",
                        long(&name),
                        other.name,
                        first.display(),
                        path.display()
                    )));
                }
            }
            out.files.push((path.clone(), file));
        }
        Ok(out)
    }

    /// Every name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The weight files, in words.
    pub(crate) fn files_text(&self) -> String {
        match self.files.as_slice() {
            [] => "no file".to_owned(),
            [one] => one.0.display().to_string(),
            [first, .., last] => format!("{} … {}", first.0.display(), last.0.display()),
        }
    }

    /// The tensor, on the CPU, in the file's kind and shape.
    ///
    /// # Errors
    /// No such tensor, or a file that cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry =
            self.entries.get(name).ok_or_else(|| weights(format!("{}: no tensor named {name}", self.files_text())))?;
        let (path, file) = &self.files[entry.file];
        let mut bytes = vec![0u8; entry.bytes];
        file.read_exact_at(&mut bytes, entry.offset).map_err(|e| ModelError::io(path, e))?;
        Ok(Tensor::f_from_data_size(&bytes, &entry.shape, entry.kind)?)
    }

    /// Kind and shape of a tensor, and its name as its file has it.
    pub(crate) fn describe(&self, name: &str) -> Option<(Kind, &[i64], &str)> {
        self.entries.get(name).map(|e| (e.kind, e.shape.as_slice(), e.name.as_str()))
    }

    /// Bytes of a tensor from `at` on, as many as `buffer` holds.
    pub(crate) fn read_at(&self, name: &str, at: u64, buffer: &mut [u8]) -> Result<()> {
        let entry =
            self.entries.get(name).ok_or_else(|| weights(format!("{}: no tensor named {name}", self.files_text())))?;
        let (path, file) = &self.files[entry.file];
        file.read_exact_at(buffer, entry.offset + at).map_err(|e| ModelError::io(path, e))
    }

    /// Hands the bytes of a tensor to `each`: where a piece begins, and the piece, of at most a MiB.
    pub(crate) fn read(&self, name: &str, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let bytes = self.entries.get(name).map_or(0, |e| e.bytes);
        let mut buffer = vec![0u8; bytes.clamp(1, 1 << 20)];
        let mut done = 0;
        while done < bytes {
            let n = buffer.len().min(bytes - done);
            self.read_at(name, done as u64, &mut buffer[..n])?;
            each(done as u64, &buffer[..n])?;
            done += n;
        }
        Ok(())
    }

    /// Rows `first..first + count` of a matrix, on the CPU.
    pub(crate) fn rows(&self, name: &str, first: i64, count: i64) -> Result<Tensor> {
        let entry =
            self.entries.get(name).ok_or_else(|| weights(format!("{}: no tensor named {name}", self.files_text())))?;
        let (rows, width) = (entry.shape.first().copied().unwrap_or(1), entry.shape.get(1).copied().unwrap_or(1));
        let count = count.min(rows - first).max(0);
        let row = width as usize * entry.kind.elt_size_in_bytes();
        let mut bytes = vec![0u8; row * count as usize];
        self.read_at(name, row as u64 * first.max(0) as u64, &mut bytes)?;
        Ok(Tensor::f_from_data_size(&bytes, &[count, width], entry.kind)?)
    }

    /// The parameter `name`, checked against the shape that the configuration wants.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        self.expect(name, shape)?;
        self.tensor(name)
    }

    /// As [`Checkpoint::take`], without reading the tensor.
    pub(crate) fn expect(&mut self, name: &str, shape: &[i64]) -> Result<()> {
        let Some(entry) = self.entries.get(name) else {
            let end = name.rsplit('.').take(2).collect::<Vec<_>>();
            let near = self.entries.iter().find(|(n, e)| {
                e.shape == shape && !self.taken.contains(*n) && n.rsplit('.').take(2).eq(end.iter().copied())
            });
            let hint = match near {
                Some((near, _)) => format!(" (an unused tensor of that shape is {near})"),
                None => String::new(),
            };
            return Err(weights(format!(
                "{}: tensor {name} with shape {shape:?} is missing{hint}; the configuration asks for it: \
                 check that all weight files are there and that config.json belongs to them",
                self.files_text()
            )));
        };
        if entry.shape != shape {
            return Err(weights(format!(
                "{}: tensor {} has shape {:?}, the configuration wants {shape:?}: config.json does not belong to these weights",
                self.files[entry.file].0.display(),
                entry.name,
                entry.shape
            )));
        }
        if !matches!(entry.kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) {
            return Err(weights(format!(
                "{}: tensor {} holds integers ({:?}); a parameter must be F32, F16, BF16 or F64",
                self.files[entry.file].0.display(),
                entry.name,
                entry.kind
            )));
        }
        self.taken.insert(name.to_owned());
        Ok(())
    }

    /// An error if a tensor was not asked for, other than those that `ignored` accepts.
    pub(crate) fn all_taken(&self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let mut left = self.entries.iter().filter(|(n, _)| !self.taken.contains(*n) && !ignored(n));
        let Some((_, first)) = left.next() else { return Ok(()) };
        let more = match left.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(weights(format!(
            "{}: unexpected tensor {} with shape {:?}{more}: the configuration has no place for it; check depth and layer \
             counts in config.json, or remove the tensor",
            self.files[first.file].0.display(),
            first.name,
            first.shape
        )))
    }
}
