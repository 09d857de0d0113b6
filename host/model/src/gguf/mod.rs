//! GGUF → Hugging Face folder: one file of llama.cpp's in, `config.json`, fp32 or bf16 safetensors and a tokenizer out.
//!
//! ```text
//!  header ─► architecture, sizes ─► config.json         metadata ─► tokenizer.json, chat template
//!  blocks of a few rows ─► de-quantised (anamnesis) ─► rows in the order of `transformers` ─► safetensors
//! ```
//! llama.cpp turns neighbouring channels of a head where `transformers` turns those half a head apart; its converter therefore
//! reorders the rows of a Llama's q and k, which is undone here. Memory holds a few rows of one tensor.

mod tokenizer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anamnesis::{
    F32Out, GgufFrontMatter, GgufMetadataValue, GgufTensorInfo, GgufType, dequantize_gguf,
    parse_gguf_front_matter_from_reader,
};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::error::{ModelError, Result};
use crate::save::{Bytes, Planned, sync_dir, write_file, write_planned};
use tokenizer::Ids;

/// Architectures that the decoder computes, under the names that both sides give them.
const ARCHITECTURES: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// Quantisations that are read.
const TYPES: [GgufType; 13] = [
    GgufType::F32,
    GgufType::F16,
    GgufType::BF16,
    GgufType::Q4_0,
    GgufType::Q4_1,
    GgufType::Q5_0,
    GgufType::Q5_1,
    GgufType::Q8_0,
    GgufType::Q2_K,
    GgufType::Q3_K,
    GgufType::Q4_K,
    GgufType::Q5_K,
    GgufType::Q6_K,
];

/// Values that are de-quantised at once.
const AT_ONCE: i64 = 1 << 20;

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The GGUF file.
    pub file: PathBuf,
    /// The folder to be made.
    pub out: PathBuf,
    /// Folder of a tokenizer to take instead of the file's own.
    pub tokenizer: Option<PathBuf>,
    /// bf16 weights instead of fp32, which holds every quantisation exactly.
    pub bf16: bool,
    /// Most bytes of tensors in one file.
    pub shard_bytes: usize,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// The architecture.
    pub architecture: String,
    /// Tensors and values.
    pub tensors: usize,
    /// Values of all tensors.
    pub values: u64,
    /// How many tensors each quantisation had.
    pub types: BTreeMap<String, usize>,
    /// The weight files.
    pub files: Vec<String>,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<String> = self.types.iter().map(|(name, n)| format!("{n} {name}")).collect();
        write!(
            f,
            "{}, {} tensors ({}), {:.2} M parameters in {} files",
            self.architecture,
            self.tensors,
            types.join(", "),
            self.values as f64 / 1e6,
            self.files.len()
        )
    }
}

fn wrong(message: String) -> ModelError {
    ModelError::Source(message)
}

/// A file's header.
struct Meta<'a> {
    path: &'a Path,
    front: &'a GgufFrontMatter,
}

impl<'a> Meta<'a> {
    fn get(&self, key: &str) -> Option<&'a GgufMetadataValue> {
        self.front.metadata.get(key)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(GgufMetadataValue::as_string)
    }

    fn number(&self, key: &str) -> Option<u32> {
        match self.get(key)? {
            GgufMetadataValue::U8(n) => Some(u32::from(*n)),
            GgufMetadataValue::U16(n) => Some(u32::from(*n)),
            GgufMetadataValue::U32(n) => Some(*n),
            GgufMetadataValue::I32(n) => u32::try_from(*n).ok(),
            GgufMetadataValue::U64(n) => u32::try_from(*n).ok(),
            GgufMetadataValue::I64(n) => u32::try_from(*n).ok(),
            _ => None,
        }
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            // The shortest decimal that is this fp32: 1e-5, not 9.999999747378752e-6.
            GgufMetadataValue::F32(v) => v.to_string().parse().ok(),
            GgufMetadataValue::F64(v) => Some(*v),
            _ => None,
        }
    }

    fn tensor(&self, name: &str) -> Option<&'a GgufTensorInfo> {
        self.front.tensor_infos.iter().find(|t| t.name == name)
    }
}

/// The sizes of a decoder.
struct Sizes {
    architecture: &'static str,
    class: &'static str,
    layers: i64,
    width: i64,
    inner: i64,
    heads: i64,
    key_heads: i64,
    head_dim: i64,
    positions: u32,
    eps: f64,
    theta: f64,
    vocab: i64,
    tied: bool,
}

