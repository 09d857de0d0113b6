//! The decoder: Qwen3 (query and key norms), and by configuration Qwen2.5 and Llama alike.
//!
//! Letters: T tokens, C channels, H query heads, K key heads, D head width, B sequences.

use std::cell::RefCell;
use std::rc::Rc;

use ovhost_torch::Segments;
use tch::{Device, Kind, Tensor};

use super::config::TextConfig;
use crate::builder::{Builder, Init};
use crate::cache::KvCache;
use crate::chain::{Block, Recompute, halves};
use crate::error::Result;
use crate::layers::{Linear, RmsNorm, rows};

/// What a token attends to.
pub(crate) enum Attend<'a> {
    /// Its own segment.
    Packed(&'a Segments),
    /// The first tokens, one per running sequence, to everything cached for theirs; those after them, prompts, to their own
    /// segment. Keys and values go to the cache.
    Cached(Option<&'a Segments>, &'a mut KvCache),
}

struct Layer {
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

pub(crate) struct Language {
    config: TextConfig,
    pub(crate) embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// fp32 `[D/2]`.
    frequencies: Tensor,
    /// cos and sin, fp32 `[positions, D/2]`, as far as anybody asked.
    angles: RefCell<Option<[Tensor; 2]>>,
}

impl Language {
    pub(crate) fn new(config: &TextConfig, at: &Builder<'_>) -> Result<Self> {
        let c = config;
        let (width, eps) = (c.hidden_size, c.rms_norm_eps);
        let (q_width, kv_width) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let embed_tokens =
            at.at("embed_tokens").tensor("weight", &[c.vocab_size, width], Init::Normal(c.initializer_range))?;
        let layers = (0..c.num_hidden_layers)
            .map(|i| {
                let at = at.at("layers").at(i);
                let (attn, mlp) = (at.at("self_attn"), at.at("mlp"));
                let norms = |at: &Builder<'_>| -> Result<_> {
                    Ok((at.rms_norm("q_norm", c.head_dim, eps)?, at.rms_norm("k_norm", c.head_dim, eps)?))
                };
                Ok(Layer {
                    input_layernorm: at.rms_norm("input_layernorm", width, eps)?,
                    post_attention_layernorm: at.rms_norm("post_attention_layernorm", width, eps)?,
                    q_proj: attn.linear("q_proj", width, q_width, c.qkv_bias)?,
                    k_proj: attn.linear("k_proj", width, kv_width, c.qkv_bias)?,
                    v_proj: attn.linear("v_proj", width, kv_width, c.qkv_bias)?,
                    o_proj: attn.linear("o_proj", q_width, width, c.output_bias)?,
                    qk_norm: if c.qk_norm { Some(norms(&attn)?) } else { None },
                    gate_proj: mlp.linear("gate_proj", width, c.intermediate_size, false)?,
                    up_proj: mlp.linear("up_proj", width, c.intermediate_size, false)?,
                    down_proj: mlp.linear("down_proj", c.intermediate_size, width, false)?,
                })
            })
            .collect::<Result<_>>()?;
        let norm = at.rms_norm("norm", width, eps)?;
        // As the reference: exponents and powers in fp32.
        let exponents = Tensor::f_arange_start_step(0, c.head_dim, 2, (Kind::Float, Device::Cpu))?
            .f_div_scalar(c.head_dim as f64)?;
        let frequencies = Tensor::f_full_like(&exponents, c.rope_theta)?
            .f_pow(&exponents)?
            .f_reciprocal()?
            .f_to_device(embed_tokens.device())?;
        Ok(Language { config: config.clone(), embed_tokens, layers, norm, frequencies, angles: RefCell::new(None) })
    }

