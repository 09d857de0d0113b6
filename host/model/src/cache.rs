//! Keys and values of a batch of sequences that are being generated.
//!
//! Per layer one buffer `[B, capacity, key heads, head width]`, preallocated and doubled when full; rows hold sequences of
//! different lengths and are dropped when their sequence is done.

use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

/// The cache of one batch; made by [`KvCache::new`], filled by `prefill`, extended by `decode`.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<[Tensor; 2]>,
    lens: Vec<i64>,
    capacity: i64,
    reserve: i64,
    /// Rows of this step in the flattened `[B · capacity]` buffer.
    slots: Option<Tensor>,
    /// Additive mask `[B, 1, 1, longest]` of this step; none where all sequences are equally long.
    mask: Option<Tensor>,
}

impl KvCache {
    /// An empty cache. `reserve`: tokens per sequence beyond the prompt to allocate at once.
    pub fn new(reserve: usize) -> Self {
        KvCache { layers: Vec::new(), lens: Vec::new(), capacity: 0, reserve: reserve as i64, slots: None, mask: None }
    }

    /// Tokens that each sequence holds.
    pub fn lens(&self) -> &[i64] {
        &self.lens
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.lens.len()
    }

    fn options(&self) -> Option<(Kind, Device)> {
        self.layers.first().map(|l| (l[0].kind(), l[0].device()))
    }

    /// Makes place for prompts with these bounds.
    pub(crate) fn begin(
        &mut self,
        cu_seqlens: &[i32],
        layers: usize,
        heads: i64,
        width: i64,
        options: (Kind, Device),
    ) -> Result<()> {
        self.lens = cu_seqlens.windows(2).map(|w| i64::from(w[1] - w[0])).collect();
        self.capacity = self.lens.iter().max().copied().unwrap_or(0) + self.reserve.max(1);
        let shape = [self.lens.len() as i64, self.capacity, heads, width];
        self.layers = (0..layers)
            .map(|_| Ok([Tensor::f_zeros(shape, options)?, Tensor::f_zeros(shape, options)?]))
            .collect::<Result<_>>()?;
        let slots: Vec<i64> = self
            .lens
            .iter()
            .enumerate()
            .flat_map(|(b, &n)| (0..n).map(move |t| (b, t)))
            .map(|(b, t)| b as i64 * self.capacity + t)
            .collect();
        self.slots = Some(Tensor::f_from_slice(&slots)?.f_to_device(options.1)?);
        Ok(())
    }

    /// Makes place for one more token of every sequence; returns their positions, i64 `[B]`.
    pub(crate) fn step(&mut self) -> Result<Tensor> {
        let options =
            self.options().ok_or_else(|| ModelError::Input("decode before prefill: the cache is empty".into()))?;
        let longest = self.lens.iter().max().copied().unwrap_or(0) + 1;
        if longest > self.capacity {
            let grown = self.capacity.saturating_mul(2).max(longest);
            for pair in &mut self.layers {
                for buffer in pair {
                    let s = buffer.size();
                    let mut wide = Tensor::f_zeros([s[0], grown, s[2], s[3]], options)?;
                    wide.f_narrow(1, 0, self.capacity)?.f_copy_(buffer)?;
                    std::mem::swap(buffer, &mut wide);
                }
            }
            self.capacity = grown;
        }
        let slots: Vec<i64> = self.lens.iter().enumerate().map(|(b, &n)| b as i64 * self.capacity + n).collect();
        self.slots = Some(Tensor::f_from_slice(&slots)?.f_to_device(options.1)?);
        let positions = Tensor::f_from_slice(&self.lens)?.f_to_device(options.1)?;
        self.mask = if self.lens.iter().all(|&n| n + 1 == longest) {
            None
        } else {
            let at = Tensor::f_arange(longest, (Kind::Int64, options.1))?.f_unsqueeze(0)?;
            let hidden = at.f_gt_tensor(&positions.f_unsqueeze(1)?)?;
            let zero = Tensor::f_zeros(hidden.size(), options)?;
            Some(zero.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_view([self.lens.len() as i64, 1, 1, longest])?)
        };
        for n in &mut self.lens {
            *n += 1;
        }
        Ok(positions)
    }

    /// Writes keys and values `[tokens, heads, width]` of this prefill or step.
    pub(crate) fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let slots = self.slots.as_ref().ok_or_else(|| ModelError::Input("the cache is empty".into()))?;
        for (buffer, new) in self.layers[layer].iter_mut().zip([k, v]) {
            let s = buffer.size();
            let mut flat = buffer.f_view([s[0] * s[1], s[2], s[3]])?;
            let _ = flat.f_index_copy_(0, slots, new)?;
        }
        Ok(())
    }

    /// Attention of one new token per sequence, `q [B, heads, width]`, to everything cached: `[B, heads · width]`.
    pub(crate) fn attend(&self, layer: usize, q: &Tensor, scale: f64) -> Result<Tensor> {
        let longest = self.lens.iter().max().copied().unwrap_or(0);
        let s = q.size();
        let part = |x: &Tensor| -> Result<Tensor> { Ok(x.f_narrow(1, 0, longest)?.f_transpose(1, 2)?) };
        let (k, v) = (part(&self.layers[layer][0])?, part(&self.layers[layer][1])?);
        // Query heads that share a key head become rows of one query: no key is repeated.
        let shared = k.size()[1];
        let grouped = q.f_view([s[0], shared, s[1] / shared, s[2]])?;
        let out =
            Tensor::f_scaled_dot_product_attention(&grouped, &k, &v, self.mask.as_ref(), 0.0, false, scale, false)?;
        Ok(out.f_reshape([s[0], s[1] * s[2]])?)
    }

    /// Keeps these sequences, in this order, and drops the others.
    ///
    /// # Errors
    /// A row that does not exist, or what libtorch throws.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(bad) = rows.iter().find(|&&r| r >= self.lens.len()) {
            return Err(ModelError::Input(format!("row {bad} of a cache of {} sequences", self.lens.len())));
        }
        let Some((_, device)) = self.options() else { return Ok(()) };
        let index: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
        let index = Tensor::f_from_slice(&index)?.f_to_device(device)?;
        for pair in &mut self.layers {
            for buffer in pair {
                *buffer = buffer.f_index_select(0, &index)?;
            }
        }
        self.lens = rows.iter().map(|&r| self.lens[r]).collect();
        Ok(())
    }
}
