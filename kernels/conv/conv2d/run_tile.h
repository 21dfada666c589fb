/* A tile of FK_TILE_ROWS windows times one panel of weights, in registers. A window is a few runs of floats, each read
 * where it lies, so that neither overlapping windows nor the rows of a pointwise convolution are ever copied. */
#pragma once

#include "device/cpu_tile.h"

typedef struct run_tile {
  const float *const *at; /* [runs][step]: where the runs of the tile's windows begin */
  int64_t step, runs;
  int64_t first, length; /* elements [first, first + length) of each run */
  const float *b;        /* [runs * length][vecs * FK_LANES] */
  const float *bias;     /* [vecs * FK_LANES], added at the end; NULL while sums are not complete */
  float *c;              /* [count][ldc] */
  int64_t ldc;
  int count; /* valid windows */
  bool add;  /* to what c holds */
} run_tile;

/* Adds the sums of one window to c. */
static inline __attribute__((always_inline)) void store_sums(const run_tile *t, float *c, const fk_vec *sum, int vecs) {
#pragma GCC unroll 4
  for (int j = 0; j < vecs; j++) {
    fk_vec v = sum[j];
    if (t->add) v += fk_vec_load(c + j * FK_LANES);
    if (t->bias) v += fk_vec_load(t->bias + j * FK_LANES);
    fk_vec_store(c + j * FK_LANES, v);
  }
}

/* With vecs a constant the accumulators stay in registers. */
static inline __attribute__((always_inline)) void run_tile_vecs(const run_tile *t, int vecs) {
  fk_vec acc[FK_TILE_ROWS][FK_TILE_VECS];
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) acc[i][j] = (fk_vec){0};
  const float *b = t->b;
  int64_t length = t->length;
  for (int64_t r = 0; r < t->runs; r++) {
    const float *a[FK_TILE_ROWS];
    int64_t k = 0;
#pragma GCC unroll 8
    for (int i = 0; i < FK_TILE_ROWS; i++) a[i] = t->at[r * t->step + i] + t->first;
    for (; k + 4 <= length; k += 4, b += 4 * vecs * FK_LANES) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) fk_tile_step(acc, a, k + u, b + u * vecs * FK_LANES, vecs);
    }
    for (; k < length; k++, b += vecs * FK_LANES) fk_tile_step(acc, a, k, b, vecs);
  }
#pragma GCC unroll 8
  for (int i = 0; i < FK_TILE_ROWS; i++) {
    if (i >= t->count) break;
    store_sums(t, t->c + i * t->ldc, acc[i], vecs);
  }
}

static __attribute__((noinline)) void run_tile1(const run_tile *t) {
  run_tile_vecs(t, 1);
}
static __attribute__((noinline)) void run_tile2(const run_tile *t) {
  run_tile_vecs(t, 2);
}
static __attribute__((noinline)) void run_tile3(const run_tile *t) {
  run_tile_vecs(t, FK_TILE_VECS);
}

/* vecs from 1 to FK_TILE_VECS. */
static inline void multiply_runs(const run_tile *t, int vecs) {
  if (vecs == 1)
    run_tile1(t);
  else if (vecs == 2)
    run_tile2(t);
  else
    run_tile3(t);
}
