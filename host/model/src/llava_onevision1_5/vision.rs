//! RICE ViT: pixel rows → features, one segment and one class token per image.
//!
//! Letters: P patches, N patches and class tokens, W width, H heads, D head width. For two images:
//!
//! ```text
//!  patches     a0 a1 a2 a3 b0 b1                      (2×2 merge blocks, raster order of blocks)
//!  with class  [c] a0 a1 a2 a3 [c] b0 b1              segments 0 5 8
//!  result      rows of the patches: 1 2 3 4  6 7
//! ```

use ovhost_torch::Segments;
use tch::{Device, Kind, Tensor};

use super::config::VisionConfig;
use crate::builder::{Builder, Init};
use crate::chain::{self, Recompute};
use crate::error::{ModelError, Result};
use crate::layers::{LayerNorm, Linear, rows};

/// Base of the rotary angles.
const THETA: f64 = 10_000.0;

struct Block {
    norm1: LayerNorm,
    norm2: LayerNorm,
    qkv: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
}

pub(crate) struct Vision {
    config: VisionConfig,
    class_embedding: Tensor,
    class_pos_emb: Tensor,
    patch_embed: Tensor,
    pre_layernorm: LayerNorm,
    blocks: Vec<Block>,
    /// fp32 `[D/4]`.
    frequencies: Tensor,
}

/// A batch of images before the first block.
pub(crate) struct Patches {
    /// Patches and class tokens `[N, W]`.
    pub(crate) x_nw: Tensor,
    /// cos and sin of the rotary angles, fp32 `[N, D/2]`.
    pub(crate) angles: [Tensor; 2],
    /// One per image.
    pub(crate) segments: Segments,
    /// i64 `[P]`: the patches' rows of the N.
    pub(crate) keep: Tensor,
}

/// Where everything of a batch of images goes.
struct Layout {
    segments: Segments,
    /// i64 `[N]`: row 0 is the class token, row 1 + p is patch p.
    insert: Tensor,
    /// i64 `[P]`: the patches' rows of the N.
    keep: Tensor,
    /// fp32 `[P, 2]`: row and column of each patch in its image.
    place: Tensor,
}

impl Layout {
    fn new(grids: &[[i64; 3]], merge: i64, device: Device) -> Result<Self> {
        let (mut cu, mut insert, mut keep, mut place) = (vec![0i32], Vec::new(), Vec::new(), Vec::new());
        let mut patch = 0i64;
        for (i, &[t, h, w]) in grids.iter().enumerate() {
            if t < 1 || h < 1 || w < 1 || h % merge != 0 || w % merge != 0 {
                return Err(ModelError::Input(format!(
                    "image {i}: grid [{t}, {h}, {w}]; rows and columns must be positive multiples of {merge}"
                )));
            }
            insert.push(0);
            for at in 0..t * h * w {
                keep.push(insert.len() as i64);
                insert.push(1 + patch);
                patch += 1;
                // Position inside the frame: block row, block column, row in block, column in block.
                let (inside, block) = (at % (h * w) % (merge * merge), at % (h * w) / (merge * merge));
                let (row, column) =
                    (block / (w / merge) * merge + inside / merge, block % (w / merge) * merge + inside % merge);
                place.push(row as f32);
                place.push(column as f32);
            }
            let end = i32::try_from(insert.len())
                .map_err(|_| ModelError::Input(format!("{} patches in one batch are too many", insert.len())))?;
            cu.push(end);
        }
        let to = |t: Tensor| ovhost_torch::upload(&t, device);
        Ok(Layout {
            segments: Segments::new(&cu, device)?,
            insert: to(Tensor::f_from_slice(&insert)?)?,
            keep: to(Tensor::f_from_slice(&keep)?)?,
            place: to(Tensor::f_from_slice(&place)?.f_view([patch, 2])?)?,
        })
    }
}

impl Vision {
    pub(crate) fn new(config: &VisionConfig, at: &Builder<'_>) -> Result<Self> {
        let c = config;
        let (width, eps) = (c.hidden_size, c.eps.blocks);
        let class_embedding = at.tensor("class_embedding", &[width], Init::Normal((width as f64).powf(-0.5)))?;
        let class_pos_emb = at.tensor("class_pos_emb", &[1, c.head_dim() / 2], Init::Normal(1.0))?;
        // The reference's convolution keeps torch's own initialisation.
        let bound = 1.0 / (c.patch_dim() as f64).sqrt();
        let shape = [width, c.in_channels, c.patch_size, c.patch_size];
        let patch_embed = at.at("patch_embed.proj").tensor("weight", &shape, Init::Uniform(bound))?;
        let pre_layernorm = at.layer_norm("pre_layernorm", width, c.eps.pre_layernorm)?;
        let blocks = (0..c.depth)
            .map(|i| {
                let at = at.at("blocks").at(i);
                Ok(Block {
                    norm1: at.layer_norm("norm1", width, eps)?,
                    norm2: at.layer_norm("norm2", width, eps)?,
                    qkv: at.linear("attn.qkv", width, 3 * width, true)?,
                    proj: at.linear("attn.proj", width, width, true)?,
                    fc1: at.linear("mlp.fc1", width, c.intermediate_size, true)?,
                    fc2: at.linear("mlp.fc2", c.intermediate_size, width, true)?,
                })
            })
            .collect::<Result<_>>()?;
        // As the reference: exponents and powers in fp32.
        let half = c.head_dim() / 2;
        let exponents =
            Tensor::f_arange_start_step(0, half, 2, (Kind::Float, Device::Cpu))?.f_div_scalar(half as f64)?;
        let frequencies = Tensor::f_full_like(&exponents, THETA)?
            .f_pow(&exponents)?
            .f_reciprocal()?
            .f_to_device(class_embedding.device())?;
        Ok(Vision {
            config: config.clone(),
            class_embedding,
            class_pos_emb,
            patch_embed,
            pre_layernorm,
            blocks,
            frequencies,
        })
    }

