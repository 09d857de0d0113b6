//! A stream of prompts: every answer is what it is alone, whoever runs beside it.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{model, requests};
use ovhost_infer::{FinishReason, Generation, GenerationConfig, Generator, InferError, Prompt, Request, Served};
use ovhost_model::LlavaOnevision;

type Answers = BTreeMap<u64, Result<Generation, String>>;

fn served(generator: &Generator<'_>, requests: &[Request]) -> (Answers, Served) {
    let (mut coming, mut answers) = (requests.iter().cloned(), BTreeMap::new());
    let mut next = || Ok::<_, InferError>(coming.next());
    let mut done = |id, answer: Result<Generation, InferError>| {
        let twice = answers.insert(id, answer.map_err(|e| e.to_string()));
        assert!(twice.is_none(), "{id} was answered twice");
        Ok(ControlFlow::Continue(()))
    };
    let served = generator.serve(&mut next, &mut done).unwrap();
    (answers, served)
}

fn generator(model: &LlavaOnevision) -> Generator<'_> {
    let decode = |ids: &[i64]| Ok(ids.iter().map(|id| format!("<{id}>")).collect());
    Generator::new(model, GenerationConfig::default()).unwrap().with_decoder(decode)
}

/// Each of these, alone.
fn alone(model: &LlavaOnevision, requests: &[Request]) -> Answers {
    requests.iter().map(|r| served(&generator(model), std::slice::from_ref(r)).0.pop_first().unwrap()).collect()
}

#[test]
fn every_answer_is_what_it_is_alone() {
    let model = model();
    let requests = requests(40, 1, 30, &GenerationConfig::default());
    let want = alone(&model, &requests);
    let generate = |r: &Request| {
        let config = r.config.as_deref().unwrap().clone();
        Generator::new(&model, config).unwrap().generate(std::slice::from_ref(&r.prompt), None).unwrap().remove(0)
    };
    for request in &requests {
        assert_eq!(want[&request.id].as_ref().unwrap(), &generate(request));
    }
    let tokens = |f: fn(&Generation) -> usize| want.values().map(|a| f(a.as_ref().unwrap()) as u64).sum::<u64>();
    for (batch, prefill) in [(1, 16_384), (2, 300), (5, 1), (5, 16_384), (40, 16_384), (64, 500)] {
        let generator = generator(&model).with_batch_size(batch).with_prefill_tokens(prefill);
        let (answers, served) = served(&generator, &requests);
        assert_eq!(answers, want, "batch {batch}, {prefill} prefill tokens");
        assert_eq!((served.answers, served.rejected, served.stopped), (40, 0, false));
        assert_eq!(served.prompt_tokens, tokens(|a| a.prompt_tokens));
        // This model ends no answer by itself: each row of a pass gives one token.
        assert_eq!((served.answer_tokens, served.rows), (tokens(|a| a.ids.len()), served.answer_tokens));
        assert!(served.rows <= served.passes * batch as u64);
        if batch <= 5 && prefill > 1 {
            assert!(served.rows * 10 >= served.passes * batch as u64 * 8, "rows stood empty: {served:?}");
        }
    }
}

#[test]
fn the_uncached_model_says_the_same() {
    let model = model();
    let requests = requests(12, 2, 25, &GenerationConfig::default());
    let (answers, _) = served(&generator(&model).with_batch_size(4), &requests);
    let _guard = tch::no_grad_guard();
    for request in &requests {
        let answer = &answers[&request.id].as_ref().unwrap().ids;
        // The random model also says image and video tokens, which have no place in a prompt without pictures.
        let n = answer.iter().position(|id| [500, 501].contains(id)).unwrap_or(answer.len());
        let Prompt { input_ids, pixel_values, grid_thw } = &request.prompt;
        let ids = [input_ids, &answer[..n]].concat();
        let pixels = (!grid_thw.is_empty()).then(|| tch::Tensor::from_slice(pixel_values).view([-1, 588]));
        let input = ovhost_model::PackedInput::from_samples(&[&ids], pixels, grid_thw.clone()).unwrap();
        let best = model.logits(&model.hidden(&input).unwrap()).unwrap().argmax(-1, false);
        let best = Vec::<i64>::try_from(&best.narrow(0, input_ids.len() as i64 - 1, n as i64)).unwrap();
        assert_eq!(best, answer[..n]);
    }
}

