#include "core/convert.h"

#include <math.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "fastkernels/fastkernels.h"

/* ---- Bits ------------------------------------------------------------------------------------------------ */

static inline uint32_t f32_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static inline float f32_from(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint64_t f64_bits(double d) {
  uint64_t u;
  memcpy(&u, &d, 8);
  return u;
}

static inline float bf16_to_f32(uint16_t h) {
  return f32_from((uint32_t)h << 16 | (uint32_t)((h & 0x7fff) > 0x7f80) << 22); /* NaN becomes quiet, as below */
}

static inline uint16_t bf16_from_f32(float f) {
  uint32_t u = f32_bits(f);
  uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : rounded);
}

/* Without branches, so that a loop of it vectorises. */
static inline float f16_to_f32(uint16_t h) {
  uint32_t mag = h & 0x7fff, sign = (uint32_t)(h & 0x8000) << 16;
  uint32_t normal = (mag << 13) + (112u << 23);
  uint32_t special = mag << 13 | 0x7f800000u | (uint32_t)(mag > 0x7c00) << 22;
  uint32_t subnormal = f32_bits((float)(int32_t)mag * 0x1p-24f);
  uint32_t u = mag >= 0x7c00 ? special : mag < 0x400 ? subnormal : normal;
  return f32_from(u | sign);
}

static inline uint16_t f16_from_f32(float f) {
  uint32_t u = f32_bits(f) & 0x7fffffff, sign = f32_bits(f) >> 16 & 0x8000;
  uint32_t normal = (u + 0xfff + (u >> 13 & 1) - (112u << 23)) >> 13; /* carries into infinity by itself */
  uint32_t special = u > 0x7f800000 ? 0x7e00 | (u >> 13 & 0x3ff) : 0x7c00;
  /* Below 2^-14: one unit in the last place of 0.5f is the smallest float16, so the addition rounds. */
  uint32_t subnormal = f32_bits(f32_from(u < 0x38800000 ? u : 0) + 0.5f) - f32_bits(0.5f);
  uint32_t h = u >= 0x47800000 ? special : u < 0x38800000 ? subnormal : normal;
  return (uint16_t)(h | sign);
}

/* Magnitude of a number with an exponent bias and mantissa_bits, rounded to nearest even. Too large a number gives
 * an encoding beyond the largest one, for the caller to map. */
static uint64_t round_to(double v, int mantissa_bits, int bias) {
  uint64_t u = f64_bits(v) & INT64_MAX;
  int exponent = (int)(u >> 52) - 1023 + bias; /* of the target; below 1 it is subnormal */
  if (u >> 52 == 0) return 0;
  uint64_t m = (u & 0xfffffffffffff) | 1ull << 52;
  int shift = 52 - mantissa_bits + (exponent < 1 ? 1 - exponent : 0);
  if (shift > 54) return 0;
  uint64_t q = m >> shift, rest = m & ((1ull << shift) - 1), half = 1ull << (shift - 1);
  q += rest > half || (rest == half && (q & 1));
  /* q holds the implicit bit, and a carry out of the mantissa raises the exponent. */
  return exponent < 1 ? q : ((uint64_t)(exponent - 1) << mantissa_bits) + q;
}

static uint16_t f16_from_f64(double v) {
  uint64_t u = f64_bits(v), sign = u >> 48 & 0x8000;
  if (isnan(v)) return (uint16_t)(sign | 0x7e00 | (u >> 42 & 0x3ff));
  uint64_t q = round_to(v, 10, 15);
  return (uint16_t)(sign | (q > 0x7c00 ? 0x7c00 : q));
}

static uint16_t bf16_from_f64(double v) {
  uint64_t u = f64_bits(v), sign = u >> 48 & 0x8000;
  if (isnan(v)) return (uint16_t)(sign | 0x7fc0 | (u >> 45 & 0x7f));
  uint64_t q = round_to(v, 7, 127);
  return (uint16_t)(sign | (q > 0x7f80 ? 0x7f80 : q));
}

/* Eight bits with sign, exponent and mantissa; largest is the encoding of everything that is too large. */
static uint8_t f8_from_f64(double v, int mantissa_bits, int bias, uint64_t largest) {
  uint64_t q = isnan(v) ? 0x7f : round_to(v, mantissa_bits, bias);
  if (!isnan(v) && q > largest) q = largest;
  return (uint8_t)((f64_bits(v) >> 56 & 0x80) | q);
}