    /// Every layer that can have an adapter, in the order of the network.
    pub(crate) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(|b| [&mut b.qkv, &mut b.proj, &mut b.fc1, &mut b.fc2])
    }

    /// What goes into the first block.
    pub(crate) fn patches(&self, pixels_pc: &Tensor, grids: &[[i64; 3]]) -> Result<Patches> {
        let c = &self.config;
        let (device, kind) = (self.class_embedding.device(), self.class_embedding.kind());
        let patches: i64 = grids.iter().map(|g| g.iter().product::<i64>()).sum();
        if pixels_pc.size() != [patches, c.patch_dim()] {
            return Err(ModelError::Input(format!(
                "pixel rows {:?} do not fit the grids {:?}: {patches} patches of {} values ({} channels, {}×{} pixels) are \
                 wanted; does preprocessor_config.json belong to this model?",
                pixels_pc.size(),
                &grids[..grids.len().min(8)],
                c.patch_dim(),
                c.in_channels,
                c.patch_size,
                c.patch_size
            )));
        }
        let layout = Layout::new(grids, c.spatial_merge_size, device)?;
        let pixels = ovhost_torch::upload(pixels_pc, device)?.f_to_kind(kind)?;
        let embedded = pixels.f_linear(&self.patch_embed.f_view([c.hidden_size, -1])?, None::<Tensor>)?;
        let joined = Tensor::f_cat(&[self.class_embedding.f_unsqueeze(0)?, embedded], 0)?;
        let x_nw = self.pre_layernorm.forward(&rows(&joined, &layout.insert)?)?;

        let angles = layout.place.f_unsqueeze(-1)?.f_mul(&self.frequencies)?.f_view([patches, c.head_dim() / 2])?;
        let class = self.class_pos_emb.f_to_kind(Kind::Float)?;
        let angles = rows(&Tensor::f_cat(&[class, angles], 0)?, &layout.insert)?;
        Ok(Patches { x_nw, angles: [angles.f_cos()?, angles.f_sin()?], segments: layout.segments, keep: layout.keep })
    }

    /// Features `[P, W]` after the last block, class tokens removed.
    pub(crate) fn forward(&self, pixels_pc: &Tensor, grids: &[[i64; 3]]) -> Result<Tensor> {
        let Patches { mut x_nw, angles, segments, keep } = self.patches(pixels_pc, grids)?;
        for block in &self.blocks {
            x_nw = block.mlp(&block.attention(&x_nw, &self.config, &angles, &segments)?)?;
        }
        rows(&x_nw, &keep)
    }

    /// The blocks as those of a [`Chain`](crate::chain::Chain), each half its own where the policy is selective. They leave
    /// the choice of the patches' rows to do.
    pub(crate) fn chain_blocks<'a>(
        &'a self,
        angles: &'a [Tensor; 2],
        segments: &'a Segments,
        recompute: Recompute,
    ) -> Vec<chain::Block<'a>> {
        let mut blocks = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let attention = move |x: &Tensor| block.attention(x, &self.config, angles, segments);
            let mlp = move |x: &Tensor| block.mlp(x);
            let angled = angles.iter().any(Tensor::requires_grad);
            let [first, second] = block.trains();
            blocks.extend(chain::halves(i, recompute, [first || angled, second], attention, mlp));
        }
        blocks
    }
}

impl Block {
    /// The first half.
    fn attention(
        &self,
        x_nw: &Tensor,
        c: &VisionConfig,
        [cos, sin]: &[Tensor; 2],
        segments: &Segments,
    ) -> Result<Tensor> {
        let (n, d) = (x_nw.size()[0], c.head_dim());
        let qkv = self.qkv.forward(&self.norm1.forward(x_nw)?)?.f_view([n, 3, c.num_heads, d])?.f_unbind(1)?;
        let q = ovhost_torch::rope(&qkv[0], cos, sin)?;
        let k = ovhost_torch::rope(&qkv[1], cos, sin)?;
        let scale = (d as f64).powf(-0.5);
        let attended = ovhost_torch::attention(&q, &k, &qkv[2], segments, false, scale)?;
        Ok(x_nw.f_add(&self.proj.forward(&attended.f_view([n, c.hidden_size])?)?)?)
    }

    /// The second half.
    fn mlp(&self, x_nw: &Tensor) -> Result<Tensor> {
        let inner = self.fc1.forward(&self.norm2.forward(x_nw)?)?.f_gelu("none")?;
        Ok(x_nw.f_add(&self.fc2.forward(&inner)?)?)
    }

    fn trains(&self) -> [bool; 2] {
        let trains = |norm: &LayerNorm, linears: [&Linear; 2]| {
            [&norm.weight, &norm.bias].into_iter().any(Tensor::requires_grad)
                || linears.iter().any(|linear| linear.trains())
        };
        [trains(&self.norm1, [&self.qkv, &self.proj]), trains(&self.norm2, [&self.fc1, &self.fc2])]
    }
}
