/* Activation functions on floats. Each says what it makes of infinities, as the formula in double would. T is the
 * storage of the result: 16 bits are served by fewer terms. */
#pragma once

#include "device/cuda/kernel.cuh"

/* x / (1 + e^-x): -inf gives NaN, inf gives inf. The exponential is taken of -|x|, which cannot overflow. */
static __device__ __forceinline__ float fk_silu(float x) {
  float e = __expf(-fabsf(x));
  return __fdividef(x * (x < 0 ? e : 1), 1 + e);
}

static __device__ __forceinline__ double fk_silu(double x) {
  return x / (1 + exp(-x));
}

/* x (1 + erf(x / sqrt(2))) / 2 = x times the normal distribution. Its lower tail at -a is exp(-a^2 / 2) times a
 * polynomial in (a - 3) / (a + 3) that follows the slowly falling rest, with a relative error of 1e-8, or in 16 bits
 * 4e-5; so the digits of the tail are kept. -inf gives NaN, inf gives inf. */
template <typename T>
static __device__ __forceinline__ float fk_gelu(float x) {
  float a = fabsf(x), t = __fdividef(a - 3, a + 3), p;
  if (sizeof(T) == 4) {
    p = 5.4150998e-05f;
    p = fmaf(p, t, 0.000116037481f);
    p = fmaf(p, t, -0.000339911494f);
    p = fmaf(p, t, -0.000984182814f);
    p = fmaf(p, t, 0.00290470268f);
    p = fmaf(p, t, 0.00613218313f);
    p = fmaf(p, t, -0.0462133139f);
    p = fmaf(p, t, 0.123225018f);
    p = fmaf(p, t, -0.206402615f);
    p = fmaf(p, t, 0.121513948f);
  } else {
    p = 0.00291081448f;
    p = fmaf(p, t, 0.00538493227f);
    p = fmaf(p, t, -0.046244666f);
    p = fmaf(p, t, 0.123384401f);
    p = fmaf(p, t, -0.20640792f);
    p = fmaf(p, t, 0.121509284f);
  }
  float tail = a < 13.1f ? __expf(-0.5f * a * a) * p : 0;
  return x * (x > 0 ? 1 - tail : tail);
}

/* x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3). -inf gives NaN, inf gives inf. */
static __device__ __forceinline__ float fk_gelu_tanh(float x) {
  float twice = x * (1.5957691f + 0.071354816f * (x * x));
  float e = __expf(-fabsf(twice));
  return __fdividef(x * (x < 0 ? e : 1), 1 + e);
}

/* In 16 bits: by the exponential, which loses digits of small numbers; those are served by two terms of the series. */
template <typename T>
static __device__ __forceinline__ float fk_tanh(float x) {
  if (sizeof(T) == 4) return tanhf(x);
  float a = fabsf(x), e = __expf(-2 * a), far = __fdividef(1 - e, 1 + e);
  return a < 0.05f ? x - x * x * x * (1.0f / 3) : copysignf(far, x);
}
