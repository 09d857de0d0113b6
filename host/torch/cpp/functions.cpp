// Differentiable operators of our own: what libtorch runs as many small ones (or cannot run) is one node here.
//   attention  [T,H,D] over segments on the CPU: libtorch's CPU flash kernels called per run of equal segments
//   rope       rotation by per-token angles, with the gradient to the angles (RICE learns its class token's)
//   rms_norm   on the CPU libtorch composes it from six operators
//   loss       linear + cross-entropy, in chunks: tokens x vocabulary never exists whole, the gradient is made on the way
//   silu_mul   SwiGLU's gate
// Backward passes are exact and deterministic: every sum has a fixed order whatever the thread count.
#include "kernels.h"
#include "shim.h"
#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {
// ---- attention ----------------------------------------------------------------------------------
// `groups` holds (first token, segments, length) triples: equal neighbours share one call of the kernel.
Tensor batch_of(const Tensor &x, int64_t start, int64_t n, int64_t len) {
  return x.narrow(0, start, n * len).unflatten(0, {n, len}).transpose(1, 2);
}

// Key/value heads repeated to the query's, because the CPU kernel knows no grouped heads.
Tensor repeat_heads(const Tensor &x, int64_t times) {
  if (times == 1) return x;
  auto s = x.sizes();
  return x.unsqueeze(2).expand({s[0], s[1], times, s[2]}).reshape({s[0], s[1] * times, s[2]});
}

struct Attention : Function<Attention> {
  static Tensor forward(AutogradContext *ctx, const Tensor &q, const Tensor &k, const Tensor &v,
                        std::vector<int64_t> groups, bool causal, double scale) {
    int64_t times = q.size(1) / k.size(1);
    auto kr = repeat_heads(k, times), vr = repeat_heads(v, times);
    auto out = at::empty(q.sizes(), q.options());
    variable_list saved{q, k, v, out};
    for (size_t i = 0; i < groups.size(); i += 3) {
      int64_t start = groups[i], n = groups[i + 1], len = groups[i + 2];
      auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
          batch_of(q, start, n, len), batch_of(kr, start, n, len), batch_of(vr, start, n, len), 0.0, causal, {}, scale);
      batch_of(out, start, n, len).copy_(o);
      saved.push_back(lse);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    return out;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto q = saved[0], k = saved[1], v = saved[2], out = saved[3];
    auto groups = ctx->saved_data["groups"].toIntVector();
    bool causal = ctx->saved_data["causal"].toBool();
    double scale = ctx->saved_data["scale"].toDouble();
    int64_t times = q.size(1) / k.size(1);
    auto kr = repeat_heads(k, times), vr = repeat_heads(v, times);
    auto g = grads[0].contiguous();
    auto dq = at::empty(q.sizes(), q.options()), dk = at::empty(q.sizes(), q.options()), dv = at::empty(q.sizes(), q.options());
    for (size_t i = 0; i < groups.size(); i += 3) {
      int64_t start = groups[i], n = groups[i + 1], len = groups[i + 2];
      auto part = [&](const Tensor &x) { return batch_of(x, start, n, len); };
      auto [a, b, c] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          part(g), part(q), part(kr), part(vr), part(out), saved[4 + i / 3], 0.0, causal, {}, scale);
      part(dq).copy_(a);
      part(dk).copy_(b);
      part(dv).copy_(c);
    }
    if (times > 1) {
      auto fold = [&](const Tensor &x) { return x.unflatten(1, {k.size(1), times}).sum(2); };
      dk = fold(dk);
      dv = fold(dv);
    }
    return {dq, dk, dv, Tensor(), Tensor(), Tensor()};
  }
};

