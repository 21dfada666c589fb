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
#if defined(__AVX512F__)
  __mmask16 some = (__mmask16)((1u << n) - 1);
  if (type == FK_F32) return (fk_vec)_mm512_maskz_loadu_ps(some, row);
  __m256i raw = _mm256_maskz_loadu_epi16(some, row);
  if (type == FK_F16) return (fk_vec)_mm512_cvtph_ps(raw);
  return (fk_vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16);
#endif
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

enum { FK_DOT_SUMS = 24, FK_DOT_AHEAD = 1024 }; /* most sums at a time; bytes asked for ahead of their use */

/* FK_LANES products of every pair, from element k. */
static inline __attribute__((always_inline)) void fk_dots_step(fk_type type, int wide, int count, const float *const *x,
                                                               const char *const *v, int64_t k,
                                                               fk_vec acc[FK_DOT_SUMS]) {
  fk_vec w[4];
#pragma GCC unroll 8
  for (int f = 0; f < count; f++) w[f] = fk_vec_widen(type, v[f], k);
#pragma GCC unroll 8
  for (int r = 0; r < wide; r++) {
    fk_vec y = fk_vec_load(x[r] + k);
#pragma GCC unroll 8
    for (int f = 0; f < count; f++) acc[f * wide + r] += w[f] * y;
  }
}

/* acc[f * wide + r] = x[r] times v[f], lane by lane, over the whole vectors of the depth. type, wide and count are
 * constants where this is inlined, so that every sum has a register. Memory is asked for what comes later in the
 * vectors, and near their ends for the beginnings of those whose turn is next, which lie `next` bytes further: a hint
 * only, so it does not matter where that is. */
static inline __attribute__((always_inline)) void fk_dots(const fk_dot_args *s, fk_type type, int wide, int count,
                                                          const float *const *x, const char *const *v, int64_t next,
                                                          fk_vec acc[FK_DOT_SUMS]) {
  enum { LINE = 64 };
  int64_t width = fk_width(type), step = LINE / width, k = 0, near = s->depth - FK_DOT_AHEAD / width;
  int64_t ahead = near > 0 ? FK_DOT_AHEAD : next;
#pragma GCC unroll 24
  for (int i = 0; i < count * wide; i++) acc[i] = (fk_vec){0};
  for (; k + step <= s->depth; k += step) {
    if (k >= near) ahead = next - (near > 0 ? near * width : 0);
#pragma GCC unroll 8
    for (int f = 0; f < count; f++)
      __builtin_prefetch((const void *)((uintptr_t)v[f] + (uintptr_t)(k * width + ahead)));
#pragma GCC unroll 8
    for (int64_t u = 0; u < step; u += FK_LANES) fk_dots_step(type, wide, count, x, v, k + u, acc);
  }
  for (; k + FK_LANES <= s->depth; k += FK_LANES) fk_dots_step(type, wide, count, x, v, k, acc);
}

/* Adds what is left of the rows beyond whole vectors. */
static inline __attribute__((always_inline)) void fk_dots_rest(const fk_dot_args *s, fk_type type, int wide, int count,
                                                               const float *const *x, const char *const *v,
                                                               fk_vec acc[FK_DOT_SUMS]) {
  int64_t left = s->depth % FK_LANES, k = s->depth - left;
  fk_vec y[FK_DOT_ROWS];
  if (left == 0) return;
  for (int r = 0; r < wide; r++) y[r] = fk_vec_widen_some(FK_F32, x[r] + k, left);
#pragma GCC unroll 8
  for (int f = 0; f < count; f++) {
    fk_vec w = fk_vec_widen_some(type, v[f] + k * fk_width(type), left);
#pragma GCC unroll 8
    for (int r = 0; r < wide; r++) acc[f * wide + r] += w * y[r];
  }
}

/* The function that computes COUNT vectors with up to WIDE rows at a time; sum[n][row]. */
#define FK_DOTS(NAME, TYPE, WIDE, COUNT)                                                                              \
  static __attribute__((noinline, unused)) void NAME(const fk_dot_args *s, int rows, int64_t n, const char *const *w, \
                                                     float *sum) {                                                    \
    const float *x[WIDE];                                                                                             \
    for (int r = 0; r < WIDE; r++) x[r] = s->x + (r < rows ? r : rows - 1) * s->ldx;                                  \
    for (int64_t i = 0; i < n; i += COUNT) {                                                                          \
      fk_vec acc[FK_DOT_SUMS];                                                                                        \
      float all[FK_DOT_SUMS + FK_LANES];                                                                              \
      const char *v[COUNT];                                                                                           \
      for (int f = 0; f < COUNT; f++) v[f] = w[i + f < n ? i + f : n - 1];                                            \
      int64_t next = i + COUNT < n ? (int64_t)((uintptr_t)w[i + COUNT] - (uintptr_t)w[i]) : 0;                        \
      fk_dots(s, TYPE, WIDE, COUNT, x, v, next, acc);                                                                 \
      fk_dots_rest(s, TYPE, WIDE, COUNT, x, v, acc);                                                                  \
      fk_vec_sums(acc, WIDE *COUNT < 16 ? WIDE * COUNT : 16, all);                                                    \
      if (WIDE * COUNT > 16) fk_vec_sums(acc + 16, WIDE * COUNT - 16, all + 16);                                      \
      for (int f = 0; f < COUNT && i + f < n; f++)                                                                    \
        for (int r = 0; r < WIDE && r < rows; r++) sum[(i + f) * rows + r] = all[f * WIDE + r];                       \
    }                                                                                                                 \
  }

/* Vectors at a time, as registers allow. */
#if defined(__AVX512F__)
enum { FK_DOTS_1 = 4, FK_DOTS_2 = 4, FK_DOTS_4 = 4, FK_DOTS_8 = 3 };
#else
enum { FK_DOTS_1 = 4, FK_DOTS_2 = 4, FK_DOTS_4 = 2, FK_DOTS_8 = 1 };
#endif
#define FK_DOTS_TYPE(NAME, TYPE)                                                                         \
  FK_DOTS(NAME##_1, TYPE, 1, FK_DOTS_1)                                                                  \
  FK_DOTS(NAME##_2, TYPE, 2, FK_DOTS_2)                                                                  \
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
