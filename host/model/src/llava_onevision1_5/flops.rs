//! Floating-point operations of a training step, from the lengths that it really has.
//!
//! Counted are matrix products and attention, two operations per multiplication and addition; norms, activations and lookups
//! are left out, as is usual. Attention is counted by segment (a causal token meets those before it only, an image's patches
//! each other), the vision tower by its patches and class tokens, the head by the learnt tokens, which are the only ones whose
//! logits are made. For the last layer the rows that are not learnt are left out, as they are not computed.
//!
//! The backward pass of a product costs its forward pass once for the gradient of the input and once for that of the weights,
//! each where it is wanted: nothing goes back through a frozen tower, and a frozen decoder has no gradients of weights.
//! *Model* operations are those (what model FLOPs utilisation counts); *hardware* operations add what is computed again.

use crate::builder::Module;
use crate::chain::{Recompute, RecomputePolicy};

use super::config::ModelConfig;

/// Operations of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flops {
    /// What the step needs.
    pub model: f64,
    /// The same and what is computed again.
    pub hardware: f64,
}

impl std::ops::AddAssign for Flops {
    fn add_assign(&mut self, other: Self) {
        self.model += other.model;
        self.hardware += other.hardware;
    }
}

/// The lengths of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// Starts of the samples and the end of the last.
    pub cu_seqlens: &'a [i32],
    /// Frames, rows and columns of every image, in patches.
    pub grid_thw: &'a [[i64; 3]],
    /// Tokens whose loss is learnt.
    pub learnt: i64,
}

/// Operations of a part's forward pass: products with weights, and attention's.
#[derive(Clone, Copy, Default)]
struct Part {
    products: f64,
    attention: f64,
}

impl ModelConfig {
    /// Operations of one forward and backward pass, with the modules in `trained` trained and the layers computed again as
    /// `recompute` says.
    pub fn flops(&self, work: Work<'_>, trained: &[Module], recompute: Recompute) -> Flops {
        self.flops_adapted(work, trained, &[], recompute)
    }

