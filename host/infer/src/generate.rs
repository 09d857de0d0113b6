//! The loop: prefill, pick, decode.

use std::fmt;
use std::ops::{ControlFlow, Range};

use ovhost_model::{KvCache, LlavaOnevision, PackedInput};
use ovhost_torch::InferenceMode;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::sample::Picker;
use crate::{GenerationConfig, InferError, Result};

/// Prompts that run at once where the caller says nothing.
const BATCH: usize = 64;

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
    /// The callback said so.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Called with (prompt's place in the call, new token) as tokens come, the end-of-sequence token excepted; `Break` ends
/// every sequence of the call.
pub type TokenCallback<'c> = &'c mut dyn FnMut(usize, i64) -> ControlFlow<()>;

type Decoder<'a> = Box<dyn Fn(&[i64]) -> std::result::Result<String, String> + 'a>;

/// A model with settings.
pub struct Generator<'a> {
    model: &'a LlavaOnevision,
    config: GenerationConfig,
    decoder: Option<Decoder<'a>>,
    batch: usize,
}

/// A sequence on its way.
struct Running {
    /// Place in the call.
    prompt: usize,
    picker: Picker,
    ids: Vec<i64>,
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
        Ok(Generator { model, config, decoder: None, batch: BATCH })
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

    /// The settings in force.
    pub fn config(&self) -> &GenerationConfig {
        &self.config
    }

    /// Answers, in the order of the prompts.
    ///
    /// # Errors
    /// A prompt that does not fit the model (named by its place), stop strings without a decoder, or what libtorch throws.
    pub fn generate(&self, prompts: &[Prompt], mut callback: Option<TokenCallback<'_>>) -> Result<Vec<Generation>> {
        if !self.config.stop_strings.is_empty() && self.decoder.is_none() {
            return Err(InferError::Config {
                file: "generation settings".into(),
                key: "stop_strings".into(),
                reason: "need a tokenizer to be recognised; give the generator a decoder".into(),
            });
        }
        let width = self.model.config().vision.patch_dim() as usize;
        for (index, prompt) in prompts.iter().enumerate() {
            let patches = prompt.grid_thw.iter().map(|g| g.iter().product::<i64>()).sum::<i64>() as usize;
            let reason = if prompt.input_ids.is_empty() {
                "has no tokens; nothing can follow".to_owned()
            } else if prompt.pixel_values.len() != patches * width {
                format!("{} pixel values; its grids need {patches} patches of {width}", prompt.pixel_values.len())
            } else {
                continue;
            };
            return Err(InferError::Prompt { index, reason });
        }
        let _mode = InferenceMode::new()?;
        let mut done = Vec::with_capacity(prompts.len());
        let mut cancelled = false;
        for start in (0..prompts.len()).step_by(self.batch) {
            let range = start..(start + self.batch).min(prompts.len());
            done.extend(self.batch(prompts, range, &mut callback, &mut cancelled)?);
        }
        Ok(done)
    }

    fn pack(&self, prompts: &[Prompt]) -> Result<PackedInput> {
        let ids: Vec<&[i64]> = prompts.iter().map(|p| p.input_ids.as_slice()).collect();
        let grids: Vec<[i64; 3]> = prompts.iter().flat_map(|p| p.grid_thw.iter().copied()).collect();
        let pixels = if grids.is_empty() {
            None
        } else {
            let values: Vec<f32> = prompts.iter().flat_map(|p| p.pixel_values.iter().copied()).collect();
            Some(Tensor::f_from_slice(&values)?.f_view([-1, self.model.config().vision.patch_dim()])?)
        };
        Ok(PackedInput::from_samples(&ids, pixels, grids)?)
    }

