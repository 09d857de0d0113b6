//! `config.json` → typed configuration, and back. Unsupported values are errors that name the key; keys of no meaning here are
//! kept and written back.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};

/// The three layer-norm epsilons of the vision tower, which the two reference implementations set differently.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VisionEps {
    /// Norm before the first block.
    pub pre_layernorm: f64,
    /// Norms within the blocks.
    pub blocks: f64,
    /// Norm before the merger's MLP.
    pub merger: f64,
}

impl VisionEps {
    /// What the Hugging Face implementation uses.
    pub const HF: VisionEps = VisionEps { pre_layernorm: 1e-5, blocks: 1e-5, merger: 1e-5 };
    /// What the released weights were trained with.
    pub const MEGATRON: VisionEps = VisionEps { pre_layernorm: 1e-4, blocks: 1e-5, merger: 1e-6 };
}

/// The RICE vision tower and the merger.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: i64,
    /// Channels.
    pub hidden_size: i64,
    /// Channels inside a block's MLP.
    pub intermediate_size: i64,
    /// Attention heads.
    pub num_heads: i64,
    /// Colour channels.
    pub in_channels: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Side of the square of patches that becomes one token.
    pub spatial_merge_size: i64,
    /// Standard deviation of random matrices.
    pub initializer_range: f64,
    /// `pre_layernorm_eps`, `layer_norm_eps` and `merger_layernorm_eps` of the file.
    pub eps: VisionEps,
}

/// The decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Tokens of the vocabulary: rows of the embedding.
    pub vocab_size: i64,
    /// Channels.
    pub hidden_size: i64,
    /// Channels inside the MLP.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Longest sequence that the weights were made for (told to users, not enforced).
    pub max_position_embeddings: i64,
    /// Standard deviation of random matrices.
    pub initializer_range: f64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub output_bias: bool,
    /// Norms of queries and keys per head (Qwen3; Qwen2.5 and Llama have none).
    pub qk_norm: bool,
}

/// The whole model's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Vision tower and merger.
    pub vision: VisionConfig,
    /// Decoder.
    pub text: TextConfig,
    /// The token that an image's tokens replace.
    pub image_token_id: i64,
    /// The token that stands for video, which is refused.
    pub video_token_id: i64,
    /// Tokens that end a generation, from `eos_token_id` (one or a list).
    pub eos_token_ids: Vec<i64>,
    /// The file as read, so that what is written keeps unknown keys.
    pub(crate) raw: Map<String, Value>,
}

/// One section of the file, with the words for errors.
struct Section<'a> {
    file: &'a str,
    name: &'a str,
    map: &'a Map<String, Value>,
}

impl Section<'_> {
    fn error(&self, key: &str, reason: String) -> ModelError {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        ModelError::Config { file: self.file.to_owned(), key, reason }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// A positive integer.
    fn size(&self, key: &str, default: Option<i64>) -> Result<i64> {
        match (self.get(key), default) {
            (Some(v), _) => match v.as_i64() {
                Some(n) if (1..=1 << 31).contains(&n) => Ok(n),
                _ => Err(self.error(key, format!("is {v}; a positive integer is wanted"))),
            },
            (None, Some(n)) => Ok(n),
            (None, None) => Err(self.error(key, "is missing; a positive integer is wanted".to_owned())),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => match v.as_f64() {
                Some(n) if n.is_finite() && n > 0.0 => Ok(n),
                _ => Err(self.error(key, format!("is {v}; a positive number is wanted"))),
            },
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.error(key, format!("is {v}; true or false is wanted"))),
        }
    }

    /// An error unless the key is absent or has one of these values.
    fn only(&self, key: &str, allowed: &[Value], why: &str) -> Result<()> {
        match self.get(key) {
            Some(v) if !allowed.contains(v) => {
                let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let list = if list.is_empty() { "null".to_owned() } else { list.join(" or ") };
                Err(self.error(key, format!("is {v}; supported is {list} ({why})")))
            }
            _ => Ok(()),
        }
    }
}

impl VisionConfig {
    /// Width of an attention head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_heads
    }

    /// Values of one patch row.
    pub fn patch_dim(&self) -> i64 {
        self.in_channels * self.patch_size * self.patch_size
    }

    fn read(section: &Section<'_>) -> Result<Self> {
        section.only("hidden_act", &[json!("gelu")], "the exact, erf form")?;
        section.only("temporal_patch_size", &[json!(1)], "one frame per patch")?;
        let blocks = section.number("layer_norm_eps", VisionEps::HF.blocks)?;
        let config = VisionConfig {
            depth: section.size("depth", Some(24))?,
            hidden_size: section.size("hidden_size", Some(1024))?,
            intermediate_size: section.size("intermediate_size", Some(4096))?,
            num_heads: section.size("num_heads", Some(16))?,
            in_channels: section.size("in_channels", Some(3))?,
            patch_size: section.size("patch_size", Some(14))?,
            spatial_merge_size: section.size("spatial_merge_size", Some(2))?,
            initializer_range: section.number("initializer_range", 0.02)?,
            eps: VisionEps {
                pre_layernorm: section.number("pre_layernorm_eps", blocks)?,
                blocks,
                merger: section.number("merger_layernorm_eps", VisionEps::HF.merger)?,
            },
        };
        let (width, heads) = (config.hidden_size, config.num_heads);
        // Two spatial axes, each with pairs of dimensions.
        if width % heads != 0 || (width / heads) % 4 != 0 {
            return Err(section.error(
                "num_heads",
                format!("is {heads} for hidden_size {width}; the width of a head must be a multiple of 4"),
            ));
        }
        Ok(config)
    }
}