impl Sizes {
    fn read(meta: &Meta<'_>) -> Result<Self> {
        let file = meta.path.display();
        let name = meta.text("general.architecture").unwrap_or_default();
        let Some(&(architecture, class)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
            let known = ARCHITECTURES.map(|(known, _)| known).join(", ");
            return Err(wrong(format!("{file}: the architecture is {name:?}; supported are {known}")));
        };
        let key = |end: &str| format!("{architecture}.{end}");
        let size = |end: &str| match meta.number(&key(end)) {
            Some(n @ 1..) => Ok(i64::from(n)),
            _ => Err(wrong(format!("{file}: {} is missing or no positive number", key(end)))),
        };
        if meta.number(&key("expert_count")).unwrap_or(0) > 0 {
            return Err(wrong(format!("{file}: a mixture of experts; dense decoders are supported")));
        }
        if let Some(scaling) = meta.text(&key("rope.scaling.type")).filter(|t| *t != "none") {
            let key = key("rope.scaling.type");
            return Err(wrong(format!("{file}: {key} is {scaling:?}; supported are rotary angles without scaling")));
        }
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let optional = |end: &str, default| if meta.get(&key(end)).is_some() { size(end) } else { Ok(default) };
        let head_dim = optional("attention.key_length", width / heads)?;
        let rotated = optional("rope.dimension_count", head_dim)?;
        if rotated != head_dim || head_dim % 2 != 0 {
            let key = key("rope.dimension_count");
            return Err(wrong(format!(
                "{file}: {key} is {rotated} of heads of {head_dim}; all of an even number is supported"
            )));
        }
        let table = meta.tensor("token_embd.weight").and_then(|t| t.shape.get(1).copied());
        let vocab = table.ok_or_else(|| wrong(format!("{file}: tensor token_embd.weight is missing or no matrix")))?;
        let eps = key("attention.layer_norm_rms_epsilon");
        Ok(Sizes {
            architecture,
            class,
            layers: size("block_count")?,
            width,
            inner: size("feed_forward_length")?,
            heads,
            key_heads: optional("attention.head_count_kv", heads)?,
            head_dim,
            positions: u32::try_from(size("context_length")?).unwrap_or(u32::MAX),
            eps: meta.float(&eps).ok_or_else(|| wrong(format!("{file}: {eps} is missing")))?,
            theta: meta.float(&key("rope.freq_base")).unwrap_or(1e4),
            vocab: i64::try_from(vocab).unwrap_or(0),
            tied: meta.tensor("output.weight").is_none(),
        })
    }

    /// Every tensor: its name here and there, its shape, and the width of a head whose rows are reordered (0: as they are).
    fn tensors(&self) -> Vec<(String, String, Vec<i64>, i64)> {
        let (q, kv) = (self.heads * self.head_dim, self.key_heads * self.head_dim);
        let mut out = vec![
            ("token_embd.weight".to_owned(), "model.embed_tokens.weight".to_owned(), vec![self.vocab, self.width], 0),
            ("output_norm.weight".to_owned(), "model.norm.weight".to_owned(), vec![self.width], 0),
        ];
        if !self.tied {
            out.push(("output.weight".to_owned(), "lm_head.weight".to_owned(), vec![self.vocab, self.width], 0));
        }
        let head = if self.architecture == "llama" { self.head_dim } else { 0 };
        for layer in 0..self.layers {
            let mut add = |here: &str, there: &str, shape: &[i64], head: i64| {
                let names = (format!("blk.{layer}.{here}"), format!("model.layers.{layer}.{there}"));
                out.push((names.0, names.1, shape.to_vec(), head));
            };
            add("attn_norm.weight", "input_layernorm.weight", &[self.width], 0);
            add("ffn_norm.weight", "post_attention_layernorm.weight", &[self.width], 0);
            add("attn_q.weight", "self_attn.q_proj.weight", &[q, self.width], head);
            add("attn_k.weight", "self_attn.k_proj.weight", &[kv, self.width], head);
            add("attn_v.weight", "self_attn.v_proj.weight", &[kv, self.width], 0);
            add("attn_output.weight", "self_attn.o_proj.weight", &[self.width, q], 0);
            add("ffn_gate.weight", "mlp.gate_proj.weight", &[self.inner, self.width], 0);
            add("ffn_up.weight", "mlp.up_proj.weight", &[self.inner, self.width], 0);
            add("ffn_down.weight", "mlp.down_proj.weight", &[self.width, self.inner], 0);
            if self.architecture == "qwen2" {
                add("attn_q.bias", "self_attn.q_proj.bias", &[q], 0);
                add("attn_k.bias", "self_attn.k_proj.bias", &[kv], 0);
                add("attn_v.bias", "self_attn.v_proj.bias", &[kv], 0);
            }
            if self.architecture == "qwen3" {
                add("attn_q_norm.weight", "self_attn.q_norm.weight", &[self.head_dim], 0);
                add("attn_k_norm.weight", "self_attn.k_norm.weight", &[self.head_dim], 0);
            }
        }
        out
    }

