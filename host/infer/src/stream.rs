//! The loop: prompts join as rows get free, every pass gives each running sequence a token, finished ones leave.

use std::borrow::Borrow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ovhost_model::{KvCache, PackedInput};
use ovhost_torch::InferenceMode;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::generate::{FinishReason, Generation, Generator, Prompt};
use crate::sample::Picker;
use crate::{GenerationConfig, InferError, Result};

/// Tokens beyond the prompt that a sequence has room for from the start.
const RESERVE: usize = 64;
/// The same on a GPU, where one long launch is better than several short ones.
const RESERVE_GPU: usize = 512;

/// One prompt of a stream.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The caller's name for it, which comes back with the answer. Also the stream of the sampler's seed, so that what is drawn
    /// depends on the seed and the id alone.
    pub id: u64,
    /// What to answer.
    pub prompt: Prompt,
    /// Its settings, the same for many prompts of one task; without them the generator's. Where they name no end-of-sequence
    /// token the generator's apply.
    pub config: Option<Arc<GenerationConfig>>,
}

/// What a stream took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Served {
    /// Prompts that were answered.
    pub answers: u64,
    /// Prompts that could not be run.
    pub rejected: u64,
    /// Tokens of the prompts that ran.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub answer_tokens: u64,
    /// Passes through the model.
    pub passes: u64,
    /// Sequences in them: over `passes` times the batch size, how full the batch was.
    pub rows: u64,
    /// Most bytes that keys and values took, room for more included.
    pub cache_bytes: u64,
    /// Whether it was broken off, by the stop flag or by the caller.
    pub stopped: bool,
}

/// A prompt on its way in, owned or borrowed.
pub(crate) struct Asked<P> {
    pub(crate) id: u64,
    pub(crate) prompt: P,
    pub(crate) config: Option<Arc<GenerationConfig>>,
}

/// A prompt that can run, and its settings.
struct Ready<P> {
    id: u64,
    prompt: P,
    config: Arc<GenerationConfig>,
}

/// A sequence on its way.
struct Running {
    id: u64,
    config: Arc<GenerationConfig>,
    picker: Picker,
    prompt_tokens: usize,
    ids: Vec<i64>,
}

/// The caller's side of a stream: where prompts come from, where answers and tokens go.
type Next<'c, P, E> = &'c mut dyn FnMut() -> std::result::Result<Option<Asked<P>>, E>;
type Done<'c, E> = &'c mut dyn FnMut(u64, Result<Generation>) -> std::result::Result<ControlFlow<()>, E>;
type Token<'c> = &'c mut dyn FnMut(u64, i64) -> ControlFlow<()>;