impl TextConfig {
    fn read(section: &Section<'_>) -> Result<Self> {
        section.only("hidden_act", &[json!("silu")], "SwiGLU")?;
        section.only("sliding_window", &[], "full attention in every layer")?;
        section.only("use_sliding_window", &[json!(false)], "full attention in every layer")?;
        section.only("mlp_bias", &[json!(false)], "no biases in the MLP")?;
        section.only("partial_rotary_factor", &[json!(1), json!(1.0)], "every channel of a head is rotated")?;
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = section.get(key) else { continue };
            let kind =
                value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str).unwrap_or("default");
            if kind != "default" {
                return Err(section.error(key, format!("asks for {kind:?}; supported is null or type \"default\"")));
            }
        }
        if let Some(types) = section.get("layer_types") {
            let full = |t: &Value| t.as_str() == Some("full_attention");
            if !types.as_array().is_some_and(|l| l.iter().all(full)) {
                return Err(section.error("layer_types", format!("is {types}; supported is full_attention everywhere")));
            }
        }
        for key in ["num_experts", "num_local_experts", "moe_intermediate_size"] {
            section.only(key, &[], "dense decoders; mixtures of experts are not supported")?;
        }
        let family = section.get("model_type").and_then(Value::as_str).unwrap_or("LLaVAOneVision1_5_text");
        let qwen2 = family.starts_with("qwen2");
        let bias = section.flag("attention_bias", qwen2)?;
        let hidden_size = section.size("hidden_size", None)?;
        let num_attention_heads = section.size("num_attention_heads", None)?;
        let theta = section.get("rope_parameters").and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
        // What `transformers` takes where a file says nothing: its own classes of language models, and this model's.
        let own = family == "LLaVAOneVision1_5_text";
        let head_dim = if family == "qwen3" { 128 } else { (hidden_size / num_attention_heads).max(1) };
        let config = TextConfig {
            vocab_size: section.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: section.size("intermediate_size", None)?,
            num_hidden_layers: section.size("num_hidden_layers", None)?,
            num_attention_heads,
            num_key_value_heads: section.size("num_key_value_heads", Some(num_attention_heads))?,
            head_dim: section.size("head_dim", Some(head_dim))?,
            rms_norm_eps: section.number("rms_norm_eps", 1e-6)?,
            rope_theta: section.number("rope_theta", theta.unwrap_or(if own { 5e6 } else { 1e4 }))?,
            max_position_embeddings: section.size("max_position_embeddings", Some(262_144))?,
            initializer_range: section.number("initializer_range", 0.02)?,
            tie_word_embeddings: section.flag("tie_word_embeddings", false)?,
            qkv_bias: bias,
            output_bias: section.flag("attention_output_bias", bias && !qwen2)?,
            qk_norm: section.flag("qk_norm", !qwen2 && family != "llama" && family != "mistral")?,
        };
        if config.num_attention_heads % config.num_key_value_heads != 0 {
            return Err(section.error(
                "num_key_value_heads",
                format!(
                    "is {}; it must divide num_attention_heads {}",
                    config.num_key_value_heads, num_attention_heads
                ),
            ));
        }
        if config.head_dim % 2 != 0 {
            return Err(section.error("head_dim", format!("is {}; an even number is wanted", config.head_dim)));
        }
        Ok(config)
    }
}

