/* A tile of a matrix product in registers: what linear and attention spend their time in.
 *
 * fk_tile computes c[i][j] (+)= sum over k of a[i][k] * b[k][j]. Columns j lie in SIMD lanes: b and c are packed panels
 * of `vecs` vectors per row. Rows i are broadcast one float at a time, so that a may stay where it is: weights, keys
 * and values are read in their natural layout, a row per pointer, and only the (smaller) other side is ever packed. The
 * sum over k runs in one order whatever the tile's place, so results depend on neither tiling nor threads.
 *
 * Vectors are GNU C vector types; everything is inline because a cpu.c is compiled once per instruction set. */
#ifndef FK_DEVICE_CPU_TILE_H
#define FK_DEVICE_CPU_TILE_H

#include <stdbool.h>
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Lanes per vector; rows and vectors of the largest tile: as many accumulators as registers allow. */
#if defined(__AVX512F__)
enum { FK_LANES = 16, FK_TILE_ROWS = 8, FK_TILE_VECS = 3 };
#elif defined(__AVX2__)
enum { FK_LANES = 8, FK_TILE_ROWS = 6, FK_TILE_VECS = 2 };
#else
enum { FK_LANES = 4, FK_TILE_ROWS = 4, FK_TILE_VECS = 2 };
#endif
enum { FK_PANEL = FK_LANES * FK_TILE_VECS };

typedef float fk_vec __attribute__((vector_size(FK_LANES * 4)));
/* The same in memory of any alignment. */
typedef float fk_vec_mem __attribute__((vector_size(FK_LANES * 4), aligned(4), may_alias));

static inline fk_vec fk_vec_load(const float *p) {
  return *(const fk_vec_mem *)p;
}
static inline void fk_vec_store(float *p, fk_vec v) {
  *(fk_vec_mem *)p = v;
}
static inline fk_vec fk_vec_all(float f) {
  return f - (fk_vec){0};
}

static inline float fk_vec_sum(fk_vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float sum[FK_LANES];
  fk_vec_store(sum, v);
  for (int w = FK_LANES / 2; w; w /= 2)
    for (int i = 0; i < w; i++) sum[i] += sum[i + w];
  return sum[0];
#endif
}

/* The lanes of each of n <= FK_LANES vectors added up; the same order of additions whatever a vector's place. n is a
 * constant here. Only sum[0 .. n) mean something, but FK_LANES floats are written. */
static inline __attribute__((always_inline)) void fk_vec_sums(const fk_vec *v, int n, float *sum) {
#if defined(__AVX512F__)
  /* Each round halves both what is left of a vector and the number of vectors. */
  __m512 x[8], y[4], z[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    __m512 a = 2 * i < n ? (__m512)v[2 * i] : _mm512_setzero_ps(), b = 2 * i + 1 < n ? (__m512)v[2 * i + 1] : a;
    x[i] = 2 * i < n ? _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)) : a;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    __m512d a = _mm512_castps_pd(x[2 * i]), b = _mm512_castps_pd(x[2 * i + 1]);
    y[i] = x[2 * i];
    if (4 * i < n)
      y[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    __m512 a = y[2 * i], b = y[2 * i + 1];
    z[i] = 8 * i < n ? _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)) : a;
  }
  _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_shuffle_f32x4(z[0], z[1], 0x88), _mm512_shuffle_f32x4(z[0], z[1], 0xdd)));
#else
  for (int i = 0; i < n; i++) sum[i] = fk_vec_sum(v[i]);
#endif
}

typedef struct fk_tile_args {
  const float *a[FK_TILE_ROWS]; /* rows beyond the last valid one repeat it */
  int64_t a_step;               /* elements from a[i][k] to a[i][k + 1] */
  const float *b;               /* [depth][ldb] */
  int64_t ldb, depth;
  float *c; /* [rows][ldc] */
  int64_t ldc;
  int rows; /* valid rows */
  bool add; /* to what c holds */
} fk_tile_args;

/* One step of the sum: acc += a[.][k] * b[.]. */
static inline __attribute__((always_inline)) void fk_tile_step(fk_vec acc[FK_TILE_ROWS][FK_TILE_VECS],
                                                               const float *const *a, int64_t k, const float *b,
                                                               int vecs) {
  fk_vec row[FK_TILE_VECS];
#pragma GCC unroll 4
  for (int j = 0; j < vecs; j++) row[j] = fk_vec_load(b + j * FK_LANES);
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++) {
    fk_vec x = fk_vec_all(a[i][k]);
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) acc[i][j] += x * row[j];
  }
}

/* With vecs a constant the accumulators stay in registers. Four steps at a time where a's rows and b lie in one piece:
 * moving the pointers costs issue slots of the multiplications. */
