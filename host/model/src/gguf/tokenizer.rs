//! A GGUF file's tokenizer, in its metadata, as the files of a Hugging Face folder. Byte-level BPE alone.

use std::path::Path;

use anamnesis::{GgufMetadataArray, GgufMetadataValue};
use ovhost_data::tokenizer_train::pre_tokenizer_json as qwen2;
use serde_json::{Map, Value, json};

use super::{Meta, wrong};
use crate::error::Result;
use crate::save::write_file;

/// Token types of the format.
const NORMAL: u32 = 1;
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER: u32 = 4;
const UNUSED: u32 = 5;

/// Names of pre-tokenizers that are known, as `tokenizer.ggml.pre` has them.
const PRE: [&str; 5] = ["gpt-2", "smollm", "qwen2", "llama-bpe", "llama3"];

/// Llama 3's word boundaries.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut into words before the merges: normalizer, pre-tokenizer, and whether a word that is a token needs no merges.
fn cutting(pre: &str, file: &Path) -> Result<(Value, Value, bool)> {
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    Ok(match pre {
        "gpt-2" => (Value::Null, byte_level(true), false),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (Value::Null, json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), false)
        }
        "qwen2" => (json!({"type": "NFC"}), qwen2(), false),
        "llama-bpe" | "llama3" => {
            let split = json!({"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false});
            (Value::Null, json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]}), true)
        }
        other => {
            return Err(wrong(format!(
                "{}: the pre-tokenizer (tokenizer.ggml.pre) is {other:?}; known are {}: give the folder of the model's own \
                 tokenizer with --tokenizer",
                file.display(),
                PRE.join(", ")
            )));
        }
    })
}

/// The tokenizer's ids that `config.json` names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ids {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
}

impl Ids {
    pub(super) fn of(meta: &Meta<'_>) -> Self {
        let id = |name: &str| meta.number(&format!("tokenizer.ggml.{name}_token_id"));
        Ids { bos: id("bos"), eos: id("eos"), pad: id("padding") }
    }
}

/// Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and the chat template into `out`.
pub(super) fn write(meta: &Meta<'_>, out: &Path, positions: u32) -> Result<()> {
    let file = meta.path;
    let kind = meta.text("tokenizer.ggml.model").unwrap_or_default();
    if kind != "gpt2" {
        return Err(wrong(format!(
            "{}: the tokenizer (tokenizer.ggml.model) is {kind:?}; byte-level BPE (\"gpt2\") is supported: give the folder of \
             the model's own tokenizer with --tokenizer",
            file.display()
        )));
    }
    let (normalizer, pre_tokenizer, ignore_merges) = cutting(meta.text("tokenizer.ggml.pre").unwrap_or("gpt-2"), file)?;
    let list = |key: &str| -> Result<&[String]> {
        let texts = meta.get(key).and_then(GgufMetadataValue::as_array).and_then(GgufMetadataArray::as_string_slice);
        texts.ok_or_else(|| wrong(format!("{}: {key} is missing or no list of texts", file.display())))
    };
    let tokens = list("tokenizer.ggml.tokens")?;
    let types: Vec<u32> = match meta.get("tokenizer.ggml.token_type").and_then(GgufMetadataValue::as_array) {
        Some(GgufMetadataArray::I32(types)) => types.iter().map(|t| t.unsigned_abs()).collect(),
        Some(GgufMetadataArray::U32(types)) => types.clone(),
        _ => vec![NORMAL; tokens.len()],
    };
    if types.len() != tokens.len() {
        let (n, m) = (types.len(), tokens.len());
        return Err(wrong(format!("{}: tokenizer.ggml.token_type has {n} entries for {m} tokens", file.display())));
    }
    let mut merges = Vec::new();
    for merge in list("tokenizer.ggml.merges")? {
        match merge.split_once(' ') {
            Some((left, right)) => merges.push(json!([left, right])),
            None => return Err(wrong(format!("{}: the merge {merge:?} is no pair", file.display()))),
        }
    }
    let (mut vocab, mut added, mut decoder) = (Map::new(), Vec::new(), Map::new());
    for (id, (text, kind)) in tokens.iter().zip(&types).enumerate() {
        // Rows of the embedding that no text gives.
        if *kind == UNUSED {
            continue;
        }
        vocab.insert(text.clone(), json!(id));
        if matches!(*kind, CONTROL | USER | UNKNOWN) {
            let mut token = json!({"content": text, "single_word": false, "lstrip": false, "rstrip": false,
                                   "normalized": false, "special": *kind != USER});
            decoder.insert(id.to_string(), token.clone());
            token["id"] = json!(id);
            added.push(token);
        }
    }
    let ids = Ids::of(meta);
    let named = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize)).map_or(Value::Null, |text| json!(text));
    let (bos, eos, pad) = (named(ids.bos), named(ids.eos), named(ids.pad));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let add_bos = matches!(meta.get("tokenizer.ggml.add_bos_token"), Some(GgufMetadataValue::Bool(true)));
    let post = match (&bos, add_bos) {
        (Value::String(text), true) => {
            let (first, a) =
                (json!({"SpecialToken": {"id": text, "type_id": 0}}), json!({"Sequence": {"id": "A", "type_id": 0}}));
            let b = json!({"Sequence": {"id": "B", "type_id": 1}});
            let special = json!({"id": text, "ids": [ids.bos], "tokens": [text]});
            let template = json!({"type": "TemplateProcessing", "single": [first, a], "pair": [first, a, first, b],
                                  "special_tokens": {text: special}});
            json!({"type": "Sequence", "processors": [byte_level, template]})
        }
        _ => byte_level.clone(),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
                  "vocab": vocab, "merges": merges},
    });
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": false, "added_tokens_decoder": decoder,
        "bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": null,
        "clean_up_tokenization_spaces": false, "model_max_length": positions,
    });
    let mut generation = Map::new();
    for (key, id) in [("bos_token_id", ids.bos), ("eos_token_id", ids.eos), ("pad_token_id", ids.pad)] {
        if let Some(id) = id {
            generation.insert(key.to_owned(), json!(id));
        }
    }
    if let Some(template) = meta.text("tokenizer.chat_template") {
        config["chat_template"] = json!(template);
        write_file(&out.join("chat_template.jinja"), template.as_bytes())?;
    }
    for (name, value) in [
        ("tokenizer.json", &tokenizer),
        ("tokenizer_config.json", &config),
        ("generation_config.json", &Value::Object(generation)),
    ] {
        write_file(&out.join(name), format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Copies the tokenizer's files of another folder.
pub(super) fn copy(from: &Path, out: &Path) -> Result<()> {
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    ];
    if !from.join("tokenizer.json").is_file() {
        return Err(wrong(format!("{} has no tokenizer.json; name the folder of a tokenizer", from.display())));
    }
    for name in names {
        let path = from.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|e| crate::error::ModelError::io(&path, e))?;
            write_file(&out.join(name), &bytes)?;
        }
    }
    Ok(())
}