    pub(crate) fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Every layer that can have an adapter, in the order of the network.
    pub(crate) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers.iter_mut().flat_map(Layer::linears)
    }

    pub(crate) fn embed(&self, ids_t: &Tensor) -> Result<Tensor> {
        rows(&self.embed_tokens, ids_t)
    }

    /// cos and sin `[T, D/2]` of positions below `end`.
    fn angles(&self, positions_t: &Tensor, end: i64) -> Result<[Tensor; 2]> {
        let mut slot = self.angles.borrow_mut();
        let table = match slot.take() {
            Some(table) if table[0].size()[0] >= end => table,
            _ => {
                // Doubled, so that decoding does not make it anew for each token.
                let n = end.saturating_mul(2).max(256);
                let positions = Tensor::f_arange(n, (Kind::Float, self.frequencies.device()))?;
                let angles = positions.f_unsqueeze(1)?.f_mul(&self.frequencies)?;
                [angles.f_cos()?, angles.f_sin()?]
            }
        };
        let rows = [table[0].f_index_select(0, positions_t)?, table[1].f_index_select(0, positions_t)?];
        *slot = Some(table);
        Ok(rows)
    }

    /// Embedded tokens `[T, C]` through all layers and the final norm: `[T, C]`, or the rows `only` (i64 `[N]`) of it.
    /// `end` is above every position.
    pub(crate) fn forward(
        &self,
        x_tc: Tensor,
        positions_t: &Tensor,
        end: i64,
        attend: &mut Attend<'_>,
        only: Option<&Tensor>,
    ) -> Result<Tensor> {
        let angles = self.angles(positions_t, end)?;
        let mut x_tc = x_tc;
        for (i, layer) in self.layers.iter().enumerate() {
            x_tc = layer.forward(i, &x_tc, &self.config, &angles, attend, self.wanted(i, only))?;
        }
        self.norm.forward(&x_tc)
    }

    /// After the last attention every row is on its own: rows that nobody wants stop there.
    fn wanted<'a>(&self, layer: usize, only: Option<&'a Tensor>) -> Option<&'a Tensor> {
        only.filter(|_| layer + 1 == self.layers.len())
    }

    /// The layers as blocks of a [`Chain`](crate::chain::Chain), each half its own where the policy is selective. They leave
    /// the final norm to do.
    pub(crate) fn blocks<'a>(
        &'a self,
        positions_t: &Tensor,
        end: i64,
        segments: &'a Segments,
        only: &'a Tensor,
        recompute: Recompute,
    ) -> Result<Vec<Block<'a>>> {
        let angles = Rc::new(self.angles(positions_t, end)?);
        let mut blocks = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let (angles, only) = (Rc::clone(&angles), self.wanted(i, Some(only)));
            let attention =
                move |x: &Tensor| layer.attention(i, x, &self.config, &angles, &mut Attend::Packed(segments), only);
            let mlp = move |x: &Tensor| layer.mlp(x);
            blocks.extend(halves(i, recompute, layer.trains(), attention, mlp));
        }
        Ok(blocks)
    }

    /// The final norm.
    pub(crate) fn finish(&self, x_tc: &Tensor) -> Result<Tensor> {
        self.norm.forward(x_tc)
    }
}

impl Layer {
    fn forward(
        &self,
        index: usize,
        x_tc: &Tensor,
        c: &TextConfig,
        angles: &[Tensor; 2],
        attend: &mut Attend<'_>,
        only: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.mlp(&self.attention(index, x_tc, c, angles, attend, only)?)
    }

    /// The first half: `[T, C]`, or the rows `only` of it.
    fn attention(
        &self,
        index: usize,
        x_tc: &Tensor,
        c: &TextConfig,
        [cos, sin]: &[Tensor; 2],
        attend: &mut Attend<'_>,
        only: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (t, d) = (x_tc.size()[0], c.head_dim);
        let h_tc = self.input_layernorm.forward(x_tc)?;
        let mut q = self.q_proj.forward(&h_tc)?.f_view([t, c.num_attention_heads, d])?;
        let mut k = self.k_proj.forward(&h_tc)?.f_view([t, c.num_key_value_heads, d])?;
        let v = self.v_proj.forward(&h_tc)?.f_view([t, c.num_key_value_heads, d])?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let (q, k) = (ovhost_torch::rope(&q, cos, sin)?, ovhost_torch::rope(&k, cos, sin)?);
        let scale = (d as f64).powf(-0.5);
        let attended = match attend {
            Attend::Packed(segments) => ovhost_torch::attention(&q, &k, &v, segments, true, scale)?,
            Attend::Cached(segments, cache) => {
                cache.write(index, &k, &v)?;
                let prompts = segments.map_or(0, Segments::tokens);
                let running = t - prompts;
                let mut parts = Vec::new();
                if running > 0 {
                    parts.push(cache.attend(index, &q.f_narrow(0, 0, running)?, scale)?);
                }
                if let Some(segments) = segments {
                    let part = |x: &Tensor| x.f_narrow(0, running, prompts);
                    parts.push(ovhost_torch::attention(&part(&q)?, &part(&k)?, &part(&v)?, segments, true, scale)?);
                }
                if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, 0)? }
            }
        };
        let mut attended = attended.f_view([t, c.num_attention_heads * d])?;
        let mut x_tc = x_tc.shallow_clone();
        if let Some(only) = only {
            (attended, x_tc) = (rows(&attended, only)?, rows(&x_tc, only)?);
        }
        Ok(x_tc.f_add(&self.o_proj.forward(&attended)?)?)
    }

    /// The second half.
    fn mlp(&self, x_tc: &Tensor) -> Result<Tensor> {
        let h_tc = self.post_attention_layernorm.forward(x_tc)?;
        let inner = ovhost_torch::silu_mul(&self.gate_proj.forward(&h_tc)?, &self.up_proj.forward(&h_tc)?)?;
        Ok(x_tc.f_add(&self.down_proj.forward(&inner)?)?)
    }

    fn trains(&self) -> [bool; 2] {
        let mut norms = vec![&self.input_layernorm];
        norms.extend(self.qk_norm.iter().flat_map(|(q, k)| [q, k]));
        let attention = [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj];
        let mlp = [&self.gate_proj, &self.up_proj, &self.down_proj];
        [
            norms.iter().any(|norm| norm.weight.requires_grad()) || attention.iter().any(|linear| linear.trains()),
            self.post_attention_layernorm.weight.requires_grad() || mlp.iter().any(|linear| linear.trains()),
        ]
    }

    fn linears(&mut self) -> [&mut Linear; 7] {
        [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ]
    }
}
