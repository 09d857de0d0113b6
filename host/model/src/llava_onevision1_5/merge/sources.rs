//! What a model is merged from: folders in; their configurations in this family's terms, and where each tensor is found, out.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::llava_onevision1_5::weights::long_name;

/// Language models that the decoder computes, by `model_type`.
const LANGUAGE: [&str; 4] = ["qwen3", "qwen2", "llama", "mistral"];
/// Towers that it computes: RICE as `transformers` names it, alone or within a model.
const TOWER: [&str; 3] = ["mlcd_vision_model", "mlcd", "llavaonevision1_5"];

/// Where the vision tower comes from.
#[derive(Debug, Clone)]
pub enum VisionSource {
    /// A folder with weights: RICE (`mlcd_vision_model`), or a model of this family, whose tower is taken.
    Folder(PathBuf),
    /// A tower with random weights, described by a file in the form of `vision_config`.
    New(PathBuf),
}

/// How the tensors of a tower are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Rice,
    Own,
}

/// A source of weights, opened.
pub(super) struct Source {
    pub(super) folder: PathBuf,
    /// Its `model_type`.
    pub(super) model_type: String,
    pub(super) weights: Checkpoint,
    /// Whether its head is its embedding.
    pub(super) tied: bool,
    names: Names,
}

fn wrong(message: String) -> ModelError {
    ModelError::Source(message)
}

/// The object in a JSON file.
pub(super) fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(|e| ModelError::io(path, e))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(wrong(format!("{}: holds no JSON object", path.display()))),
        Err(e) => Err(wrong(format!("{}: {e}", path.display()))),
    }
}

fn model_type(config: &Map<String, Value>) -> &str {
    config.get("model_type").and_then(Value::as_str).unwrap_or_default()
}

/// The decoder's folder: `text_config`, as the folder's own `config.json` has it, and the weights by long names.
pub(super) fn language(dir: &Path) -> Result<(Map<String, Value>, Source)> {
    let path = dir.join("config.json");
    let mut config = object(&path)?;
    let kind = model_type(&config).to_owned();
    if !LANGUAGE.contains(&kind.as_str()) {
        return Err(wrong(format!(
            "{}: model_type is {kind:?}; a language model of type {} is wanted",
            path.display(),
            LANGUAGE.join(", ")
        )));
    }
    if config.get("quantization_config").is_some_and(|q| !q.is_null()) {
        return Err(wrong(format!(
            "{}: the weights are quantised (quantization_config); merge the model's own bf16 or fp32 weights",
            path.display()
        )));
    }
    // Of the file, not of the model.
    for key in ["architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map"] {
        config.shift_remove(key);
    }
    // Qwen2.5's files give a width and say that it is not used.
    if config.get("use_sliding_window") == Some(&json!(false)) {
        config.insert("sliding_window".into(), Value::Null);
    }
    let weights = Checkpoint::open_folder(dir, language_name)?;
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    Ok((config, Source { folder: dir.to_owned(), model_type: kind, weights, tied, names: Names::Own }))
}

/// Long names of a language model: of a whole one, of one within this family, or of a bare decoder.
fn language_name(name: &str) -> String {
    let bare = ["embed_tokens.", "layers.", "norm."].iter().any(|start| name.starts_with(start));
    if bare { format!("model.language_model.{name}") } else { long_name(name) }
}

/// The tower: its `vision_config`, and its weights unless it is new.
pub(super) fn vision(source: &VisionSource) -> Result<(Map<String, Value>, Option<Source>)> {
    let dir = match source {
        VisionSource::New(path) => {
            let mut config = object(path)?;
            // An architecture of the whole model is as good.
            if let Some(Value::Object(inner)) = config.shift_remove("vision_config") {
                config = inner;
            }
            let kind = model_type(&config);
            if !kind.is_empty() && kind != "rice_vit" {
                let path = path.display();
                return Err(wrong(format!("{path}: model_type is {kind:?}; a new tower is of type rice_vit")));
            }
            config.shift_remove("text_hidden_size");
            return Ok((config, None));
        }
        VisionSource::Folder(dir) => dir,
    };
    let path = dir.join("config.json");
    let config = object(&path)?;
    let kind = model_type(&config).to_owned();
    if !TOWER.contains(&kind.as_str()) {
        return Err(wrong(format!(
            "{}: model_type is {kind:?}; a vision tower of type {} is wanted",
            path.display(),
            TOWER.join(", ")
        )));
    }
    let inner = match config.get("vision_config") {
        Some(Value::Object(inner)) => inner.clone(),
        _ => config,
    };
    let (config, names, long): (_, _, fn(&str) -> String) = match kind.as_str() {
        "llavaonevision1_5" => {
            let mut config = inner;
            config.shift_remove("text_hidden_size");
            (config, Names::Own, long_name)
        }
        _ => (rice_config(&inner, &path)?, Names::Rice, rice_name),
    };
    let weights = Checkpoint::open_folder(dir, long)?;
    Ok((config, Some(Source { folder: dir.clone(), model_type: kind, weights, tied: false, names })))
}

