//! Times a training step of a model of about a million parameters on random data, and its parts.
//!
//! `cargo run --release -p ovhost-model --example train_step [threads] [steps] [0 | 2: bf16 factors in fp32 products]`

use std::time::Instant;

use ovhost_model::{LlavaOnevision, PackedInput, Preset};
use ovhost_torch::AdamWOptions;
use tch::{Device, Kind, Tensor};

const IMAGES: usize = 32;
const TOKENS: usize = 150;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<i32>().ok());
    let (threads, steps) = (args.next().unwrap_or(2), args.next().unwrap_or(10));
    tch::set_num_threads(threads);
    if args.next() == Some(2) {
        ovhost_torch::set_matmul_precision(ovhost_torch::MatmulPrecision::Medium)?;
    }

    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads, v.patch_size) = (3, 128, 384, 4, 8);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (512, 128, 384, 4);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 32);
    (config.image_token_id, config.video_token_id) = (500, 501);
    let model = LlavaOnevision::random(config, 1, Device::Cpu, Kind::Float)?;

    // Samples of 16 image tokens and text, lengths 143 to 157, of which the last three tokens are learnt.
    let samples: Vec<Vec<i64>> = (0..IMAGES)
        .map(|i| {
            let n = TOKENS - 7 + (i * 5) % 15;
            (0..n).map(|t| if (3..19).contains(&t) { 500 } else { ((i * 31 + t * 7) % 490) as i64 }).collect()
        })
        .collect();
    let labels: Vec<i64> = samples
        .iter()
        .flat_map(|s| s.iter().enumerate().map(|(t, &id)| if t + 3 >= s.len() { id } else { -100 }))
        .collect();
    let labels = Tensor::from_slice(&labels);
    let pixels = Tensor::randn([64 * IMAGES as i64, 192], (Kind::Float, Device::Cpu));
    let samples: Vec<&[i64]> = samples.iter().map(Vec::as_slice).collect();
    let input = PackedInput::from_samples(&samples, Some(pixels), vec![[1, 8, 8]; IMAGES])?;
    let tokens = labels.numel();

    let params = model.parameters();
    for p in &params {
        let _ = p.tensor.set_requires_grad(true);
    }
    let tensors: Vec<&Tensor> = params.iter().map(|p| &p.tensor).collect();
    let zeros: Vec<Tensor> = tensors.iter().chain(&tensors).map(|t| t.detach().zeros_like()).collect();
    let (m, v) = zeros.split_at(tensors.len());
    let counts: Vec<Tensor> = tensors.iter().map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu))).collect();
    let list = |t: &[Tensor]| t.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
    let (m, v, counts) = (list(m), list(v), list(&counts));
    let values: usize = tensors.iter().map(|t| t.numel()).sum();
    println!("{values} parameters, {IMAGES} images, {tokens} tokens, {threads} threads");

    // vision alone, forward of the loss, backward, optimiser
    let mut best = [f64::INFINITY; 4];
    for step in 0..steps {
        let mut lap = Instant::now();
        let mut mark = |i: usize| {
            best[i] = best[i].min(lap.elapsed().as_secs_f64() * 1e3);
            lap = Instant::now();
        };
        if let Some(pixels) = &input.pixel_values {
            let _ = tch::no_grad(|| model.vision_features(pixels, &input.grid_thw))?;
        }
        mark(0);
        let (sum, count) = model.loss_sum(&input, &labels)?;
        mark(1);
        (sum / count as f64).f_backward()?;
        mark(2);
        let grads: Vec<Tensor> = tensors.iter().map(|t| t.grad()).collect();
        let grads: Vec<&Tensor> = grads.iter().collect();
        let norm = ovhost_torch::foreach_norm(&grads)?;
        ovhost_torch::foreach_clip_(&grads, &norm, 1.0)?;
        ovhost_torch::fused_adamw_(
            &tensors,
            &grads,
            &m.iter().collect::<Vec<_>>(),
            &v.iter().collect::<Vec<_>>(),
            &counts.iter().collect::<Vec<_>>(),
            AdamWOptions { lr: 1e-3, beta1: 0.9, beta2: 0.95, weight_decay: 0.01, eps: 1e-8 },
        )?;
        ovhost_torch::clear_grads(&tensors)?;
        mark(3);
        if step + 1 == steps {
            let [vision, forward, backward, optimiser] = best;
            let step = forward + backward + optimiser;
            println!("best of {steps}: step {step:.1} ms = {:.0} tokens/s", tokens as f64 / step * 1e3);
            println!(
                "forward {forward:.1} (vision alone {vision:.1}), backward {backward:.1}, optimiser {optimiser:.1} ms"
            );
        }
    }
    Ok(())
}
