//! The memory plan against what a process really takes. Alone in its process, whose peak memory it reads.
#![cfg(target_os = "linux")]

use ovhost_model::{LlavaOnevision, Module, PackedInput, Preset, Recompute, RecomputePolicy, Storage, Targets, Work};
use tch::{Device, Kind, Tensor};

/// A line of this process's status, in bytes.
fn status(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

/// A small decoder with a small tower before it.
fn model(kind: Kind) -> LlavaOnevision {
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads) = (4, 96, 384, 4);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (1000, 128, 512, 6);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 32);
    (config.image_token_id, config.video_token_id) = (998, 999);
    let mut model = LlavaOnevision::random(config, 7, Device::Cpu, kind).unwrap();
    model.set_loss_chunk(256);
    for param in model.parameters() {
        let _ = param.tensor.set_requires_grad(true);
    }
    model
}

/// Bytes that a step's activations take at most, measured and planned: so many samples of 256 tokens, each with a picture of
/// 16 by 16 patches (64 of its tokens) or none.
fn measure(model: &LlavaOnevision, samples: usize, pictures: bool, policy: RecomputePolicy) -> (f64, f64) {
    let mut sample: Vec<i64> = (0..256).map(|i| i % 900).collect();
    if pictures {
        sample[8..72].fill(998);
    }
    let labels: Vec<i64> = sample.iter().map(|&id| if id == 998 { -100 } else { id }).collect();
    let grid_thw = if pictures { vec![[1, 16, 16]; samples] } else { Vec::new() };
    let pixels = pictures.then(|| Tensor::rand([samples as i64 * 256, 588], (Kind::Float, Device::Cpu)));
    let input = PackedInput::from_samples(&vec![sample.as_slice(); samples], pixels, grid_thw).unwrap();
    let targets = Targets::new(&labels.repeat(samples), &input.cu_seqlens, 1000, Device::Cpu).unwrap();
    let recompute = Recompute { policy, every: 1 };
    let run = || model.backward(&input, &targets, 1.0, recompute).unwrap();
    // Gradients and libtorch's own buffers are there from the first pass on.
    drop(run());
    // SAFETY: gives the allocator's free pages back; no memory in use is touched.
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    drop(run());
    let used = status("VmHWM") - before;
    let work = Work { cu_seqlens: &input.cu_seqlens, grid_thw: &input.grid_thw, learnt: targets.count() };
    let bytes = if model.kind() == Kind::Float { 4.0 } else { 2.0 };
    let storage = Storage { bytes, cpu: true, loss_chunk: model.loss_chunk() as f64 };
    let trained = [Module::Vision, Module::Merger, Module::Language];
    (used, model.config().activations(work, &trained, recompute, storage).peak)
}

#[test]
fn peak_memory_grows_with_tokens_as_planned() {
    // SAFETY: sets a number of the allocator. Every tensor then comes from the system and goes back to it when it is freed, so
    // that the peak is that of tensors alive together and not of what the allocator keeps.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 16) };
    // The size of tensors is what counts, and one thread does not wait for others on a busy machine.
    tch::set_num_threads(1);
    let mut wrong = Vec::new();
    for kind in [Kind::Float, Kind::BFloat16] {
        let model = model(kind);
        for pictures in [false, true] {
            for policy in [RecomputePolicy::Full, RecomputePolicy::Selective, RecomputePolicy::None] {
                let (small, large) = (measure(&model, 2, pictures, policy), measure(&model, 6, pictures, policy));
                let ratio = (large.0 - small.0) / (large.1 - small.1);
                let line = format!(
                    "{kind:?}, pictures {pictures}, {policy:?}: 2 samples {:.1} MB, planned {:.1}; 6 samples {:.1} MB, planned \
                     {:.1}; growth measured to planned {ratio:.2}",
                    small.0 / 1e6,
                    small.1 / 1e6,
                    large.0 / 1e6,
                    large.1 / 1e6
                );
                println!("{line}");
                if !(0.85..=1.15).contains(&ratio) {
                    wrong.push(line);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
