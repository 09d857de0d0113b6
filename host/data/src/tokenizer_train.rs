//! Trains a byte-level BPE tokenizer: texts in, a tokenizer folder out that `transformers` loads unchanged.
//!
//! Words are cut as Qwen cuts them (NFC, Qwen's regular expression, bytes), so a small tokenizer for a CPU run and the
//! released one differ in their merges only. The merges are learnt here rather than by the `tokenizers` trainer, whose
//! result can depend on hash order when one pair is formed in two ways; a recipe must give the same ids everywhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::tokenizer::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, normalizer::NormalizedString,
};
use tokenizers::{Normalizer, NormalizerWrapper, PreTokenizerWrapper};

/// Qwen's special tokens that this model family uses, in Qwen's order.
pub const SPECIAL_TOKENS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// Qwen2's word boundaries (Apache-2.0): contractions, letters with one leading sign, single digits, signs, white space.
const WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The chat template written beside the tokenizer: ChatML, images as Qwen2-VL writes them, a system turn only when given.
pub const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

/// Least vocabulary: the 256 bytes and the special tokens.
pub const MIN_VOCAB: usize = 256 + SPECIAL_TOKENS.len();

/// What training a tokenizer can fail with.
#[derive(Debug, thiserror::Error)]
pub enum TrainTokenizerError {
    /// The vocabulary cannot hold the bytes and the special tokens.
    #[error(
        "a vocabulary of {asked} is too small: 256 bytes and {} special tokens are always there, so the least is {MIN_VOCAB}",
        SPECIAL_TOKENS.len()
    )]
    TooSmall {
        /// What was asked for.
        asked: usize,
    },
    /// No text came.
    #[error("there is no text to train on: every record was empty; check the shards and the field names")]
    NoText,
    /// A file could not be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The word cutter failed.
    #[error("the text cannot be cut into words: {0}")]
    Cut(String),
}

/// Facts about a trained tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// Ids in all, special tokens included; may be below what was asked when the text has no more pairs.
    pub vocab_size: usize,
    /// Learnt merges.
    pub merges: usize,
    /// Distinct words seen.
    pub words: usize,
    /// Bytes of text seen.
    pub bytes: u64,
}

/// Trains on `texts` to at most `vocab_size` ids (special tokens included, as the last ids) and writes `tokenizer.json`,
/// `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` into `out_dir` (made if absent).
///
/// The same texts in any order give the same bytes.
///
/// # Errors
/// See [`TrainTokenizerError`].
pub fn train_bpe(
    texts: impl Iterator<Item = String>,
    vocab_size: usize,
    out_dir: &Path,
) -> Result<TrainedTokenizer, TrainTokenizerError> {
    if vocab_size < MIN_VOCAB {
        return Err(TrainTokenizerError::TooSmall { asked: vocab_size });
    }
    let (words, bytes) = count_words(texts)?;
    if words.is_empty() {
        return Err(TrainTokenizerError::NoText);
    }
    let alphabet = byte_alphabet();
    let learnt = learn_merges(&words, &alphabet, vocab_size - SPECIAL_TOKENS.len());

    let mut vocab = serde_json::Map::new();
    for (id, token) in learnt.tokens.iter().enumerate() {
        vocab.insert(token.clone(), json!(id));
    }
    let first_special = learnt.tokens.len();
    let special = |i: usize, text: &str| {
        json!({"id": first_special + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = SPECIAL_TOKENS.iter().enumerate().map(|(i, text)| special(i, text)).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer_json(), "pre_tokenizer": pre_tokenizer_json(),
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": learnt.merges},
    });
    let decoder: serde_json::Map<String, Value> = added
        .iter()
        .enumerate()
        .map(|(i, token)| {
            let mut token = token.clone();
            token.as_object_mut().and_then(|t| t.shift_remove("id"));
            ((first_special + i).to_string(), token)
        })
        .collect();
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": false, "added_tokens_decoder": decoder,
        "additional_special_tokens": &SPECIAL_TOKENS[1..], "bos_token": null, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": null, "errors": "replace", "clean_up_tokenization_spaces": false,
        "split_special_tokens": false, "model_max_length": 131_072, "chat_template": CHAT_TEMPLATE,
    });
    let generation =
        json!({"eos_token_id": [first_special + 2, first_special], "pad_token_id": first_special, "do_sample": false});

    std::fs::create_dir_all(out_dir)
        .map_err(|source| TrainTokenizerError::Write { path: out_dir.display().to_string(), source })?;
    let pretty = |value: &Value| serde_json::to_vec_pretty(value).unwrap_or_default();
    write(out_dir, "tokenizer.json", &pretty(&tokenizer))?;
    write(out_dir, "tokenizer_config.json", &pretty(&config))?;
    write(out_dir, "chat_template.jinja", CHAT_TEMPLATE.as_bytes())?;
    write(out_dir, "generation_config.json", &pretty(&generation))?;
    Ok(TrainedTokenizer {
        vocab_size: first_special + SPECIAL_TOKENS.len(),
        merges: learnt.merges.len(),
        words: words.len(),
        bytes,
    })
}

