//! Every operator of the shim against the same thing written with plain tch operators, forward and backward, in f64 where
//! the operator has it and in f32 for the hand-written CPU loops.

use ovhost_torch::{AdamWOptions, InferenceMode, Segments};
use tch::{Device, Kind, Tensor};

fn rand(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (kind, Device::Cpu)).set_requires_grad(true)
}

fn close(name: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.size(), b.size(), "{name}");
    let error = (a - b).abs().max().double_value(&[]);
    let scale = b.abs().max().double_value(&[]).max(1e-12);
    assert!(error / scale <= tolerance, "{name}: {error} of {scale}");
}

/// Backward of the same random weighting through two results; compares results and gradients.
fn compare(name: &str, a: Tensor, b: Tensor, leaves: &[&Tensor], tolerance: f64) {
    close(name, &a.detach(), &b.detach(), tolerance);
    let w = Tensor::randn(a.size(), (a.kind(), Device::Cpu));
    let ga = Tensor::f_run_backward(&[(&a * &w).sum(a.kind())], leaves, false, false).unwrap();
    let gb = Tensor::f_run_backward(&[(&b * &w).sum(b.kind())], leaves, false, false).unwrap();
    for (i, (x, y)) in ga.iter().zip(&gb).enumerate() {
        close(&format!("{name} gradient {i}"), x, y, tolerance);
    }
}

fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor, cu: &[i32], causal: bool, scale: f64) -> Tensor {
    let times = q.size()[1] / k.size()[1];
    let (k, v) = (k.repeat_interleave_self_int(times, 1, None), v.repeat_interleave_self_int(times, 1, None));
    let parts: Vec<Tensor> = cu
        .windows(2)
        .map(|w| {
            let (at, n) = (i64::from(w[0]), i64::from(w[1] - w[0]));
            let part = |x: &Tensor| x.narrow(0, at, n).transpose(0, 1);
            let mut scores = part(q).matmul(&part(&k).transpose(1, 2)) * scale;
            if causal {
                let hidden = Tensor::ones([n, n], (Kind::Bool, Device::Cpu)).triu(1);
                scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
            }
            scores.softmax(-1, q.kind()).matmul(&part(&v)).transpose(0, 1)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

#[test]
fn attention_equals_softmax_per_segment() {
    tch::manual_seed(1);
    let cu = [0, 5, 10, 15, 32, 33, 73];
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        for (causal, kv) in [(true, 2), (false, 8), (true, 8)] {
            let (q, k, v) = (rand(&[73, 8, 16], kind), rand(&[73, kv, 16], kind), rand(&[73, kv, 16], kind));
            let segments = Segments::new(&cu, Device::Cpu).unwrap();
            let ours = ovhost_torch::attention(&q, &k, &v, &segments, causal, 0.25).unwrap();
            compare("attention", ours, plain_attention(&q, &k, &v, &cu, causal, 0.25), &[&q, &k, &v], tolerance);
        }
    }
}

#[test]
fn attention_takes_strided_views() {
    tch::manual_seed(2);
    let qkv = rand(&[12, 3, 4, 8], Kind::Float);
    let parts = qkv.unbind(1);
    let segments = Segments::new(&[0, 4, 8, 12], Device::Cpu).unwrap();
    let ours = ovhost_torch::attention(&parts[0], &parts[1], &parts[2], &segments, false, 0.3).unwrap();
    let plain = plain_attention(&parts[0], &parts[1], &parts[2], &[0, 4, 8, 12], false, 0.3);
    compare("strided attention", ours, plain, &[&qkv], 1e-5);
}

#[test]
fn cached_keys_align_at_the_end() {
    tch::manual_seed(3);
    let (q, k, v) = (rand(&[7, 4, 8], Kind::Double), rand(&[7, 2, 8], Kind::Double), rand(&[7, 2, 8], Kind::Double));
    let whole = ovhost_torch::varlen_attention(&q, &k, &v, &[0, 7], &[0, 7], true, 0.5).unwrap();
    let tail = ovhost_torch::varlen_attention(&q.narrow(0, 5, 2), &k, &v, &[0, 2], &[0, 7], true, 0.5).unwrap();
    close("tail", &tail, &whole.narrow(0, 5, 2), 1e-12);
}

#[test]
fn attention_names_what_does_not_fit() {
    let q = rand(&[4, 2, 8], Kind::Float);
    let error = ovhost_torch::varlen_attention(&q, &q, &q, &[0, 5], &[0, 5], true, 1.0).unwrap_err().to_string();
    assert!(error.contains("[4, 2, 8]") && error.contains('5'), "{error}");
    let error = Segments::new(&[0, 3, 3], Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("must grow: 3 is followed by 3"), "{error}");
}

#[test]
fn rope_equals_pairs_rotated() {
    tch::manual_seed(4);
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12)] {
        let wide = rand(&[9, 2, 3, 8], kind);
        let angles = rand(&[9, 4], kind);
        let x = wide.select(1, 1);
        let ours = ovhost_torch::rope(&x, &angles.cos(), &angles.sin()).unwrap();
        let (a, b) = (x.narrow(2, 0, 4), x.narrow(2, 4, 4));
        let (c, s) = (angles.cos().unsqueeze(1), angles.sin().unsqueeze(1));
        let plain = Tensor::cat(&[&a * &c - &b * &s, &b * &c + &a * &s], 2);
        compare("rope", ours, plain, &[&wide, &angles], tolerance);
    }
}