static inline __attribute__((always_inline)) void fk_tile_vecs(const fk_tile_args *t, int vecs) {
  fk_vec acc[FK_TILE_ROWS][FK_TILE_VECS];
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) acc[i][j] = (fk_vec){0};
  const float *a[FK_TILE_ROWS];
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++) a[i] = t->a[i];
  const float *b = t->b;
  int64_t step = t->a_step, ldb = t->ldb, k = 0, depth = t->depth;
  if (step == 1 && ldb == vecs * FK_LANES) {
    for (; k + 4 <= depth; k += 4, b += 4 * vecs * FK_LANES) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) fk_tile_step(acc, a, k + u, b + u * vecs * FK_LANES, vecs);
    }
  }
  for (; k < depth; k++, b += ldb) fk_tile_step(acc, a, k * step, b, vecs);
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++) {
    if (i >= t->rows) break;
    float *c = t->c + i * t->ldc;
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) {
      fk_vec old = t->add ? fk_vec_load(c + j * FK_LANES) : (fk_vec){0};
      fk_vec_store(c + j * FK_LANES, t->add ? old + acc[i][j] : acc[i][j]);
    }
  }
}

static __attribute__((noinline, unused)) void fk_tile1(const fk_tile_args *t) {
  fk_tile_vecs(t, 1);
}
static __attribute__((noinline, unused)) void fk_tile2(const fk_tile_args *t) {
  fk_tile_vecs(t, 2);
}
static __attribute__((noinline, unused)) void fk_tile3(const fk_tile_args *t) {
  fk_tile_vecs(t, FK_TILE_VECS);
}

/* vecs from 1 to FK_TILE_VECS. */
static inline void fk_tile(const fk_tile_args *t, int vecs) {
  if (vecs == 1)
    fk_tile1(t);
  else if (vecs == 2)
    fk_tile2(t);
  else
    fk_tile3(t);
}

/* The panel that starts at row r of n: its vectors, such that no panel is much narrower than the others. */
static inline int fk_panel_vecs(int64_t r, int64_t n) {
  int64_t left = (n - r + FK_LANES - 1) / FK_LANES;
  return (int)(left > FK_TILE_VECS && left < 2 * FK_TILE_VECS ? (left + 1) / 2
               : left < FK_TILE_VECS                          ? left
                                                              : FK_TILE_VECS);
}

/* ---- Transposition --------------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
/* Pairs of floats, pairs of doubles, then quarters: rows become columns in four rounds. */
static inline void fk_transpose(fk_vec v[FK_LANES]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++) {
      __m512d x = _mm512_castps_pd(a[4 * i + j]), y = _mm512_castps_pd(a[4 * i + 2 + j]);
      b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  /* b[4 i + c] holds rows 4 i .. 4 i + 3 of columns c, c + 4, c + 8, c + 12, a quarter each. */
  for (int c = 0; c < 4; c++) {
    __m512 p = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x44), q = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x44);
    __m512 r = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xee), s = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xee);
    v[c] = (fk_vec)_mm512_shuffle_f32x4(p, q, 0x88);
    v[c + 4] = (fk_vec)_mm512_shuffle_f32x4(p, q, 0xdd);
    v[c + 8] = (fk_vec)_mm512_shuffle_f32x4(r, s, 0x88);
    v[c + 12] = (fk_vec)_mm512_shuffle_f32x4(r, s, 0xdd);
  }
}
#else
static inline void fk_transpose(fk_vec v[FK_LANES]) {
  float from[FK_LANES][FK_LANES], to[FK_LANES][FK_LANES];
  for (int i = 0; i < FK_LANES; i++) fk_vec_store(from[i], v[i]);
  for (int i = 0; i < FK_LANES; i++)
    for (int j = 0; j < FK_LANES; j++) to[j][i] = from[i][j];
  for (int i = 0; i < FK_LANES; i++) v[i] = fk_vec_load(to[i]);
}
#endif

/* Packs FK_LANES rows (those at or beyond `valid` count as zero) of n floats as columns: to[k * ld + lane] =
 * row[lane][k].
 */
static inline void fk_pack_columns(const float *const row[FK_LANES], int valid, int64_t n, float *to, int64_t ld) {
  fk_vec v[FK_LANES];
  int64_t k = 0;
  for (; k + FK_LANES <= n; k += FK_LANES) {
    for (int i = 0; i < FK_LANES; i++) v[i] = i < valid ? fk_vec_load(row[i] + k) : (fk_vec){0};
    fk_transpose(v);
    for (int i = 0; i < FK_LANES; i++) fk_vec_store(to + (k + i) * ld, v[i]);
  }
  for (; k < n; k++)
    for (int i = 0; i < FK_LANES; i++) to[k * ld + i] = i < valid ? row[i][k] : 0;
}

/* The way back: columns [0, n) of sums, [n][ld], n a multiple of FK_LANES, become the first `valid` of FK_LANES rows,
 * bias (n floats, or NULL) added. */
static inline void fk_unpack_columns(const float *sums, int64_t ld, int64_t n, const float *bias,
                                     float *const row[FK_LANES], int valid) {
  for (int64_t k = 0; k < n; k += FK_LANES) {
    fk_vec v[FK_LANES];
    for (int i = 0; i < FK_LANES; i++) v[i] = fk_vec_load(sums + (k + i) * ld);
    fk_transpose(v);
    for (int i = 0; i < valid; i++) fk_vec_store(row[i] + k, bias ? v[i] + fk_vec_load(bias + k) : v[i]);
  }
}

#endif