// ---- rope ---------------------------------------------------------------------------------------
bool plain(const Tensor &x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

// x [T,H,D], cos/sin [T,D/2] fp32; sign -1 turns the other way (the transpose, so the backward of x).
Tensor rotate(const Tensor &x_in, const Tensor &cos, const Tensor &sin, float sign) {
  auto x = x_in.stride(-1) == 1 ? x_in : x_in.contiguous();
  int64_t t = x.size(0), h = x.size(1), d = x.size(2);
  if (plain(x)) {
    auto out = at::empty({t, h, d}, x.options());
    ov::rope(x.const_data_ptr<float>(), x.stride(0), x.stride(1), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(),
             out.mutable_data_ptr<float>(), t, h, d, sign);
    return out;
  }
  auto c = cos.unsqueeze(1), s = sin.unsqueeze(1) * sign;
  auto a = x.narrow(2, 0, d / 2).to(c.scalar_type()), b = x.narrow(2, d / 2, d / 2).to(c.scalar_type());
  return at::cat({a * c - b * s, b * c + a * s}, 2).to(x.scalar_type());
}

struct Rope : Function<Rope> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &cos, const Tensor &sin) {
    bool angles = cos.requires_grad() || sin.requires_grad();
    ctx->save_for_backward({cos, sin, angles ? x : Tensor()});
    return rotate(x, cos, sin, 1.f);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto cos = saved[0], sin = saved[1], x = saved[2];
    auto g = grads[0];
    Tensor dx, dcos, dsin;
    if (ctx->needs_input_grad(0)) dx = rotate(g, cos, sin, -1.f);
    if (x.defined()) {
      int64_t d = x.size(2);
      auto kind = cos.scalar_type();
      auto half = [&](const Tensor &t, int64_t at) { return t.narrow(2, at * d / 2, d / 2).to(kind); };
      auto a = half(x, 0), b = half(x, 1), ga = half(g, 0), gb = half(g, 1);
      dcos = (ga * a + gb * b).sum(1);
      dsin = (gb * a - ga * b).sum(1);
    }
    return {dx, dcos, dsin};
  }
};

// ---- rms norm -----------------------------------------------------------------------------------
struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &weight, double eps) {
    auto x = x_in.contiguous();
    int64_t d = x.size(-1), rows = d ? x.numel() / d : 0;
    auto out = at::empty_like(x);
    auto inverse = at::empty({rows}, x.options());
    ov::rms_forward(x.const_data_ptr<float>(), weight.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                    inverse.mutable_data_ptr<float>(), rows, d, (float)eps);
    ctx->save_for_backward({x, weight, inverse});
    return out;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], weight = saved[1], inverse = saved[2];
    auto g = grads[0].contiguous();
    int64_t d = x.size(-1), rows = inverse.numel();
    auto dx = at::empty_like(x);
    auto parts = at::zeros({ov::rms_parts(rows), d}, x.options());
    ov::rms_backward(g.const_data_ptr<float>(), x.const_data_ptr<float>(), weight.const_data_ptr<float>(),
                     inverse.const_data_ptr<float>(), dx.mutable_data_ptr<float>(), parts.mutable_data_ptr<float>(), rows, d);
    return {dx, ctx->needs_input_grad(1) ? parts.sum(0) : Tensor(), Tensor()};
  }
};

// ---- SwiGLU's gate ------------------------------------------------------------------------------
struct SiluMul : Function<SiluMul> {
  static Tensor forward(AutogradContext *ctx, const Tensor &gate, const Tensor &up) {
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto gate = saved[0], up = saved[1], g = grads[0];
    auto du = at::silu(gate).mul_(g);
    return {at::silu_backward(g * up, gate), du};
  }
};

