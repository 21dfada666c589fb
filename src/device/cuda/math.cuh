/* Activation functions on floats. Each says what it makes of infinities, as the formula in double would. */
#pragma once

#include "device/cuda/kernel.cuh"

/* x / (1 + e^-x): -inf gives NaN, inf gives inf. The exponential is taken of -|x|, which cannot overflow. */
static __device__ __forceinline__ float fk_silu(float x) {
  float e = expf(-fabsf(x));
  return __fdividef(x * (x < 0 ? e : 1), 1 + e);
}

static __device__ __forceinline__ double fk_silu(double x) {
  return x / (1 + exp(-x));
}

/* x (1 + erf(x / sqrt(2))) / 2, by erfc, which keeps the digits of the lower tail. -inf gives NaN, inf gives inf. */
static __device__ __forceinline__ float fk_gelu(float x) {
  return x * (0.5f * erfcf(-0.70710678f * x));
}

/* x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3). -inf gives NaN, inf gives inf. */
static __device__ __forceinline__ float fk_gelu_tanh(float x) {
  float twice = x * (1.5957691f + 0.071354816f * (x * x));
  float e = expf(-fabsf(twice));
  return __fdividef(x * (x < 0 ? e : 1), 1 + e);
}
