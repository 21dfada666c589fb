/* What one thread computes: a head of a sequence, token by token or chunk by chunk.
 *
 * Time steps are in double from the start, because the decay between two tokens is the exponential of a difference of
 * their sums, which would cancel in float. States are float32, as they are stored. */
#pragma once

#include <float.h>
#include <math.h>

#include "../sequences.h"
#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "device/cpu_tile.h"
#include "tasks/mamba2_ssd.h"

typedef struct scan {
  const fk_mamba2_ssd_args *a;
  fk_type type;
  int64_t heads, dim, groups, size;
  int64_t chunk;                        /* tokens per chunk */
  int64_t dim_pad, size_pad, chunk_pad; /* rounded up to whole vectors */
  const double *dt;                     /* [num_tokens][heads], after bias, softplus and limits */
  const float *scores;                  /* [chunks][groups][chunk][chunk_pad]: C_t . B_s */
} scan;

/* Scratch of one thread: [chunk] rows of B, C, dt x and y; the weights; the state transposed; its increment. */
typedef struct room {
  float *b, *c, *x, *y, *weights, *turned, *added;
  double *total; /* [chunk]: sum of dt A up to and with each token */
} room;

static inline const char *at3(const fk_tensor *t, int64_t i, int64_t j) {
  return (const char *)fk_data(t) + (i * fk_stride(t, 0) + j * fk_stride(t, 1)) * (t->dtype.bits / 8);
}

static inline double number(const fk_tensor *t, int64_t i) {
  return t ? fk_load_f64(fk_type_of(t), fk_data(t), i) : 0;
}

/* ---- Token by token -------------------------------------------------------------------------------------- */

/* One row of the state goes on; yields its product with c. */
static inline float advance_row(float *h, const float *b, const float *c, int64_t n, float decay, float dx) {
  fk_vec d = fk_vec_all(decay), x = fk_vec_all(dx), even = {0}, odd = {0};
  int64_t k = 0;
  for (; k + 2 * FK_LANES <= n; k += 2 * FK_LANES) {
    fk_vec u = fk_vec_load(h + k) * d + x * fk_vec_load(b + k);
    fk_vec v = fk_vec_load(h + k + FK_LANES) * d + x * fk_vec_load(b + k + FK_LANES);
    fk_vec_store(h + k, u);
    fk_vec_store(h + k + FK_LANES, v);
    even += u * fk_vec_load(c + k);
    odd += v * fk_vec_load(c + k + FK_LANES);
  }
  float sum = fk_vec_sum(even + odd);
  for (; k < n; k++) {
    h[k] = h[k] * decay + dx * b[k];
    sum += h[k] * c[k];
  }
  return sum;
}

/* The product once more, for rows whose terms leave the range of float. */
static __attribute__((noinline)) double product_in_double(const float *h, const float *c, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < n; k++) sum += (double)h[k] * (double)c[k];
  return sum;
}

static void advance_token(const scan *s, const room *w, int64_t t, int64_t head, float *h) {
  int64_t group = head / (s->heads / s->groups);
  double dt = s->dt[t * s->heads + head], skip = number(s->a->D, head);
  float decay = (float)exp(dt * number(s->a->A, head));
  fk_widen(s->type, at3(s->a->B, t, group), w->b, s->size);
  fk_widen(s->type, at3(s->a->C, t, group), w->c, s->size);
  fk_widen(s->type, at3(s->a->x, t, head), w->x, s->dim);
  for (int64_t p = 0; p < s->dim; p++, h += s->size) {
    double x = (double)w->x[p];
    double sum = (double)advance_row(h, w->b, w->c, s->size, decay, (float)(dt * x));
    if (!(fabs(sum) <= (double)FLT_MAX)) sum = product_in_double(h, w->c, s->size);
    w->y[p] = (float)(s->a->D ? sum + skip * x : sum);
  }
  fk_narrow(s->type, w->y, (char *)(uintptr_t)at3(s->a->out, t, head), s->dim);
}

/* ---- Chunk by chunk -------------------------------------------------------------------------------------- */

typedef struct factor {
  const float *data;
  int64_t row, step; /* elements between rows, and along the sum */
} factor;

/* c [rows][ldc] (+)= a [rows][depth] b [depth][ldb], over `columns` columns rounded up to whole vectors. With lower, a
 * is zero right of its diagonal. */
static void multiply(factor a, int64_t rows, const float *b, int64_t ldb, int64_t columns, int64_t depth, float *c,
                     int64_t ldc, bool add, bool lower) {
  for (int64_t j = 0; j < columns;) {
    int vecs = fk_panel_vecs(j, columns);
    for (int64_t i = 0; i < rows; i += FK_TILE_ROWS) {
      fk_tile_args t = {.a_step = a.step, .b = b + j, .ldb = ldb, .depth = depth, .c = c + i * ldc + j, .ldc = ldc};
      t.rows = rows - i < FK_TILE_ROWS ? (int)(rows - i) : FK_TILE_ROWS;
      t.add = add;
      if (lower && i + t.rows < depth) t.depth = i + t.rows;
      for (int k = 0; k < FK_TILE_ROWS; k++) t.a[k] = a.data + (i + (k < t.rows ? k : t.rows - 1)) * a.row;
      fk_tile(&t, vecs);
    }
    j += vecs * FK_LANES;
  }
}

/* to[k][i] = from[i][k] of rows x n floats. */
static void turn(const float *from, int64_t ld, int64_t rows, int64_t n, float *to, int64_t to_ld) {
  for (int64_t i = 0; i < rows; i += FK_LANES) {
    const float *row[FK_LANES];
    int valid = rows - i < FK_LANES ? (int)(rows - i) : FK_LANES;
    for (int k = 0; k < FK_LANES; k++) row[k] = from + (i + (k < valid ? k : 0)) * ld;
    fk_pack_columns(row, valid, n, to + i, to_ld);
  }
}

