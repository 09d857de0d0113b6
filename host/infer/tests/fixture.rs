//! Generation on the fixture model: the cache, the batch, the ends.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ovhost_infer::{FinishReason, GenerationConfig, Generator, Prompt};
use ovhost_model::{Checkpoint, KvCache, LlavaOnevision, LoadOptions, PackedInput};
use tch::{Device, Kind, Tensor};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llava-ov-1.5")
}

fn model() -> LlavaOnevision {
    LlavaOnevision::load(fixture(), &LoadOptions { device: Device::Cpu, kind: Kind::Float }).unwrap()
}

/// The fixture's prompts and their greedy continuations.
fn prompts() -> (Vec<Prompt>, Vec<Vec<i64>>) {
    let file = Checkpoint::open_file(&fixture().join("expected.safetensors")).unwrap();
    let text = std::fs::read_to_string(fixture().join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ints = |t: Tensor| Vec::<i64>::try_from(&t).unwrap();
    let mut out = (Vec::new(), Vec::new());
    for (s, sequence) in json["sequences"].as_array().unwrap().iter().enumerate() {
        let mut input_ids = ints(file.tensor(&format!("seq.{s}.input_ids")).unwrap());
        input_ids.truncate(sequence["prompt_length"].as_u64().unwrap() as usize);
        let mut pads = input_ids.iter().filter(|&&id| id == 500).count() as i64;
        let (mut pixel_values, mut grid_thw) = (Vec::new(), Vec::new());
        for i in sequence["images"].as_array().unwrap() {
            let grid = ints(file.tensor(&format!("image.{i}.grid_thw")).unwrap());
            if pads == 0 {
                break;
            }
            pads -= grid.iter().product::<i64>() / 4;
            let pixels = file.tensor(&format!("image.{i}.pixel_values")).unwrap();
            pixel_values.extend(Vec::<f32>::try_from(&pixels.flatten(0, 1)).unwrap());
            grid_thw.push([grid[0], grid[1], grid[2]]);
        }
        out.0.push(Prompt { input_ids, pixel_values, grid_thw });
        out.1.push(serde_json::from_value(sequence["greedy"].clone()).unwrap());
    }
    out
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ..Default::default() }
}

#[test]
fn greedy_equals_the_reference_batched_and_alone() {
    let (model, (prompts, want)) = (model(), prompts());
    let together = Generator::new(&model, greedy(24)).unwrap().generate(&prompts, None).unwrap();
    let in_twos = Generator::new(&model, greedy(24)).unwrap().with_batch_size(2).generate(&prompts, None).unwrap();
    for (i, want) in want.iter().enumerate() {
        assert_eq!(&together[i].ids, want);
        assert_eq!(together[i].finish_reason, FinishReason::Length);
        let alone = Generator::new(&model, greedy(24)).unwrap().generate(&prompts[i..=i], None).unwrap();
        assert_eq!(alone[0], together[i]);
        assert_eq!(in_twos[i], together[i]);
    }
}

#[test]
fn cached_equals_uncached() {
    let (model, (prompts, _)) = (model(), prompts());
    let _guard = tch::no_grad_guard();
    for prompt in &prompts {
        let cached =
            &Generator::new(&model, greedy(120)).unwrap().generate(std::slice::from_ref(prompt), None).unwrap()[0];
        // The random model also says image and video tokens, which have no place in a prompt without pictures.
        let n = cached.ids.iter().position(|id| [500, 501].contains(id)).unwrap_or(cached.ids.len());
        assert!(n >= 24);
        // The whole sequence at once: every next token must be the likeliest after what stands before it.
        let ids = [&prompt.input_ids, &cached.ids[..n]].concat();
        let pixels = (!prompt.grid_thw.is_empty()).then(|| Tensor::from_slice(&prompt.pixel_values).view([-1, 588]));
        let input = PackedInput::from_samples(&[&ids], pixels, prompt.grid_thw.clone()).unwrap();
        let best = model.logits(&model.hidden(&input).unwrap()).unwrap().argmax(-1, false);
        let from = prompt.input_ids.len() as i64 - 1;
        let best = Vec::<i64>::try_from(&best.narrow(0, from, n as i64)).unwrap();
        assert_eq!(best, cached.ids[..n]);
    }
}

