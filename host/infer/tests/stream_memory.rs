//! Memory does not grow with the number of prompts. Alone in its process, whose memory it reads.
#![cfg(target_os = "linux")]

mod common;

use std::ops::ControlFlow;

use ovhost_infer::{GenerationConfig, Generator, InferError, Served};

/// This process's memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_is_that_of_what_runs_at_once() {
    let model = common::model();
    let generator = Generator::new(&model, GenerationConfig::default()).unwrap().with_batch_size(8);
    let serve = |n: u64| -> Served {
        // Made as they are asked for: what the prompts take is not what is measured.
        let mut id = 0;
        let mut next = || {
            id += 1;
            Ok::<_, InferError>((id <= n).then(|| common::requests(1, id, 40, &GenerationConfig::default()).remove(0)))
        };
        let mut done = |_, answer: Result<_, _>| answer.map(|_| ControlFlow::Continue(()));
        generator.serve(&mut next, &mut done).unwrap()
    };
    serve(100);
    let (few, before) = (serve(100), resident());
    let (many, after) = (serve(400), resident());
    println!("cache {} and {} KiB, process {before} and {after} KiB", few.cache_bytes >> 10, many.cache_bytes >> 10);
    assert_eq!((few.answers, many.answers), (100, 400));
    // Eight rows of at most 512 tokens (224 and 40 of a prompt and its answer, 64 of room, to a power of two) and, where rows
    // grow into a pool, half as many again; keys and values in fp32.
    let text = &model.config().text;
    let token = 8 * (text.num_hidden_layers * text.num_key_value_heads * text.head_dim) as u64;
    assert!(many.cache_bytes <= 8 * 512 * token * 3 / 2, "{few:?} {many:?}");
    assert!(after < before + (8 << 10), "{before} KiB before 400 prompts, {after} KiB after them");
}
