// Plain operators that tch does not bind: flash attention, the fused optimiser, foreach, process-wide switches.
// Only single-operator headers, so that this file compiles in seconds.
#include "shim.h"
#include "kernels.h"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <torch/headeronly/version.h>

static thread_local char *last_error = nullptr;
void ov_set_error(const char *message) {
  free(last_error);
  last_error = strdup(message);
}

static std::vector<at::Tensor> list(at::Tensor *const *tensors, int n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (int i = 0; i < n; i++) out.push_back(*tensors[i]);
  return out;
}

// A generator of its own: what is drawn depends on the seed alone, and the process's generator stays as it is.
static at::Generator generator(c10::Device device, uint64_t seed) {
  if (device.is_cpu()) return at::detail::createCPUGenerator(seed);
  auto own = at::detail::getCUDAHooks().getNewGenerator(device.index());
  own.set_current_seed(seed);
  return own;
}

extern "C" {
// The caller frees the string with free().
char *ov_take_error() {
  char *e = last_error;
  last_error = nullptr;
  return e;
}

const char *ov_torch_version() { return TORCH_VERSION; }

void *ov_inference_new() {
  return ov_guard<void *>(nullptr, [] { return new c10::InferenceMode(true); });
}
void ov_inference_free(void *guard) { delete static_cast<c10::InferenceMode *>(guard); }

int ov_set_deterministic(int on) {
  return ov_guard(1, [&] {
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    return 0;
  });
}

int ov_set_matmul_precision(int level) {
  return ov_guard(1, [&] {
    static const char *const levels[] = {"highest", "high", "medium"};
    at::globalContext().setFloat32MatmulPrecision(levels[level]);
    return 0;
  });
}

at::Tensor *ov_flash_varlen(at::Tensor *q, at::Tensor *k, at::Tensor *v, at::Tensor *cu_q, at::Tensor *cu_k,
                            int64_t max_q, int64_t max_k, int causal, double scale) {
  return ov_guard<at::Tensor *>(nullptr, [&] {
    return new at::Tensor(std::get<0>(at::_flash_attention_forward(*q, *k, *v, *cu_q, *cu_k, max_q, max_k, 0.0,
                                                                   causal != 0, /*return_debug_mask=*/false, scale)));
  });
}

int ov_fused_adamw(at::Tensor *const *params, at::Tensor *const *grads, at::Tensor *const *m, at::Tensor *const *v,
                   at::Tensor *const *steps, int n, double lr, double beta1, double beta2, double weight_decay,
                   double eps, at::Tensor *left_out) {
  return ov_guard(1, [&] {
    auto s = list(steps, n);
    std::optional<at::Tensor> out;
    if (left_out) {
      out = *left_out;
      at::_foreach_add_(s, out->neg().add_(1));
    } else {
      at::_foreach_add_(s, 1);
    }
    at::_fused_adamw_(list(params, n), list(grads, n), list(m, n), list(v, n), {}, s, lr, beta1, beta2, weight_decay,
                      eps, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, /*found_inf=*/out);
    return 0;
  });
}

at::Tensor *ov_global_norm(at::Tensor *const *tensors, int n) {
  return ov_guard<at::Tensor *>(nullptr, [&] {
    auto norms = at::_foreach_norm(list(tensors, n), 2, at::kFloat);
    return new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  });
}

int ov_foreach_mul(at::Tensor *const *tensors, int n, at::Tensor *by) {
  return ov_guard(1, [&] {
    auto t = list(tensors, n);
    at::_foreach_mul_(t, *by);
    return 0;
  });
}

int ov_foreach_copy(at::Tensor *const *to, at::Tensor *const *from, int n) {
  return ov_guard(1, [&] {
    auto t = list(to, n);
    at::_foreach_copy_(t, list(from, n));
    return 0;
  });
}

int ov_foreach_add(at::Tensor *const *to, at::Tensor *const *from, int n) {
  return ov_guard(1, [&] {
    auto t = list(to, n);
    at::_foreach_add_(t, list(from, n));
    return 0;
  });
}

int ov_foreach_lerp(at::Tensor *const *to, at::Tensor *const *from, int n, double by) {
  return ov_guard(1, [&] {
    auto t = list(to, n);
    at::_foreach_lerp_(t, list(from, n), by);
    return 0;
  });
}

at::Tensor *ov_dropout_mask(at::Tensor *like, double p, uint64_t seed) {
  return ov_guard<at::Tensor *>(nullptr, [&] {
    auto mask = at::empty_like(like->detach());
    return new at::Tensor(mask.bernoulli_(1.0 - p, generator(like->device(), seed)).div_(1.0 - p));
  });
}

int ov_round_bf16(at::Tensor *const *to, at::Tensor *const *from, const uint64_t *seeds, int n) {
  return ov_guard(1, [&] {
    for (int i = 0; i < n; i++) {
      auto &t = *to[i], &f = *from[i];
      TORCH_CHECK(t.sizes() == f.sizes() && t.is_contiguous() && f.is_contiguous() && t.device() == f.device() &&
                      t.scalar_type() == at::kBFloat16 && f.scalar_type() == at::kFloat,
                  "round_bf16: contiguous bf16 and fp32 tensors of one shape are wanted");
      if (f.is_cpu()) {
        ov::round_bf16(f.const_data_ptr<float>(), reinterpret_cast<uint16_t *>(t.mutable_data_ptr<at::BFloat16>()), f.numel(),
                       seeds[i]);
        continue;
      }
      auto bits = f.view(at::kInt);
      auto sum = at::empty_like(bits).random_(0, 65536, generator(f.device(), seeds[i])).add_(bits);
      t.copy_(sum.bitwise_and_(-65536).view(at::kFloat));
    }
    return 0;
  });
}

// Values on their way to the host.
struct Late {
  at::Tensor host;
  std::optional<c10::Event> arrived;
};

void *ov_late_new(at::Tensor *values) {
  return ov_guard<void *>(nullptr, [&] {
    auto v = values->detach().contiguous();
    auto late = std::make_unique<Late>();
    if (v.is_cpu()) {
      late->host = v.clone();
      return static_cast<void *>(late.release());
    }
    late->host = at::empty(v.sizes(), v.options().device(at::kCPU).pinned_memory(true));
    late->host.copy_(v, /*non_blocking=*/true);
    c10::impl::VirtualGuardImpl device(v.device().type());
    late->arrived.emplace(v.device().type());
    late->arrived->record(device.getStream(v.device()));
    return static_cast<void *>(late.release());
  });
}

at::Tensor *ov_late_wait(void *p) {
  return ov_guard<at::Tensor *>(nullptr, [&] {
    auto *late = static_cast<Late *>(p);
    if (late->arrived) late->arrived->synchronize();
    return new at::Tensor(late->host);
  });
}

void ov_late_free(void *p) { delete static_cast<Late *>(p); }

int ov_foreach_zero(at::Tensor *const *tensors, int n) {
  return ov_guard(1, [&] {
    auto t = list(tensors, n);
    at::_foreach_zero_(t);
    return 0;
  });
}

int ov_clear_grads(at::Tensor *const *tensors, int n) {
  return ov_guard(1, [&] {
    for (int i = 0; i < n; i++) tensors[i]->mutable_grad().reset();
    return 0;
  });
}
}