static uint8_t e8m0_from_f64(double v) {
  uint64_t q = isnan(v) ? 255 : round_to(v, 0, 127);
  return (uint8_t)(q > 255 ? 255 : q);
}

static uint8_t e2m1_from_f64(double v) {
  if (isnan(v)) return 7;
  uint64_t q = round_to(v, 1, 1);
  return (uint8_t)((f64_bits(v) >> 60 & 8) | (q > 7 ? 7 : q));
}

/* A finite number from its magnitude bits. */
static float small_float(uint32_t mag, int mantissa_bits, int bias) {
  int exponent = (int)(mag >> mantissa_bits);
  uint32_t m = mag & ((1u << mantissa_bits) - 1);
  if (exponent) m |= 1u << mantissa_bits;
  return ldexpf((float)m, (exponent ? exponent : 1) - bias - mantissa_bits);
}

static float e4m3_to_f32(uint8_t b) {
  float f = (b & 0x7f) == 0x7f ? NAN : small_float(b & 0x7f, 3, 7);
  return copysignf(f, b & 0x80 ? -1.0f : 1.0f);
}

static float e5m2_to_f32(uint8_t b) {
  int mag = b & 0x7f;
  float f = mag > 0x7c ? NAN : mag == 0x7c ? INFINITY : small_float((uint32_t)mag, 2, 15);
  return copysignf(f, b & 0x80 ? -1.0f : 1.0f);
}

static float e8m0_to_f32(uint8_t b) {
  return b == 255 ? NAN : ldexpf(1.0f, (int)b - 127);
}

static float e2m1_to_f32(uint8_t nibble) {
  return copysignf(small_float(nibble & 7, 1, 1), nibble & 8 ? -1.0f : 1.0f);
}

/* ---- One element ----------------------------------------------------------------------------------------- */

#define LOAD(ctype)                                                                   \
  ({                                                                                  \
    ctype load_v;                                                                     \
    memcpy(&load_v, (const char *)p + index * (int64_t)sizeof load_v, sizeof load_v); \
    load_v;                                                                           \
  })

#define STORE(ctype, value)                                                        \
  do {                                                                             \
    ctype store_v = (ctype)(value);                                                \
    memcpy((char *)p + index * (int64_t)sizeof store_v, &store_v, sizeof store_v); \
  } while (0)

static inline uint8_t nibble_at(const void *p, int64_t index) {
  uint8_t byte = ((const uint8_t *)p)[index >> 1];
  return index & 1 ? byte >> 4 : byte & 15;
}

static inline void nibble_set(void *p, int64_t index, uint8_t nibble) {
  uint8_t *byte = (uint8_t *)p + (index >> 1);
  *byte = (uint8_t)(index & 1 ? (*byte & 15) | nibble << 4 : (*byte & 0xf0) | nibble);
}

double fk_load_f64(fk_type type, const void *p, int64_t index) {
  switch (type) {
    case FK_F32:
      return (double)LOAD(float);
    case FK_F64:
      return LOAD(double);
    case FK_F16:
      return (double)f16_to_f32(LOAD(uint16_t));
    case FK_BF16:
      return (double)bf16_to_f32(LOAD(uint16_t));
    case FK_F8_E4M3FN:
      return (double)e4m3_to_f32(LOAD(uint8_t));
    case FK_F8_E5M2:
      return (double)e5m2_to_f32(LOAD(uint8_t));
    case FK_F8_E8M0:
      return (double)e8m0_to_f32(LOAD(uint8_t));
    case FK_F4_E2M1:
      return (double)e2m1_to_f32(nibble_at(p, index));
    case FK_I8:
    case FK_I16:
    case FK_I32:
    case FK_I64:
    case FK_U8:
    case FK_BOOL:
      return (double)fk_load_i64(type, p, index);
  }
  return NAN;
}

/* Rounds to nearest even and clamps; NaN becomes 0. high is exclusive, since 2^63 - 1 is no double. */
static int64_t clamp_f64(double v, double low, double high, int64_t min, int64_t max) {
  if (isnan(v)) return 0;
  return v < low ? min : v >= high ? max : (int64_t)v;
}

