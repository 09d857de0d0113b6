//! Attention over concatenated segments of different lengths (no padding, no mask): flash kernels on CUDA, an exact
//! per-segment path elsewhere.
//!
//! ```text
//!  tokens    a a a b b c c c c      cu_seqlens 0 3 5 9: each letter attends to its own letters only
//! ```

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};

use crate::{TorchError, ffi};

/// Segment bounds, prepared once and used by every layer.
#[derive(Debug)]
pub struct Segments {
    cu: Vec<i32>,
    longest: i64,
    /// (first token, segments, length) of each run of equal neighbours.
    groups: Vec<i64>,
    /// `cu` on the device, for the CUDA kernels.
    cu_device: Option<Tensor>,
}

impl Segments {
    /// From cumulative lengths: starts at zero, grows strictly, one more entry than segments.
    ///
    /// # Errors
    /// Bounds that are not of that form, naming the first bad one.
    pub fn new(cu_seqlens: &[i32], device: Device) -> Result<Self, TorchError> {
        if cu_seqlens.first() != Some(&0) {
            return Err(TorchError::new(format!("cu_seqlens must start with 0, got {:?}", cu_seqlens.first())));
        }
        let mut groups: Vec<i64> = Vec::new();
        let mut longest = 0;
        for pair in cu_seqlens.windows(2) {
            let len = i64::from(pair[1]) - i64::from(pair[0]);
            if len <= 0 {
                return Err(TorchError::new(format!(
                    "cu_seqlens must grow: {} is followed by {} (drop empty segments)",
                    pair[0], pair[1]
                )));
            }
            longest = longest.max(len);
            match groups.as_mut_slice() {
                [.., n, last] if *last == len => *n += 1,
                _ => groups.extend([i64::from(pair[0]), 1, len]),
            }
        }
        let cu_device = match device {
            Device::Cpu => None,
            other => Some(crate::upload(&Tensor::f_from_slice(cu_seqlens)?, other)?),
        };
        Ok(Segments { cu: cu_seqlens.to_vec(), longest, groups, cu_device })
    }

    /// Cumulative lengths, as given.
    pub fn cu_seqlens(&self) -> &[i32] {
        &self.cu
    }

    /// Number of segments.
    pub fn count(&self) -> usize {
        self.cu.len() - 1
    }

    /// Tokens in all segments.
    pub fn tokens(&self) -> i64 {
        i64::from(self.cu.last().copied().unwrap_or(0))
    }

    /// Length of the longest segment.
    pub fn longest(&self) -> i64 {
        self.longest
    }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, tokens_q: i64, tokens_k: i64) -> Result<(), TorchError> {
    let (sq, sk, sv) = (q.size(), k.size(), v.size());
    let fits = sq.len() == 3
        && sk.len() == 3
        && sk == sv
        && sq[0] == tokens_q
        && sk[0] == tokens_k
        && sq[2] == sk[2]
        && sk[1] > 0
        && sq[1] % sk[1] == 0;
    if fits {
        return Ok(());
    }
    Err(TorchError::new(format!(
        "attention over {tokens_q} query and {tokens_k} key tokens: q {sq:?}, k {sk:?}, v {sv:?} do not fit \
         ([tokens, heads, width], query heads a multiple of key heads)"
    )))
}

fn flash(q: &Tensor, kind: Kind) -> bool {
    matches!(q.device(), Device::Cuda(_)) && matches!(kind, Kind::BFloat16 | Kind::Half)
}

/// Self-attention within each segment: `q [T, H, D]`, `k` and `v` `[T, H or fewer, D]`, result `[T, H, D]`.
/// Differentiable and deterministic on the CPU.
///
/// # Errors
/// Shapes that do not fit, or what libtorch throws.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    causal: bool,
    scale: f64,
) -> Result<Tensor, TorchError> {
    check(q, k, v, segments.tokens(), segments.tokens())?;
    if let (true, Some(cu)) = (flash(q, q.kind()), &segments.cu_device) {
        let max = segments.longest;
        // SAFETY: live tensors, borrowed; bounds were checked when `segments` was made.
        return ffi::tensor(unsafe {
            ffi::ov_flash_varlen(
                q.as_ptr(),
                k.as_ptr(),
                v.as_ptr(),
                cu.as_ptr(),
                cu.as_ptr(),
                max,
                max,
                c_int::from(causal),
                scale,
            )
        });
    }
    if q.device() == Device::Cpu {
        let groups = &segments.groups;
        // SAFETY: live tensors and an array of n numbers, borrowed; the groups cover the tokens exactly.
        return ffi::tensor(unsafe {
            ffi::ov_attention_cpu(
                q.as_ptr(),
                k.as_ptr(),
                v.as_ptr(),
                groups.as_ptr(),
                ffi::count(groups.len())?,
                c_int::from(causal),
                scale,
            )
        });
    }
    by_segment(q, k, v, &segments.cu, &segments.cu, causal, scale)
}

/// As [`attention`], with other keys than queries: segment i of `q` attends to segment i of `k`. Causal means aligned at the
/// end: the last query sees every key.
///
/// # Errors
/// Bounds or shapes that do not fit, or what libtorch throws.
pub fn varlen_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_q: &[i32],
    cu_k: &[i32],
    causal: bool,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let queries = Segments::new(cu_q, q.device())?;
    if cu_q == cu_k {
        return attention(q, k, v, &queries, causal, scale);
    }
    let keys = Segments::new(cu_k, q.device())?;
    if queries.count() != keys.count() {
        return Err(TorchError::new(format!("{} query segments but {} key segments", queries.count(), keys.count())));
    }
    check(q, k, v, queries.tokens(), keys.tokens())?;
    if let (true, Some(cu_q), Some(cu_k)) = (flash(q, q.kind()), &queries.cu_device, &keys.cu_device) {
        // SAFETY: live tensors, borrowed; bounds were checked when the segments were made.
        return ffi::tensor(unsafe {
            ffi::ov_flash_varlen(
                q.as_ptr(),
                k.as_ptr(),
                v.as_ptr(),
                cu_q.as_ptr(),
                cu_k.as_ptr(),
                queries.longest,
                keys.longest,
                c_int::from(causal),
                scale,
            )
        });
    }
    by_segment(q, k, v, cu_q, cu_k, causal, scale)
}

/// One call of libtorch's attention per segment.
fn by_segment(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_q: &[i32],
    cu_k: &[i32],
    causal: bool,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let grouped = q.size()[1] != k.size()[1];
    let mut out = Vec::with_capacity(cu_q.len() - 1);
    for (q_at, k_at) in cu_q.windows(2).zip(cu_k.windows(2)) {
        let (nq, nk) = (i64::from(q_at[1] - q_at[0]), i64::from(k_at[1] - k_at[0]));
        let part = |x: &Tensor, at: i32, n: i64| x.f_narrow(0, i64::from(at), n)?.f_transpose(0, 1)?.f_unsqueeze(0);
        let (qi, ki, vi) = (part(q, q_at[0], nq)?, part(k, k_at[0], nk)?, part(v, k_at[0], nk)?);
        let mask = if causal && nq != nk {
            let ones = Tensor::f_ones([nq, nk], (Kind::Bool, q.device()))?;
            Some(ones.f_tril(nk - nq)?)
        } else {
            None
        };
        let is_causal = causal && mask.is_none();
        let o = Tensor::f_scaled_dot_product_attention(&qi, &ki, &vi, mask, 0.0, is_causal, scale, grouped)?;
        out.push(o.f_squeeze_dim(0)?.f_transpose(0, 1)?);
    }
    Ok(Tensor::f_cat(&out, 0)?)
}
