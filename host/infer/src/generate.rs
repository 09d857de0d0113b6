//! A model with settings, and lists of prompts answered by it. The loop itself is in `stream`.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ovhost_model::LlavaOnevision;
use serde::Serialize;

use crate::stream::Asked;
use crate::{GenerationConfig, Result};

/// Prompts that run at once where the caller says nothing.
const BATCH: usize = 64;
/// Prompt tokens of one pass where the caller says nothing.
const PREFILL_TOKENS: usize = 16_384;

/// One prompt.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// Token ids, image tokens already repeated as often as their images need.
    pub input_ids: Vec<i64>,
    /// Patch rows of all images, in the order of their tokens.
    pub pixel_values: Vec<f32>,
    /// Frames, rows and columns of patches of each image.
    pub grid_thw: Vec<[i64; 3]>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence token.
    Eos,
    /// `max_new_tokens` were made.
    Length,
    /// A stop string appeared.
    Stop,
    /// The callback or the stop flag said so.
    Cancelled,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FinishReason::Eos => "eos",
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
            FinishReason::Cancelled => "cancelled",
        })
    }
}

/// What was generated for one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// New tokens, without the end-of-sequence token.
    pub ids: Vec<i64>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it, which the text of `ids` contains: cut there.
    pub stop_string: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl Generation {
    /// What there is of an answer that was broken off.
    pub(crate) fn unfinished(ids: Vec<i64>, prompt_tokens: usize) -> Self {
        Generation { ids, finish_reason: FinishReason::Cancelled, stop_string: None, prompt_tokens }
    }
}

/// Called with (prompt's place in the call, new token) as tokens come, the end-of-sequence token excepted; `Break` ends
/// every sequence of the call.
pub type TokenCallback<'c> = &'c mut dyn FnMut(usize, i64) -> ControlFlow<()>;

type Decoder<'a> = Box<dyn Fn(&[i64]) -> std::result::Result<String, String> + 'a>;

/// A model with settings.
pub struct Generator<'a> {
    pub(crate) model: &'a LlavaOnevision,
    pub(crate) config: Arc<GenerationConfig>,
    pub(crate) decoder: Option<Decoder<'a>>,
    pub(crate) batch: usize,
    pub(crate) prefill_tokens: usize,
    pub(crate) stop: Option<Arc<AtomicBool>>,
}

impl<'a> Generator<'a> {
    /// A generator; where `config` names no end-of-sequence token, the model's configuration does.
    ///
    /// # Errors
    /// Settings outside their range.
    pub fn new(model: &'a LlavaOnevision, config: GenerationConfig) -> Result<Self> {
        config.check()?;
        let mut config = config;
        if config.eos_token_ids.is_empty() {
            config.eos_token_ids.clone_from(&model.config().eos_token_ids);
        }
        Ok(Generator {
            model,
            config: Arc::new(config),
            decoder: None,
            batch: BATCH,
            prefill_tokens: PREFILL_TOKENS,
            stop: None,
        })
    }

    /// Tokens to text, which stop strings need.
    pub fn with_decoder(mut self, decoder: impl Fn(&[i64]) -> std::result::Result<String, String> + 'a) -> Self {
        self.decoder = Some(Box::new(decoder));
        self
    }

    /// Prompts that run at once (64 by default): more are faster and take more memory.
    pub fn with_batch_size(mut self, prompts: usize) -> Self {
        self.batch = prompts.max(1);
        self
    }

    /// Prompt tokens, image tokens included, that run in one pass at most (16,384 by default), though always one prompt:
    /// what bounds the memory of a pass.
    pub fn with_prefill_tokens(mut self, tokens: usize) -> Self {
        self.prefill_tokens = tokens;
        self
    }

    /// A flag, set by a signal handler for example, that ends every sequence before its next token.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The settings in force.
    pub fn config(&self) -> &GenerationConfig {
        &self.config
    }

    /// Answers, in the order of the prompts. Every prompt is checked before the first runs.
    ///
    /// # Errors
    /// A prompt that does not fit the model (named by its place), stop strings without a decoder, or what libtorch throws.
    pub fn generate(&self, prompts: &[Prompt], mut callback: Option<TokenCallback<'_>>) -> Result<Vec<Generation>> {
        self.check_config(&self.config)?;
        for (index, prompt) in prompts.iter().enumerate() {
            self.check_prompt(index as u64, prompt)?;
        }
        let mut out: Vec<Generation> =
            prompts.iter().map(|p| Generation::unfinished(Vec::new(), p.input_ids.len())).collect();
        let mut coming = prompts.iter().enumerate();
        let mut token = |id: u64, token: i64| match callback.as_mut() {
            Some(callback) => callback(id as usize, token),
            None => ControlFlow::Continue(()),
        };
        let mut next = || Ok(coming.next().map(|(i, prompt)| Asked { id: i as u64, prompt, config: None }));
        let mut done = |id: u64, answer: Result<Generation>| -> Result<ControlFlow<()>> {
            out[id as usize] = answer?;
            Ok(ControlFlow::Continue(()))
        };
        let (_, unfinished) = self.stream(&mut next, &mut done, &mut token)?;
        for (id, generation) in unfinished {
            out[id as usize] = generation;
        }
        Ok(out)
    }
}