    fn config(&self, ids: Ids, dtype: &str) -> Value {
        let mut config = json!({
            "architectures": [self.class], "model_type": self.architecture, "vocab_size": self.vocab,
            "hidden_size": self.width, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.key_heads, "head_dim": self.head_dim,
            "hidden_act": "silu", "max_position_embeddings": self.positions, "rms_norm_eps": self.eps,
            "rope_theta": self.theta, "rope_scaling": null, "attention_bias": self.architecture == "qwen2",
            "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": true, "tie_word_embeddings": self.tied,
            "bos_token_id": ids.bos, "eos_token_id": ids.eos, "pad_token_id": ids.pad, "torch_dtype": dtype,
        });
        if self.architecture == "llama" {
            config["mlp_bias"] = json!(false);
        }
        config
    }
}

/// A tensor of the file, and what becomes of it.
struct Part<'a> {
    name: String,
    shape: Vec<i64>,
    from: &'a GgufTensorInfo,
    head: i64,
}

/// Reads everything but the tensors' data.
fn header(path: &Path) -> Result<GgufFrontMatter> {
    let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
    parse_gguf_front_matter_from_reader(file).map_err(|e| {
        wrong(format!(
            "{}: {e}; the file is damaged, cut off, no GGUF file, or of a kind that is not supported",
            path.display()
        ))
    })
}

/// Makes a Hugging Face folder of a GGUF file. `progress` is told bytes written and bytes in all.
///
/// # Errors
/// A file that is damaged, or of an architecture, quantisation or tokenizer that is not known, by its name; tensors that are
/// missing, of another shape or unknown; a folder that cannot be written or holds a model already.
pub fn import(options: &ImportOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<ImportReport> {
    let (path, out) = (options.file.as_path(), options.out.as_path());
    if out.join("config.json").exists() {
        return Err(wrong(format!("{} already holds a model; remove it or name another folder", out.display())));
    }
    let front = header(path)?;
    let meta = Meta { path, front: &front };
    let sizes = Sizes::read(&meta)?;
    let parts = plan(&meta, &sizes)?;
    std::fs::create_dir_all(out).map_err(|e| ModelError::io(out, e))?;
    match &options.tokenizer {
        Some(from) => tokenizer::copy(from, out)?,
        None => tokenizer::write(&meta, out, sizes.positions)?,
    }
    let data = File::open(path).map_err(|e| ModelError::io(path, e))?;
    let kind = if options.bf16 { Kind::BFloat16 } else { Kind::Float };
    let values: u64 = parts.iter().map(|p| p.shape.iter().product::<i64>().unsigned_abs()).sum();
    let total = values * kind.elt_size_in_bytes() as u64;
    let state = std::cell::RefCell::new((0u64, progress));
    let planned: Vec<Planned<'_>> = parts
        .iter()
        .map(|part| Planned {
            name: part.name.clone(),
            kind,
            shape: part.shape.clone(),
            fill: Box::new(|put| {
                part.rows(&data, path, &mut |rows| {
                    let bytes = Bytes::new(&rows.f_to_kind(kind)?)?;
                    put(bytes.as_slice())?;
                    let (done, progress) = &mut *state.borrow_mut();
                    *done += bytes.as_slice().len() as u64;
                    progress(*done, total);
                    Ok(())
                })
            }),
        })
        .collect();
    let files = write_planned(out, &planned, options.shard_bytes)?;
    let config = sizes.config(Ids::of(&meta), if options.bf16 { "bfloat16" } else { "float32" });
    write_file(&out.join("config.json"), format!("{config:#}\n").as_bytes())?;
    sync_dir(out)?;
    let mut types = BTreeMap::new();
    for part in &parts {
        *types.entry(part.from.dtype.to_string()).or_default() += 1;
    }
    Ok(ImportReport { architecture: sizes.architecture.to_owned(), tensors: parts.len(), values, types, files })
}

/// Finds every tensor, and refuses what does not fit before a byte is written.
fn plan<'a>(meta: &Meta<'a>, sizes: &Sizes) -> Result<Vec<Part<'a>>> {
    let file = meta.path.display();
    let length = std::fs::metadata(meta.path).map_err(|e| ModelError::io(meta.path, e))?.len();
    let mut known = BTreeSet::new();
    let mut parts = Vec::new();
    for (here, there, shape, head) in sizes.tensors() {
        let Some(tensor) = meta.tensor(&here) else {
            return Err(wrong(format!("{file}: tensor {here} with shape {shape:?} is missing")));
        };
        // Innermost dimension first there.
        let seen: Vec<i64> = tensor.shape.iter().rev().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
        if seen != shape {
            return Err(wrong(format!("{file}: tensor {here} has shape {seen:?}; its metadata wants {shape:?}")));
        }
        if !TYPES.contains(&tensor.dtype) {
            let known = TYPES.map(|t| t.to_string()).join(", ");
            return Err(wrong(format!(
                "{file}: tensor {here} is quantised as {}; supported are {known}",
                tensor.dtype
            )));
        }
        let end = tensor.byte_len.and_then(|bytes| tensor.data_offset.checked_add(bytes));
        if end.is_none_or(|end| end > length) {
            return Err(wrong(format!(
                "{file}: tensor {here} of {shape:?} reaches beyond the file's {length} bytes: it is cut off, get it again"
            )));
        }
        known.insert(here);
        parts.push(Part { name: there, shape, from: tensor, head });
    }
    if let Some(unknown) = meta.front.tensor_infos.iter().map(|t| &t.name).filter(|n| !known.contains(*n)).min() {
        return Err(wrong(format!(
            "{file}: tensor {unknown} has no place in a model of architecture {:?} as it is supported here",
            sizes.architecture
        )));
    }
    Ok(parts)
}

