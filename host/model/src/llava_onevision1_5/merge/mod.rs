//! Stage 0: a vision tower and a language model become one model folder, with a new merger between them.
//!
//! ```text
//!  tower folder ─┐                  ┌─► plan: for every parameter of the model, the tensors that make it
//!  LLM folder ───┼─► config.json ───┤                         │ copied in pieces of a MiB, a file at a time
//!  seed ─► merger┘                  └─► tokenizer, template …  ▼
//!                                       safetensors ─► read again and compared with both sources ─► config.json, merge.json
//! ```
//! Weights keep their kind, bit for bit. In memory are the new merger (and a new tower), the tokenizer, and one piece;
//! never a tensor of the sources. `config.json` comes last: a folder without it is not a model.

mod companions;
mod sources;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use ovhost_data::ChatTokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::config::ModelConfig;
use super::model::LlavaOnevision;
use super::weights::{long_name, short_name};
use crate::builder::{Module, Param};
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::save::{Bytes, Planned, Put, sync_dir, write_file, write_planned};
use companions::Words;
use sources::Source;
pub use sources::VisionSource;

/// Rows of an embedding that are averaged at once.
const ROWS: i64 = 4096;

/// What is merged, and how.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// The vision tower.
    pub vision: VisionSource,
    /// Folder of the language model: Qwen3, Qwen2.5, Llama or Mistral in Hugging Face layout, with its tokenizer.
    pub llm: PathBuf,
    /// The folder to be made.
    pub out: PathBuf,
    /// Seed of the merger's weights, and of a new tower's.
    pub seed: i64,
    /// A head of its own, as a copy of the embedding, where the language model ties them.
    pub untie: bool,
    /// Most bytes of tensors in one file.
    pub shard_bytes: usize,
    /// `preprocessor_config.json`; by default the reference's, for the tower's patches.
    pub processor: Option<PathBuf>,
    /// System message of conversations that bring none; none if empty.
    pub system: String,
}

/// One source's part of the result.
#[derive(Debug, Clone, Serialize)]
pub struct MergedSource {
    /// Its folder.
    pub folder: PathBuf,
    /// Its `model_type`.
    pub model_type: String,
    /// Tensors of it that are in the result, each found equal bit for bit.
    pub tensors: usize,
    /// Their values.
    pub values: u64,
    /// sha256 over the names and hashes of what they are in the result, in the model's order.
    pub sha256: String,
    /// Tensors that have no place in the result.
    pub left_out: Vec<String>,
}

/// What was merged: the contents of `merge.json`.
#[derive(Debug, Clone, Serialize)]
pub struct MergeReport {
    /// The tower; none if it is new.
    pub vision: Option<MergedSource>,
    /// The language model.
    pub language: MergedSource,
    /// Tensors that were drawn anew.
    pub new_tensors: usize,
    /// Their values.
    pub new_values: u64,
    /// The seed that they were drawn with.
    pub seed: i64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Special tokens that the language model's tokenizer lacked, with their ids.
    pub added_tokens: Vec<(String, i64)>,
    /// Values of the whole model.
    pub parameters: u64,
    /// The weight files.
    pub files: Vec<String>,
    /// sha256 of every tensor of the result, by its name there.
    pub tensors: Map<String, Value>,
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let million = |n: u64| n as f64 / 1e6;
        for (what, source) in [("vision", self.vision.as_ref()), ("language", Some(&self.language))] {
            let Some(s) = source else {
                writeln!(f, "{what:<9} new, seed {}", self.seed)?;
                continue;
            };
            write!(
                f,
                "{what:<9} {} · {} tensors, {:.2} M values, equal bit for bit · sha256 {}",
                s.folder.display(),
                s.tensors,
                million(s.values),
                &s.sha256[..16]
            )?;
            match s.left_out.as_slice() {
                [] => writeln!(f)?,
                [one] => writeln!(f, " · left out: {one}")?,
                [first, ..] => writeln!(f, " · left out: {first} and {} more", s.left_out.len() - 1)?,
            }
        }
        writeln!(
            f,
            "new       {} tensors, {:.2} M values, seed {}",
            self.new_tensors,
            million(self.new_values),
            self.seed
        )?;
        let tied = if self.tie_word_embeddings { "is the embedding" } else { "is its own" };
        write!(
            f,
            "model     {:.2} M parameters in {} files, vocabulary {}, the head {tied}",
            million(self.parameters),
            self.files.len(),
            self.vocab_size
        )?;
        if !self.added_tokens.is_empty() {
            let names: Vec<&str> = self.added_tokens.iter().map(|(text, _)| text.as_str()).collect();
            write!(f, "\nadded     {} (rows: the mean of the others)", names.join(" "))?;
        }
        Ok(())
    }
}