/* C_t . B_s of a chunk's tokens: what its heads share. */
static void score_chunk(const scan *s, const room *w, int64_t first, int64_t tokens, int64_t group, float *scores) {
  for (int64_t t = 0; t < tokens; t++) {
    fk_widen(s->type, at3(s->a->B, first + t, group), w->b + t * s->size_pad, s->size);
    fk_widen(s->type, at3(s->a->C, first + t, group), w->c + t * s->size_pad, s->size);
  }
  turn(w->b, s->size_pad, tokens, s->size, w->turned, s->chunk_pad);
  multiply((factor){w->c, s->size_pad, 1}, tokens, w->turned, s->chunk_pad, tokens, s->size, scores, s->chunk_pad,
           false, false);
}

/* Reads the chunk: B and C, dt x, the sums of dt A. */
static void read_chunk(const scan *s, const room *w, int64_t first, int64_t tokens, int64_t head) {
  int64_t group = head / (s->heads / s->groups);
  double a = number(s->a->A, head), total = 0;
  for (int64_t t = 0; t < tokens; t++) {
    double dt = s->dt[(first + t) * s->heads + head];
    float *x = w->x + t * s->dim_pad, step = (float)dt;
    w->total[t] = total += dt * a;
    fk_widen(s->type, at3(s->a->B, first + t, group), w->b + t * s->size_pad, s->size);
    fk_widen(s->type, at3(s->a->C, first + t, group), w->c + t * s->size_pad, s->size);
    fk_widen(s->type, at3(s->a->x, first + t, head), x, s->dim);
#pragma omp simd
    for (int64_t p = 0; p < s->dim; p++) x[p] *= step;
  }
}

/* How much of each token's input reaches each later token: scores times the decay between them. */
static void weigh(const scan *s, const room *w, int64_t tokens, const float *scores) {
  for (int64_t t = 0; t < tokens; t++) {
    const float *score = scores + t * s->chunk_pad;
    float *weight = w->weights + t * s->chunk_pad;
    double total = w->total[t];
#pragma omp simd
    for (int64_t k = 0; k <= t; k++) weight[k] = score[k] * fk_expf((float)(total - w->total[k]));
    for (int64_t k = t + 1; k < tokens; k++) weight[k] = 0;
  }
}

static bool all_finite(const float *v, int64_t rows, int64_t n, int64_t ld) {
  int bad = 0;
  for (int64_t r = 0; r < rows; r++)
#pragma omp simd reduction(| : bad)
    for (int64_t k = 0; k < n; k++) bad |= !(fabsf(v[r * ld + k]) <= FLT_MAX);
  return !bad;
}

/* y of a chunk into w->y without D, and the state after it into w->added; false when something left the range of float:
 * a NaN would then have spread to tokens that it does not concern. */
static bool compute_chunk(const scan *s, const room *w, int64_t tokens, const float *scores, const float *h) {
  weigh(s, w, tokens, scores);
  turn(h, s->size, s->dim, s->size, w->turned, s->dim_pad);
  multiply((factor){w->c, s->size_pad, 1}, tokens, w->turned, s->dim_pad, s->dim, s->size, w->y, s->dim_pad, false,
           false);
  double last = w->total[tokens - 1];
  for (int64_t t = 0; t < tokens; t++) {
    float before = fk_expf((float)w->total[t]), *y = w->y + t * s->dim_pad;
#pragma omp simd
    for (int64_t p = 0; p < s->dim; p++) y[p] *= before;
  }
  multiply((factor){w->weights, s->chunk_pad, 1}, tokens, w->x, s->dim_pad, s->dim, tokens, w->y, s->dim_pad, true,
           true);
  for (int64_t t = 0; t < tokens; t++) {
    float after = fk_expf((float)(last - w->total[t])), *x = w->x + t * s->dim_pad;
#pragma omp simd
    for (int64_t p = 0; p < s->dim; p++) x[p] *= after;
  }
  multiply((factor){w->x, 1, s->dim_pad}, s->dim, w->b, s->size_pad, s->size, tokens, w->added, s->size_pad, false,
           false);
  float decay = fk_expf((float)last);
  for (int64_t p = 0; p < s->dim; p++) {
    float *to = w->added + p * s->size_pad;
    const float *from = h + p * s->size;
#pragma omp simd
    for (int64_t n = 0; n < s->size; n++) to[n] += from[n] * decay;
  }
  return all_finite(w->y, tokens, s->dim, s->dim_pad) && all_finite(w->added, s->dim, s->size, s->size_pad);
}

static void advance_chunk(const scan *s, const room *w, int64_t first, int64_t tokens, int64_t head,
                          const float *scores, float *h) {
  read_chunk(s, w, first, tokens, head);
  if (!compute_chunk(s, w, tokens, scores, h)) {
    for (int64_t t = 0; t < tokens; t++) advance_token(s, w, first + t, head, h);
    return;
  }
  for (int64_t p = 0; p < s->dim; p++) memcpy(h + p * s->size, w->added + p * s->size_pad, (size_t)s->size * sizeof *h);
  float skip = (float)number(s->a->D, head);
  for (int64_t t = 0; t < tokens; t++) {
    float *y = w->y + t * s->dim_pad;
    fk_widen(s->type, at3(s->a->x, first + t, head), w->x, s->dim);
#pragma omp simd
    for (int64_t p = 0; p < s->dim; p++) y[p] += skip * w->x[p];
    fk_narrow(s->type, y, (char *)(uintptr_t)at3(s->a->out, first + t, head), s->dim);
  }
}
