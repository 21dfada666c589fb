/* Elementary functions on floats that vectorise: no branches, no tables, no calls, inlined into the loops of a cpu.c.
 *
 * Errors are in units in the last place of the float32 result, against the exact value; tests/unit/test_cpu_math.c
 * holds every function to the bound stated here. */
#ifndef FK_DEVICE_CPU_MATH_H
#define FK_DEVICE_CPU_MATH_H

#include <stdint.h>
#include <string.h>

static inline float fk_math_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

/* e^x, within 1.1 ulp over all floats, subnormal results included. exp(-inf) = 0, exp(inf) = inf, exp(0) = 1, NaN stays
 * NaN, beyond 88.7228 it is inf, below -103.98 it is 0.
 *
 * x = n ln 2 + r with |r| <= ln(2)/2; e^r = 1 + r + r^2 q(r), q a minimax polynomial of degree 4 (relative error of
 * e^r below 4e-9); 2^n is applied in two factors because n runs from -150 to 128, beyond the exponents of floats. */
static inline float fk_expf(float x) {
  /* Written so that a NaN falls through both comparisons. */
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
  float shifted = x * 0x1.715476p+0f + 0x1.8p+23f;
  float n = shifted - 0x1.8p+23f;
  /* ln 2 in two parts, the first with so few bits that n times it is exact. */
  float r = x - n * 0x1.62e4p-1f;
  r = r - n * 0x1.7f7d1cp-20f;
  float q = 0x1.6a2352p-10f;
  q = q * r + 0x1.123a6cp-7f;
  q = q * r + 0x1.5558f4p-5f;
  q = q * r + 0x1.555490p-3f;
  q = q * r + 0x1.fffffcp-2f;
  float p = 1 + (r + r * r * q);
  uint32_t bits;
  memcpy(&bits, &shifted, 4);
  int32_t k = (int32_t)(bits - 0x4b400000u), half = k >> 1;
  return p * fk_math_float((uint32_t)(half + 127) << 23) * fk_math_float((uint32_t)(k - half + 127) << 23);
}

/* x / (1 + e^-x), within 4 ulp where the result is normal. As the formula in double: -inf gives NaN, inf gives inf.
 * The exponential is taken of -|x|, which cannot overflow. */
static inline float fk_siluf(float x) {
  float e = fk_expf(x < 0 ? x : -x);
  return x * (x < 0 ? e : 1) / (1 + e);
}

/* e^x for -86 <= x <= 0, as fk_expf but in fewer steps: the result is normal, and its exponent is added as an integer.
 */
static inline float fk_exp_smallf(float x) {
  float shifted = x * 0x1.715476p+0f + 0x1.8p+23f;
  float n = shifted - 0x1.8p+23f;
  float r = x - n * 0x1.62e4p-1f;
  r = r - n * 0x1.7f7d1cp-20f;
  float q = 0x1.6a2352p-10f;
  q = q * r + 0x1.123a6cp-7f;
  q = q * r + 0x1.5558f4p-5f;
  q = q * r + 0x1.555490p-3f;
  q = q * r + 0x1.fffffcp-2f;
  float p = 1 + (r + r * r * q);
  uint32_t bits, scale;
  memcpy(&bits, &p, 4);
  memcpy(&scale, &shifted, 4);
  return fk_math_float(bits + (scale << 23));
}

/* The upper tail of the normal distribution, erfc(a / sqrt(2)) / 2, for a >= 0, within 9 ulp where the result is
 * normal. From a = 13.1 on, where it is below 2e-39, it is 0, also for NaN.
 *
 * exp(-a^2 / 2) times a polynomial in (a - 3) / (a + 3) that follows the slowly falling rest with a relative error of
 * 1e-8. What a^2 loses by rounding, up to 2^-17 in the exponent, is put back to first order. */
static inline float fk_normal_tailf(float a) {
  float square = a * a;
#if defined(__FMA__)
  float lost = __builtin_fmaf(a, a, -square);
#else
  /* Without FMA nothing is contracted: the upper half of a squares exactly, and the sum below is exact. */
  uint32_t bits;
  memcpy(&bits, &a, 4);
  float high = fk_math_float(bits & 0xfffff000u);
  float lost = (high * high - square) + (a - high) * (a + high);
#endif
  float t = (a - 3) / (a + 3);
  float p = 0x1.bdf47cp-15f;
  p = p * t + 0x1.e26702p-14f;
  p = p * t - 0x1.637b16p-12f;
  p = p * t - 0x1.01c35ap-10f;
  p = p * t + 0x1.7caf12p-9f;
  p = p * t + 0x1.91dcecp-8f;
  p = p * t - 0x1.7a943cp-5f;
  p = p * t + 0x1.f8bad2p-4f;
  p = p * t - 0x1.a6b66ap-3f;
  p = p * t + 0x1.f1b89cp-4f;
  float e = fk_exp_smallf(-0.5f * square);
  float tail = (e - e * (0.5f * lost)) * p;
  return a < 13.1f ? tail : 0;
}

/* x Phi(x) = x (1 + erf(x / sqrt(2))) / 2, within 9 ulp where Phi(x) is normal. -inf gives NaN, as the formula in
 * double does; inf gives inf. */
static inline float fk_geluf(float x) {
  float tail = fk_normal_tailf(__builtin_fabsf(x));
  return x * (x > 0 ? 1 - tail : tail);
}

/* x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3): within 5 ulp for x >= -1, within
 * 220 ulp below, where the exponent's rounding counts, as far as e^(2u) is normal. -inf gives NaN, inf gives inf. The
 * exponential is taken of -|2u|, which cannot overflow. */
static inline float fk_gelu_tanhf(float x) {
  float twice = x * (0x1.988454p+0f + 0x1.2444f2p-4f * (x * x));
  float e = fk_expf(x < 0 ? twice : -twice);
  return x * (x < 0 ? e : 1) / (1 + e);
}

/* tanh, within 3 ulp. Below 0.63 an odd polynomial, whose relative error is 2e-8; above, the exponential. */
static inline float fk_tanhf(float x) {
  float a = __builtin_fabsf(x), z = x * x;
  float p = -0x1.8d49f8p-8f;
  p = p * z + 0x1.57a01ep-6f;
  p = p * z - 0x1.b91aep-5f;
  p = p * z + 0x1.110dfp-3f;
  p = p * z - 0x1.555552p-2f;
  float near = x + x * (z * p);
  float e = fk_expf(-2 * a);
  float far = (1 - e) / (1 + e);
  return a < 0.63f ? near : x < 0 ? -far : far;
}

#endif
