//! `generation_config.json` → how tokens are picked and when a sequence ends.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{InferError, Result};

/// How tokens are picked and when a sequence ends. The defaults are Hugging Face's: greedy, 20 tokens are not enough, so 512.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Draw tokens instead of taking the likeliest.
    pub do_sample: bool,
    /// Divides the logits; above one is more varied. Only with `do_sample`.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability. Only with `do_sample`.
    pub top_p: f64,
    /// Only this many likeliest tokens; 0 is no limit. Only with `do_sample`.
    pub top_k: usize,
    /// Above one makes tokens that were already said less likely.
    pub repetition_penalty: f64,
    /// Tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; where empty, those of the model's configuration.
    #[serde(deserialize_with = "one_or_many", rename = "eos_token_id")]
    pub eos_token_ids: Vec<i64>,
    /// Texts that end a sequence.
    #[serde(deserialize_with = "texts")]
    pub stop_strings: Vec<String>,
    /// Seed of the draws; sequence i of a call has stream i of it.
    pub seed: u64,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            do_sample: false,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 50,
            repetition_penalty: 1.0,
            max_new_tokens: 512,
            eos_token_ids: Vec::new(),
            stop_strings: Vec::new(),
            seed: 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

fn list<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<Vec<T>, D::Error> {
    Ok(match Option::<OneOrMany<T>>::deserialize(d)? {
        None => Vec::new(),
        Some(OneOrMany::One(one)) => vec![one],
        Some(OneOrMany::Many(many)) => many,
    })
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Vec<i64>, D::Error> {
    list(d)
}

fn texts<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Vec<String>, D::Error> {
    list(d)
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a model folder; without that file the defaults.
    ///
    /// # Errors
    /// Broken JSON, values outside their range, or a search strategy that is not supported.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("generation_config.json");
        let file = path.display().to_string();
        let error = |key: &str, reason: String| InferError::Config { file: file.clone(), key: key.to_owned(), reason };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(error("file", e.to_string())),
        };
        let mut value: serde_json::Value = serde_json::from_str(&text).map_err(|e| error("JSON", e.to_string()))?;
        if let Some(map) = value.as_object_mut() {
            // null means the default, as in transformers.
            map.retain(|_, v| !v.is_null());
            let beams = map.get("num_beams").and_then(serde_json::Value::as_u64).unwrap_or(1);
            if beams != 1 {
                return Err(error("num_beams", format!("is {beams}; beam search is not supported: set it to 1")));
            }
        }
        let config: Self = serde_json::from_value(value).map_err(|e| error("value", e.to_string()))?;
        config.check_as(&file)?;
        Ok(config)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first value outside its range, with what is allowed.
    pub fn check(&self) -> Result<()> {
        self.check_as("generation settings")
    }

    fn check_as(&self, file: &str) -> Result<()> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let bad =
            |key: &str, reason: String| Err(InferError::Config { file: file.to_owned(), key: key.to_owned(), reason });
        if self.do_sample && !positive(self.temperature) {
            return bad(
                "temperature",
                format!("is {}; above 0 is allowed (for greedy set do_sample to false)", self.temperature),
            );
        }
        if !(positive(self.top_p) && self.top_p <= 1.0) {
            return bad("top_p", format!("is {}; above 0 and up to 1 is allowed", self.top_p));
        }
        if !positive(self.repetition_penalty) {
            return bad("repetition_penalty", format!("is {}; above 0 is allowed", self.repetition_penalty));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return bad("stop_strings", "holds an empty text, which would end every answer at once".to_owned());
        }
        Ok(())
    }
}