#[test]
fn draws_depend_on_seed_and_id_alone() {
    let model = model();
    let config = GenerationConfig { do_sample: true, temperature: 1.5, repetition_penalty: 1.1, ..Default::default() };
    let mut requests = requests(24, 3, 20, &config);
    // Every third is greedy, of another task.
    for request in requests.iter_mut().step_by(3) {
        request.config = Some(Arc::new(GenerationConfig { max_new_tokens: 9, ..Default::default() }));
    }
    let want = alone(&model, &requests);
    for batch in [2, 5, 24] {
        assert_eq!(served(&generator(&model).with_batch_size(batch), &requests).0, want, "batch {batch}");
    }
    let mut other = requests[1].clone();
    other.id = 100;
    assert_ne!(alone(&model, &[other])[&100], want[&1], "another id draws otherwise");
}

#[test]
fn every_prompt_has_its_own_end() {
    let model = model();
    let plain = GenerationConfig { max_new_tokens: 12, ..Default::default() };
    let base = &requests(2, 4, 1, &plain);
    let long = alone(&model, &[Request { config: Some(Arc::new(plain.clone())), ..base[0].clone() }]);
    let ids = long[&0].as_ref().unwrap().ids.clone();
    let with = |id, config| Request { id, prompt: base[0].prompt.clone(), config: Some(Arc::new(config)) };
    let stop = format!("<{}><{}>", ids[2], ids[3]);
    let first = |id: i64| ids.iter().position(|&x| x == id).unwrap();
    let requests = [
        with(0, plain.clone()),
        with(1, GenerationConfig { max_new_tokens: 0, ..plain.clone() }),
        with(2, GenerationConfig { stop_strings: vec![stop.clone()], ..plain.clone() }),
        with(3, GenerationConfig { eos_token_ids: vec![ids[5]], ..plain.clone() }),
        with(4, GenerationConfig { max_new_tokens: 5, ..plain }),
    ];
    let (answers, _) = served(&generator(&model), &requests);
    let end = |id: u64| {
        let answer = answers[&id].as_ref().unwrap();
        (answer.ids.len(), answer.finish_reason)
    };
    assert_eq!(end(0), (12, FinishReason::Length));
    assert_eq!(end(1), (0, FinishReason::Length));
    assert_eq!(end(2).1, FinishReason::Stop);
    assert_eq!(answers[&2].as_ref().unwrap().stop_string.as_ref(), Some(&stop));
    assert_eq!(end(3), (first(ids[5]), FinishReason::Eos));
    assert_eq!(end(4), (5, FinishReason::Length));
    assert!(answers.values().all(|a| ids.starts_with(&a.as_ref().unwrap().ids)));
}

#[test]
fn what_cannot_be_run_ends_no_other() {
    let model = model();
    let good = requests(12, 5, 10, &GenerationConfig::default());
    let want = alone(&model, &good);
    let tiles = |tokens: usize, grid| Prompt {
        input_ids: vec![500; tokens],
        pixel_values: vec![0.0; 4 * 588],
        grid_thw: vec![grid],
    };
    let text = |ids: &[i64]| Prompt { input_ids: ids.to_vec(), ..Prompt::default() };
    let ask = |id, prompt| Request { id, prompt, config: None };
    let set = |id, config| Request { id, prompt: text(&[1]), config: Some(Arc::new(config)) };
    let bad = [
        (ask(100, text(&[])), "no tokens"),
        (ask(101, text(&[1, 512])), "token id 512"),
        // Together these two have as many image tokens as their pictures need.
        (ask(102, tiles(2, [1, 2, 2])), "2 image tokens"),
        (ask(103, tiles(0, [1, 2, 2])), "no tokens"),
        (ask(104, Prompt { pixel_values: vec![0.0; 7], ..tiles(1, [1, 2, 2]) }), "7 pixel values"),
        (ask(105, tiles(1, [1, -2, -2])), "positive multiples"),
        (ask(106, tiles(1, [1, 4, 1])), "positive multiples"),
        (ask(107, text(&[501])), "video"),
        (set(108, GenerationConfig { top_p: 2.0, ..Default::default() }), "top_p"),
        (set(109, GenerationConfig { stop_strings: vec!["x".into()], ..Default::default() }), "decoder"),
    ];
    let mixed: Vec<Request> =
        good.iter().zip(bad.iter().cycle()).enumerate().fold(Vec::new(), |mut out, (i, (g, b))| {
            out.extend((i < bad.len()).then(|| b.0.clone()));
            out.push(g.clone());
            out
        });
    let plain = Generator::new(&model, GenerationConfig::default()).unwrap().with_batch_size(3);
    let (mut answers, served) = served(&plain, &mixed);
    assert_eq!((served.answers, served.rejected), (12, 10));
    for (request, reason) in &bad {
        let error = answers.remove(&request.id).unwrap().unwrap_err();
        assert!(error.contains(reason), "{}: {error}", request.id);
    }
    assert_eq!(answers, want);

    // A decoder that refuses what one prompt says.
    let stops = GenerationConfig { stop_strings: vec!["never".into()], max_new_tokens: 4, ..Default::default() };
    let requests: Vec<Request> =
        good.iter().take(3).map(|r| Request { config: Some(Arc::new(stops.clone())), ..r.clone() }).collect();
    let broken = want_first(&alone(&model, &requests)[&1]);
    let decode = |ids: &[i64]| if ids[0] == broken { Err("odd bytes".to_owned()) } else { Ok(String::new()) };
    let picky = Generator::new(&model, GenerationConfig::default()).unwrap().with_decoder(decode);
    let (answers, _) = self::served(&picky, &requests);
    assert!(answers[&1].as_ref().unwrap_err().contains("odd bytes"));
    assert!(answers[&0].is_ok() && answers[&2].is_ok());
}

