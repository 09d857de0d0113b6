//! What belongs to a model beside its weights: the language model's tokenizer with this family's special tokens in it, a chat
//! template that shows pictures, generation settings and the image processor.
//!
//! ```text
//!  LLM folder ─► Words::read ─► ids, size of the vocabulary ─► config.json
//!                     └────────► Words::write ─► tokenizer*, chat_template.jinja, generation_config.json, …
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use ovhost_data::ImageProcessor;
use ovhost_data::tokenizer_train::{CHAT_TEMPLATE, SPECIAL_TOKENS};
use serde_json::{Map, Value, json};

use super::sources::object;
use crate::error::{ModelError, Result};
use crate::llava_onevision1_5::config::VisionConfig;
use crate::llava_onevision1_5::weights::is_companion;
use crate::save::write_file;

/// Largest picture, in pixels: 1600 by 1600, as the reference's processor has it.
const MAX_PIXELS: i64 = 1600 * 1600;

/// A language model's tokenizer and what goes with it.
pub(super) struct Words {
    tokenizer: Map<String, Value>,
    config: Map<String, Value>,
    generation: Map<String, Value>,
    /// Tokens that the tokenizer lacked, with their ids.
    pub(super) added: Vec<(String, i64)>,
    /// Largest id plus one.
    pub(super) len: i64,
    ids: Vec<(&'static str, i64)>,
}

fn wrong(message: String) -> ModelError {
    ModelError::Source(message)
}

/// The object of a file that need not be there.
fn optional(path: &Path) -> Result<Map<String, Value>> {
    if path.is_file() { object(path) } else { Ok(Map::new()) }
}

impl Words {
    /// Reads a language model's folder and finds ids for the special tokens that it lacks: the first that nothing has.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(wrong(format!(
                "{} is missing; the language model's folder must have its tokenizer, as save_pretrained writes it",
                path.display()
            )));
        }
        let mut tokenizer = object(&path)?;
        let mut len = 0;
        let mut known = Map::new();
        let listed = tokenizer.get("added_tokens").and_then(Value::as_array).cloned().unwrap_or_default();
        for token in &listed {
            if let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_i64()) {
                known.insert(text.to_owned(), json!(id));
                len = len.max(id + 1);
            }
        }
        let model = tokenizer.get("model").and_then(|m| m.get("vocab")).and_then(Value::as_object);
        let Some(vocab) = model else {
            return Err(wrong(format!(
                "{}: model.vocab is no object of tokens and ids; a byte-level BPE tokenizer is wanted",
                path.display()
            )));
        };
        len = vocab.values().filter_map(Value::as_i64).fold(len, |len, id| len.max(id + 1));
        let (mut added, mut ids, mut tokens) = (Vec::new(), Vec::new(), listed.clone());
        for text in SPECIAL_TOKENS {
            let id = match known.get(text).or_else(|| vocab.get(text)).and_then(Value::as_i64) {
                Some(id) => id,
                None => {
                    added.push((text.to_owned(), len));
                    len += 1;
                    len - 1
                }
            };
            ids.push((text, id));
            match tokens.iter_mut().find(|t| t["content"] == text) {
                Some(token) => token["special"] = json!(true),
                None => tokens.push(described(text, Some(id))),
            }
        }
        if tokens != listed {
            tokens.sort_by_key(|t| t["id"].as_i64());
            tokenizer.insert("added_tokens".into(), Value::Array(tokens));
        }
        let config = optional(&dir.join("tokenizer_config.json"))?;
        let generation = optional(&dir.join("generation_config.json"))?;
        Ok(Words { tokenizer, config, generation, added, len, ids })
    }

    /// The id of one of [`SPECIAL_TOKENS`].
    pub(super) fn id(&self, token: &str) -> i64 {
        self.ids.iter().find(|(text, _)| *text == token).map_or(0, |(_, id)| *id)
    }

    /// Ids that end an answer: the end of a turn first, then what the folder's own settings say.
    pub(super) fn ends(&self) -> Vec<i64> {
        let mut ends = vec![self.id("<|im_end|>")];
        let own = match self.generation.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_i64).collect(),
            Some(one) => one.as_i64().into_iter().collect(),
            None => vec![self.id("<|endoftext|>")],
        };
        ends.extend(own.into_iter().filter(|id| *id != ends[0]).collect::<Vec<_>>());
        ends
    }

    /// Writes everything but `config.json` and the weights into `out`. `system` is the system message of a conversation that
    /// has none.
    pub(super) fn write(
        &self,
        dir: &Path,
        out: &Path,
        system: &str,
        processor: Option<&Path>,
        vision: &VisionConfig,
    ) -> Result<()> {
        let changed: BTreeSet<&str> = [
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
            "preprocessor_config.json",
            "processor_config.json",
            "video_preprocessor_config.json",
        ]
        .into();
        for entry in std::fs::read_dir(dir).map_err(|e| ModelError::io(dir, e))? {
            let entry = entry.map_err(|e| ModelError::io(dir, e))?;
            let name = entry.file_name();
            let wanted = name.to_str().is_some_and(|n| is_companion(n) && !changed.contains(n));
            if wanted && entry.path().is_file() {
                let bytes = std::fs::read(entry.path()).map_err(|e| ModelError::io(&entry.path(), e))?;
                write_file(&out.join(name), &bytes)?;
            }
        }
        let put = |name: &str, map: &Map<String, Value>| {
            let text = serde_json::to_string_pretty(map).map_err(|e| wrong(format!("{name}: {e}")))?;
            write_file(&out.join(name), (text + "\n").as_bytes())
        };
        put("tokenizer.json", &self.tokenizer)?;
        let template = template(system);
        put("tokenizer_config.json", &self.tokenizer_config(&template))?;
        write_file(&out.join("chat_template.jinja"), template.as_bytes())?;
        let mut generation = self.generation.clone();
        generation.insert("eos_token_id".into(), json!(self.ends()));
        generation.entry("pad_token_id").or_insert_with(|| json!(self.id("<|endoftext|>")));
        put("generation_config.json", &generation)?;
        let processor = match processor {
            Some(path) => object(path)?,
            None => default_processor(vision),
        };
        put("preprocessor_config.json", &processor)?;
        let (patch, merge) = (vision.patch_size, vision.spatial_merge_size);
        let read = ImageProcessor::from_folder(out).map_err(|e| wrong(e.to_string()))?;
        if (i64::from(read.patch_size), i64::from(read.merge_size)) != (patch, merge) {
            return Err(wrong(format!(
                "the image processor cuts patches of {} and merges {}, the tower wants {patch} and {merge}: name one that agrees",
                read.patch_size, read.merge_size
            )));
        }
        if read.temporal_patch_size != 1 {
            let frames = read.temporal_patch_size;
            return Err(wrong(format!("the image processor's temporal_patch_size is {frames}; this model wants 1")));
        }
        Ok(())
    }

    fn tokenizer_config(&self, template: &str) -> Map<String, Value> {
        let mut config = self.config.clone();
        config.entry("tokenizer_class").or_insert_with(|| json!("PreTrainedTokenizerFast"));
        if !self.added.is_empty()
            && let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder")
        {
            decoder.extend(self.added.iter().map(|(text, id)| (id.to_string(), described(text, None))));
        }
        if let Some(Value::Array(list)) = config.get_mut("additional_special_tokens") {
            let missing: Vec<Value> =
                self.added.iter().map(|(text, _)| json!(text)).filter(|t| !list.contains(t)).collect();
            list.extend(missing);
        }
        config.insert("eos_token".into(), json!("<|im_end|>"));
        if config.get("pad_token").is_none_or(Value::is_null) {
            config.insert("pad_token".into(), json!("<|endoftext|>"));
        }
        config.insert("chat_template".into(), json!(template));
        config
    }
}