/// Where a parameter comes from.
enum Origin<'a> {
    Copied {
        source: &'a Source,
        /// Put one after the other.
        parts: Vec<String>,
        /// Rows that follow them: each the mean of the rows before.
        more_rows: i64,
    },
    Drawn(Tensor),
}

struct Part<'a> {
    /// Name in the file.
    name: String,
    kind: Kind,
    shape: Vec<i64>,
    origin: Origin<'a>,
}

fn wrong(message: String) -> ModelError {
    ModelError::Source(message)
}

/// Makes a model folder of a tower and a language model. `progress` is told bytes done and bytes in all, of writing and of
/// checking.
///
/// # Errors
/// A source of another type, with tensors that are missing, of another shape or without a place; a tokenizer or processor
/// that does not fit; a folder that cannot be read or written, or holds a model already; a result that differs from a source.
pub fn merge(options: &MergeOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<MergeReport> {
    let out = options.out.as_path();
    if out.join("config.json").exists() {
        return Err(wrong(format!("{} already holds a model; remove it or name another folder", out.display())));
    }
    let (vision_config, tower) = sources::vision(&options.vision)?;
    let (text_config, llm) = sources::language(&options.llm)?;
    let words = Words::read(&options.llm)?;
    let (config, rows) = configuration(options, vision_config, text_config, &words)?;
    let parts = plan(options, &config, rows, tower.as_ref(), &llm)?;

    std::fs::create_dir_all(out).map_err(|e| ModelError::io(out, e))?;
    words.write(&options.llm, out, &options.system, options.processor.as_deref(), &config.vision)?;
    let total = 2 * parts.iter().map(bytes_of).sum::<u64>();
    let done = std::cell::RefCell::new((0, progress));
    let step = |n: usize| {
        let (done, progress) = &mut *done.borrow_mut();
        *done += n as u64;
        progress(*done, total);
    };
    let planned: Vec<Planned<'_>> = parts
        .iter()
        .map(|part| Planned {
            name: part.name.clone(),
            kind: part.kind,
            shape: part.shape.clone(),
            fill: Box::new(|put| {
                part.fill(&mut |bytes| {
                    step(bytes.len());
                    put(bytes)
                })
            }),
        })
        .collect();
    let files = write_planned(out, &planned, options.shard_bytes)?;
    drop(planned);

    let dtype = match parts.iter().find(|p| p.name == "model.embed_tokens.weight").map(|p| p.kind) {
        Some(Kind::BFloat16) => "bfloat16",
        Some(Kind::Half) => "float16",
        Some(Kind::Double) => "float64",
        _ => "float32",
    };
    let tensors = check(out, &parts, &step)?;
    let report = MergeReport {
        vision: tower.as_ref().map(|s| summary(s, &parts, true, &tensors)),
        language: summary(&llm, &parts, false, &tensors),
        new_tensors: parts.iter().filter(|p| matches!(p.origin, Origin::Drawn(_))).count(),
        new_values: parts.iter().filter(|p| matches!(p.origin, Origin::Drawn(_))).map(values_of).sum(),
        seed: options.seed,
        tie_word_embeddings: config.text.tie_word_embeddings,
        vocab_size: config.text.vocab_size,
        added_tokens: words.added.clone(),
        parameters: parts.iter().map(values_of).sum(),
        files,
        tensors,
    };
    let listed = serde_json::to_value(&report).map_err(|e| wrong(format!("merge.json: {e}")))?;
    for (name, value) in [("merge.json", &listed), ("config.json", &config.to_json(dtype))] {
        write_file(&out.join(name), format!("{value:#}\n").as_bytes())?;
    }
    sync_dir(out)?;
    finished(out, &config)?;
    Ok(report)
}

/// The configuration of the result, and the rows of the language model's own embedding.
fn configuration(
    options: &MergeOptions,
    vision: Map<String, Value>,
    mut text: Map<String, Value>,
    words: &Words,
) -> Result<(ModelConfig, i64)> {
    let file = options.llm.join("config.json").display().to_string();
    let rows = text.get("vocab_size").and_then(Value::as_i64).unwrap_or(0);
    let tied = text.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    text.insert("vocab_size".into(), json!(rows.max(words.len)));
    text.insert("tie_word_embeddings".into(), json!(tied && !options.untie));
    let ids = |token| json!(words.id(token));
    let whole = json!({
        "architectures": ["LLaVAOneVision1_5_ForConditionalGeneration"],
        "model_type": "llavaonevision1_5",
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
        "eos_token_id": words.ends(), "pad_token_id": ids("<|endoftext|>"),
        "text_config": text, "vision_config": vision,
    });
    let mut config = ModelConfig::from_json(&whole.to_string(), &file)?;
    if rows <= 0 {
        return Err(wrong(format!("{file}: vocab_size is {rows}; the rows of the embedding are wanted")));
    }
    // From here on what the family's name stood for is said by keys of their own.
    if let Some(Value::Object(text)) = config.raw.get_mut("text_config") {
        text.insert("model_type".into(), json!("LLaVAOneVision1_5_text"));
    }
    let read = ModelConfig::from_json(&config.to_json("float32").to_string(), "the merged config.json")?;
    if (&read.text, &read.vision) != (&config.text, &config.vision) {
        return Err(wrong(format!("{file}: what it says is lost in this model's config.json; please report this")));
    }
    Ok((config, rows))
}

/// For every parameter of the model where it comes from. Everything that does not fit is found here, before a byte is written.
fn plan<'a>(
    options: &MergeOptions,
    config: &ModelConfig,
    rows: i64,
    tower: Option<&'a Source>,
    llm: &'a Source,
) -> Result<Vec<Part<'a>>> {
    let drawn = LlavaOnevision::random_adapter(config, options.seed, tower.is_none())?;
    let mut used: [BTreeSet<String>; 2] = Default::default();
    let mut parts = Vec::new();
    for param in LlavaOnevision::names(config)? {
        if let Some(new) = drawn.iter().find(|p| p.name == param.name) {
            parts.push(Part {
                name: short_name(&param.name),
                kind: new.tensor.kind(),
                shape: new.tensor.size(),
                origin: Origin::Drawn(new.tensor.shallow_clone()),
            });
            continue;
        }
        let (source, used) = match (param.module, tower) {
            (Module::Language, _) | (_, None) => (llm, &mut used[1]),
            (_, Some(tower)) => (tower, &mut used[0]),
        };
        let part = found(config, rows, source, &param)?;
        if let Origin::Copied { parts, .. } = &part.origin {
            used.extend(parts.iter().cloned());
        }
        parts.push(part);
    }
    if config.text.tie_word_embeddings && llm.weights.contains("lm_head.weight") {
        same_head(llm)?;
        used[1].insert("lm_head.weight".into());
    }
    for (source, used, is_tower) in [(tower, &used[0], true), (Some(llm), &used[1], false)] {
        let Some(source) = source else { continue };
        let unknown: Vec<&str> =
            source.weights.names().filter(|n| !used.contains(*n) && !source.left_out(n, is_tower)).collect();
        if let Some(first) = unknown.first() {
            let shape = source.weights.describe(first).map(|(_, shape, _)| shape.to_vec()).unwrap_or_default();
            return Err(wrong(format!(
                "{}: tensor {} with shape {shape:?} has no place in the model{}: its config.json does not belong to these \
                 weights, or the model is of another kind than it says",
                source.weights.files_text(),
                source.file_name(first),
                more(unknown.len() - 1)
            )));
        }
    }
    Ok(parts)
}

