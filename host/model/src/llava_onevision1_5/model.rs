//! The model: construction, the packed forward pass, the loss, prefill and decode.

use std::cell::RefCell;
use std::path::Path;

use ovhost_torch::upload;
use tch::{Device, Kind, Tensor};

use super::config::{ModelConfig, VisionEps};
use super::language::{Attend, Language};
use super::merger::Merger;
use super::vision::Vision;
use super::weights;
use crate::builder::{Builder, Init, Module, Param, Shared, Source, seeded};
use crate::cache::{KvCache, Layout};
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::input::{PackedInput, Ready, Targets, Tokens, host_i64, image_places};
use crate::lora::Adapters;

/// Logits of one chunk of the loss: at most this many values exist at once, 256 MiB in fp32. A GPU wants products of many rows.
const LOSS_VALUES: i64 = 1 << 26;
/// The same on the CPU, 64 MiB, whose products are as fast with fewer rows.
const LOSS_VALUES_CPU: i64 = 1 << 24;

/// Tokens per chunk of the loss where nobody says otherwise.
pub fn default_loss_chunk(config: &ModelConfig, device: Device) -> i64 {
    let values = if device == Device::Cpu { LOSS_VALUES_CPU } else { LOSS_VALUES };
    (values / config.text.vocab_size.max(1)).max(64)
}

/// Where and how a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// What they become: `Kind::Float` or `Kind::BFloat16`.
    pub kind: Kind,
}

/// LLaVA-OneVision-1.5 with its weights. Not for several threads at once.
pub struct LlavaOnevision {
    config: ModelConfig,
    device: Device,
    kind: Kind,
    pub(super) vision: Vision,
    pub(super) merger: Merger,
    pub(super) language: Language,
    /// None where the head is the embedding.
    lm_head: Option<Tensor>,
    params: Vec<Param>,
    pub(super) adapters: Option<Adapters>,
    loss_chunk: Option<i64>,
}

/// The pixel rows that a batch with images must have.
pub(super) fn pixels(input: &PackedInput) -> Result<&Tensor> {
    let missing = || ModelError::Input(format!("{} image grids but no pixel values", input.grid_thw.len()));
    input.pixel_values.as_ref().ok_or_else(missing)
}