void fk_store_f64(fk_type type, void *p, int64_t index, double v) {
  switch (type) {
    case FK_F32:
      STORE(float, v);
      return;
    case FK_F64:
      STORE(double, v);
      return;
    case FK_F16:
      STORE(uint16_t, f16_from_f64(v));
      return;
    case FK_BF16:
      STORE(uint16_t, bf16_from_f64(v));
      return;
    case FK_F8_E4M3FN:
      STORE(uint8_t, f8_from_f64(v, 3, 7, 0x7e));
      return;
    case FK_F8_E5M2:
      STORE(uint8_t, f8_from_f64(v, 2, 15, 0x7c));
      return;
    case FK_F8_E8M0:
      STORE(uint8_t, e8m0_from_f64(v));
      return;
    case FK_F4_E2M1:
      nibble_set(p, index, e2m1_from_f64(v));
      return;
    case FK_I8:
      STORE(int8_t, clamp_f64(nearbyint(v), -128, 128, INT8_MIN, INT8_MAX));
      return;
    case FK_I16:
      STORE(int16_t, clamp_f64(nearbyint(v), -0x1p15, 0x1p15, INT16_MIN, INT16_MAX));
      return;
    case FK_I32:
      STORE(int32_t, clamp_f64(nearbyint(v), -0x1p31, 0x1p31, INT32_MIN, INT32_MAX));
      return;
    case FK_I64:
      STORE(int64_t, clamp_f64(nearbyint(v), -0x1p63, 0x1p63, INT64_MIN, INT64_MAX));
      return;
    case FK_U8:
      STORE(uint8_t, clamp_f64(nearbyint(v), 0, 256, 0, UINT8_MAX));
      return;
    case FK_BOOL:
      STORE(uint8_t, v != 0);
      return;
  }
}

int64_t fk_load_i64(fk_type type, const void *p, int64_t index) {
  switch (type) {
    case FK_I8:
      return LOAD(int8_t);
    case FK_I16:
      return LOAD(int16_t);
    case FK_I32:
      return LOAD(int32_t);
    case FK_I64:
      return LOAD(int64_t);
    case FK_U8:
      return LOAD(uint8_t);
    case FK_BOOL:
      return LOAD(uint8_t) != 0;
    default:
      return clamp_f64(fk_load_f64(type, p, index), -0x1p63, 0x1p63, INT64_MIN, INT64_MAX);
  }
}

/* A double whose further rounding to bfloat16 or less is that of the integer: bits that do not fit are folded into
 * the last kept bit, so that no tie appears or disappears. */
static double sticky_f64(int64_t v) {
  uint64_t mag = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
  if (mag >> 53) mag = (mag & ~(uint64_t)2047) | (uint64_t)((mag & 2047) != 0) << 11;
  return v < 0 ? -(double)mag : (double)mag;
}

void fk_store_i64(fk_type type, void *p, int64_t index, int64_t v) {
  switch (type) {
    case FK_I8:
      STORE(int8_t, v);
      return;
    case FK_I16:
      STORE(int16_t, v);
      return;
    case FK_I32:
      STORE(int32_t, v);
      return;
    case FK_I64:
      STORE(int64_t, v);
      return;
    case FK_U8:
      STORE(uint8_t, v);
      return;
    case FK_BOOL:
      STORE(uint8_t, v != 0);
      return;
    case FK_F32:
      STORE(float, v);
      return;
    case FK_F64:
      STORE(double, v);
      return;
    default:
      fk_store_f64(type, p, index, sticky_f64(v));
      return;
  }
}

/* ---- Rows ------------------------------------------------------------------------------------------------ */

enum { BLOCK = 256 };

#define EACH(statement) \
  for (int64_t index = 0; index < n; index++) statement

static void f16_to_f32_row(float *out, const void *p, int64_t n) {
  int64_t done = 0;
#ifdef __F16C__
  for (; done + 8 <= n; done += 8)
    _mm256_storeu_ps(out + done, _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const char *)p + 2 * done))));
#endif
  for (int64_t index = done; index < n; index++) out[index] = f16_to_f32(LOAD(uint16_t));
}

static void f16_from_f32_row(void *p, const float *in, int64_t n) {
  int64_t done = 0;
#ifdef __F16C__
  for (; done + 8 <= n; done += 8)
    _mm_storeu_si128((void *)((char *)p + 2 * done), _mm256_cvtps_ph(_mm256_loadu_ps(in + done), 0));
#endif
  for (int64_t index = done; index < n; index++) STORE(uint16_t, f16_from_f32(in[index]));
}

/* Every float type but float64 fits in float32 without rounding. */
static void widen_f32(float *out, fk_type from, const void *p, int64_t n, const float *table) {
  switch (from) {
    case FK_F32:
      memcpy(out, p, (size_t)n * 4);
      return;
    case FK_F16:
      f16_to_f32_row(out, p, n);
      return;
    case FK_BF16:
      EACH(out[index] = bf16_to_f32(LOAD(uint16_t)));
      return;
    case FK_F4_E2M1:
      EACH(out[index] = e2m1_to_f32(nibble_at(p, index)));
      return;
    default:
      EACH(out[index] = table[LOAD(uint8_t)]);
      return;
  }
}