/// Whole or not at all: a temporary name, then a rename.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), TrainTokenizerError> {
    let path = dir.join(name);
    let whole = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        // A temporary file is private to its owner; these are shared like any other.
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(())
    };
    whole().map_err(|source| TrainTokenizerError::Write { path: path.display().to_string(), source })
}

fn normalizer_json() -> Value {
    json!({"type": "NFC"})
}

/// The cutting of text into words, in the form of `tokenizer.json`.
pub fn pre_tokenizer_json() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]})
}

/// Words (in the byte alphabet) with their counts, in a fixed order.
fn count_words(texts: impl Iterator<Item = String>) -> Result<(BTreeMap<String, u64>, u64), TrainTokenizerError> {
    let cut = |e: &dyn std::fmt::Display| TrainTokenizerError::Cut(e.to_string());
    let normalizer: NormalizerWrapper = serde_json::from_value(normalizer_json()).map_err(|e| cut(&e))?;
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer_json()).map_err(|e| cut(&e))?;
    let (mut words, mut bytes) = (BTreeMap::new(), 0);
    for text in texts {
        bytes += text.len() as u64;
        let mut normalized = NormalizedString::from(text.as_str());
        normalizer.normalize(&mut normalized).map_err(|e| cut(&e))?;
        let mut pieces = PreTokenizedString::from(normalized);
        pre_tokenizer.pre_tokenize(&mut pieces).map_err(|e| cut(&e))?;
        for (word, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    words.insert(word.to_string(), 1u64);
                }
            }
        }
    }
    Ok((words, bytes))
}

/// The printable characters that stand for the 256 bytes, in GPT-2's order (ids of the published byte-level tokenizers).
fn byte_alphabet() -> Vec<char> {
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    alphabet
}

struct Learnt {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

/// Merges the most frequent pair until there are `size` tokens or no pair is left; ties go to the smaller ids.
fn learn_merges(words: &BTreeMap<String, u64>, alphabet: &[char], size: usize) -> Learnt {
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut ids: HashMap<String, u32> = tokens.iter().enumerate().map(|(i, t)| (t.clone(), i as u32)).collect();
    let mut buffer = [0u8; 4];
    let mut symbols: Vec<(Vec<u32>, u64)> = words
        .iter()
        .map(|(word, count)| {
            let letters = word.chars().filter_map(|c| ids.get(&*c.encode_utf8(&mut buffer)).copied());
            (letters.collect(), *count)
        })
        .collect();
    // Count of every pair now, and the words that may hold it (a superset; merging looks again).
    let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
    let mut places: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    for (w, (word, count)) in symbols.iter().enumerate() {
        for pair in word.windows(2) {
            let pair = (pair[0], pair[1]);
            *counts.entry(pair).or_default() += count;
            let at = places.entry(pair).or_default();
            if at.last() != Some(&w) {
                at.push(w);
            }
        }
    }
    // Entries go stale as counts change; one is taken only if it states the present count.
    let mut queue: BinaryHeap<(u64, Reverse<(u32, u32)>)> =
        counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
    let (mut merges, mut done) = (Vec::new(), HashSet::new());
    while tokens.len() < size {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        if count == 0 || counts.get(&pair) != Some(&count) {
            continue;
        }
        let (left, right) = (tokens[pair.0 as usize].clone(), tokens[pair.1 as usize].clone());
        let text = format!("{left}{right}");
        // Two ways to one text share an id.
        let id = *ids.entry(text.clone()).or_insert_with(|| {
            tokens.push(text);
            tokens.len() as u32 - 1
        });
        // A pair can form again where two ways lead to one text; its rank stays the first.
        if done.insert(pair) {
            merges.push((left, right));
        }
        let mut changed: BTreeMap<(u32, u32), ()> = BTreeMap::new();
        for w in places.remove(&pair).unwrap_or_default() {
            let (word, count) = &mut symbols[w];
            if !word.windows(2).any(|p| (p[0], p[1]) == pair) {
                continue;
            }
            for old in word.windows(2) {
                if let Some(n) = counts.get_mut(&(old[0], old[1])) {
                    *n -= *count;
                }
                changed.insert((old[0], old[1]), ());
            }
            let mut merged = Vec::with_capacity(word.len());
            let mut i = 0;
            while i < word.len() {
                if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
                    merged.push(id);
                    i += 2;
                } else {
                    merged.push(word[i]);
                    i += 1;
                }
            }
            *word = merged;
            for new in word.windows(2) {
                let new = (new[0], new[1]);
                *counts.entry(new).or_default() += *count;
                let at = places.entry(new).or_default();
                if at.last() != Some(&w) {
                    at.push(w);
                }
                changed.insert(new, ());
            }
        }
        counts.remove(&pair);
        for changed in changed.into_keys() {
            if let Some(count) = counts.get(&changed).filter(|n| **n > 0) {
                queue.push((*count, Reverse(changed)));
            }
        }
    }
    Learnt { tokens, merges }
}

#[cfg(test)]
mod tests;
