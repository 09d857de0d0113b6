//! Writes files whole or not at all: temporary name, flush to disk, rename.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, View};
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

/// A contiguous CPU tensor whose bytes are written without a copy.
struct Bytes {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Bytes {
    fn new(name: &str, tensor: &Tensor) -> Result<Self> {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            Kind::Double => Dtype::F64,
            other => return Err(ModelError::Weights(format!("tensor {name}: kind {other:?} cannot be saved"))),
        };
        let shape = tensor.size().iter().map(|&d| d as usize).collect();
        Ok(Bytes { tensor: tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?, dtype, shape })
    }
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let n = self.data_len();
        if n == 0 {
            return Cow::Borrowed(&[]);
        }
        // SAFETY: the tensor is contiguous, on the CPU, lives as long as self, and has exactly n bytes; nobody writes to it
        // while the slice is read: saving runs on the thread that would train, or beside it on copies and frozen weights.
        Cow::Borrowed(unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<u8>(), n) })
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.dtype.bitsize() / 8
    }
}

fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// One safetensors file.
pub(crate) fn write_one(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views =
        tensors.iter().map(|(name, t)| Ok((name.as_str(), Bytes::new(name, t)?))).collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    replace(path, |to| {
        safetensors::serialize_to_file(views.iter().map(|(n, b)| (*n, b)), Some(metadata), to)
            .map_err(|e| ModelError::Weights(format!("{}: {e}", to.display())))
    })
}

/// `model.safetensors`, or `model-00001-of-0000N.safetensors` with an index above `shard_bytes`. `finish` makes of a tensor
/// what is written, of its shape and kind.
pub(crate) fn write_tensors(
    dir: &Path,
    tensors: Vec<(String, Tensor)>,
    shard_bytes: usize,
    finish: impl Fn(&str, Tensor) -> Result<Tensor>,
) -> Result<()> {
    let mut shards: Vec<Vec<(String, Tensor)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, tensor) in tensors {
        let bytes = bytes_of(&tensor);
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(last) = shards.last_mut() {
            last.push((name, tensor));
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
        // One file's tensors at a time are made and come to the CPU.
        let shard =
            shard.into_iter().map(|(name, t)| finish(&name, t).map(|t| (name, t))).collect::<Result<Vec<_>>>()?;
        write_one(&dir.join(&file), &shard)?;
        map.extend(shard.into_iter().map(|(name, _)| (name, file.clone())));
        files.push(file);
    }
    let index = "model.safetensors.index.json";
    if count > 1 {
        let value = json!({"metadata": {"total_size": total}, "weight_map": map});
        write_file(&dir.join(index), format!("{value:#}\n").as_bytes())?;
        files.push(index.to_owned());
    }
    // What an earlier, larger or smaller model left would be loaded instead of or beside this one.
    for entry in std::fs::read_dir(dir).map_err(|e| ModelError::io(dir, e))? {
        let entry = entry.map_err(|e| ModelError::io(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = name.starts_with("model") && (name.ends_with(".safetensors") || name == index);
        if weights && !files.contains(&name) {
            std::fs::remove_file(entry.path()).map_err(|e| ModelError::io(&entry.path(), e))?;
        }
    }
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