impl ModelConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// No such file, broken JSON, or a value that is missing or not supported, by key.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::io(&path, e))?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// Reads the text of a `config.json`; `file` is its name in errors.
    ///
    /// # Errors
    /// Broken JSON, or a value that is missing or not supported, by key.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        let root =
            |key: &str, reason: String| ModelError::Config { file: file.to_owned(), key: key.to_owned(), reason };
        let value: Value = serde_json::from_str(text).map_err(|e| root("JSON", e.to_string()))?;
        let Value::Object(raw) = value else {
            return Err(root("JSON", "is no object".to_owned()));
        };
        let top = Section { file, name: "", map: &raw };
        top.only("model_type", &[json!("llavaonevision1_5")], "LLaVA-OneVision-1.5, dense")?;
        let section = |name: &'static str| match raw.get(name) {
            Some(Value::Object(map)) => Ok(Section { file, name, map }),
            Some(v) => Err(root(name, format!("is {v}; an object is wanted"))),
            None => Err(root(name, "is missing; a model of type llavaonevision1_5 has it".to_owned())),
        };
        let (vision, text) = (section("vision_config")?, section("text_config")?);
        let eos = [top.get("eos_token_id"), text.get("eos_token_id")].into_iter().flatten().next();
        let eos_token_ids = match eos {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_i64).collect(),
            Some(one) => one.as_i64().into_iter().collect(),
        };
        let config = ModelConfig {
            vision: VisionConfig::read(&vision)?,
            text: TextConfig::read(&text)?,
            image_token_id: top.size("image_token_id", Some(151_655))?,
            video_token_id: top.size("video_token_id", Some(151_656))?,
            eos_token_ids,
            raw: raw.clone(),
        };
        let width = vision.size("text_hidden_size", Some(config.text.hidden_size))?;
        if width != config.text.hidden_size {
            return Err(vision.error(
                "text_hidden_size",
                format!("is {width}; it must equal text_config.hidden_size {}", config.text.hidden_size),
            ));
        }
        if config.image_token_id >= config.text.vocab_size {
            return Err(top.error(
                "image_token_id",
                format!(
                    "is {}; it must be below text_config.vocab_size {}",
                    config.image_token_id, config.text.vocab_size
                ),
            ));
        }
        Ok(config)
    }

    /// A configuration that no file gave.
    pub fn new(
        vision: VisionConfig,
        text: TextConfig,
        image_token_id: i64,
        video_token_id: i64,
        eos: Vec<i64>,
    ) -> Self {
        ModelConfig { vision, text, image_token_id, video_token_id, eos_token_ids: eos, raw: Map::new() }
    }

    /// The object of a `config.json` that `transformers` and this crate read; unknown keys of the file it came from are kept.
    /// `dtype` is the kind of the weights, such as `float32`.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut out = self.raw.clone();
        let mut section = |name: &str, values: Value| {
            let entry = out.entry(name).or_insert_with(|| json!({}));
            if let (Value::Object(to), Value::Object(from)) = (entry, values) {
                to.extend(from);
            }
        };
        let (v, t) = (&self.vision, &self.text);
        section(
            "text_config",
            json!({
                "attention_bias": t.qkv_bias, "head_dim": t.head_dim, "hidden_act": "silu", "hidden_size": t.hidden_size,
                "image_token_id": self.image_token_id, "initializer_range": t.initializer_range,
                "intermediate_size": t.intermediate_size, "max_position_embeddings": t.max_position_embeddings,
                "num_attention_heads": t.num_attention_heads, "num_hidden_layers": t.num_hidden_layers,
                "num_key_value_heads": t.num_key_value_heads, "rms_norm_eps": t.rms_norm_eps, "rope_theta": t.rope_theta,
                "tie_word_embeddings": t.tie_word_embeddings, "video_token_id": self.video_token_id,
                "vocab_size": t.vocab_size, "dtype": dtype,
            }),
        );
        // Only where they differ from Qwen3: other readers do not know these keys.
        if t.output_bias != t.qkv_bias {
            section("text_config", json!({"attention_output_bias": t.output_bias}));
        }
        if !t.qk_norm {
            section("text_config", json!({"qk_norm": false}));
        }
        section(
            "vision_config",
            json!({
                "depth": v.depth, "embed_dim": v.hidden_size, "hidden_act": "gelu", "hidden_size": v.hidden_size,
                "in_channels": v.in_channels, "initializer_range": v.initializer_range,
                "intermediate_size": v.intermediate_size, "layer_norm_eps": v.eps.blocks, "model_type": "rice_vit",
                "num_heads": v.num_heads, "patch_size": v.patch_size, "spatial_merge_size": v.spatial_merge_size,
                "temporal_patch_size": 1, "text_hidden_size": t.hidden_size, "dtype": dtype,
            }),
        );
        if v.eps.pre_layernorm != v.eps.blocks {
            section("vision_config", json!({"pre_layernorm_eps": v.eps.pre_layernorm}));
        }
        if v.eps.merger != VisionEps::HF.merger {
            section("vision_config", json!({"merger_layernorm_eps": v.eps.merger}));
        }
        if let Some(Value::Object(text)) = out.get_mut("text_config") {
            text.entry("model_type").or_insert_with(|| json!("LLaVAOneVision1_5_text"));
        }
        out.entry("architectures").or_insert_with(|| json!(["LLaVAOneVision1_5_ForConditionalGeneration"]));
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            list => json!(list),
        };
        for (key, value) in [
            ("model_type", json!("llavaonevision1_5")),
            ("image_token_id", json!(self.image_token_id)),
            ("video_token_id", json!(self.video_token_id)),
            ("vocab_size", json!(t.vocab_size)),
            ("tie_word_embeddings", json!(t.tie_word_embeddings)),
            ("dtype", json!(dtype)),
        ] {
            out.insert(key.to_owned(), value);
        }
        out.remove("torch_dtype");
        if !eos.is_null() {
            out.insert("eos_token_id".to_owned(), eos);
        }
        Value::Object(out)
    }
}