fn want_first(answer: &Result<Generation, String>) -> i64 {
    answer.as_ref().unwrap().ids[0]
}

/// A caller's own error.
#[derive(Debug, thiserror::Error)]
enum Own {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error("{0}")]
    Mine(u64),
}

#[test]
fn the_caller_gives_as_rows_get_free_and_may_stop() {
    let model = model();
    let requests = requests(20, 6, 12, &GenerationConfig::default());
    let (asked, answered, running) = (Cell::new(0u64), RefCell::new(Vec::new()), 4u64);
    let run = |generator: &Generator<'_>, stop_at: usize, fail_at: u64, end: &dyn Fn(u64) -> Result<bool, Own>| {
        asked.set(0);
        answered.borrow_mut().clear();
        let mut next = || {
            let n = asked.get();
            assert!(n - (answered.borrow().len() as u64) < running, "asked for more than has a row");
            if n == fail_at {
                return Err(Own::Mine(n));
            }
            asked.set(n + 1);
            Ok(requests.get(n as usize).cloned())
        };
        let mut done = |id, answer: Result<Generation, InferError>| {
            answer?;
            answered.borrow_mut().push(id);
            let stop = answered.borrow().len() == stop_at && end(id)?;
            Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        generator.serve(&mut next, &mut done)
    };
    let four = || generator(&model).with_batch_size(running as usize);
    let served = run(&four(), usize::MAX, u64::MAX, &|_| Ok(true)).unwrap();
    assert!(!served.stopped && served.answers == 20);
    assert_ne!(*answered.borrow(), (0..20).collect::<Vec<_>>(), "short answers come first");

    let served = run(&four(), 3, u64::MAX, &|_| Ok(true)).unwrap();
    assert!(served.stopped && answered.borrow().len() == 3 && asked.get() < 20);
    let error = run(&four(), usize::MAX, 7, &|_| Ok(true)).unwrap_err();
    assert!(matches!(error, Own::Mine(7)), "{error:?}");
    let error = run(&four(), 2, u64::MAX, &|id| Err(Own::Mine(1000 + id))).unwrap_err();
    assert!(matches!(error, Own::Mine(1000..)), "{error:?}");

    let flag = Arc::new(AtomicBool::new(false));
    let set = |_| {
        flag.store(true, Ordering::SeqCst);
        Ok(false)
    };
    let served = run(&four().with_stop(Arc::clone(&flag)), 1, u64::MAX, &set).unwrap();
    assert!(served.stopped && !answered.borrow().is_empty() && answered.borrow().len() < 4, "{served:?}");
    let prompts: Vec<Prompt> = requests.iter().map(|r| r.prompt.clone()).collect();
    let cancelled = four().with_stop(flag).generate(&prompts, None).unwrap();
    assert!(cancelled.iter().all(|g| g.ids.is_empty() && g.finish_reason == FinishReason::Cancelled));
}
