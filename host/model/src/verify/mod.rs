//! `ovhost model verify`: runs a model on a fixture of exact expected values and compares every one.
//!
//! ```text
//!  FILE.safetensors   image.I.{pixel_values,grid_thw,vit,merged}   seq.S.{input_ids,labels,logits,loss_sum}
//!  expected.json      beside it: pictures, images per sequence, greedy continuations, packed loss, AdamW steps
//!  expected_grads.safetensors   beside it: gradients of the packed loss
//! ```
//! Everything that is there is compared; a row of the report is one tensor or one number.

mod fixture;
mod report;

use std::path::Path;

use ovhost_data::image::ImageProcessor;
use ovhost_torch::AdamWOptions;
use tch::{Device, Kind, Tensor};

pub use report::{VerifyReport, VerifyRow};

use crate::cache::KvCache;
use crate::chain::Recompute;
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::input::{PackedInput, Targets, host_i64};
use crate::llava_onevision1_5::{LlavaOnevision, LoadOptions};
use fixture::{Expected, Sequence, indices};

/// One 8-bit level of a pixel after normalisation: 1/255 over the smallest standard deviation of the processor.
const LEVEL: f64 = 1.0 / 255.0 / 0.25;
/// Share of pixel values that may be a level off.
const OFF_SHARE: f64 = 0.001;

struct Image {
    pixels: Tensor,
    grid: [i64; 3],
}

/// How the training part is carried out. Every way must give the same values.
#[derive(Debug, Clone, Copy)]
pub struct VerifyWay {
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Tokens per chunk of the loss; the model's choice if absent.
    pub loss_chunk: Option<i64>,
    /// Sequences per micro-batch, whose gradients add up; all in one if 0.
    pub per_micro: usize,
    /// Where the model runs, in fp32.
    pub device: Device,
}

impl Default for VerifyWay {
    fn default() -> Self {
        Self { recompute: Recompute::NONE, loss_chunk: None, per_micro: 0, device: Device::Cpu }
    }
}

struct Run<'a> {
    way: VerifyWay,
    model: LlavaOnevision,
    file: &'a Checkpoint,
    expected: Option<Expected>,
    images: Vec<Image>,
    report: VerifyReport,
}

/// Compares the model in `model_dir` (fp32, CPU) with the expected values of `expected_file`. `tolerance` bounds the maximum
/// absolute error of a tensor over the largest absolute value that is expected of it.
///
/// # Errors
/// A model or a fixture that cannot be read or run. Values that differ are no error: see [`VerifyReport::passed`].
pub fn verify(model_dir: impl AsRef<Path>, expected_file: impl AsRef<Path>, tolerance: f64) -> Result<VerifyReport> {
    verify_in(model_dir, expected_file, tolerance, VerifyWay::default())
}

/// As [`verify`], training in one of several ways, on any device.
///
/// # Errors
/// As [`verify`].
pub fn verify_in(
    model_dir: impl AsRef<Path>,
    expected_file: impl AsRef<Path>,
    tolerance: f64,
    way: VerifyWay,
) -> Result<VerifyReport> {
    let (dir, path) = (model_dir.as_ref(), expected_file.as_ref());
    let file = Checkpoint::open_file(path)?;
    let expected = Expected::beside(path)?;
    let mut model = LlavaOnevision::load(dir, &LoadOptions { device: way.device, kind: Kind::Float })?;
    if let Some(tokens) = way.loss_chunk {
        model.set_loss_chunk(tokens);
    }
    let mut run = Run { way, model, file: &file, expected, images: Vec::new(), report: VerifyReport::new(tolerance) };
    if indices(&file, "image").is_empty() && indices(&file, "seq").is_empty() {
        return Err(ModelError::Verify(format!(
            "{}: no tensor is named image.N.* or seq.N.*: this is no file of expected values",
            path.display()
        )));
    }
    {
        let _guard = tch::no_grad_guard();
        run.images(dir, path)?;
        run.sequences()?;
    }
    if run.expected.as_ref().is_some_and(|e| e.packed.is_some()) {
        run.training(path)?;
    }
    Ok(run.report)
}