static void narrow_f32(fk_type to, void *p, const float *in, int64_t n) {
  switch (to) {
    case FK_F32:
      memcpy(p, in, (size_t)n * 4);
      return;
    case FK_F64:
      EACH(STORE(double, in[index]));
      return;
    case FK_F16:
      f16_from_f32_row(p, in, n);
      return;
    case FK_BF16:
      EACH(STORE(uint16_t, bf16_from_f32(in[index])));
      return;
    default:
      EACH(fk_store_f64(to, p, index, (double)in[index]));
      return;
  }
}

static void convert_floats(fk_type to, char *dst, fk_type from, const char *src, int64_t n) {
  float block[BLOCK], table[256];
  if (fk_type_bits(from) == 8)
    for (int b = 0; b < 256; b++) {
      uint64_t room = (uint64_t)b; /* wide enough for any type, which keeps compilers calm */
      table[b] = (float)fk_load_f64(from, &room, 0);
    }
  for (int64_t i = 0; i < n; i += BLOCK) { /* BLOCK is even: a block of float4 starts at a byte */
    int64_t count = n - i < BLOCK ? n - i : BLOCK;
    widen_f32(block, from, src + fk_type_bytes(from, i), count, table);
    narrow_f32(to, dst + fk_type_bytes(to, i), block, count);
  }
}

static void convert_doubles(fk_type to, void *dst, const void *p, int64_t n) {
  for (int64_t index = 0; index < n; index++) {
    double v = LOAD(double);
    if (to == FK_F32) {
      float f = (float)v;
      memcpy((char *)dst + index * 4, &f, 4);
    } else {
      fk_store_f64(to, dst, index, v);
    }
  }
}

static void widen_i64(int64_t *out, fk_type from, const void *p, int64_t n) {
  switch (from) {
    case FK_I8:
      EACH(out[index] = LOAD(int8_t));
      return;
    case FK_I16:
      EACH(out[index] = LOAD(int16_t));
      return;
    case FK_I32:
      EACH(out[index] = LOAD(int32_t));
      return;
    case FK_U8:
      EACH(out[index] = LOAD(uint8_t));
      return;
    case FK_BOOL:
      EACH(out[index] = LOAD(uint8_t) != 0);
      return;
    default:
      memcpy(out, p, (size_t)n * 8);
      return;
  }
}

static void narrow_i64(fk_type to, void *p, const int64_t *in, int64_t n) {
  switch (to) {
    case FK_I8:
    case FK_U8:
      EACH(STORE(uint8_t, in[index]));
      return;
    case FK_I16:
      EACH(STORE(int16_t, in[index]));
      return;
    case FK_I32:
      EACH(STORE(int32_t, in[index]));
      return;
    case FK_BOOL:
      EACH(STORE(uint8_t, in[index] != 0));
      return;
    default:
      memcpy(p, in, (size_t)n * 8);
      return;
  }
}

static void convert_ints(fk_type to, char *dst, fk_type from, const char *src, int64_t n) {
  int64_t block[BLOCK];
  for (int64_t i = 0; i < n; i += BLOCK) {
    int64_t count = n - i < BLOCK ? n - i : BLOCK;
    widen_i64(block, from, src + fk_type_bytes(from, i), count);
    narrow_i64(to, dst + fk_type_bytes(to, i), block, count);
  }
}

static bool is_int_or_bool(fk_type type) {
  return fk_type_is_int(type) || type == FK_BOOL;
}

fk_status fk_convert_row(fk_type to, void *dst, fk_type from, const void *src, int64_t n) {
  bool floats = fk_type_is_float(to) && fk_type_is_float(from);
  if (!floats && !(is_int_or_bool(to) && is_int_or_bool(from)))
    return fk_fail(FK_ERROR_ARGUMENT, "cannot convert %s to %s: both must be floating point or both integer",
                   fk_type_name(from), fk_type_name(to));
  if (n <= 0) return FK_OK;
  if (to == from) {
    if (dst != src) memcpy(dst, src, fk_type_bytes(to, n));
  } else if (!floats) {
    convert_ints(to, dst, from, src, n);
  } else if (from == FK_F64) {
    convert_doubles(to, dst, src, n);
  } else {
    convert_floats(to, dst, from, src, n);
  }
  return FK_OK;
}