fn more(n: usize) -> String {
    if n == 0 { String::new() } else { format!(" (and {n} more)") }
}

/// Where `param` is in `source`.
fn found<'a>(config: &ModelConfig, rows: i64, source: &'a Source, param: &Param) -> Result<Part<'a>> {
    let shape = param.tensor.size();
    let mut names = source.parts(&param.name);
    let embedding = "model.language_model.embed_tokens.weight";
    // A tied model's head, where one of its own is asked for, is what it was before: the embedding.
    let head = param.name == "lm_head.weight" && !source.weights.contains("lm_head.weight");
    if head && source.tied {
        names = vec![embedding.to_owned()];
    }
    let table = param.name == embedding || param.name == "lm_head.weight";
    let more_rows = if table { config.text.vocab_size - rows } else { 0 };
    let mut wanted = shape.clone();
    if let Some(first) = wanted.first_mut() {
        *first = if table { rows } else { *first / names.len() as i64 };
    }
    let mut kind = None;
    for name in &names {
        let Some((its, seen, file)) = source.weights.describe(name) else {
            return Err(wrong(format!(
                "{}: tensor {name} with shape {wanted:?} is missing, which makes {}: check that all weight files are there \
                 and that config.json belongs to them",
                source.weights.files_text(),
                short_name(&param.name)
            )));
        };
        if seen != wanted {
            return Err(wrong(format!(
                "{}: tensor {file} has shape {seen:?}, config.json there wants {wanted:?}: it does not belong to these weights",
                source.folder.display()
            )));
        }
        if !matches!(its, Kind::Float | Kind::BFloat16 | Kind::Half | Kind::Double) {
            return Err(wrong(format!(
                "{}: tensor {file} holds integers ({its:?}), no weights",
                source.folder.display()
            )));
        }
        if kind.is_some_and(|k| k != its) {
            return Err(wrong(format!(
                "{}: tensor {file} is {its:?} and those that it is joined with are not: convert the tower to one kind",
                source.folder.display()
            )));
        }
        kind = Some(its);
    }
    Ok(Part {
        name: short_name(&param.name),
        kind: kind.unwrap_or(Kind::Float),
        shape,
        origin: Origin::Copied { source, parts: names, more_rows },
    })
}

