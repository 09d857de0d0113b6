// CPU loops behind functions.cpp: plain arrays in, plain arrays out, no torch types.
#pragma once
#include <cstdint>

namespace ov {
// x: element (t,h,i) at t*stride_t + h*stride_h + i; out [T,H,D] contiguous; cos, sin [T,D/2].
void rope(const float *x, int64_t stride_t, int64_t stride_h, const float *cos, const float *sin, float *out, int64_t t,
          int64_t h, int64_t d, float sign);
// x, out [rows,d]; inverse [rows] receives 1/rms.
void rms_forward(const float *x, const float *weight, float *out, float *inverse, int64_t rows, int64_t d, float eps);
// parts [rms_parts(rows), d], zeroed: partial sums of the weight's gradient, a split that depends on rows alone.
int64_t rms_parts(int64_t rows);
void rms_backward(const float *grad, const float *x, const float *weight, const float *inverse, float *dx, float *parts,
                  int64_t rows, int64_t d);
// bf16 bits of `from`, each rounded up or down by a chance that makes its mean the value; drawn from `seed` and the place.
void round_bf16(const float *from, uint16_t *to, int64_t n, uint64_t seed);
}  // namespace ov
