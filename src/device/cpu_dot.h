/* Few rows against many: dot products in which each of the many (a weight, a key) is read once, in its own dtype and
 * place, and multiplied with up to FK_DOT_ROWS rows of floats. Bound by the bandwidth of what is read.
 *
 * Inline, like everything that a cpu.c compiles once per instruction set. */
#ifndef FK_DEVICE_CPU_DOT_H
#define FK_DEVICE_CPU_DOT_H

#include "device/cpu_row.h"
#include "device/cpu_tile.h"

enum { FK_DOT_ROWS = 8 };

/* FK_LANES elements from element k of a row, as floats. */
static inline __attribute__((always_inline)) fk_vec fk_vec_widen(fk_type type, const void *row, int64_t k) {
  const uint16_t *h = (const uint16_t *)row + k;
  if (type == FK_F32) return fk_vec_load((const float *)row + k);
#if defined(__AVX512F__)
  __m256i raw = _mm256_loadu_si256((const void *)h);
  if (type == FK_F16) return (fk_vec)_mm512_cvtph_ps(raw);
  return (fk_vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16);
#elif defined(__AVX2__) && defined(__F16C__)
  __m128i raw = _mm_loadu_si128((const void *)h);
  if (type == FK_F16) return (fk_vec)_mm256_cvtph_ps(raw);
  return (fk_vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16);
#else
  float f[FK_LANES];
  for (int i = 0; i < FK_LANES; i++) f[i] = type == FK_F16 ? fk_float_from_f16(h[i]) : fk_float_from_bf16(h[i]);
  return fk_vec_load(f);
#endif
}

typedef struct fk_dot_args {
  const float *x; /* [rows][ldx] */
  int64_t ldx, depth;
} fk_dot_args;

/* sum[f][row] for `count` vectors w[f]. type, rows and count are constants where this is inlined, so that every partial
 * sum has a register; count does not change the order of a sum. */
static inline __attribute__((always_inline)) void fk_dots(const fk_dot_args *s, fk_type type, int rows, int count,
                                                          const char *const *w, float *sum) {
  fk_vec acc[4][FK_DOT_ROWS];
#pragma GCC unroll 4
  for (int f = 0; f < count; f++)
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) acc[f][r] = (fk_vec){0};
  int64_t k = 0;
  for (; k + FK_LANES <= s->depth; k += FK_LANES) {
    fk_vec v[4];
#pragma GCC unroll 4
    for (int f = 0; f < count; f++) {
      __builtin_prefetch(w[f] + k * fk_width(type) + 1024);
      v[f] = fk_vec_widen(type, w[f], k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      fk_vec x = fk_vec_load(s->x + r * s->ldx + k);
#pragma GCC unroll 4
      for (int f = 0; f < count; f++) acc[f][r] += v[f] * x;
    }
  }
#pragma GCC unroll 4
  for (int f = 0; f < count; f++) {
    float tail[FK_LANES];
    if (k < s->depth) fk_widen(type, w[f] + k * fk_width(type), tail, s->depth - k);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      float total = fk_vec_sum(acc[f][r]);
      for (int64_t i = k; i < s->depth; i++) total += s->x[r * s->ldx + i] * tail[i - k];
      sum[f * rows + r] = total;
    }
  }
}

/* As many at a time as registers allow (F), then one by one. */
#define FK_DOT_CASE(R, F)                                                      \
  case R:                                                                      \
    for (; n + F <= count; n += F) fk_dots(s, type, R, F, w + n, sum + n * R); \
    for (; n < count; n++) fk_dots(s, type, R, 1, w + n, sum + n * R);         \
    break;

static inline __attribute__((always_inline)) void fk_dots_rows(const fk_dot_args *s, fk_type type, int rows,
                                                               int64_t count, const char *const *w, float *sum) {
  int64_t n = 0;
  switch (rows) {
    FK_DOT_CASE(1, 4)
    FK_DOT_CASE(2, 4)
    FK_DOT_CASE(3, 4)
    FK_DOT_CASE(4, 4)
    FK_DOT_CASE(5, 4)
    FK_DOT_CASE(6, 4)
    FK_DOT_CASE(7, 3)
    FK_DOT_CASE(8, 3)
  }
}

static __attribute__((noinline, unused)) void fk_dots_f32(const fk_dot_args *s, int rows, int64_t count,
                                                          const char *const *w, float *sum) {
  fk_dots_rows(s, FK_F32, rows, count, w, sum);
}
static __attribute__((noinline, unused)) void fk_dots_bf16(const fk_dot_args *s, int rows, int64_t count,
                                                           const char *const *w, float *sum) {
  fk_dots_rows(s, FK_BF16, rows, count, w, sum);
}
static __attribute__((noinline, unused)) void fk_dots_f16(const fk_dot_args *s, int rows, int64_t count,
                                                          const char *const *w, float *sum) {
  fk_dots_rows(s, FK_F16, rows, count, w, sum);
}

/* sum[n][row] = x[row] . w[n] for n < count vectors of a dtype and 1 to FK_DOT_ROWS rows. */
static inline void fk_dot_many(const fk_dot_args *s, fk_type type, int rows, int64_t count, const char *const *w,
                               float *sum) {
  if (type == FK_F32)
    fk_dots_f32(s, rows, count, w, sum);
  else if (type == FK_BF16)
    fk_dots_bf16(s, rows, count, w, sum);
  else
    fk_dots_f16(s, rows, count, w, sum);
}

#endif
