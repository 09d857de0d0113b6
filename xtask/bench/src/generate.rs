//! Answers of a small model to prompts of very different lengths: rows that are filled again as they get free, against
//! fixed batches (the next begins when the longest answer of the last is done) and against one prompt at a time. Then what a
//! long sequence costs the short ones beside it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ovhost_infer::{Generation, GenerationConfig, Generator, Prompt, Request};
use ovhost_model::{KvCache, LlavaOnevision, ModelConfig, PackedInput};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::{Device, Kind};

use crate::{median, time};

const CONFIG: &str = r#"{"model_type": "llavaonevision1_5", "image_token_id": 4000, "video_token_id": 4001, "vocab_size": 4096,
    "text_config": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": 4096, "max_position_embeddings": 8192, "initializer_range": 0.02, "tie_word_embeddings": true},
    "vision_config": {"depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "in_channels": 3, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "text_hidden_size": 256}}"#;

/// Prompts: every second with a picture of 16 tokens, 10 to 300 tokens of text.
const PROMPTS: u64 = 64;
/// Rows.
const BATCH: usize = 16;
/// Two thirds of the answers are short, as of a choice or a number, the others up to this long.
const LONGEST: usize = 96;

fn requests() -> Vec<Request> {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    (0..PROMPTS)
        .map(|id| {
            let picture = id.is_multiple_of(2);
            let pads = if picture { 16 } else { 0 };
            let text = random.random_range(10..300);
            let input_ids = std::iter::repeat_n(4000, pads).chain((0..text).map(|_| random.random_range(0..4000)));
            let prompt = Prompt {
                input_ids: input_ids.collect(),
                pixel_values: (0..4 * pads * 192).map(|_| random.random_range(-1.0..1.0)).collect(),
                grid_thw: if picture { vec![[1, 8, 8]] } else { Vec::new() },
            };
            let longest = if random.random_range(0..3) < 2 { 8 } else { LONGEST };
            let max_new_tokens = random.random_range(1..=longest);
            Request { id, prompt, config: Some(Arc::new(GenerationConfig { max_new_tokens, ..Default::default() })) }
        })
        .collect()
}

type Answers = BTreeMap<u64, Generation>;

/// Answers, and how full the rows were.
fn serve(model: &LlavaOnevision, requests: &[Request], batch: usize, fixed: bool) -> Result<(Answers, f64)> {
    // The random model must not end by itself.
    let config = GenerationConfig { eos_token_ids: vec![-1], ..Default::default() };
    let generator = Generator::new(model, config)?.with_batch_size(batch);
    let (mut answers, mut rows, mut passes) = (BTreeMap::new(), 0, 0);
    for part in requests.chunks(if fixed { batch } else { requests.len() }) {
        let mut coming = part.iter().cloned();
        let mut next = || anyhow::Ok(coming.next());
        let mut done = |id, answer: Result<Generation, ovhost_infer::InferError>| {
            answers.insert(id, answer?);
            anyhow::Ok(ControlFlow::Continue(()))
        };
        let served = generator.serve(&mut next, &mut done)?;
        rows += served.rows;
        passes += served.passes;
    }
    Ok((answers, rows as f64 / (passes * batch as u64) as f64))
}

/// Milliseconds of one token for each of these sequences.
fn step(model: &LlavaOnevision, lens: &[usize]) -> Result<f64> {
    let _guard = tch::no_grad_guard();
    let samples: Vec<Vec<i64>> = lens.iter().map(|&n| (0..n as i64).map(|i| i % 1000).collect()).collect();
    let samples: Vec<&[i64]> = samples.iter().map(Vec::as_slice).collect();
    let mut cache = KvCache::new(64);
    let _hidden = model.prefill(&PackedInput::from_samples(&samples, None, Vec::new())?, &mut cache)?;
    let ids = vec![1; lens.len()];
    let mut seconds = Vec::new();
    for _ in 0..12 {
        seconds.push(time(|| Ok(model.decode(&ids, &mut cache)?))?.0);
    }
    Ok(median(seconds) * 1e3)
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let config = ModelConfig::from_json(CONFIG, "the benchmark's configuration")?;
    let model = LlavaOnevision::random(config, 1, Device::Cpu, Kind::Float)?;
    let requests = requests();
    let ways =
        [("rows filled as they get free", BATCH, false), ("fixed batches", BATCH, true), ("one at a time", 1, false)];
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    let mut full = [0.0; 3];
    let mut tokens = 0;
    for round in 0..3 {
        let mut first: Option<Answers> = None;
        for (i, &(name, batch, fixed)) in ways.iter().enumerate() {
            let (took, (answers, utilisation)) = time(|| serve(&model, &requests, batch, fixed))?;
            let same = first.as_ref().is_none_or(|first| *first == answers);
            ensure!(same && answers.len() == requests.len(), "{name}: other answers than {}", ways[0].0);
            tokens = answers.values().map(|a| a.ids.len()).sum();
            first.get_or_insert(answers);
            full[i] = utilisation;
            if round > 0 {
                seconds[i].push(took);
            }
        }
    }
    let seconds = seconds.map(median);
    let count: usize = model.parameters().iter().map(|p| p.tensor.numel()).sum();
    println!(
        "{:.1} M parameters, {PROMPTS} prompts, {tokens} tokens of answers, {BATCH} rows, {} threads",
        count as f64 / 1e6,
        tch::get_num_threads()
    );
    for (i, (name, ..)) in ways.iter().enumerate() {
        println!(
            "{name:<29} {:>6.1} answers/s, rows {:>5.1} % full; {:.2} times as long as the first",
            PROMPTS as f64 / seconds[i],
            full[i] * 100.0,
            seconds[i] / seconds[0]
        );
    }
    let short = vec![64; 31];
    let with = |n| [short.as_slice(), &[n]].concat();
    let (even, ragged, all) = (step(&model, &with(64))?, step(&model, &with(4000))?, step(&model, &[4000; 32])?);
    println!(
        "a token for 32 sequences of 64 tokens {even:.2} ms; one of them of 4000 tokens {ragged:.2} ms; all of 4000, as if each were \
         padded, {all:.2} ms"
    );
    Ok(())
}
