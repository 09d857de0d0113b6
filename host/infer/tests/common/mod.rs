//! Ragged prompts for the fixture model.

use std::path::Path;
use std::sync::Arc;

use ovhost_infer::{GenerationConfig, Prompt, Request};
use ovhost_model::{LlavaOnevision, LoadOptions};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tch::{Device, Kind};

pub fn model() -> LlavaOnevision {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llava-ov-1.5");
    LlavaOnevision::load(folder, &LoadOptions { device: Device::Cpu, kind: Kind::Float }).unwrap()
}

/// Requests `0..n`: 1 to 200 tokens of text, two of three with one or two pictures of 4 to 48 patches, answers of 1 to
/// `longest` tokens. The same seed gives the same.
pub fn requests(n: u64, seed: u64, longest: usize, config: &GenerationConfig) -> Vec<Request> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|id| {
            let pictures = random.random_range(0..3);
            let grid_thw: Vec<[i64; 3]> =
                (0..pictures).map(|_| [1, 2 * random.random_range(1..4), 2 * random.random_range(1..5)]).collect();
            let patches: i64 = grid_thw.iter().map(|g| g.iter().product::<i64>()).sum();
            let mut input_ids: Vec<i64> =
                (0..random.random_range(1..200)).map(|_| random.random_range(0..500)).collect();
            for grid in &grid_thw {
                let at = random.random_range(0..=input_ids.len());
                let tokens = grid.iter().product::<i64>() as usize / 4;
                input_ids.splice(at..at, std::iter::repeat_n(500, tokens));
            }
            let pixel_values = (0..patches * 588).map(|_| random.random_range(-1.0..1.0)).collect();
            let max_new_tokens = random.random_range(1..=longest);
            let config = Some(Arc::new(GenerationConfig { max_new_tokens, ..config.clone() }));
            Request { id, prompt: Prompt { input_ids, pixel_values, grid_thw }, config }
        })
        .collect()
}