/// RICE's configuration, as `transformers`' MLCD classes write it, in the terms of `vision_config`.
fn rice_config(from: &Map<String, Value>, path: &Path) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for (theirs, ours) in [
        ("hidden_size", "hidden_size"),
        ("intermediate_size", "intermediate_size"),
        ("num_hidden_layers", "depth"),
        ("num_attention_heads", "num_heads"),
        ("patch_size", "patch_size"),
    ] {
        let Some(value) = from.get(theirs) else {
            return Err(wrong(format!("{}: {theirs} is missing; a RICE tower's config.json has it", path.display())));
        };
        out.insert(ours.into(), value.clone());
    }
    for (theirs, ours) in [
        ("num_channels", "in_channels"),
        ("hidden_act", "hidden_act"),
        ("layer_norm_eps", "layer_norm_eps"),
        ("initializer_range", "initializer_range"),
    ] {
        if let Some(value) = from.get(theirs) {
            out.insert(ours.into(), value.clone());
        }
    }
    match from.get("num_key_value_groups").and_then(Value::as_i64) {
        None | Some(1) => Ok(out),
        Some(n) => Err(wrong(format!("{}: num_key_value_groups is {n}; supported is 1", path.display()))),
    }
}

/// RICE's names with or without the prefix of the whole model.
fn rice_name(name: &str) -> String {
    name.strip_prefix("vision_model.").unwrap_or(name).to_owned()
}

impl Source {
    /// The tensors that make the parameter `long` when they are put one after the other.
    pub(super) fn parts(&self, long: &str) -> Vec<String> {
        let Some(name) = long.strip_prefix("model.visual.").filter(|_| self.names == Names::Rice) else {
            return vec![long.to_owned()];
        };
        if let Some(end) = name.strip_prefix("pre_layernorm.") {
            return vec![format!("pre_layrnorm.{end}")];
        }
        let Some((layer, rest)) = name.strip_prefix("blocks.").and_then(|r| r.split_once('.')) else {
            return vec![match name {
                "class_embedding" => "embeddings.class_embedding".to_owned(),
                "patch_embed.proj.weight" => "embeddings.patch_embedding.weight".to_owned(),
                other => other.to_owned(),
            }];
        };
        let at = |name: String| format!("encoder.layers.{layer}.{name}");
        if let Some(end) = rest.strip_prefix("attn.qkv.") {
            return ["q", "k", "v"].map(|p| at(format!("self_attn.{p}_proj.{end}"))).into();
        }
        if let Some(end) = rest.strip_prefix("attn.proj.") {
            return vec![at(format!("self_attn.out_proj.{end}"))];
        }
        let norm = rest.strip_prefix("norm").map(|end| format!("layer_norm{end}"));
        vec![at(norm.unwrap_or_else(|| rest.to_owned()))]
    }

    /// Whether a tensor is known to have no place in the result.
    pub(super) fn left_out(&self, name: &str, tower: bool) -> bool {
        if name.ends_with(".inv_freq") || name.ends_with(".position_ids") {
            return true;
        }
        match (tower, self.names) {
            (false, _) => false,
            (true, Names::Rice) => name.starts_with("post_layernorm."),
            (true, Names::Own) => !name.starts_with("model.visual.") || name.starts_with("model.visual.merger."),
        }
    }

    /// A tensor's name as its file has it.
    pub(super) fn file_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.weights.describe(name).map_or(name, |(_, _, file)| file)
    }
}