#[test]
fn a_cache_that_grows_changes_nothing() {
    let (model, (prompts, want)) = (model(), prompts());
    let _guard = tch::no_grad_guard();
    let samples: Vec<&[i64]> = [1, 3].iter().map(|&i: &usize| prompts[i].input_ids.as_slice()).collect();
    let pixels = Tensor::from_slice(&prompts[3].pixel_values).view([-1, 588]);
    let input = PackedInput::from_samples(&samples, Some(pixels), prompts[3].grid_thw.clone()).unwrap();
    let mut cache = KvCache::new(1);
    let mut hidden = model.prefill(&input, &mut cache).unwrap();
    for want in want[1].iter().zip(&want[3]) {
        let next = Vec::<i64>::try_from(&model.logits(&hidden).unwrap().argmax(-1, false)).unwrap();
        assert_eq!(next, [*want.0, *want.1]);
        hidden = model.decode(&next, &mut cache).unwrap();
    }
    assert_eq!(cache.lens(), [samples[0].len() as i64 + 24, samples[1].len() as i64 + 24]);
}

#[test]
fn ends_of_every_kind() {
    let (model, (prompts, want)) = (model(), prompts());
    // The first answer holds 319 at place 4; as an end-of-sequence token it is not part of the answer.
    let eos = GenerationConfig { eos_token_ids: vec![319], ..greedy(24) };
    let out = Generator::new(&model, eos).unwrap().generate(&prompts, None).unwrap();
    assert_eq!((out[0].ids.as_slice(), out[0].finish_reason), (&want[0][..4], FinishReason::Eos));
    assert_eq!(out[1].ids, want[1], "others go on");

    let stop = GenerationConfig { stop_strings: vec!["<319><403>".into()], ..greedy(24) };
    assert!(Generator::new(&model, stop.clone()).unwrap().generate(&prompts, None).is_err(), "no decoder");
    let decode = |ids: &[i64]| Ok(ids.iter().map(|id| format!("<{id}>")).collect());
    let out = Generator::new(&model, stop).unwrap().with_decoder(decode).generate(&prompts, None).unwrap();
    assert_eq!((out[0].ids.as_slice(), out[0].finish_reason), (&want[0][..6], FinishReason::Stop));
    assert_eq!(out[0].stop_string.as_deref(), Some("<319><403>"));

    let mut seen = Vec::new();
    let mut callback = |prompt: usize, token: i64| {
        seen.push((prompt, token));
        if seen.len() == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let out = Generator::new(&model, greedy(24)).unwrap().generate(&prompts[..2], Some(&mut callback)).unwrap();
    assert_eq!(out[1].finish_reason, FinishReason::Cancelled);
    let expected: Vec<(usize, i64)> = (0..3).flat_map(|t| [(0, want[0][t]), (1, want[1][t])]).collect();
    assert_eq!(seen, expected);
    let none = Generator::new(&model, greedy(0)).unwrap().generate(&prompts, None).unwrap();
    assert!(none[0].ids.is_empty() && none[0].finish_reason == FinishReason::Length);
}

#[test]
fn sampling_repeats_with_its_seed() {
    let (model, (prompts, want)) = (model(), prompts());
    let config = |seed| GenerationConfig { do_sample: true, temperature: 2.0, seed, ..greedy(24) };
    let run = |c: GenerationConfig| Generator::new(&model, c).unwrap().generate(&prompts, None).unwrap();
    assert_eq!(run(config(1)), run(config(1)));
    assert_ne!(run(config(1)), run(config(2)));
    let one = GenerationConfig { top_k: 1, ..config(1) };
    assert_eq!(run(one)[3].ids, want[3]);
}

#[test]
fn files_and_prompts_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(GenerationConfig::from_folder(folder.path()).unwrap(), GenerationConfig::default());
    let read = |text: &str| {
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        GenerationConfig::from_folder(folder.path())
    };
    let config =
        read(r#"{"do_sample": true, "eos_token_id": [1, 2], "top_p": 0.8, "stop_strings": "x", "top_k": null}"#)
            .unwrap();
    assert_eq!((config.eos_token_ids, config.top_k, config.stop_strings), (vec![1, 2], 50, vec!["x".to_owned()]));
    assert_eq!(read(r#"{"eos_token_id": 7}"#).unwrap().eos_token_ids, [7]);
    let error = read(r#"{"top_p": 1.5}"#).unwrap_err().to_string();
    assert!(error.contains("generation_config.json") && error.contains("top_p") && error.contains("1.5"), "{error}");
    assert!(read(r#"{"num_beams": 4}"#).unwrap_err().to_string().contains("num_beams"));

    let model = model();
    let generator = Generator::new(&model, greedy(4)).unwrap();
    let prompt = Prompt { input_ids: vec![1, 500], pixel_values: vec![0.0; 10], grid_thw: vec![[1, 2, 2]] };
    let error = generator.generate(&[prompt], None).unwrap_err().to_string();
    assert!(error.contains("prompt 0: 10 pixel values; its grids need 4 patches of 588"), "{error}");
    let error = generator.generate(&[Prompt { input_ids: vec![1, 512], ..Prompt::default() }], None).unwrap_err();
    assert!(error.to_string().contains("token id 512"), "{error}");
}
