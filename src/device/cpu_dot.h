/* Few rows against many: dot products in which each of the many (a weight, a key) is read once, in its own dtype and
 * place, and multiplied with up to FK_DOT_ROWS rows of floats. Bound by the bandwidth of what is read.
 *
 * Inline, like everything that a cpu.c compiles once per instruction set. */
#ifndef FK_DEVICE_CPU_DOT_H
#define FK_DEVICE_CPU_DOT_H

#include "device/cpu_row.h"
#include "device/cpu_tile.h"

enum { FK_DOT_ROWS = 8 };

/* The first n elements (at most FK_LANES) of a row, as floats, then zeros. Not inlined: it is what the ends of rows and
 * processors without conversions need, and would be copied many times. */
static __attribute__((noinline, unused)) fk_vec fk_vec_widen_some(fk_type type, const void *row, int64_t n) {
  float f[FK_LANES] = {0};
  fk_widen(type, row, f, n);
  return fk_vec_load(f);
}

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
  return fk_vec_widen_some(type, h, FK_LANES);
#endif
}

typedef struct fk_dot_args {
  const float *x; /* [rows][ldx] */
  int64_t ldx, depth;
} fk_dot_args;

/* Sums of `wide` rows and `count` vectors, of which only the first are wanted; the others repeat. type, wide and count
 * are constants where this is inlined, so that every partial sum has a register. */
static inline __attribute__((always_inline)) void fk_dots(const fk_dot_args *s, fk_type type, int wide, int count,
                                                          const float *const *x, const char *const *w,
                                                          fk_vec acc[4][FK_DOT_ROWS]) {
#pragma GCC unroll 4
  for (int f = 0; f < count; f++)
#pragma GCC unroll 8
    for (int r = 0; r < wide; r++) acc[f][r] = (fk_vec){0};
  int64_t k = 0;
  for (; k + FK_LANES <= s->depth; k += FK_LANES) {
    fk_vec v[4];
#pragma GCC unroll 4
    for (int f = 0; f < count; f++) {
      /* Within the row only: what follows a key is another head's. */
      if ((s->depth - k) * fk_width(type) > 1024) __builtin_prefetch(w[f] + k * fk_width(type) + 1024);
      v[f] = fk_vec_widen(type, w[f], k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < wide; r++) {
      fk_vec y = fk_vec_load(x[r] + k);
#pragma GCC unroll 4
      for (int f = 0; f < count; f++) acc[f][r] += v[f] * y;
    }
  }
}

/* The function that computes `count` features of up to `wide` rows at a time; sum[n][row]. */
#define FK_DOTS(NAME, TYPE, WIDE, COUNT)                                                                              \
  static __attribute__((noinline, unused)) void NAME(const fk_dot_args *s, int rows, int64_t n, const char *const *w, \
                                                     float *sum) {                                                    \
    const float *x[WIDE];                                                                                             \
    for (int r = 0; r < WIDE; r++) x[r] = s->x + (r < rows ? r : rows - 1) * s->ldx;                                  \
    for (int64_t i = 0; i < n; i += COUNT) {                                                                          \
      fk_vec acc[4][FK_DOT_ROWS];                                                                                     \
      const char *v[COUNT];                                                                                           \
      for (int f = 0; f < COUNT; f++) v[f] = w[i + f < n ? i + f : n - 1];                                            \
      fk_dots(s, TYPE, WIDE, COUNT, x, v, acc);                                                                       \
      fk_dots_end(s, TYPE, rows, n - i < COUNT ? (int)(n - i) : COUNT, x, v, acc, sum + i * rows);                    \
    }                                                                                                                 \
  }

/* Adds what is left of the rows beyond whole vectors, and the lanes. */
static __attribute__((noinline, unused)) void fk_dots_end(const fk_dot_args *s, fk_type type, int rows, int count,
                                                          const float *const *x, const char *const *w,
                                                          fk_vec acc[4][FK_DOT_ROWS], float *sum) {
  int64_t left = s->depth % FK_LANES, k = s->depth - left;
  for (int f = 0; f < count; f++) {
    fk_vec v = left ? fk_vec_widen_some(type, w[f] + k * fk_width(type), left) : (fk_vec){0};
    for (int r = 0; r < rows; r++) {
      fk_vec total = acc[f][r];
      if (left) total += v * fk_vec_widen_some(FK_F32, x[r] + k, left);
      sum[f * rows + r] = fk_vec_sum(total);
    }
  }
}

/* Vectors at a time, as registers allow. */
#if defined(__AVX512F__)
enum { FK_DOTS_4 = 4, FK_DOTS_8 = 3 };
#else
enum { FK_DOTS_4 = 2, FK_DOTS_8 = 1 };
#endif
#define FK_DOTS_TYPE(NAME, TYPE)                                                                         \
  FK_DOTS(NAME##_1, TYPE, 1, 4)                                                                          \
  FK_DOTS(NAME##_2, TYPE, 2, 4)                                                                          \
  FK_DOTS(NAME##_4, TYPE, 4, FK_DOTS_4)                                                                  \
  FK_DOTS(NAME##_8, TYPE, 8, FK_DOTS_8)                                                                  \
  static inline void NAME(const fk_dot_args *s, int rows, int64_t n, const char *const *w, float *sum) { \
    (rows == 1 ? NAME##_1 : rows == 2 ? NAME##_2 : rows <= 4 ? NAME##_4 : NAME##_8)(s, rows, n, w, sum); \
  }
FK_DOTS_TYPE(fk_dots_f32, FK_F32)
FK_DOTS_TYPE(fk_dots_bf16, FK_BF16)
FK_DOTS_TYPE(fk_dots_f16, FK_F16)

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