// ---- linear + cross-entropy ---------------------------------------------------------------------
struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext *ctx, const Tensor &hidden, const Tensor &weight, const Tensor &targets,
                        int64_t chunk, bool grad) {
    int64_t n = hidden.size(0);
    bool want_h = grad && hidden.requires_grad(), want_w = grad && weight.requires_grad();
    bool wide = n > chunk && weight.scalar_type() != at::kDouble;  // several chunks add up in fp32
    auto loss = at::zeros({}, hidden.options().dtype(hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    Tensor dh, dw;
    if (want_h) dh = at::empty(hidden.sizes(), hidden.options());
    for (int64_t at = 0; at < n; at += chunk) {
      int64_t m = std::min(chunk, n - at);
      auto h = hidden.narrow(0, at, m);
      auto t = targets.narrow(0, at, m).unsqueeze(1);
      auto logits = at::linear(h, weight);
      auto logp = at::_log_softmax(logits.to(loss.scalar_type()), 1, false);
      loss.sub_(logp.gather(1, t).sum());
      if (!want_h && !want_w) continue;
      auto p = logp.exp_().scatter_add_(1, t, at::zeros({m, 1}, logp.options()).sub_(1)).to(hidden.scalar_type());
      if (want_h) {
        auto part = dh.narrow(0, at, m);
        at::mm_out(part, p, weight);
      }
      if (want_w) {
        bool same = !wide || weight.scalar_type() == at::kFloat;  // the sum's kind is the factors': no tensor in between
        if (!dw.defined()) dw = same ? at::mm(p.t(), h) : at::mm(p.t(), h).to(at::kFloat);
        else if (same) dw.addmm_(p.t(), h);
        else dw.add_(at::mm(p.t(), h));
      }
    }
    if (dw.defined()) dw = dw.to(weight.scalar_type());
    ctx->save_for_backward({dh, dw});
    return loss;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    // In place: they are used once, and a second backward pass is refused, as they are not what was saved any more.
    auto times = [&](Tensor t) { return t.defined() ? t.mul_(grads[0].to(t.scalar_type())) : Tensor(); };
    return {times(saved[0]), times(saved[1]), Tensor(), Tensor(), Tensor()};
  }
};

template <class F> Tensor *tensor_of(F f) {
  return ov_guard<Tensor *>(nullptr, [&] { return new Tensor(f()); });
}
}  // namespace

extern "C" {
Tensor *ov_attention_cpu(Tensor *q, Tensor *k, Tensor *v, const int64_t *groups, int n, int causal, double scale) {
  return tensor_of([&] {
    return Attention::apply(*q, *k, *v, std::vector<int64_t>(groups, groups + n), causal != 0, scale);
  });
}

Tensor *ov_rope(Tensor *x, Tensor *cos, Tensor *sin) {
  return tensor_of([&] { return Rope::apply(*x, cos->contiguous(), sin->contiguous()); });
}

Tensor *ov_rms_norm(Tensor *x, Tensor *weight, double eps) {
  return tensor_of([&]() -> Tensor {
    if (plain(*x) && plain(*weight)) return RmsNorm::apply(*x, weight->contiguous(), eps);
    return at::rms_norm(*x, {x->size(-1)}, *weight, eps);
  });
}

Tensor *ov_silu_mul(Tensor *gate, Tensor *up) {
  return tensor_of([&] { return SiluMul::apply(*gate, *up); });
}

Tensor *ov_linear_cross_entropy(Tensor *hidden, Tensor *weight, Tensor *targets, int64_t chunk) {
  return tensor_of([&] { return LinearCrossEntropy::apply(*hidden, *weight, *targets, chunk, at::GradMode::is_enabled()); });
}

int ov_backward(Tensor *const *outputs, Tensor *const *grads, int n) {
  return ov_guard(1, [&] {
    variable_list o, g;
    for (int i = 0; i < n; i++) {
      o.push_back(*outputs[i]);
      g.push_back(grads[i] ? *grads[i] : Tensor());
    }
    torch::autograd::backward(o, g);
    return 0;
  });
}

// Bytes that tensors of a CUDA device held at most since the last reset.
int64_t ov_memory_peak(int device) {
  return ov_guard<int64_t>(-1, [&] {
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(device);
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  });
}

int ov_reset_memory_peak(int device) {
  return ov_guard(1, [&] {
    c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(device);
    return 0;
  });
}
}
