//! Memory of a training step's activations, from the lengths that it really has.
//!
//! ```text
//!  forward      held: what each layer keeps for its backward pass (its input alone, where it is computed again)
//!  loss         held + a chunk of logits
//!  backward     held so far + one layer made again + its gradients        from the last layer to the first, then the tower
//! ```
//! Counted is what autograd saves and what the operators of a layer have alive together at their worst moment, read off
//! `language.rs`, `vision.rs`, `merger.rs` and the operators in `ovhost-torch`; vectors of one number a token are left out.
//! Weights, gradients and the optimiser's state are not activations.

use crate::builder::Module;
use crate::chain::{Recompute, RecomputePolicy};

use super::config::ModelConfig;
use super::flops::Work;

/// What activations a step has, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Activations {
    /// Held from the forward to the backward pass.
    pub held: f64,
    /// Most beside `held` at the moment that takes the most: in one layer's backward pass, or in the loss.
    pub working: f64,
    /// Of the loss: a chunk of logits and the gradients of hidden states and head.
    pub loss: f64,
    /// The most at any moment.
    pub peak: f64,
}

/// How activations are stored.
#[derive(Debug, Clone, Copy)]
pub struct Storage {
    /// Bytes of a value: 4 in fp32, 2 in bf16.
    pub bytes: f64,
    /// Whether attention runs on libtorch's CPU kernel, which wants keys and values repeated to the queries' heads.
    pub cpu: bool,
    /// Tokens whose logits exist at a time: see [`super::LlavaOnevision::loss_chunk`].
    pub loss_chunk: f64,
}

/// Values that a layer keeps and needs, for one token (or patch).
#[derive(Clone, Copy)]
struct Layer {
    /// Its input, which stays where it is computed again.
    input: f64,
    /// What its first half saves, of every row.
    attention: f64,
    /// What its second half saves; of the wanted rows.
    mlp: f64,
    /// What the backward pass of the first half adds at its worst.
    attention_backward: f64,
    /// The same of the second, beside what both save.
    mlp_backward: f64,
}

impl Layer {
    /// Most values in its backward pass beside its input and what was held of it, for `rows` of its `all` rows.
    fn backward(&self, all: f64, rows: f64, held: f64) -> f64 {
        let mlp = all * self.attention + rows * (self.mlp + self.mlp_backward);
        let attention = all * (self.attention + self.attention_backward);
        (mlp.max(attention) - held).max(0.0)
    }

    /// What stays of it until its backward pass beside its input.
    fn held(&self, all: f64, rows: f64, layer: usize, recompute: Recompute) -> f64 {
        match recompute.policy {
            RecomputePolicy::Full if recompute.chosen(layer) => 0.0,
            // The input of the second half is that of its own block.
            RecomputePolicy::Selective if recompute.chosen(layer) => all * self.attention + rows * self.input,
            _ => all * self.attention + rows * self.mlp,
        }
    }
}

impl ModelConfig {
    /// A layer of the decoder. `composed`: its norms are composed of small operators, as in bf16 on the CPU, and keep their input and
    /// the normalised input in fp32 (four values of two bytes), where the fused one keeps its input.
    fn language_layer(&self, cpu: bool, composed: bool) -> Layer {
        let t = &self.text;
        let [c, i, q, k] = [
            t.hidden_size,
            t.intermediate_size,
            t.num_attention_heads * t.head_dim,
            t.num_key_value_heads * t.head_dim,
        ]
        .map(|n| n as f64);
        let [first, norm] = if composed { [4.0, 4.0] } else { [0.0, 1.0] };
        let normed = if t.qk_norm { norm * (q + k) } else { 0.0 };
        // Repeated keys and values, then gradients of queries, keys and values twice: as the kernel gives them, and joined.
        let grouped = t.num_attention_heads != t.num_key_value_heads;
        let kernel = if cpu { if grouped { 8.0 * q } else { 6.0 * q } } else { q + 2.0 * k };
        Layer {
            input: c,
            // The normalised input, queries and keys before their norms, both turned, values, and the result.
            attention: first * c + c + normed + (q + k) + k + q,
            // Its input, that normalised, gate, up and their product.
            mlp: norm * c + c + 3.0 * i,
            // The gradient of the layer's input so far, that of attention's result.
            attention_backward: c + q + kernel,
            // The layer's output and gradient; gradients of product, gate and up with one more between: the product has gone.
            mlp_backward: 2.0 * c + 3.0 * i,
        }
    }