/// An error unless a tied model's head, which need not be in the file, is its embedding.
fn same_head(llm: &Source) -> Result<()> {
    let embedding = "model.language_model.embed_tokens.weight";
    let different = || {
        wrong(format!(
            "{}: tie_word_embeddings is true, but lm_head.weight is not the embedding; to keep it as a head of its own, \
             give --untie",
            llm.folder.display()
        ))
    };
    let of = |name: &str| llm.weights.describe(name).map(|(kind, shape, _)| (kind, shape.to_vec()));
    if of("lm_head.weight") != of(embedding) {
        return Err(different());
    }
    let mut other = Vec::new();
    llm.weights.read("lm_head.weight", &mut |at, bytes| {
        other.resize(bytes.len(), 0);
        llm.weights.read_at(embedding, at, &mut other)?;
        if other == bytes { Ok(()) } else { Err(different()) }
    })
}

fn values_of(part: &Part<'_>) -> u64 {
    part.shape.iter().product::<i64>().unsigned_abs()
}

fn bytes_of(part: &Part<'_>) -> u64 {
    values_of(part) * part.kind.elt_size_in_bytes() as u64
}

impl Part<'_> {
    /// Its bytes, in order.
    fn fill(&self, put: &mut Put<'_>) -> Result<()> {
        let (source, parts, more_rows) = match &self.origin {
            Origin::Drawn(tensor) => return put(Bytes::new(tensor)?.as_slice()),
            Origin::Copied { source, parts, more_rows } => (source, parts, *more_rows),
        };
        for name in parts {
            source.weights.read(name, &mut |_, bytes| put(bytes))?;
        }
        if let (1.., Some(name)) = (more_rows, parts.first()) {
            let row = mean_row(&source.weights, name, self.shape[0] - more_rows)?.f_to_kind(self.kind)?;
            let row = Bytes::new(&row)?;
            for _ in 0..more_rows {
                put(row.as_slice())?;
            }
        }
        Ok(())
    }
}