    /// As [`ModelConfig::flops`], with adapters in the layers of the modules in `adapted`: gradients go through those, but their
    /// weights have none. The adapters' own products, a per cent or so, are left out.
    pub fn flops_adapted(&self, work: Work<'_>, trained: &[Module], adapted: &[Module], recompute: Recompute) -> Flops {
        let (v, t) = (&self.vision, &self.text);
        let learnt = work.learnt as f64;
        let lengths = work.cu_seqlens.windows(2).map(|pair| f64::from(pair[1] - pair[0]));
        let tokens: f64 = lengths.clone().sum();
        // A token and all before it in its sample, itself included.
        let met: f64 = lengths.map(|n| n * (n + 1.0) / 2.0).sum();
        let patches = work.grid_thw.iter().map(|grid| grid.iter().product::<i64>() as f64);
        let images = work.grid_thw.len() as f64;
        let nodes = patches.clone().map(|n| (n + 1.0) * (n + 1.0)).sum::<f64>();
        let patches = patches.sum::<f64>();

        let [width, inner, joined] =
            [v.hidden_size, v.intermediate_size, v.hidden_size * v.spatial_merge_size.pow(2)].map(|n| n as f64);
        let embed = Part { products: 2.0 * patches * v.patch_dim() as f64 * width, attention: 0.0 };
        let block = Part {
            products: 2.0 * (patches + images) * (4.0 * width * width + 2.0 * width * inner),
            attention: 4.0 * nodes * width,
        };
        let block_mlp = 2.0 * (patches + images) * 2.0 * width * inner;
        let hidden = t.hidden_size as f64;
        let merged = patches / v.spatial_merge_size.pow(2) as f64;
        let merger = Part { products: 2.0 * merged * (joined * joined + joined * hidden), attention: 0.0 };

        let [heads, kv_heads, mlp] =
            [t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim, t.intermediate_size]
                .map(|n| n as f64);
        let layer = |rows: f64| Part {
            products: 2.0 * tokens * hidden * (heads + 2.0 * kv_heads)
                + 2.0 * rows * (heads * hidden + 3.0 * hidden * mlp),
            attention: 4.0 * met * heads,
        };
        let layer_mlp = |rows: f64| 2.0 * rows * 3.0 * hidden * mlp;
        let head = Part { products: 2.0 * learnt * hidden * t.vocab_size as f64, attention: 0.0 };

        let trains = |module| trained.contains(&module);
        let mut total = Flops::default();
        let mut add = |part: Part, count: f64, weights: bool, input: bool| {
            let mut all = part.products + part.attention;
            if weights {
                all += part.products;
            }
            if input {
                all += part.products + 2.0 * part.attention;
            }
            total += Flops { model: all * count, hardware: all * count };
        };
        let vision = trains(Module::Vision) || adapted.contains(&Module::Vision);
        // A gradient reaches the decoder's input where something before it is trained, its own embeddings included.
        let reaches = vision || !trained.is_empty() || !adapted.is_empty();
        if images > 0.0 {
            add(embed, 1.0, trains(Module::Vision), false);
            add(block, v.depth as f64, trains(Module::Vision), vision);
            add(merger, 1.0, trains(Module::Merger), vision);
        }
        let layers = t.num_hidden_layers as f64;
        add(layer(tokens), (layers - 1.0).max(0.0), trains(Module::Language), reaches);
        add(layer(learnt), layers.min(1.0), trains(Module::Language), reaches);
        add(head, 1.0, trains(Module::Language), reaches);

        let again = |layers: i64| (0..layers).filter(|layer| recompute.chosen(*layer as usize)).count() as f64;
        let whole = |part: Part| part.products + part.attention;
        let mut repeated = 0.0;
        if vision && images > 0.0 {
            repeated += again(v.depth)
                * match recompute.policy {
                    RecomputePolicy::None => 0.0,
                    RecomputePolicy::Selective => block_mlp,
                    RecomputePolicy::Full => whole(block),
                };
        }
        if reaches {
            for i in (0..t.num_hidden_layers).filter(|layer| recompute.chosen(*layer as usize)) {
                let rows = if i + 1 == t.num_hidden_layers { learnt } else { tokens };
                repeated += match recompute.policy {
                    RecomputePolicy::None => 0.0,
                    RecomputePolicy::Selective => layer_mlp(rows),
                    RecomputePolicy::Full => whole(layer(rows)),
                };
            }
        }
        total.hardware += repeated;
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llava_onevision1_5::Preset;

    const ALL: [Module; 3] = [Module::Vision, Module::Merger, Module::Language];
    const FULL: Recompute = Recompute { policy: RecomputePolicy::Full, every: 1 };

    #[test]
    fn a_token_costs_six_operations_a_parameter() {
        // Text of one-token samples: attention is next to nothing, and every token is learnt.
        let config = Preset::B4.config();
        let cu: Vec<i32> = (0..=1000).collect();
        let flops = config.flops(Work { cu_seqlens: &cu, grid_thw: &[], learnt: 1000 }, &ALL, Recompute::NONE);
        // The 4B decoder has 4.02 G parameters, its tied embedding counted once, and norms apart all are in products.
        let per_token = flops.model / 1000.0;
        assert!((per_token / (6.0 * 4.022e9) - 1.0).abs() < 2e-3, "{per_token:e}");
        assert_eq!(flops.model, flops.hardware);
    }

    #[test]
    fn attention_is_by_segment() {
        let config = Preset::B4.config();
        let of = |cu: &[i32]| {
            config.flops(Work { cu_seqlens: cu, grid_thw: &[], learnt: 8192 }, &ALL, Recompute::NONE).model / 8192.0
        };
        let cut: Vec<i32> = (0..=8192).step_by(1024).collect();
        let single: Vec<i32> = (0..=8192).collect();
        // Per token: 7.2 G for one document of 8 k, 0.9 G for documents of 1 k.
        let alone = of(&single);
        assert!(((of(&[0, 8192]) - alone) / 7.25e9 - 1.0).abs() < 0.02, "{:e}", of(&[0, 8192]) - alone);
        assert!(((of(&cut) - alone) / 0.906e9 - 1.0).abs() < 0.02, "{:e}", of(&cut) - alone);
    }

    #[test]
    fn the_tower_counts_and_frozen_parts_cost_less() {
        let config = Preset::B4.config();
        let work = Work { cu_seqlens: &[0, 1024], grid_thw: &[[1, 56, 56]], learnt: 240 };
        let all = config.flops(work, &ALL, Recompute::NONE).model;
        let text = config.flops(Work { grid_thw: &[], ..work }, &ALL, Recompute::NONE).model;
        // 303 M parameters and 3136 patches, of which attention makes a third more.
        let tower = (all - text) / (6.0 * 303e6 * 3136.0);
        assert!((1.2..1.6).contains(&tower), "{tower}");
        let aligned = config.flops(work, &[Module::Merger], Recompute::NONE).model;
        let frozen = config.flops(work, &[Module::Language], Recompute::NONE).model;
        assert!(aligned < 0.75 * all && frozen < all && aligned < frozen);
    }

    #[test]
    fn full_recomputation_is_a_third_more() {
        let config = Preset::B4.config();
        let work = Work { cu_seqlens: &[0, 4096], grid_thw: &[[1, 56, 56]], learnt: 4096 };
        let ratio = |recompute| {
            let flops = config.flops(work, &ALL, recompute);
            flops.hardware / flops.model
        };
        let full = ratio(FULL);
        assert!((1.28..1.334).contains(&full), "{full}");
        let half = ratio(Recompute { every: 2, ..FULL });
        assert!((half - 1.0 - (full - 1.0) / 2.0).abs() < 0.01, "{half}");
        let selective = ratio(Recompute { policy: RecomputePolicy::Selective, every: 1 });
        assert!(1.1 < selective && selective < full, "{selective}");
    }
}
