//! Activations that are computed again take no memory. Alone in its process, whose peak memory it reads.
#![cfg(target_os = "linux")]

use ovhost_model::{LlavaOnevision, PackedInput, Preset, Recompute, RecomputePolicy, Targets};
use tch::{Device, Kind};

/// A line of this process's status, in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_is_computed_again_takes_no_memory() {
    let mut config = Preset::B4.config();
    let (v, t) = (&mut config.vision, &mut config.text);
    (v.depth, v.hidden_size, v.intermediate_size, v.num_heads) = (1, 16, 32, 2);
    (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 128, 512, 10);
    (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (4, 2, 32);
    (config.image_token_id, config.video_token_id) = (48, 49);
    let model = LlavaOnevision::random(config, 7, Device::Cpu, Kind::Float).unwrap();
    for param in model.parameters() {
        let _ = param.tensor.set_requires_grad(true);
    }
    let ids: Vec<i64> = (0..2048).map(|i| i % 40).collect();
    let samples: Vec<&[i64]> = ids.chunks(256).collect();
    let input = PackedInput::from_samples(&samples, None, vec![]).unwrap();
    let targets = Targets::new(&ids, &input.cu_seqlens, 50, Device::Cpu).unwrap();
    let used = |policy, every| {
        // What was freed and is still held would hide what is taken now.
        // SAFETY: gives the allocator's free pages back; no memory in use is touched.
        unsafe { libc::malloc_trim(0) };
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS");
        let _ = model.backward(&input, &targets, 1.0, Recompute { policy, every }).unwrap();
        status("VmHWM").saturating_sub(before)
    };
    // Gradients and libtorch's own buffers are there from the first pass on.
    used(RecomputePolicy::Full, 1);
    let full = used(RecomputePolicy::Full, 1);
    let half = used(RecomputePolicy::Full, 2);
    let selective = used(RecomputePolicy::Selective, 1);
    let none = used(RecomputePolicy::None, 1);
    println!(
        "peak above the start in MiB: full {}, every 2nd {}, selective {}, none {}",
        full >> 10,
        half >> 10,
        selective >> 10,
        none >> 10
    );
    assert!(full * 2 < none, "full {full} KiB, none {none} KiB");
    assert!(full < half && half < none && full < selective && selective < none, "{full} {half} {selective} {none}");
}