    fn batch(
        &self,
        prompts: &[Prompt],
        range: Range<usize>,
        callback: &mut Option<TokenCallback<'_>>,
        cancelled: &mut bool,
    ) -> Result<Vec<Generation>> {
        let first = range.start;
        let mut out: Vec<Generation> = prompts[range.clone()]
            .iter()
            .map(|p| Generation {
                ids: Vec::new(),
                finish_reason: if *cancelled { FinishReason::Cancelled } else { FinishReason::Length },
                stop_string: None,
                prompt_tokens: p.input_ids.len(),
            })
            .collect();
        if *cancelled || self.config.max_new_tokens == 0 {
            return Ok(out);
        }
        let mut running: Vec<Running> = range
            .clone()
            .map(|prompt| Running {
                prompt,
                picker: Picker::new(&self.config, prompt as u64, &prompts[prompt].input_ids),
                ids: Vec::new(),
            })
            .collect();
        let mut cache = KvCache::new(self.config.max_new_tokens.min(256));
        let mut hidden = self.model.prefill(&self.pack(&prompts[range])?, &mut cache)?;
        loop {
            let tokens = self.pick(&hidden, &mut running)?;
            let mut keep = Vec::with_capacity(running.len());
            for (row, (sequence, token)) in running.iter_mut().zip(tokens).enumerate() {
                let mut end = None;
                if self.config.eos_token_ids.contains(&token) {
                    end = Some((FinishReason::Eos, None));
                } else {
                    sequence.ids.push(token);
                    if let Some(callback) = callback.as_mut() {
                        *cancelled |= callback(sequence.prompt, token).is_break();
                    }
                    if let Some(stop) = self.stop(&sequence.ids)? {
                        end = Some((FinishReason::Stop, Some(stop)));
                    } else if sequence.ids.len() >= self.config.max_new_tokens {
                        end = Some((FinishReason::Length, None));
                    }
                }
                match end {
                    None => keep.push(row),
                    Some((reason, stop)) => {
                        let slot = &mut out[sequence.prompt - first];
                        (slot.finish_reason, slot.stop_string) = (reason, stop);
                        slot.ids = std::mem::take(&mut sequence.ids);
                    }
                }
            }
            if *cancelled {
                for row in keep {
                    let slot = &mut out[running[row].prompt - first];
                    slot.finish_reason = FinishReason::Cancelled;
                    slot.ids = std::mem::take(&mut running[row].ids);
                }
                return Ok(out);
            }
            if keep.is_empty() {
                return Ok(out);
            }
            if keep.len() < running.len() {
                cache.keep(&keep)?;
                let mut row = 0;
                running.retain(|_| {
                    row += 1;
                    keep.binary_search(&(row - 1)).is_ok()
                });
            }
            let last: Vec<i64> = running.iter().filter_map(|s| s.ids.last().copied()).collect();
            hidden = self.model.decode(&last, &mut cache)?;
        }
    }

    /// The next token of every running sequence.
    fn pick(&self, hidden: &Tensor, running: &mut [Running]) -> Result<Vec<i64>> {
        let logits = self.model.logits(hidden)?;
        let c = &self.config;
        if !c.do_sample && c.repetition_penalty == 1.0 {
            // Only the tokens leave the device.
            let best = logits.f_argmax(-1, false)?.f_to_device(Device::Cpu)?;
            return Ok(Vec::<i64>::try_from(&best)?);
        }
        let rows = logits.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut values = vec![0f32; rows.numel()];
        let n = values.len();
        rows.f_copy_data(&mut values, n)?;
        let width = (n / running.len().max(1)).max(1);
        Ok(running.iter_mut().zip(values.chunks_mut(width)).map(|(s, row)| s.picker.pick(row, c)).collect())
    }

    /// The stop string that the text of these tokens contains.
    fn stop(&self, ids: &[i64]) -> Result<Option<String>> {
        let (Some(decode), Some(longest)) = (&self.decoder, self.config.stop_strings.iter().map(String::len).max())
        else {
            return Ok(None);
        };
        // A token has at least one byte of text, so a stop string that ends here lies within as many last tokens as it has
        // bytes; a few more for tokens without text and for characters cut at the front.
        let tail = &ids[ids.len().saturating_sub(longest + 16)..];
        let text = decode(tail).map_err(InferError::Decode)?;
        Ok(self.config.stop_strings.iter().find(|s| text.contains(s.as_str())).cloned())
    }
}
