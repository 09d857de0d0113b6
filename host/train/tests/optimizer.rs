//! What the optimiser keeps beside the weights: the moving average and the short moments, against their formulas, and saved.

use std::collections::HashMap;

use ovhost_model::{Module, Param};
use ovhost_torch::round_bf16_;
use ovhost_train::{ema::Ema, optimizer::AdamW, recipe::TrainConfig};
use serde_json::json;
use tch::{Device, Kind, Tensor};

fn param(kind: Kind) -> Tensor {
    Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]).view([2, 2]).to_kind(kind)
}

fn optimizer(tensor: &Tensor) -> AdamW {
    let config: TrainConfig = serde_json::from_value(json!({"steps": 1, "lr": 0.1})).unwrap();
    let (name, tensor) = ("w".to_owned(), tensor.shallow_clone());
    AdamW::new(vec![Param { name, tensor, module: Module::Language, adapter: false }], &config).unwrap()
}

/// The average of the only parameter.
fn average(ema: &Ema) -> Tensor {
    ema.state().next().unwrap().1
}

/// One update from a made-up gradient.
fn update(optimizer: &mut AdamW, tensor: &Tensor, step: i64) {
    let weights = Tensor::from_slice(&[1.0f32, step as f32, -3.0, 0.1]).view([2, 2]).to_kind(tensor.kind());
    (tensor * weights).sum(tensor.kind()).backward();
    optimizer.collect().unwrap();
    optimizer.update(1.0).unwrap();
}

