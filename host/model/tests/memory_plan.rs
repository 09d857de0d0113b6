//! The memory plan against what a process really takes. Alone in its process, whose peak memory it reads.
#![cfg(target_os = "linux")]

use ovhost_model::{LlavaOnevision, Module, PackedInput, Preset, Recompute, RecomputePolicy, Storage, Targets, Work};
use tch::{Device, Kind};

/// A line of this process's status, in bytes.
fn status(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

#[test]
fn peak_memory_grows_with_tokens_as_planned() {
    // SAFETY: sets a number of the allocator. Every tensor then comes from the system and goes back to it when it is freed, so
    // that the peak is that of tensors alive together and not of what the allocator keeps.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 16) };
    // The size of tensors is what counts, and one thread does not wait for others on a busy machine.
    tch::set_num_threads(1);
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads) = (1, 16, 32, 2);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (1000, 128, 512, 6);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 32);
    (config.image_token_id, config.video_token_id) = (998, 999);
    let mut model = LlavaOnevision::random(config, 7, Device::Cpu, Kind::Float).unwrap();
    model.set_loss_chunk(256);
    for param in model.parameters() {
        let _ = param.tensor.set_requires_grad(true);
    }
    let measure = |tokens: usize, policy| {
        let ids: Vec<i64> = (0..tokens as i64).map(|i| i % 900).collect();
        let samples: Vec<&[i64]> = ids.chunks(256).collect();
        let input = PackedInput::from_samples(&samples, None, vec![]).unwrap();
        let targets = Targets::new(&ids, &input.cu_seqlens, 1000, Device::Cpu).unwrap();
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
        let work = Work { cu_seqlens: &input.cu_seqlens, grid_thw: &[], learnt: targets.count() };
        let storage = Storage { bytes: 4.0, cpu: true, loss_chunk: model.loss_chunk() as f64 };
        let trained = [Module::Vision, Module::Merger, Module::Language];
        (used, model.config().activations(work, &trained, recompute, storage).peak)
    };
    for policy in [RecomputePolicy::Full, RecomputePolicy::Selective, RecomputePolicy::None] {
        let (small, large) = (measure(512, policy), measure(1536, policy));
        let (used, planned) = (large.0 - small.0, large.1 - small.1);
        println!(
            "{policy:?}: 512 tokens {:.1} MB, planned {:.1}; 1536 tokens {:.1} MB, planned {:.1}; growth a token {:.0} bytes, planned {:.0}",
            small.0 / 1e6,
            small.1 / 1e6,
            large.0 / 1e6,
            large.1 / 1e6,
            used / 4096.0,
            planned / 4096.0
        );
        let ratio = used / planned;
        assert!((0.85..=1.15).contains(&ratio), "{policy:?}: {ratio}");
    }
}
