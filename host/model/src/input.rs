//! A batch as the model takes it: concatenated samples, no padding.

use ovhost_torch::{Segments, upload};
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

/// Samples one after the other. T tokens, P patches.
#[derive(Debug)]
pub struct PackedInput {
    /// Token ids, i64 `[T]`. May stay on the CPU: the model reads them there (where the image tokens are) and copies them.
    pub input_ids_t: Tensor,
    /// Positions, i64 `[T]`, that start again at zero with each sample.
    pub positions_t: Tensor,
    /// Bounds of the samples: `[0, …, T]`.
    pub cu_seqlens: Vec<i32>,
    /// Patch rows of all images in the order of their tokens, `[P, channels · patch · patch]`; none without images.
    pub pixel_values: Option<Tensor>,
    /// Frames, rows and columns of patches of each image.
    pub grid_thw: Vec<[i64; 3]>,
}

impl PackedInput {
    /// From one list of token ids per sample; positions and bounds follow.
    ///
    /// # Errors
    /// An empty sample, more than 2^31 tokens, or what libtorch throws.
    pub fn from_samples(
        samples: &[&[i64]],
        pixel_values: Option<Tensor>,
        grid_thw: Vec<[i64; 3]>,
    ) -> Result<PackedInput> {
        let mut cu_seqlens = vec![0i32];
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            if sample.is_empty() {
                return Err(ModelError::Input(format!("sample {i} of the batch has no tokens")));
            }
            ids.extend_from_slice(sample);
            positions.extend(0..sample.len() as i64);
            let end = i32::try_from(ids.len())
                .map_err(|_| ModelError::Input(format!("{} tokens in one batch are too many", ids.len())))?;
            cu_seqlens.push(end);
        }
        Ok(PackedInput {
            input_ids_t: Tensor::f_from_slice(&ids)?,
            positions_t: Tensor::f_from_slice(&positions)?,
            cu_seqlens,
            pixel_values,
            grid_thw,
        })
    }
}

/// What a batch learns: which tokens predict, and what.
#[derive(Debug)]
pub struct Targets {
    /// Positions whose next token is learnt, i64 `[N]`.
    pub(crate) index_n: Tensor,
    /// Those next tokens, i64 `[N]`.
    pub(crate) target_n: Tensor,
    pub(crate) count: i64,
}

impl Targets {
    /// From unshifted labels (-100 = not learnt): position t predicts label t+1 within its own segment, so a segment's first
    /// label is never used.
    ///
    /// # Errors
    /// Labels that are neither -100 nor a token of the vocabulary, or bounds that do not fit.
    pub fn new(labels: &[i64], cu_seqlens: &[i32], vocab: i64, device: Device) -> Result<Self> {
        if cu_seqlens.last().map(|&t| t as usize) != Some(labels.len()) {
            return Err(ModelError::Input(format!(
                "{} labels but cu_seqlens ends at {:?}",
                labels.len(),
                cu_seqlens.last()
            )));
        }
        let (mut index, mut target) = (Vec::new(), Vec::new());
        for pair in cu_seqlens.windows(2) {
            let (from, to) = (pair[0] as usize, pair[1] as usize);
            let own = labels.get(from..to).ok_or_else(|| {
                ModelError::Input(format!(
                    "cu_seqlens must grow up to {}: {} is followed by {}",
                    labels.len(),
                    pair[0],
                    pair[1]
                ))
            })?;
            for (at, &label) in own.iter().enumerate().skip(1).map(|(i, label)| (from + i, label)) {
                match label {
                    -100 => {}
                    label if (0..vocab).contains(&label) => {
                        index.push(at as i64 - 1);
                        target.push(label);
                    }
                    label => {
                        return Err(ModelError::Input(format!(
                            "label {label} at position {at}: allowed are -100 and 0 to {}; the tokenizer does not belong to \
                             this model",
                            vocab - 1
                        )));
                    }
                }
            }
        }
        let count = index.len() as i64;
        let to = |v: &[i64]| -> Result<Tensor> { Ok(upload(&Tensor::f_from_slice(v)?, device)?) };
        Ok(Targets { index_n: to(&index)?, target_n: to(&target)?, count })
    }

