// Row kernels, compiled for several instruction sets and chosen when the program loads.
#include "kernels.h"
#include <ATen/Parallel.h>
#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define OV_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define OV_CLONES
#endif

namespace {
constexpr int64_t GRAIN = 16384;  // elements per task: below it a second thread costs more than it saves
constexpr int64_t PART = 256;     // rows whose weight gradients are summed in order before the partial sums are

int64_t grain(int64_t row) { return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, row)); }

OV_CLONES void rope_row(const float *__restrict x, const float *__restrict c, const float *__restrict s,
                        float *__restrict out, int64_t half, float sign) {
  for (int64_t i = 0; i < half; i++) {
    float a = x[i], b = x[half + i], si = s[i] * sign;
    out[i] = a * c[i] - b * si;
    out[half + i] = b * c[i] + a * si;
  }
}

// Eight running sums, so that the compiler may use vectors without reordering anything itself.
OV_CLONES float dot(const float *__restrict a, const float *__restrict b, int64_t d) {
  float s[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= d; i += 16)
    for (int j = 0; j < 16; j++) s[j] += a[i + j] * b[i + j];
  float total = 0;
  for (int j = 0; j < 16; j++) total += s[j];
  for (; i < d; i++) total += a[i] * b[i];
  return total;
}

OV_CLONES float dot3(const float *__restrict a, const float *__restrict b, const float *__restrict c, int64_t d) {
  float s[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= d; i += 16)
    for (int j = 0; j < 16; j++) s[j] += a[i + j] * b[i + j] * c[i + j];
  float total = 0;
  for (int j = 0; j < 16; j++) total += s[j];
  for (; i < d; i++) total += a[i] * b[i] * c[i];
  return total;
}

OV_CLONES void scale_row(const float *__restrict x, const float *__restrict w, float *__restrict out, float by, int64_t d) {
  for (int64_t i = 0; i < d; i++) out[i] = x[i] * by * w[i];
}

OV_CLONES void rms_row_backward(const float *__restrict g, const float *__restrict x, const float *__restrict w,
                                float *__restrict dx, float *__restrict dw, float r, float mean, int64_t d) {
  for (int64_t i = 0; i < d; i++) {
    float n = x[i] * r;
    dx[i] = r * (g[i] * w[i] - n * mean);
    dw[i] += g[i] * n;
  }
}

// The 16 bits that bf16 leaves off are a distance in 65536ths from the value below: with as many random ones added, they carry
// over as often as they should. The random ones are a hash of the place (MurmurHash3's finaliser).
OV_CLONES void round_row(const float *__restrict from, uint16_t *__restrict to, int64_t n, uint32_t first, uint32_t seed) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    std::memcpy(&bits, from + i, 4);
    uint32_t h = (first + (uint32_t)i) * 0x9e3779b1u ^ seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h = (h ^ (h >> 16)) & 0xffffu;
    bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    bool nan = !finite && (bits & 0x007fffffu);
    to[i] = (uint16_t)((bits + (finite ? h : 0u)) >> 16) | (nan ? 0x40 : 0);
  }
}
}  // namespace

namespace ov {
void rope(const float *x, int64_t stride_t, int64_t stride_h, const float *cos, const float *sin, float *out, int64_t t,
          int64_t h, int64_t d, float sign) {
  int64_t half = d / 2;
  at::parallel_for(0, t, grain(h * d), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++)
      for (int64_t j = 0; j < h; j++)
        rope_row(x + i * stride_t + j * stride_h, cos + i * half, sin + i * half, out + (i * h + j) * d, half, sign);
  });
}

void rms_forward(const float *x, const float *weight, float *out, float *inverse, int64_t rows, int64_t d, float eps) {
  at::parallel_for(0, rows, grain(d), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      const float *row = x + i * d;
      float r = 1.f / std::sqrt(dot(row, row, d) / d + eps);
      inverse[i] = r;
      scale_row(row, weight, out + i * d, r, d);
    }
  });
}

void round_bf16(const float *from, uint16_t *to, int64_t n, uint64_t seed) {
  uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  uint32_t mixed = (uint32_t)(x ^ (x >> 31));
  at::parallel_for(0, n, GRAIN, [&](int64_t a, int64_t b) { round_row(from + a, to + a, b - a, (uint32_t)a, mixed); });
}

int64_t rms_parts(int64_t rows) { return (rows + PART - 1) / PART; }

void rms_backward(const float *grad, const float *x, const float *weight, const float *inverse, float *dx, float *parts,
                  int64_t rows, int64_t d) {
  at::parallel_for(0, rms_parts(rows), std::max<int64_t>(1, grain(d) / PART), [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; p++)
      for (int64_t i = p * PART; i < std::min(rows, (p + 1) * PART); i++) {
        float r = inverse[i];
        float mean = dot3(grad + i * d, weight, x + i * d, d) * r / d;
        rms_row_backward(grad + i * d, x + i * d, weight, dx + i * d, parts + p * d, r, mean, d);
      }
  });
}
}  // namespace ov
