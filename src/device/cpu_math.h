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

#endif