    /// Number of learnt tokens.
    pub fn count(&self) -> i64 {
        self.count
    }
}

/// Values of an integer tensor on the host; no wait for a device where the tensor lies on the CPU.
pub(crate) fn host_i64(t: &Tensor) -> Result<Vec<i64>> {
    let t = t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Int64)?.f_contiguous()?;
    let mut out = vec![0i64; t.numel()];
    if !out.is_empty() {
        let n = out.len();
        t.f_copy_data(&mut out, n)?;
    }
    Ok(out)
}

/// What a model's configuration says about tokens.
pub(crate) struct Tokens {
    pub(crate) vocab: i64,
    pub(crate) image: i64,
    pub(crate) video: i64,
    /// Side of the square of patches that becomes one token.
    pub(crate) merge: i64,
}

/// Where the image tokens are, after a check that tokens and grids fit the model and each other.
pub(crate) fn image_places(ids: &[i64], grid_thw: &[[i64; 3]], t: &Tokens) -> Result<Vec<i64>> {
    let mut image_index = Vec::new();
    for (at, &id) in ids.iter().enumerate() {
        if !(0..t.vocab).contains(&id) {
            return Err(ModelError::Input(format!(
                "token id {id} at position {at}: the model's vocabulary has {} entries; the tokenizer does not belong to \
                 this model",
                t.vocab
            )));
        }
        if id == t.image {
            image_index.push(at as i64);
        } else if id == t.video {
            return Err(ModelError::Input(format!(
                "video token {id} at position {at}: video input is not supported; give frames as images"
            )));
        }
    }
    let mut tokens = 0i64;
    for (i, &[frames, rows, columns]) in grid_thw.iter().enumerate() {
        let merge = t.merge;
        if frames < 1 || rows < 1 || columns < 1 || rows % merge != 0 || columns % merge != 0 {
            return Err(ModelError::Input(format!(
                "image {i}: grid [{frames}, {rows}, {columns}]; rows and columns must be positive multiples of {merge}"
            )));
        }
        let own = (rows / merge).saturating_mul(columns / merge).saturating_mul(frames);
        tokens = tokens.saturating_add(own);
    }
    if tokens != image_index.len() as i64 {
        return Err(ModelError::Input(format!(
            "{} image tokens in the text but {} images with {tokens} tokens (grids {:?}): each image needs \
             rows · columns / {} tokens",
            image_index.len(),
            grid_thw.len(),
            &grid_thw[..grid_thw.len().min(8)],
            t.merge * t.merge
        )));
    }
    Ok(image_index)
}

/// A batch after its checks, ready for the layers.
pub(crate) struct Ready {
    pub(crate) ids_t: Tensor,
    pub(crate) positions_t: Tensor,
    pub(crate) segments: Segments,
    /// Tokens that images replace, i64; none without images.
    pub(crate) image_index: Option<Tensor>,
}

impl Ready {
    pub(crate) fn new(input: &PackedInput, tokens: &Tokens, device: Device) -> Result<Self> {
        let ids = host_i64(&input.input_ids_t)?;
        let segments = Segments::new(&input.cu_seqlens, device)?;
        if segments.tokens() != ids.len() as i64 || input.positions_t.size() != [ids.len() as i64] {
            return Err(ModelError::Input(format!(
                "{} token ids, positions {:?} and cu_seqlens up to {} do not fit together",
                ids.len(),
                input.positions_t.size(),
                segments.tokens()
            )));
        }
        let image_index = image_places(&ids, &input.grid_thw, tokens)?;
        let image_index =
            if image_index.is_empty() { None } else { Some(upload(&Tensor::f_from_slice(&image_index)?, device)?) };
        Ok(Ready {
            ids_t: upload(&input.input_ids_t, device)?,
            positions_t: upload(&input.positions_t, device)?,
            segments,
            image_index,
        })
    }
}
