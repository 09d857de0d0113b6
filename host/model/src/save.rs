//! Writes files whole or not at all: temporary name, flush to disk, rename.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| ModelError::io(dir, e))
}

/// Runs `write` on a new file beside `path`, then puts it in place.
fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
    let done = write(&temporary).and_then(|()| {
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(|e| ModelError::io(&temporary, e))?;
        std::fs::rename(&temporary, path).map_err(|e| ModelError::io(path, e))
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |to| File::create(to).and_then(|mut f| f.write_all(bytes)).map_err(|e| ModelError::io(to, e)))
}

/// The bytes of a tensor, as files have them: contiguous, on the CPU.
pub(crate) struct Bytes {
    tensor: Tensor,
}

impl Bytes {
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Bytes { tensor: tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()? })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        let n = bytes_of(&self.tensor);
        if n == 0 {
            return &[];
        }
        // SAFETY: the tensor is contiguous, on the CPU, lives as long as self, and has exactly n bytes; nobody writes to it
        // while the slice is read: saving runs on the thread that would train, or beside it on copies and frozen weights.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<u8>(), n) }
    }
}

fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Writes bytes of a tensor, in order and in as many pieces as it likes.
pub(crate) type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Writes a tensor's bytes, in pieces.
type Fill<'a> = dyn Fn(&mut Put<'_>) -> Result<()> + 'a;

/// A tensor of a file to be: what its header says, and where its bytes come from when their turn has come.
pub(crate) struct Planned<'a> {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<i64>,
    pub(crate) fill: Box<Fill<'a>>,
}

impl Planned<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<i64>() as usize * self.kind.elt_size_in_bytes()
    }
}

fn dtype_of(name: &str, kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Float => Dtype::F32,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        Kind::Double => Dtype::F64,
        other => return Err(ModelError::Weights(format!("tensor {name}: kind {other:?} cannot be saved"))),
    })
}

/// Writes one safetensors file; no more of a tensor is in memory than its `fill` holds.
fn write_file_of(path: &Path, tensors: &[&Planned<'_>]) -> Result<()> {
    // As the format's own writer: wide elements first, so that each lies at a multiple of its size.
    let mut tensors = tensors.to_vec();
    tensors.sort_by(|a, b| b.kind.elt_size_in_bytes().cmp(&a.kind.elt_size_in_bytes()).then(a.name.cmp(&b.name)));
    let mut at = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        let shape = tensor.shape.iter().map(|&d| d as usize).collect();
        let data_offsets = (at, at + tensor.bytes());
        at = data_offsets.1;
        infos.push((
            tensor.name.clone(),
            TensorInfo { dtype: dtype_of(&tensor.name, tensor.kind)?, shape, data_offsets },
        ));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = |e: String| ModelError::Weights(format!("{}: {e}", path.display()));
    let header = Metadata::new(Some(metadata), infos).map_err(|e| weights(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| weights(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let io = |e| ModelError::io(path, e);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(io)?;
    for tensor in tensors {
        let mut written = 0;
        (tensor.fill)(&mut |bytes| {
            written += bytes.len();
            file.write_all(bytes).map_err(|e| ModelError::io(path, e))
        })?;
        if written != tensor.bytes() {
            return Err(weights(format!("tensor {} has {written} bytes instead of {}", tensor.name, tensor.bytes())));
        }
    }
    file.flush().map_err(io)
}

/// `model.safetensors`, or `model-00001-of-0000N.safetensors` with an index above `shard_bytes`. Gives the weight files' names.
pub(crate) fn write_planned(dir: &Path, tensors: &[Planned<'_>], shard_bytes: usize) -> Result<Vec<String>> {
    let mut shards: Vec<Vec<&Planned<'_>>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for tensor in tensors {
        let bytes = tensor.bytes();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(tensor);
        }
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    let mut files = Vec::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        replace(&dir.join(&file), |to| write_file_of(to, &shard))?;
        map.extend(shard.into_iter().map(|tensor| (tensor.name.clone(), file.clone())));
        files.push(file);
    }
    let index = "model.safetensors.index.json";
    if count > 1 {
        let value = json!({"metadata": {"total_size": total}, "weight_map": map});
        write_file(&dir.join(index), format!("{value:#}\n").as_bytes())?;
    }
    // What an earlier, larger or smaller model left would be loaded instead of or beside this one.
    for entry in std::fs::read_dir(dir).map_err(|e| ModelError::io(dir, e))? {
        let entry = entry.map_err(|e| ModelError::io(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = name.starts_with("model") && (name.ends_with(".safetensors") || name == index);
        if weights && !files.contains(&name) && !(count > 1 && name == index) {
            std::fs::remove_file(entry.path()).map_err(|e| ModelError::io(&entry.path(), e))?;
        }
    }
    Ok(files)
}

/// A tensor that is there; it comes to the CPU, made by `finish`, when it is written.
fn planned<'a>(name: &'a str, tensor: &'a Tensor, finish: &'a dyn Fn(&str, Tensor) -> Result<Tensor>) -> Planned<'a> {
    Planned {
        name: name.to_owned(),
        kind: tensor.kind(),
        shape: tensor.size(),
        fill: Box::new(move |put| put(Bytes::new(&finish(name, tensor.shallow_clone())?)?.as_slice())),
    }
}

/// One safetensors file.
pub(crate) fn write_one(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let planned: Vec<Planned<'_>> = tensors.iter().map(|(name, t)| planned(name, t, &|_, t| Ok(t))).collect();
    replace(path, |to| write_file_of(to, &planned.iter().collect::<Vec<_>>()))
}

/// As [`write_planned`], of tensors that are there; one at a time comes to the CPU. `finish` makes of a tensor what is written,
/// of its shape and kind.
pub(crate) fn write_tensors(
    dir: &Path,
    tensors: Vec<(String, Tensor)>,
    shard_bytes: usize,
    finish: impl Fn(&str, Tensor) -> Result<Tensor>,
) -> Result<()> {
    let planned: Vec<Planned<'_>> = tensors.iter().map(|(name, t)| planned(name, t, &finish)).collect();
    write_planned(dir, &planned, shard_bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write_tensors;
    use crate::checkpoint::Checkpoint;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn shards_have_an_index_and_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let make = || (0..5).map(|i| (format!("t{i}"), Tensor::full([4], i, (Kind::Float, Device::Cpu)))).collect();
        write_tensors(dir.path(), make(), 1000, |_, t| Ok(t)).unwrap();
        assert!(dir.path().join("model.safetensors").is_file());
        write_tensors(dir.path(), make(), 32, |_, t| Ok(t)).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "model-00001-of-00003.safetensors",
                "model-00002-of-00003.safetensors",
                "model-00003-of-00003.safetensors",
                "model.safetensors.index.json"
            ]
        );
        let read = Checkpoint::open_folder(dir.path(), str::to_owned).unwrap();
        assert_eq!(read.names().count(), 5);
        assert_eq!(read.tensor("t4").unwrap().double_value(&[3]), 4.0);
        std::fs::remove_file(dir.path().join(&names[1])).unwrap();
        let error = Checkpoint::open_folder(dir.path(), str::to_owned).err().unwrap().to_string();
        assert!(error.contains(&names[1]) && error.contains("index.json"), "{error}");
    }
}