#[test]
fn the_average_is_its_formula_and_goes_on_bit_for_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let tensor = param(kind);
        let mut optimizer = optimizer(&tensor);
        let mut ema = Ema::new(&optimizer, 0.75);
        let mut resumed = Ema::new(&optimizer, 0.75);
        let mut want = param(kind).to_kind(Kind::Float).to_kind(Kind::Double);
        for step in 0..6 {
            update(&mut optimizer, &tensor, step);
            ema.update(&optimizer, None).unwrap();
            if step == 2 {
                let mut saved = ema.state().map(|(name, t)| (name, t.copy())).collect::<HashMap<_, _>>();
                resumed.load_state(&mut saved).unwrap();
                assert!(saved.is_empty());
            } else if step > 2 {
                resumed.update(&optimizer, None).unwrap();
            }
            let master = optimizer.masters().next().unwrap().1.detach().to_kind(Kind::Double);
            want = want * 0.75 + master * 0.25;
        }
        let average = average(&ema).copy();
        assert!(average.equal(&self::average(&resumed)));
        assert!(average.to_kind(Kind::Double).allclose(&want, 1e-6, 1e-6, false), "{kind:?}");
        assert_eq!(average.kind(), Kind::Float);

        // Exchanged for an export and back.
        let (before, mean) = (tensor.detach().copy(), average.copy());
        let state = |o: &AdamW| o.state().into_iter().map(|(n, t)| (n, t.copy())).collect::<Vec<_>>();
        let saved = state(&optimizer);
        ema.exchange(&mut optimizer).unwrap();
        assert!(tensor.detach().equal(&mean.to_kind(kind)) && !tensor.detach().equal(&before));
        ema.exchange(&mut optimizer).unwrap();
        assert!(tensor.detach().equal(&before) && self::average(&ema).equal(&mean));
        for ((name, a), (_, b)) in saved.iter().zip(state(&optimizer)) {
            assert!(a.equal(&b), "{name}");
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_named() {
    let optimizer = optimizer(&param(Kind::Float));
    let mut ema = Ema::new(&optimizer, 0.5);
    let wrong = HashMap::from([("ema.w".to_owned(), Tensor::zeros([3], (Kind::Float, Device::Cpu)))]);
    let error = ema.load_state(&mut { wrong }).unwrap_err().to_string();
    assert!(error.contains("ema.w has shape [3]"), "{error}");
    let other = HashMap::from([("ema.x".to_owned(), param(Kind::Float))]);
    assert!(ema.load_state(&mut { other }).unwrap_err().to_string().contains("lacks ema.w"));
    assert!(ema.load_state(&mut HashMap::new()).is_ok(), "a run that was begun without");
}

const WIDE: i64 = 400;

/// A least-squares problem with noisy gradients.
struct Problem {
    weight: Tensor,
    optimizer: AdamW,
}

impl Problem {
    fn new(moments: &str) -> Self {
        let config: TrainConfig = serde_json::from_value(json!({
            "steps": 1, "lr": 0.01, "betas": [0.9, 0.999], "clip_grad_norm": 0.0, "moments": moments
        }))
        .unwrap();
        let weight = Tensor::zeros([WIDE, 2], (Kind::Float, Device::Cpu));
        let param =
            Param { name: "w".into(), tensor: weight.shallow_clone(), module: Module::Language, adapter: false };
        Problem { optimizer: AdamW::new(vec![param], &config).unwrap(), weight }
    }

    fn update(&mut self, step: i64) {
        self.backward(step);
        self.optimizer.update(1.0).unwrap();
    }

    fn backward(&mut self, step: i64) {
        let at = Tensor::arange(WIDE * 2, (Kind::Float, Device::Cpu)).view([WIDE, 2]);
        let noise = (&at * (step as f64 * 1.7 + 0.3)).sin() * 3.0;
        ((&self.weight - (&at * 0.01).cos() - noise).square() * 0.5).sum(Kind::Float).backward();
    }

    fn state(&self, name: &str) -> Tensor {
        self.optimizer.state().into_iter().find(|(n, _)| n == name).unwrap().1
    }
}

#[test]
fn the_first_update_is_equal_and_later_ones_stay_near() {
    let (mut wide, mut short) = (Problem::new("fp32"), Problem::new("bf16"));
    wide.update(0);
    short.update(0);
    assert!(wide.weight.equal(&short.weight), "moments of zero are exact");
    for step in 1..400 {
        wide.update(step);
        short.update(step);
    }
    let drift = (&wide.weight - &short.weight).norm().double_value(&[]) / wide.weight.norm().double_value(&[]);
    assert!(drift > 0.0 && drift < 5e-3, "{drift}");
    let (v, exact) = (short.state("exp_avg_sq.w"), wide.state("exp_avg_sq.w"));
    assert_eq!((v.kind(), exact.kind(), v.size()), (Kind::BFloat16, Kind::Float, exact.size()));
    // No drift of the mean: plain rounding would stop growing as soon as an update is below half a neighbour's distance.
    let mean = |t: &Tensor| t.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((mean(&v) / mean(&exact) - 1.0).abs() < 2e-3, "{} and {}", mean(&v), mean(&exact));
    let mut nearest = Tensor::from(1.0f32);
    let mut by_chance = Tensor::ones([1 << 12], (Kind::BFloat16, Device::Cpu));
    for step in 0..700 {
        nearest = (nearest * 0.999).to_kind(Kind::BFloat16).to_kind(Kind::Float);
        let next = by_chance.to_kind(Kind::Float) * 0.999;
        round_bf16_(&[&by_chance], &[&next], &[step]).unwrap();
    }
    assert_eq!(nearest.double_value(&[]), 1.0, "why not to the nearest");
    by_chance = by_chance.to_kind(Kind::Double);
    assert!((mean(&by_chance) / 0.999f64.powi(700) - 1.0).abs() < 5e-3, "{}", mean(&by_chance));
}

#[test]
fn a_state_that_is_saved_goes_on_bit_for_bit() {
    let (mut whole, mut resumed) = (Problem::new("bf16"), Problem::new("bf16"));
    (0..5).for_each(|step| whole.update(step));
    let saved = whole.optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
    resumed.optimizer.load_state(saved).unwrap();
    tch::no_grad(|| resumed.weight.copy_(&whole.weight));
    for step in 5..9 {
        whole.update(step);
        resumed.update(step);
    }
    assert!(whole.weight.equal(&resumed.weight));
    assert!(whole.state("exp_avg_sq.w").equal(&resumed.state("exp_avg_sq.w")));
}

/// Looked at late, an update is the same bit for bit, and one that is not finite changes nothing but the gradients.
#[test]
fn late_updates_equal_those_at_once() {
    for moments in ["fp32", "bf16"] {
        let (mut at_once, mut late) = (Problem::new(moments), Problem::new(moments));
        let state = |p: &Problem| p.optimizer.state().into_iter().map(|(_, t)| t.copy()).collect::<Vec<_>>();
        let (mut a, mut b) = (Ema::new(&at_once.optimizer, 0.9), Ema::new(&late.optimizer, 0.9));
        for step in 0..8 {
            at_once.backward(step);
            let norm = at_once.optimizer.update(0.5).unwrap();
            a.update(&at_once.optimizer, None).unwrap();
            late.backward(step);
            let loss = Tensor::from(1.0f64);
            let (value, left_out) = late.optimizer.update_late(0.5, &loss).unwrap();
            b.update(&late.optimizer, Some(&left_out)).unwrap();
            assert_eq!((value.double_value(&[]), left_out.double_value(&[])), (norm, 0.0));
        }
        let same = |at_once: &Problem, late: &Problem| {
            assert!(at_once.weight.equal(&late.weight));
            assert!(state(at_once).iter().zip(state(late)).all(|(a, b)| a.equal(&b)), "{moments}");
        };
        same(&at_once, &late);
        assert!(average(&a).allclose(&average(&b), 1e-6, 1e-7, false));

        // Not finite: by the gradient, then by the loss.
        let before = average(&b).copy();
        for (at, loss) in [(f64::INFINITY, 1.0), (1.0, f64::NAN)] {
            ((&late.weight * at) * 1.0).sum(Kind::Float).backward();
            let (_, left_out) = late.optimizer.update_late(0.5, &Tensor::from(loss)).unwrap();
            b.update(&late.optimizer, Some(&left_out)).unwrap();
            assert_eq!(left_out.double_value(&[]), 1.0);
        }
        same(&at_once, &late);
        assert!(average(&b).equal(&before));
        for problem in [&mut at_once, &mut late] {
            problem.optimizer.begin(20);
            problem.update(9);
        }
        same(&at_once, &late);
    }
}