#[test]
fn rms_norm_equals_its_formula() {
    tch::manual_seed(5);
    for width in [6, 32, 71] {
        let (x, w) = (rand(&[600, 2, width], Kind::Float), rand(&[width], Kind::Float));
        let ours = ovhost_torch::rms_norm(&x, &w, 1e-6).unwrap();
        let mean = x.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
        compare("rms_norm", ours, &x * (mean + 1e-6).rsqrt() * &w, &[&x, &w], 1e-5);
    }
}

#[test]
fn silu_mul_equals_two_operators() {
    tch::manual_seed(6);
    let (g, u) = (rand(&[30, 7], Kind::Double), rand(&[30, 7], Kind::Double));
    compare("silu_mul", ovhost_torch::silu_mul(&g, &u).unwrap(), g.silu() * &u, &[&g, &u], 1e-12);
}

#[test]
fn chunked_cross_entropy_equals_the_whole() {
    tch::manual_seed(7);
    let targets = Tensor::from_slice(&[3i64, 0, 10, 7, 7, 1, 2]);
    for chunk in [1, 3, 7, 100] {
        let (h, w) = (rand(&[7, 5], Kind::Double), rand(&[11, 5], Kind::Double));
        let ours = ovhost_torch::linear_cross_entropy(&h, &w, &targets, chunk).unwrap();
        let plain = h.matmul(&w.tr()).cross_entropy_loss::<Tensor>(&targets, None, tch::Reduction::Sum, -100, 0.0);
        compare("cross-entropy", ours, plain, &[&h, &w], 1e-12);
    }
    let h = rand(&[0, 5], Kind::Float);
    let none = Tensor::from_slice::<i64>(&[]);
    let loss = ovhost_torch::linear_cross_entropy(&h, &rand(&[11, 5], Kind::Float), &none, 4).unwrap();
    assert_eq!(loss.double_value(&[]), 0.0);
}

#[test]
fn adamw_equals_its_formula() {
    tch::manual_seed(8);
    let _guard = tch::no_grad_guard();
    let p = Tensor::randn([40], (Kind::Float, Device::Cpu));
    let (m, v, step) = (p.zeros_like(), p.zeros_like(), Tensor::zeros([], (Kind::Float, Device::Cpu)));
    let (mut q, mut qm, mut qv) = (p.copy(), p.zeros_like(), p.zeros_like());
    let o = AdamWOptions { lr: 0.01, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, eps: 1e-8 };
    for t in 1..=5 {
        let g = Tensor::randn([40], (Kind::Float, Device::Cpu));
        ovhost_torch::fused_adamw_(&[&p], &[&g], &[&m], &[&v], &[&step], o).unwrap();
        qm = &qm * o.beta1 + &g * (1.0 - o.beta1);
        qv = &qv * o.beta2 + g.square() * (1.0 - o.beta2);
        let (mh, vh) = (&qm / (1.0 - o.beta1.powi(t)), &qv / (1.0 - o.beta2.powi(t)));
        q = &q * (1.0 - o.lr * o.weight_decay) - mh / (vh.sqrt() + o.eps) * o.lr;
    }
    assert_eq!(step.double_value(&[]), 5.0);
    close("adamw", &p, &q, 1e-5);
}