impl Run<'_> {
    fn images(&mut self, dir: &Path, path: &Path) -> Result<()> {
        let pictures = self.expected.as_ref().map(|e| e.images.clone()).unwrap_or_default();
        let processor = match pictures.is_empty() {
            true => None,
            false => Some(
                ImageProcessor::from_folder(dir)
                    .map_err(|e| ModelError::Verify(format!("the image processor: {e}")))?,
            ),
        };
        for i in indices(self.file, "image") {
            let name = |part: &str| format!("image.{i}.{part}");
            let made = match (&processor, pictures.get(i)) {
                (Some(processor), Some(picture)) => {
                    let picture = path.with_file_name(picture);
                    let bytes = std::fs::read(&picture).map_err(|e| ModelError::io(&picture, e))?;
                    let made = processor
                        .process(&bytes)
                        .map_err(|e| ModelError::Verify(format!("{}: {e}", picture.display())))?;
                    let rows = made.grid.iter().product::<i64>();
                    Some((Tensor::f_from_slice(&made.data)?.f_view([rows, -1])?, made.grid))
                }
                _ => None,
            };
            if let (Some((pixels, grid)), true) = (&made, self.file.contains(&name("pixel_values"))) {
                let want = self.file.tensor(&name("pixel_values"))?;
                self.report.pixels(&name("pixel_values"), pixels, &want, LEVEL, OFF_SHARE)?;
                if self.file.contains(&name("grid_thw")) {
                    let want = host_i64(&self.file.tensor(&name("grid_thw"))?)?;
                    self.report.exact(&name("grid_thw"), grid.as_slice(), &want);
                }
            }
            // The model is judged on the expected pixels, so that an image difference does not look like a model's.
            let image = match (self.file.contains(&name("pixel_values")), made) {
                (true, _) => {
                    let grid = host_i64(&self.file.tensor(&name("grid_thw"))?)?;
                    let grid: [i64; 3] = grid.as_slice().try_into().map_err(|_| {
                        ModelError::Verify(format!("{}: {} values instead of 3", name("grid_thw"), grid.len()))
                    })?;
                    Image { pixels: self.file.tensor(&name("pixel_values"))?, grid }
                }
                (false, Some((pixels, grid))) => Image { pixels, grid },
                (false, None) => {
                    return Err(ModelError::Verify(format!(
                        "{}: neither {} nor a picture for it in expected.json",
                        path.display(),
                        name("pixel_values")
                    )));
                }
            };
            let features = self.model.vision_features(&image.pixels, &[image.grid])?;
            for (part, value) in [("vit", &features), ("merged", &self.model.merge(&features)?)] {
                if self.file.contains(&name(part)) {
                    self.report.tensor(&name(part), value, &self.file.tensor(&name(part))?)?;
                }
            }
            // Kept by their own number, whatever is missing before them.
            while self.images.len() < i {
                self.images.push(Image { pixels: Tensor::f_zeros([0, 0], (Kind::Float, Device::Cpu))?, grid: [0; 3] });
            }
            self.images.push(image);
        }
        Ok(())
    }

    fn sequence(&self, s: usize) -> Result<Sequence> {
        let ids = host_i64(&self.file.tensor(&format!("seq.{s}.input_ids"))?)?;
        let labels = match self.file.contains(&format!("seq.{s}.labels")) {
            true => Some(host_i64(&self.file.tensor(&format!("seq.{s}.labels"))?)?),
            false => None,
        };
        Sequence::new(s, ids, labels, self.expected.as_ref(), self.images.len())
    }

    /// A batch of these token ids with the images of these numbers.
    fn input(&self, samples: &[&[i64]], images: &[usize]) -> Result<PackedInput> {
        let chosen: Vec<&Image> = images.iter().filter_map(|&i| self.images.get(i)).collect();
        let pixels = match chosen.is_empty() {
            true => None,
            false => Some(Tensor::f_cat(&chosen.iter().map(|i| &i.pixels).collect::<Vec<_>>(), 0)?),
        };
        PackedInput::from_samples(samples, pixels, chosen.iter().map(|i| i.grid).collect())
    }

    fn sequences(&mut self) -> Result<()> {
        let mut alone = Vec::new();
        let mut all = Vec::new();
        for s in indices(self.file, "seq") {
            let sequence = self.sequence(s)?;
            let input = self.input(&[&sequence.ids], &sequence.images)?;
            let logits = self.model.logits(&self.model.hidden(&input)?)?;
            let name = format!("seq.{s}.logits");
            if self.file.contains(&name) {
                self.report.tensor(&name, &logits, &self.file.tensor(&name)?)?;
            }
            alone.push(logits);
            let name = format!("seq.{s}.loss_sum");
            if let (Some(labels), true) = (&sequence.labels, self.file.contains(&name)) {
                let (sum, count) = self.model.loss_sum(&input, &Tensor::f_from_slice(labels)?)?;
                self.report.tensor(&name, &sum.f_view([1])?, &self.file.tensor(&name)?.f_view([1])?)?;
                if let Some(learnt) = sequence.learnt {
                    self.report.exact(&format!("seq.{s}.learned_tokens"), &[count], &[learnt]);
                }
            }
            if let Some(greedy) = &sequence.greedy {
                let got = self.greedy(&sequence, greedy.len())?;
                self.report.exact(&format!("seq.{s}.greedy"), &got, greedy);
            }
            all.push(sequence);
        }
        if all.len() > 1 {
            let samples: Vec<&[i64]> = all.iter().map(|s| s.ids.as_slice()).collect();
            let images: Vec<usize> = all.iter().flat_map(|s| s.images.iter().copied()).collect();
            let packed = self.model.logits(&self.model.hidden(&self.input(&samples, &images)?)?)?;
            self.report.tensor("packed.logits (as alone)", &packed, &Tensor::f_cat(&alone, 0)?)?;
        }
        Ok(())
    }

    /// Greedy continuation of a sequence's prompt, with the cache.
    fn greedy(&self, sequence: &Sequence, tokens: usize) -> Result<Vec<i64>> {
        let prompt = &sequence.ids[..sequence.prompt_length];
        let wanted = prompt.iter().filter(|&&id| id == self.model.config().image_token_id).count() as i64;
        let merge = self.model.config().vision.spatial_merge_size;
        let (mut images, mut have) = (Vec::new(), 0);
        for &i in &sequence.images {
            if have < wanted {
                have += self.images[i].grid.iter().product::<i64>() / (merge * merge);
                images.push(i);
            }
        }
        let mut cache = KvCache::new(tokens);
        let mut hidden = self.model.prefill(&self.input(&[prompt], &images)?, &mut cache)?;
        let mut out = Vec::new();
        while out.len() < tokens {
            let next = host_i64(&self.model.logits(&hidden)?.f_argmax(-1, false)?)?;
            out.extend_from_slice(&next);
            if out.len() < tokens {
                hidden = self.model.decode(&next, &mut cache)?;
            }
        }
        Ok(out)
    }

    /// Packed loss, its gradients, and optimiser steps.
    fn training(&mut self, path: &Path) -> Result<()> {
        let Some((packed, adamw)) = self.expected.as_ref().map(|e| (e.packed.clone(), e.adamw.clone())) else {
            return Ok(());
        };
        let sequences = indices(self.file, "seq").into_iter().map(|s| self.sequence(s)).collect::<Result<Vec<_>>>()?;
        let size = if self.way.per_micro == 0 { sequences.len() } else { self.way.per_micro };
        let mut micros = Vec::new();
        for part in sequences.chunks(size.max(1)) {
            let samples: Vec<&[i64]> = part.iter().map(|s| s.ids.as_slice()).collect();
            let images: Vec<usize> = part.iter().flat_map(|s| s.images.iter().copied()).collect();
            let input = self.input(&samples, &images)?;
            let mut labels = Vec::new();
            for s in part {
                labels.extend_from_slice(s.labels.as_ref().ok_or_else(|| {
                    ModelError::Verify(format!("{}: labels are missing, the packed loss needs them", path.display()))
                })?);
            }
            let vocab = self.model.config().text.vocab_size;
            let targets = Targets::new(&labels, &input.cu_seqlens, vocab, self.way.device)?;
            micros.push((input, targets));
        }
        let learnt: i64 = micros.iter().map(|(_, targets)| targets.count()).sum();
        let recompute = self.way.recompute;
        let params: Vec<_> = self.model.parameters();
        for p in &params {
            let _ = p.tensor.f_set_requires_grad(true)?;
        }
        let tensors: Vec<&Tensor> = params.iter().map(|p| &p.tensor).collect();
        let backward = |model: &LlavaOnevision| -> Result<(f64, Vec<Tensor>)> {
            ovhost_torch::clear_grads(&tensors)?;
            let mut loss = 0.0;
            for (input, targets) in micros.iter().filter(|(_, targets)| targets.count() > 0) {
                loss += model.backward(input, targets, learnt.max(1) as f64, recompute)?.f_double_value(&[])?;
            }
            let grads = tensors
                .iter()
                .map(|t| {
                    let grad = t.f_grad()?;
                    if grad.defined() { Ok(grad) } else { Ok(t.f_zeros_like()?.f_detach()?) }
                })
                .collect::<Result<Vec<_>>>()?;
            Ok((loss, grads))
        };
        let (loss, grads) = backward(&self.model)?;
        let norm = ovhost_torch::foreach_norm(&grads.iter().collect::<Vec<_>>())?.f_double_value(&[])?;
        if let Some(packed) = packed {
            self.report.number("packed.loss", loss, packed.loss);
            self.report.number("packed.grad_norm", norm, packed.grad_norm);
        }
        let beside = path.with_file_name("expected_grads.safetensors");
        if beside.is_file() {
            let file = Checkpoint::open_file(&beside)?;
            for (p, grad) in params.iter().zip(&grads) {
                let name = format!("grad.{}", p.name);
                let want = match file.contains(&name) {
                    true => file.tensor(&name)?,
                    // Absent means no gradient.
                    false => grad.f_zeros_like()?,
                };
                self.report.tensor(&name, grad, &want)?;
            }
        }
        let Some(adamw) = adamw else { return Ok(()) };
        let zeros = || tensors.iter().map(|t| Ok(t.f_detach()?.f_zeros_like()?)).collect::<Result<Vec<_>>>();
        let (m, v) = (zeros()?, zeros()?);
        let steps =
            tensors.iter().map(|t| Ok(Tensor::f_zeros([], (Kind::Float, t.device()))?)).collect::<Result<Vec<_>>>()?;
        let (m, v, steps) =
            (m.iter().collect::<Vec<_>>(), v.iter().collect::<Vec<_>>(), steps.iter().collect::<Vec<_>>());
        for (i, want) in adamw.steps.iter().enumerate() {
            let (loss, grads) = backward(&self.model)?;
            let grads: Vec<&Tensor> = grads.iter().collect();
            let norm = ovhost_torch::foreach_norm(&grads)?;
            self.report.number(&format!("adamw.{i}.loss"), loss, want.loss);
            self.report.number(&format!("adamw.{i}.grad_norm"), norm.f_double_value(&[])?, want.grad_norm);
            ovhost_torch::foreach_clip_(&grads, &norm, adamw.clip_norm)?;
            ovhost_torch::fused_adamw_(
                &tensors,
                &grads,
                &m,
                &v,
                &steps,
                AdamWOptions {
                    lr: adamw.lr,
                    beta1: adamw.betas[0],
                    beta2: adamw.betas[1],
                    weight_decay: adamw.weight_decay,
                    eps: adamw.eps,
                },
            )?;
        }
        Ok(())
    }
}
