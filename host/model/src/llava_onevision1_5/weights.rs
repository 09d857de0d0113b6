//! Names and files of this family's checkpoints.
//!
//! On disk the short style (`visual.*`, `model.*`), which `transformers` and the reference write; in memory the long one
//! (`model.visual.*`, `model.language_model.*`). `lm_head.weight` is the same in both.

use std::path::Path;

use tch::{Kind, Tensor};

use super::config::ModelConfig;
use super::model::LlavaOnevision;
use crate::error::{ModelError, Result};
use crate::lora::Adapters;
use crate::save;

/// A name of either style in the long one.
pub(crate) fn long_name(name: &str) -> String {
    if name.starts_with("visual.") {
        return format!("model.{name}");
    }
    match name.strip_prefix("model.") {
        Some(rest) if !rest.starts_with("visual.") && !rest.starts_with("language_model.") => {
            format!("model.language_model.{rest}")
        }
        _ => name.to_owned(),
    }
}

/// A long name in the style of files.
pub(crate) fn short_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("model.{rest}");
    }
    name.strip_prefix("model.").filter(|rest| rest.starts_with("visual.")).unwrap_or(name).to_owned()
}

/// Tensors that a file may hold without the model having a place for them.
pub(crate) fn ignored(name: &str, tied: bool) -> bool {
    name.ends_with(".inv_freq") || (tied && name == "lm_head.weight")
}

/// Bytes of tensors in one file, as `transformers` splits.
const SHARD_BYTES: usize = 5_000_000_000;

/// Files of a model folder that do not hold weights and belong to the result as they are.
pub(crate) fn is_companion(name: &str) -> bool {
    let known = [".json", ".jinja", ".txt", ".model", ".tiktoken"].iter().any(|end| name.ends_with(end));
    // merge.json is about the weights that were merged.
    known && name != "config.json" && name != "merge.json" && !name.ends_with(".safetensors.index.json")
}

/// Writes `config.json`, the weights (adapters merged into them, short names, several files above 5 GB with an index) and copies of the tokenizer,
/// processor and generation files of `source`. Each file is written under a temporary name, flushed and renamed; weight files
/// of an earlier model in the folder are removed. The result loads in `transformers` and here.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save_folder(model: &LlavaOnevision, dir: &Path, source: Option<&Path>) -> Result<()> {
    let params = model.parameters();
    let params = params.iter().map(|p| (p.name.as_str(), p.tensor.shallow_clone()));
    save_params(model.config(), model.kind(), params, model.adapters.as_ref(), dir, source)
}

/// As [`save_folder`], of parameters by their long names, with `adapters` merged into them.
pub(crate) fn save_params<'a>(
    config: &ModelConfig,
    kind: Kind,
    params: impl Iterator<Item = (&'a str, Tensor)>,
    adapters: Option<&Adapters>,
    dir: &Path,
    source: Option<&Path>,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| ModelError::io(dir, e))?;
    let dtype = match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        Kind::Double => "float64",
        _ => "float32",
    };
    let tensors = params.map(|(name, tensor)| (short_name(name), tensor)).collect();
    save::write_tensors(dir, tensors, SHARD_BYTES, |name, tensor| match adapters {
        Some(adapters) => adapters.merged(&long_name(name), &tensor),
        None => Ok(tensor),
    })?;
    let mut text = serde_json::to_string_pretty(&config.to_json(dtype))
        .map_err(|e| ModelError::Weights(format!("config.json: {e}")))?;
    text.push('\n');
    save::write_file(&dir.join("config.json"), text.as_bytes())?;
    let Some(source) = source else { return save::sync_dir(dir) };
    let same = matches!((source.canonicalize(), dir.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if !same {
        for entry in std::fs::read_dir(source).map_err(|e| ModelError::io(source, e))? {
            let entry = entry.map_err(|e| ModelError::io(source, e))?;
            let name = entry.file_name();
            if entry.path().is_file() && name.to_str().is_some_and(is_companion) {
                let bytes = std::fs::read(entry.path()).map_err(|e| ModelError::io(&entry.path(), e))?;
                save::write_file(&dir.join(name), &bytes)?;
            }
        }
    }
    save::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::{long_name, short_name};

    #[test]
    fn both_styles_meet() {
        for (short, long) in [
            ("visual.blocks.0.norm1.weight", "model.visual.blocks.0.norm1.weight"),
            ("model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
            ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(long_name(short), long);
            assert_eq!(long_name(long), long);
            assert_eq!(short_name(long), short);
        }
    }
}