impl Part<'_> {
    /// Hands the de-quantised rows to `each`, in the order of `transformers`, a few at a time (fp32).
    fn rows(&self, data: &File, path: &Path, each: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        let (rows, width) = match self.shape.as_slice() {
            [rows, width] => (*rows, *width),
            // A vector is one row; none is reordered.
            other => (1, other.iter().product()),
        };
        let at_once = if self.head > 0 { self.head } else { (AT_ONCE / width).clamp(1, rows) };
        let broken = |e: String| wrong(format!("{}: tensor {}: {e}", path.display(), self.from.name));
        let dtype = self.from.dtype;
        let row_bytes = dtype
            .byte_size_for_n_elements(width.unsigned_abs())
            .map_err(|e| broken(format!("a row of {width}: {e}")))?;
        let mut bytes = Vec::new();
        for first in (0..rows).step_by(at_once as usize) {
            let n = at_once.min(rows - first);
            bytes.resize((row_bytes * n.unsigned_abs()) as usize, 0);
            let at = self.from.data_offset + row_bytes * first.unsigned_abs();
            data.read_exact_at(&mut bytes, at).map_err(|e| ModelError::io(path, e))?;
            let shape = [n, width];
            let values = match dtype {
                GgufType::F32 => Tensor::f_from_data_size(&bytes, &shape, Kind::Float)?,
                GgufType::F16 => Tensor::f_from_data_size(&bytes, &shape, Kind::Half)?.f_to_kind(Kind::Float)?,
                GgufType::BF16 => Tensor::f_from_data_size(&bytes, &shape, Kind::BFloat16)?.f_to_kind(Kind::Float)?,
                _ => {
                    let values = dequantize_gguf::<F32Out>(&bytes, dtype, (n * width) as usize);
                    let values = values.map_err(|e| broken(e.to_string()))?;
                    Tensor::f_from_data_size(&values, &shape, Kind::Float)?
                }
            };
            let values = match self.head {
                0 => values,
                // Row 2j + p of a head there is row p·d/2 + j here.
                head => values.f_view([head / 2, 2, width])?.f_transpose(0, 1)?.f_reshape([head, width])?,
            };
            each(&values)?;
        }
        Ok(())
    }
}