/// A special token, as `tokenizer.json` (with its id) and `tokenizer_config.json` describe it.
fn described(text: &str, id: Option<i64>) -> Value {
    let mut token = json!({"content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                           "special": true});
    if let (Some(id), Value::Object(map)) = (id, &mut token) {
        map.shift_insert(0, "id".into(), json!(id));
    }
    token
}

/// The chat template with a system turn for conversations that bring none.
fn template(system: &str) -> String {
    if system.is_empty() {
        return CHAT_TEMPLATE.to_owned();
    }
    let system = serde_json::to_string(system).unwrap_or_default();
    format!(
        "{{%- if messages[0]['role'] != 'system' -%}}\n{{{{- '<|im_start|>system\\n' + {system} + '<|im_end|>\\n' -}}}}\n\
         {{%- endif -%}}\n{CHAT_TEMPLATE}"
    )
}

fn default_processor(vision: &VisionConfig) -> Map<String, Value> {
    let token = vision.patch_size * vision.spatial_merge_size;
    let config = json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": true, "do_resize": true, "do_rescale": true, "do_normalize": true, "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size, "temporal_patch_size": 1,
        // Four tokens, as the reference has it for patches of 14.
        "min_pixels": 4 * token * token, "max_pixels": MAX_PIXELS,
        "size": {"shortest_edge": 4 * token * token, "longest_edge": MAX_PIXELS},
    });
    match config {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