#[test]
fn rounding_by_chance_keeps_the_mean_and_repeats() {
    // An eighth, a half and nothing of the way between two neighbours in bf16, on either side of zero.
    for (value, below, part) in [(1.0 + 1.0 / 1024.0, 1.0, 0.125), (-3.0 - 1.0 / 128.0, -3.0, 0.5), (2.5e-30, 0.0, 0.0)]
    {
        let n = 1 << 16;
        let from = Tensor::full([n], value, (Kind::Float, Device::Cpu));
        let rounded = |seed| {
            let to = Tensor::zeros([n], (Kind::BFloat16, Device::Cpu));
            ovhost_torch::round_bf16_(&[&to], &[&from], &[seed]).unwrap();
            to.to_kind(Kind::Double)
        };
        let a = rounded(1);
        assert!(a.equal(&rounded(1)));
        if part > 0.0 {
            assert!(!a.equal(&rounded(2)));
            let up = a.ne(below).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((up - part).abs() < 0.01, "{value}: {up} of the values, {part} expected");
            assert!((a.mean(Kind::Double).double_value(&[]) - value).abs() < 1e-2 * value.abs() / 64.0, "{value}");
        } else {
            assert!((a.mean(Kind::Double).double_value(&[]) / value - 1.0).abs() < 1e-3);
        }
    }
    let special = Tensor::from_slice(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -1.5]);
    let to = Tensor::zeros([5], (Kind::BFloat16, Device::Cpu));
    ovhost_torch::round_bf16_(&[&to], &[&special], &[9]).unwrap();
    let to = Vec::<f32>::try_from(to.to_kind(Kind::Float)).unwrap();
    assert!(to[2].is_nan() && (to[0], to[1], to[3], to[4]) == (f32::INFINITY, f32::NEG_INFINITY, 0.0, -1.5), "{to:?}");
    assert!(ovhost_torch::round_bf16_(&[&special], &[&special], &[1]).is_err());
}

#[test]
fn dropout_masks_come_from_their_seed_alone() {
    let like = Tensor::zeros([200, 300], (Kind::Float, Device::Cpu));
    let mask = |seed| ovhost_torch::dropout_mask(&like, 0.25, seed).unwrap();
    let a = mask(7);
    assert!(a.equal(&mask(7)) && !a.equal(&mask(8)));
    let kept = a.ne(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((kept - 0.75).abs() < 0.01, "{kept}");
    assert!((a.max().double_value(&[]) - 1.0 / 0.75).abs() < 1e-6);
    assert!(ovhost_torch::dropout_mask(&like, 1.0, 1).is_err());
}

#[test]
fn an_update_that_is_left_out_changes_nothing() {
    let tensors = || [1.0f32, 2.0, 3.0, 5.0].map(|x| Tensor::full([20], f64::from(x), (Kind::Float, Device::Cpu)));
    let o = AdamWOptions { lr: 0.01, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, eps: 1e-8 };
    for (out, moves) in [(1.0f32, false), (0.0, true)] {
        let [p, g, m, v] = tensors();
        let step = Tensor::from(4.0f32);
        let out = Tensor::from(out);
        ovhost_torch::fused_adamw_unless_(&[&p], &[&g], &[&m], &[&v], &[&step], o, Some(&out)).unwrap();
        assert_eq!(step.double_value(&[]), if moves { 5.0 } else { 4.0 });
        for (now, before) in [&p, &m, &v].into_iter().zip([0, 2, 3].map(|i| tensors()[i].shallow_clone())) {
            assert_eq!(!now.equal(&before), moves);
        }
    }
    let values = Tensor::from_slice(&[1.5f64, f64::NAN, -2.0]);
    let late = ovhost_torch::LateValues::new(&values).unwrap();
    let _ = values.shallow_clone().zero_();
    let late = late.wait().unwrap();
    assert!(late[1].is_nan() && (late[0], late[2]) == (1.5, -2.0), "{late:?}");
}

#[test]
fn clip_scales_only_above_the_limit() {
    let a = Tensor::from_slice(&[3f32, 0.0]);
    let b = Tensor::from_slice(&[4f32]);
    let norm = ovhost_torch::foreach_norm(&[&a, &b]).unwrap();
    assert_eq!(norm.double_value(&[]), 5.0);
    ovhost_torch::foreach_clip_(&[&a, &b], &norm, 10.0).unwrap();
    assert_eq!(b.double_value(&[0]), 4.0);
    ovhost_torch::foreach_clip_(&[&a, &b], &norm, 1.0).unwrap();
    assert!((b.double_value(&[0]) - 0.8).abs() < 1e-5);
}

#[test]
fn guards_and_gradients() {
    let w = rand(&[3], Kind::Float);
    {
        let _mode = InferenceMode::new().unwrap();
        assert!(!(&w * 2.0).requires_grad());
    }
    let y = &w * 2.0;
    ovhost_torch::backward_with(&[&y], &[&Tensor::from_slice(&[1f32, 0.0, 3.0])]).unwrap();
    assert_eq!(Vec::<f32>::try_from(w.grad()).unwrap(), [2.0, 0.0, 6.0]);
    ovhost_torch::clear_grads(&[&w]).unwrap();
    assert!(!w.grad().defined());
    assert!(ovhost_torch::torch_version().starts_with("2.11"));
    let error = ovhost_torch::foreach_copy_(&[&w], &[]).unwrap_err().to_string();
    assert!(error.contains("1 targets and 0 sources"), "{error}");
}