    fn vision_layer(&self, cpu: bool) -> Layer {
        let [w, i] = [self.vision.hidden_size, self.vision.intermediate_size].map(|n| n as f64);
        Layer {
            input: w,
            // The normalised input, queries, keys and values as one, both turned, and the result.
            attention: w + 3.0 * w + 2.0 * w + w,
            // Its input, that normalised, and the inner values before and after the activation.
            mlp: 2.0 * w + 2.0 * i,
            attention_backward: w + w + if cpu { 6.0 * w } else { 3.0 * w } + 3.0 * w,
            mlp_backward: 2.0 * w + i,
        }
    }

    /// Activations of one forward and backward pass, with the modules in `trained` trained and the layers computed again as
    /// `recompute` says.
    pub fn activations(
        &self,
        work: Work<'_>,
        trained: &[Module],
        recompute: Recompute,
        storage: Storage,
    ) -> Activations {
        let trains = |module| trained.contains(&module);
        let (v, t) = (&self.vision, &self.text);
        let Storage { bytes, cpu, loss_chunk } = storage;
        let composed = cpu && bytes < 4.0;
        let tokens = work.cu_seqlens.last().map_or(0.0, |&end| f64::from(end));
        let learnt = work.learnt as f64;
        let patches: f64 = work.grid_thw.iter().map(|grid| grid.iter().product::<i64>() as f64).sum();
        let nodes = patches + work.grid_thw.len() as f64;
        let [width, hidden, vocab] = [v.hidden_size, t.hidden_size, t.vocab_size].map(|n| n as f64);
        let merged = patches / v.spatial_merge_size.pow(2) as f64;

        let vision = trains(Module::Vision) && patches > 0.0;
        let merger = (vision || trains(Module::Merger)) && patches > 0.0;
        let reaches = merger || trains(Module::Language);
        let (block, layer) = (self.vision_layer(cpu), self.language_layer(cpu, composed));
        let depth = usize::try_from(v.depth).unwrap_or(0);
        let layers = usize::try_from(t.num_hidden_layers).unwrap_or(0);

        // The tower: what its blocks hold, then its features and what the merger keeps of them.
        let mut before = patches * v.patch_dim() as f64 * (4.0 + if bytes == 4.0 { 0.0 } else { bytes }) / bytes;
        let of_block =
            |i: usize| if vision { nodes * block.input + block.held(nodes, nodes, i, recompute) } else { 0.0 };
        let tower: f64 = (0..depth).map(of_block).sum();
        if patches > 0.0 {
            before += patches * width;
        }
        let merger_held = if merger { 3.0 * patches * width + merged * hidden } else { 0.0 };
        // Embedded tokens, with and without the images in their places.
        before += tokens * hidden * if patches > 0.0 { 2.0 } else { 1.0 };
        let language_at = before + tower + merger_held;

        let rows = |i: usize| if i + 1 == layers { learnt } else { tokens };
        let of_layer = |i: usize| {
            if reaches { tokens * layer.input + layer.held(tokens, rows(i), i, recompute) } else { 0.0 }
        };
        let decoder: f64 = (0..layers).map(of_layer).sum();
        let held = language_at + decoder;

        // Logits and their logarithms, in bf16 a third copy; gradients of the rows; that of the head, summed in fp32.
        let chunk = loss_chunk.min(learnt);
        let logits = chunk * vocab * if bytes == 4.0 { 8.0 } else { 10.0 } / bytes;
        let rows_ = if composed { 7.0 } else { 3.0 } * learnt * hidden;
        let head = if trains(Module::Language) {
            let wide = if learnt > loss_chunk && bytes < 4.0 { 4.0 + bytes } else { bytes };
            vocab * hidden * wide / bytes
        } else {
            0.0
        };
        let loss = logits + rows_ + head;

        let mut peak = held + loss;
        let mut here = held;
        if reaches {
            for i in (0..layers).rev() {
                let kept = layer.held(tokens, rows(i), i, recompute);
                let output = if i + 1 == layers { learnt * hidden } else { 0.0 };
                peak = peak.max(here + output + layer.backward(tokens, rows(i), kept));
                here -= of_layer(i);
            }
        } else {
            // Nothing is held, but a layer is computed all the same.
            peak = peak.max(here + tokens * layer.input + tokens * (layer.attention + layer.mlp));
        }
        if vision {
            // What is left when the decoder is done; the merger's gradients come and go before the tower's.
            peak = peak.max(here + 2.0 * patches * width);
            here -= merger_held;
            for i in (0..depth).rev() {
                let kept = block.held(nodes, nodes, i, recompute);
                peak = peak.max(here + block.backward(nodes, nodes, kept));
                here -= of_block(i);
            }
        } else if patches > 0.0 {
            peak = peak.max(before + nodes * (block.input + block.attention + block.mlp));
        }
        Activations { held: held * bytes, working: (peak - held) * bytes, loss: loss * bytes, peak: peak * bytes }
    }
}