/// Mean of the rows of a table, summed in fp64.
fn mean_row(weights: &Checkpoint, name: &str, rows: i64) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for first in (0..rows).step_by(ROWS as usize) {
        let part = weights.rows(name, first, ROWS)?.f_to_kind(Kind::Double)?;
        let part = part.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&part)?,
            None => part,
        });
    }
    let sum = sum.ok_or_else(|| wrong(format!("{name} has no rows")))?;
    Ok(sum.f_div_scalar(rows as f64)?)
}

/// Reads the result again and compares every tensor with what it was made from. Gives the tensors' hashes.
fn check(out: &Path, parts: &[Part<'_>], step: &dyn Fn(usize)) -> Result<Map<String, Value>> {
    let result = Checkpoint::open_folder(out, long_name)?;
    let mut hashes = Map::new();
    for part in parts {
        let long = long_name(&part.name);
        let differs = || {
            wrong(format!(
                "{}: tensor {} is not what it was made from: the disk or the memory is at fault, or a source changed meanwhile",
                out.display(),
                part.name
            ))
        };
        if result.describe(&long).is_none_or(|(kind, shape, _)| (kind, shape) != (part.kind, &part.shape)) {
            return Err(differs());
        }
        let (mut at, mut hash, mut there) = (0u64, Sha256::new(), Vec::new());
        part.fill(&mut |bytes| {
            // A drawn tensor comes in one piece.
            for bytes in bytes.chunks(1 << 20) {
                there.resize(bytes.len(), 0);
                result.read_at(&long, at, &mut there)?;
                if there != bytes {
                    return Err(differs());
                }
                hash.update(&there);
                at += bytes.len() as u64;
                step(bytes.len());
            }
            Ok(())
        })?;
        hashes.insert(part.name.clone(), json!(hex(hash)));
    }
    if result.names().count() != parts.len() {
        let (n, wanted) = (result.names().count(), parts.len());
        return Err(wrong(format!("{}: {n} tensors were written instead of {wanted}", out.display())));
    }
    Ok(hashes)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What of a source is in the result.
fn summary(source: &Source, parts: &[Part<'_>], tower: bool, hashes: &Map<String, Value>) -> MergedSource {
    let (mut names, mut hash) = (BTreeSet::new(), Sha256::new());
    for part in parts {
        let Origin::Copied { source: from, parts, .. } = &part.origin else { continue };
        if std::ptr::eq(*from, source) {
            names.extend(parts);
            hash.update(part.name.as_bytes());
            hash.update(hashes.get(&part.name).and_then(Value::as_str).unwrap_or_default().as_bytes());
        }
    }
    let values = |name: &&String| {
        source.weights.describe(name).map_or(0, |(_, shape, _)| shape.iter().product::<i64>().unsigned_abs())
    };
    let left_out = source.weights.names().filter(|n| source.left_out(n, tower));
    MergedSource {
        folder: source.folder.clone(),
        model_type: source.model_type.clone(),
        tensors: names.len(),
        values: names.iter().map(values).sum(),
        sha256: hex(hash),
        left_out: left_out.map(|n| source.file_name(n).to_owned()).collect(),
    }
}

/// The finished folder reads as a model: configuration, names and shapes, tokenizer.
fn finished(out: &Path, config: &ModelConfig) -> Result<()> {
    let read = ModelConfig::from_folder(out)?;
    let chat = ChatTokenizer::from_folder(out).map_err(|e| wrong(e.to_string()))?;
    chat.check_vocab(read.text.vocab_size.unsigned_abs() as usize).map_err(|e| wrong(e.to_string()))?;
    if (&read.text, &read.vision) != (&config.text, &config.vision) {
        return Err(wrong(format!("{}: config.json does not say what was merged; please report this", out.display())));
    }
    Ok(())
}