impl LlavaOnevision {
    /// Loads `config.json` and the safetensors of a folder; both name styles are understood. Parameters do not require
    /// gradients until the caller says so.
    ///
    /// # Errors
    /// What is missing, damaged, unexpected or of another shape, by file and tensor; what the configuration asks for in vain.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let config = ModelConfig::from_folder(&dir)?;
        Self::load_with(config, dir, options)
    }

    /// As [`LlavaOnevision::load`], with another configuration than the folder's (other epsilons, for example).
    ///
    /// # Errors
    /// As [`LlavaOnevision::load`].
    pub fn load_with(config: ModelConfig, dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let source = Source::Files(Checkpoint::open_folder(dir.as_ref(), weights::long_name)?);
        Self::build(config, source, options)
    }

    /// Checks the weights of a folder as [`LlavaOnevision::load`] does, by the headers of its files: nothing is read. Returns the
    /// parameters; their tensors hold no memory.
    ///
    /// # Errors
    /// As [`LlavaOnevision::load`].
    pub fn check_folder(dir: impl AsRef<Path>) -> Result<Vec<Param>> {
        let config = ModelConfig::from_folder(&dir)?;
        let source = Source::Headers(Checkpoint::open_folder(dir.as_ref(), weights::long_name)?);
        Ok(Self::build(config, source, &LoadOptions { device: Device::Cpu, kind: Kind::Float })?.params)
    }

    /// A model with random weights: matrices N(0, `initializer_range`), norms one, biases zero. The same seed gives the same
    /// weights on every device and in every precision. Sets libtorch's generator.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn random(config: ModelConfig, seed: i64, device: Device, kind: Kind) -> Result<Self> {
        seeded(seed, || Self::build(config, Source::Random, &LoadOptions { device, kind }))
    }

    fn build(config: ModelConfig, source: Source, options: &LoadOptions) -> Result<Self> {
        let LoadOptions { device, kind } = *options;
        let _guard = tch::no_grad_guard();
        let std = config.vision.initializer_range;
        let shared = RefCell::new(Shared { source, params: Vec::new(), device, kind, std });
        let at = Builder::new(&shared, "model.visual", Module::Vision);
        let vision = Vision::new(&config.vision, &at)?;
        let merger = Merger::new(&config, &at.at("merger").of(Module::Merger))?;
        shared.borrow_mut().std = config.text.initializer_range;
        let at = Builder::new(&shared, "model.language_model", Module::Language);
        let language = Language::new(&config.text, &at)?;
        let lm_head = if config.text.tie_word_embeddings {
            None
        } else {
            let shape = [config.text.vocab_size, config.text.hidden_size];
            let head = Builder::new(&shared, "lm_head", Module::Language);
            Some(head.tensor("weight", &shape, Init::Normal(config.text.initializer_range)).map_err(|e| match e {
                ModelError::Weights(text) if text.contains("is missing") => ModelError::Weights(format!(
                    "{text}; or, if the head is the embedding, set text_config.tie_word_embeddings to true"
                )),
                other => other,
            })?)
        };
        let shared = shared.into_inner();
        if let Source::Files(checkpoint) | Source::Headers(checkpoint) = &shared.source {
            let tied = config.text.tie_word_embeddings;
            checkpoint.all_taken(|name| weights::ignored(name, tied))?;
        }
        Ok(LlavaOnevision {
            config,
            device,
            kind,
            vision,
            merger,
            language,
            lm_head,
            params: shared.params,
            adapters: None,
            loss_chunk: None,
        })
    }

    /// Names, shapes and modules of the parameters that a configuration asks for. The tensors hold no memory.
    pub(crate) fn names(config: &ModelConfig) -> Result<Vec<Param>> {
        let options = LoadOptions { device: Device::Cpu, kind: Kind::Float };
        Ok(Self::build(config.clone(), Source::Names, &options)?.params)
    }

    /// Random weights (fp32, CPU) of the merger, and of the vision tower where `tower`, as in [`LlavaOnevision::random`].
    pub(crate) fn random_adapter(config: &ModelConfig, seed: i64, tower: bool) -> Result<Vec<Param>> {
        let _guard = tch::no_grad_guard();
        let std = config.vision.initializer_range;
        let (device, kind) = (Device::Cpu, Kind::Float);
        let shared = RefCell::new(Shared { source: Source::Random, params: Vec::new(), device, kind, std });
        let at = Builder::new(&shared, "model.visual", Module::Vision);
        seeded(seed, || {
            if tower {
                Vision::new(&config.vision, &at)?;
            }
            Merger::new(config, &at.at("merger").of(Module::Merger))
        })?;
        Ok(shared.into_inner().params)
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The weights' kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Every parameter once, in the order of the network. The tensors are the model's own.
    pub fn parameters(&self) -> Vec<Param> {
        self.params.iter().map(Param::share).collect()
    }

    /// Tokens per chunk of the loss; by default as many as make 256 MiB of fp32 logits, 64 MiB on the CPU.
    pub fn set_loss_chunk(&mut self, tokens: i64) {
        self.loss_chunk = Some(tokens.max(1));
    }

    /// Tokens whose logits exist at a time.
    pub fn loss_chunk(&self) -> i64 {
        self.loss_chunk.unwrap_or(default_loss_chunk(&self.config, self.device))
    }

    pub(super) fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.language.embed_tokens)
    }

    /// Vision features `[patches, width]` after the last block, without class tokens.
    ///
    /// # Errors
    /// Pixel rows that do not fit the grids, or what libtorch throws.
    pub fn vision_features(&self, pixel_values: &Tensor, grid_thw: &[[i64; 3]]) -> Result<Tensor> {
        self.vision.forward(pixel_values, grid_thw)
    }

    /// Features to image tokens `[patches / merge², hidden]`.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn merge(&self, features: &Tensor) -> Result<Tensor> {
        self.merger.forward(features)
    }

    pub(super) fn ready(&self, input: &PackedInput) -> Result<Ready> {
        Ready::new(input, &self.tokens(), self.device)
    }

    fn tokens(&self) -> Tokens {
        let c = &self.config;
        Tokens {
            vocab: c.text.vocab_size,
            image: c.image_token_id,
            video: c.video_token_id,
            merge: c.vision.spatial_merge_size,
        }
    }

    /// Text embeddings with the image tokens in their places.
    fn embed(&self, input: &PackedInput, ready: &Ready) -> Result<Tensor> {
        let text = self.language.embed(&ready.ids_t)?;
        let Some(index) = &ready.image_index else { return Ok(text) };
        let images = self.merger.forward(&self.vision.forward(pixels(input)?, &input.grid_thw)?)?;
        Ok(text.f_index_copy(0, index, &images)?)
    }

    fn run(&self, input: &PackedInput, ready: &Ready, only: Option<&Tensor>) -> Result<Tensor> {
        let x_tc = self.embed(input, ready)?;
        // Positions restart with each sample, so the longest sample bounds them.
        let end = ready.segments.longest();
        self.language.forward(x_tc, &ready.positions_t, end, &mut Attend::Packed(&ready.segments), only)
    }

    /// Last hidden states `[T, hidden]`, after the final norm.
    ///
    /// # Errors
    /// A batch that does not fit the model, or what libtorch throws.
    pub fn hidden(&self, input: &PackedInput) -> Result<Tensor> {
        let ready = self.ready(input)?;
        self.run(input, &ready, None)
    }

    /// Logits `[…, vocabulary]` of hidden states.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.f_linear(self.head(), None::<Tensor>)?)
    }

    /// Sum of the cross-entropy over learnt tokens (fp32 scalar, differentiable) and their number. `labels_t` is i64 `[T]`,
    /// unshifted, -100 where nothing is learnt; the shift stays within each sample.
    ///
    /// # Errors
    /// A batch or labels that do not fit the model, or what libtorch throws.
    pub fn loss_sum(&self, input: &PackedInput, labels_t: &Tensor) -> Result<(Tensor, i64)> {
        let labels = host_i64(labels_t)?;
        let targets = Targets::new(&labels, &input.cu_seqlens, self.config.text.vocab_size, self.device)?;
        Ok((self.loss_sum_of(input, &targets)?, targets.count))
    }

    /// As [`LlavaOnevision::loss_sum`], with targets that were prepared on the host: nothing here waits for the device.
    ///
    /// # Errors
    /// As [`LlavaOnevision::loss_sum`].
    pub fn loss_sum_of(&self, input: &PackedInput, targets: &Targets) -> Result<Tensor> {
        let ready = self.ready(input)?;
        let hidden = self.run(input, &ready, Some(&targets.index_n))?;
        Ok(ovhost_torch::linear_cross_entropy(&hidden, self.head(), &targets.target_n, self.loss_chunk())?)
    }

    /// Whether a prompt fits the model: its tokens, and its image tokens and these grids.
    ///
    /// # Errors
    /// What does not fit, with what is allowed.
    pub fn check_prompt(&self, ids: &[i64], grid_thw: &[[i64; 3]]) -> Result<()> {
        if ids.is_empty() {
            return Err(ModelError::Input("has no tokens; nothing can follow".into()));
        }
        image_places(ids, grid_thw, &self.tokens()).map(|_| ())
    }

    /// Runs prompts, adds them to the cache, and returns the hidden state of each prompt's last token, `[B, hidden]`. The
    /// cache must not hold sequences yet; [`LlavaOnevision::advance`] lets prompts join running ones.
    ///
    /// # Errors
    /// A cache in use, a batch that does not fit the model, or what libtorch throws.
    pub fn prefill(&self, input: &PackedInput, cache: &mut KvCache) -> Result<Tensor> {
        self.advance(&[], Some(input), cache)
    }

    /// One more token of every cached sequence; returns their hidden states `[B, hidden]`.
    ///
    /// # Errors
    /// Another number of tokens than sequences, a token outside the vocabulary, or what libtorch throws.
    pub fn decode(&self, ids: &[i64], cache: &mut KvCache) -> Result<Tensor> {
        self.advance(ids, None, cache)
    }

    /// One pass: one more token of every cached sequence, and prompts that join them. Returns the hidden state after each of
    /// these tokens and after each prompt's last one, `[B, hidden]`, in the cache's order: the prompts are its last rows.
    ///
    /// # Errors
    /// Another number of tokens than sequences, tokens or prompts that do not fit the model (the cache is then as before),
    /// or what libtorch throws (the cache is then of no use).
    pub fn advance(&self, ids: &[i64], prompts: Option<&PackedInput>, cache: &mut KvCache) -> Result<Tensor> {
        if ids.len() != cache.batch() {
            return Err(ModelError::Input(format!("{} tokens for {} cached sequences", ids.len(), cache.batch())));
        }
        let vocab = self.config.text.vocab_size;
        if let Some(bad) = ids.iter().find(|id| !(0..vocab).contains(*id)) {
            return Err(ModelError::Input(format!("token id {bad}: the model's vocabulary has {vocab} entries")));
        }
        let prompts = match prompts {
            Some(input) => Some((input, self.ready(input)?)),
            None if ids.is_empty() => {
                return Err(ModelError::Input("decode before prefill: the cache is empty".into()));
            }
            None => None,
        };
        let t = &self.config.text;
        let layout = Layout {
            layers: self.language.layer_count(),
            heads: t.num_key_value_heads,
            width: t.head_dim,
            options: (self.kind, self.device),
        };
        let cu_seqlens = prompts.as_ref().map_or(&[][..], |(input, _)| &input.cu_seqlens);
        let pass = cache.begin(cu_seqlens, layout)?;
        let end = cache.lens().iter().max().copied().unwrap_or(0);
        let (mut xs, mut positions) = (Vec::new(), Vec::new());
        if !ids.is_empty() {
            let ids: Vec<i64> = pass.order.iter().map(|&row| ids[row]).collect();
            xs.push(self.language.embed(&upload(&Tensor::f_from_slice(&ids)?, self.device)?)?);
            positions.push(upload(&Tensor::f_from_slice(&pass.positions)?, self.device)?);
        }
        if let Some((input, ready)) = &prompts {
            xs.push(self.embed(input, ready)?);
            positions.push(ready.positions_t.shallow_clone());
        }
        // The pass has its own order: where the caller's rows are in it.
        let running = ids.len() as i64;
        let mut wanted = vec![0; ids.len()];
        for (at, &row) in pass.order.iter().enumerate() {
            wanted[row] = at as i64;
        }
        wanted.extend(cu_seqlens.iter().skip(1).map(|&end| running + i64::from(end) - 1));
        let in_order = prompts.is_none() && wanted.iter().enumerate().all(|(i, &at)| i as i64 == at);
        let wanted = if in_order { None } else { Some(upload(&Tensor::f_from_slice(&wanted)?, self.device)?) };
        let one = |mut parts: Vec<Tensor>| -> Result<Tensor> {
            if parts.len() == 1 { Ok(parts.remove(0)) } else { Ok(Tensor::f_cat(&parts, 0)?) }
        };
        let segments = prompts.as_ref().map(|(_, ready)| &ready.segments);
        self.language.forward(one(xs)?, &one(positions)?, end, &mut Attend::Cached(segments, cache), wanted.as_ref())
    }

    /// Replaces the vision epsilons of a configuration: [`VisionEps::HF`] or [`VisionEps::MEGATRON`].
    pub fn with_vision_eps(config: ModelConfig, eps: VisionEps) -> ModelConfig {
        let mut config = config;
        config.vision.eps = eps;
        config
    }

    /// Writes the model as a Hugging Face folder, with the tokenizer and processor files of `source`: see
    /// [`crate::save_folder`].
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save_folder(&self, dir: impl AsRef<Path>, source: impl AsRef<Path>) -> Result<()> {
        weights::save_folder(self, dir.as_ref(), Some(source.as_ref()))
    }
}