impl Generator<'_> {
    /// Answers a stream of prompts, each as soon as its answer is finished. While a row is free, `next` is asked for one more
    /// prompt (so read it and decode its pictures there; after its first `None` it is not asked again), and new prompts join
    /// the running sequences. `done` gets each answer with the prompt's id, in the order in which they end; or the reason
    /// where a prompt cannot be run: empty, not of this model, settings out of range. That ends no other.
    ///
    /// Where `done` breaks or the stop flag is set, it returns with [`Served::stopped`], and what ran is not reported.
    /// Ids must differ from each other. Memory is bounded by the batch size, not by the number of prompts.
    ///
    /// # Errors
    /// What `next` and `done` return, as it is, and what libtorch throws.
    pub fn serve<E: From<InferError>>(
        &self,
        next: &mut dyn FnMut() -> std::result::Result<Option<Request>, E>,
        done: &mut dyn FnMut(u64, Result<Generation>) -> std::result::Result<ControlFlow<()>, E>,
    ) -> std::result::Result<Served, E> {
        let mut next = || Ok(next()?.map(|Request { id, prompt, config }| Asked { id, prompt, config }));
        let mut token = |_, _| ControlFlow::Continue(());
        self.stream(&mut next, done, &mut token).map(|(served, _)| served)
    }

    /// As [`Generator::serve`]; also calls `token` for every new token but the end-of-sequence token, which may break the
    /// stream off, and returns what is there of the sequences that ran then.
    pub(crate) fn stream<P: Borrow<Prompt>, E: From<InferError>>(
        &self,
        next: Next<'_, P, E>,
        done: Done<'_, E>,
        token: Token<'_>,
    ) -> std::result::Result<(Served, Vec<(u64, Generation)>), E> {
        let _mode = InferenceMode::new().map_err(InferError::from)?;
        let mut served = Served::default();
        let mut cache = KvCache::new(if self.model.device() == Device::Cpu { RESERVE } else { RESERVE_GPU });
        let mut running: Vec<Running> = Vec::new();
        // A prompt that did not fit into a pass waits for the next.
        let (mut held, mut more) = (None, true);
        loop {
            let mut joining: Vec<Ready<P>> = Vec::new();
            let mut tokens = 0;
            while running.len() + joining.len() < self.batch && !served.stopped {
                if self.stopped() {
                    served.stopped = true;
                    break;
                }
                let ready = match held.take() {
                    Some(ready) => ready,
                    None if !more => break,
                    None => match next()? {
                        None => {
                            more = false;
                            break;
                        }
                        Some(asked) => match self.admit(asked) {
                            Ok(ready) => ready,
                            Err((id, answer)) => {
                                *if answer.is_ok() { &mut served.answers } else { &mut served.rejected } += 1;
                                served.stopped = done(id, answer)?.is_break();
                                continue;
                            }
                        },
                    },
                };
                let own = ready.prompt.borrow().input_ids.len();
                if !joining.is_empty() && tokens + own > self.prefill_tokens {
                    held = Some(ready);
                    break;
                }
                tokens += own;
                joining.push(ready);
            }
            served.stopped |= self.stopped();
            if served.stopped || running.len() + joining.len() == 0 {
                break;
            }
            let last: Vec<i64> = running.iter().filter_map(|s| s.ids.last().copied()).collect();
            let packed = if joining.is_empty() { None } else { Some(self.pack(&joining)?) };
            let hidden = self.model.advance(&last, packed.as_ref(), &mut cache).map_err(InferError::from)?;
            running.extend(joining.into_iter().map(Running::new));
            served.prompt_tokens += tokens as u64;
            served.passes += 1;
            served.rows += running.len() as u64;
            served.cache_bytes = served.cache_bytes.max(cache.bytes());
            let picked = self.pick(&hidden, &mut running)?;
            let mut ended = Vec::new();
            let mut keep = Vec::with_capacity(running.len());
            for (row, (sequence, new)) in running.iter_mut().zip(picked).enumerate() {
                match self.extend(sequence, new, token, &mut served.stopped) {
                    None => keep.push(row),
                    Some(end) => ended.push((sequence.id, end)),
                }
            }
            if keep.len() < running.len() {
                cache.keep(&keep).map_err(InferError::from)?;
                let mut row = 0;
                running.retain(|_| {
                    row += 1;
                    keep.binary_search(&(row - 1)).is_ok()
                });
            }
            for (id, answer) in ended {
                match &answer {
                    Ok(generation) => {
                        served.answers += 1;
                        served.answer_tokens += generation.ids.len() as u64;
                    }
                    Err(_) => served.rejected += 1,
                }
                if done(id, answer)?.is_break() {
                    served.stopped = true;
                    break;
                }
            }
        }
        let unfinished = running.into_iter().map(|s| (s.id, Generation::unfinished(s.ids, s.prompt_tokens))).collect();
        Ok((served, unfinished))
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::SeqCst))
    }

    /// A prompt that can run; otherwise its answer.
    fn admit<P: Borrow<Prompt>>(&self, asked: Asked<P>) -> std::result::Result<Ready<P>, (u64, Result<Generation>)> {
        let Asked { id, prompt, config } = asked;
        let config = match config {
            None => Arc::clone(&self.config),
            Some(config) if config.eos_token_ids.is_empty() => {
                let mut config = config.as_ref().clone();
                config.eos_token_ids.clone_from(&self.config.eos_token_ids);
                Arc::new(config)
            }
            Some(config) => config,
        };
        let fits = self.check_config(&config).and_then(|()| self.check_prompt(id, prompt.borrow()));
        match fits {
            Err(reason) => Err((id, Err(reason))),
            Ok(()) if config.max_new_tokens == 0 => {
                let prompt_tokens = prompt.borrow().input_ids.len();
                let finish_reason = FinishReason::Length;
                Err((id, Ok(Generation { ids: Vec::new(), finish_reason, stop_string: None, prompt_tokens })))
            }
            Ok(()) => Ok(Ready { id, prompt, config }),
        }
    }

    pub(crate) fn check_config(&self, config: &GenerationConfig) -> Result<()> {
        config.check()?;
        if config.stop_strings.is_empty() || self.decoder.is_some() {
            return Ok(());
        }
        Err(InferError::Config {
            file: "generation settings".into(),
            key: "stop_strings".into(),
            reason: "need a tokenizer to be recognised; give the generator a decoder".into(),
        })
    }

    pub(crate) fn check_prompt(&self, index: u64, prompt: &Prompt) -> Result<()> {
        self.model
            .check_prompt(&prompt.input_ids, &prompt.grid_thw)
            .map_err(|e| InferError::Prompt { index, reason: e.to_string() })?;
        let width = self.model.config().vision.patch_dim();
        let patches = prompt.grid_thw.iter().map(|g| g.iter().product::<i64>()).sum::<i64>();
        if prompt.pixel_values.len() as i64 == patches * width {
            return Ok(());
        }
        let reason = format!("{} pixel values; its grids need {patches} patches of {width}", prompt.pixel_values.len());
        Err(InferError::Prompt { index, reason })
    }

    fn pack<P: Borrow<Prompt>>(&self, joining: &[Ready<P>]) -> Result<PackedInput> {
        let prompts = || joining.iter().map(|ready| ready.prompt.borrow());
        let ids: Vec<&[i64]> = prompts().map(|p| p.input_ids.as_slice()).collect();
        let grids: Vec<[i64; 3]> = prompts().flat_map(|p| p.grid_thw.iter().copied()).collect();
        let pixels = if grids.is_empty() {
            None
        } else {
            let values: Vec<f32> = prompts().flat_map(|p| p.pixel_values.iter().copied()).collect();
            Some(Tensor::f_from_slice(&values)?.f_view([-1, self.model.config().vision.patch_dim()])?)
        };
        Ok(PackedInput::from_samples(&ids, pixels, grids)?)
    }

    /// The next token of every running sequence.
    fn pick(&self, hidden: &Tensor, running: &mut [Running]) -> Result<Vec<i64>> {
        let logits = self.model.logits(hidden)?;
        let likeliest = |c: &GenerationConfig| !c.do_sample && c.repetition_penalty == 1.0;
        let others: Vec<i64> =
            (0i64..).zip(running.iter()).filter(|(_, s)| !likeliest(&s.config)).map(|(row, _)| row).collect();
        // Of the likeliest only the tokens leave the device.
        let mut tokens = if others.len() == running.len() {
            vec![0; running.len()]
        } else {
            Vec::<i64>::try_from(&logits.f_argmax(-1, false)?.f_to_device(Device::Cpu)?)?
        };
        if others.is_empty() {
            return Ok(tokens);
        }
        let rows = if others.len() == running.len() {
            logits
        } else {
            logits.f_index_select(0, &Tensor::f_from_slice(&others)?.f_to_device(logits.device())?)?
        };
        let rows = rows.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut values = vec![0f32; rows.numel()];
        let n = values.len();
        rows.f_copy_data(&mut values, n)?;
        let width = (n / others.len()).max(1);
        for (&row, logits) in others.iter().zip(values.chunks_mut(width)) {
            let sequence = &mut running[row as usize];
            tokens[row as usize] = sequence.picker.pick(logits, &sequence.config);
        }
        Ok(tokens)
    }

    /// Gives a sequence its next token; its answer where it ends with it.
    fn extend(&self, s: &mut Running, new: i64, token: Token<'_>, stopped: &mut bool) -> Option<Result<Generation>> {
        let (finish_reason, stop_string) = if s.config.eos_token_ids.contains(&new) {
            (FinishReason::Eos, None)
        } else {
            s.ids.push(new);
            *stopped |= token(s.id, new).is_break();
            match self.stop(&s.ids, &s.config.stop_strings) {
                Err(reason) => return Some(Err(reason)),
                Ok(Some(stop)) => (FinishReason::Stop, Some(stop)),
                Ok(None) if s.ids.len() >= s.config.max_new_tokens => (FinishReason::Length, None),
                Ok(None) => return None,
            }
        };
        let ids = std::mem::take(&mut s.ids);
        Some(Ok(Generation { ids, finish_reason, stop_string, prompt_tokens: s.prompt_tokens }))
    }

    /// The stop string that the text of these tokens contains.
    fn stop(&self, ids: &[i64], stop_strings: &[String]) -> Result<Option<String>> {
        let (Some(decode), Some(longest)) = (&self.decoder, stop_strings.iter().map(String::len).max()) else {
            return Ok(None);
        };
        // A token has at least one byte of text, so a stop string that ends here lies within as many last tokens as it has
        // bytes; a few more for tokens without text and for characters cut at the front.
        let tail = &ids[ids.len().saturating_sub(longest + 16)..];
        let text = decode(tail).map_err(InferError::Decode)?;
        Ok(stop_strings.iter().find(|s| text.contains(s.as_str())).cloned())
    }
}

impl Running {
    fn new<P: Borrow<Prompt>>(Ready { id, prompt, config }: Ready<P>) -> Self {
        let ids = &prompt.borrow().input_ids;
        let picker = Picker::new(&config, id, ids);
        Running { id, picker, prompt_tokens: ids.len(), ids: Vec::new(), config }
    }
}
