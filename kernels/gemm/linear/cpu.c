#include "device/cpu_dot.h"
#include "device/cpu_threads.h"
#include "tasks/linear.h"

/* Own code for all dtypes, measured against OpenBLAS and oneDNN (benchmarks/README.md): 16-bit weights are widened in
 * the cache and multiplied in float32, which is faster than oneDNN's bfloat16; float32 is ahead at some sizes and up to
 * an eighth behind at hundreds of rows, for results that do not depend on a library or on the number of threads. */
enum {
  ROW_BLOCK = 576,    /* most rows of x packed at a time: a multiple of every panel width */
  DEPTH_BLOCK = 256,  /* of a panel that the first-level cache holds */
  FEATURE_BLOCK = 48, /* features per work item: a multiple of every tile's rows */
};

typedef struct problem {
  const fk_linear_args *a;
  fk_type type;
  int64_t rows, depth, features, block; /* block: features per work item */
} problem;

static const char *weight_row(const problem *p, int64_t n) {
  return (const char *)fk_data(p->a->weight) + n * fk_stride(p->a->weight, 0) * fk_width(p->type);
}

/* Adds the bias to n results of row r and rounds them once. */
static void finish(const problem *p, int64_t r, int64_t start, float *sum, int64_t n) {
  float bias[FEATURE_BLOCK];
  if (p->a->bias) {
    fk_widen(p->type, (const char *)fk_data(p->a->bias) + start * fk_width(p->type), bias, n);
    for (int64_t i = 0; i < n; i++) sum[i] += bias[i];
  }
  fk_narrow(p->type, sum, (char *)fk_row(p->a->out, r) + start * fk_width(p->type), n);
}

/* ---- Few rows -------------------------------------------------------------------------------------------- */

static void few_rows_block(const problem *p, const float *x, int64_t ldx, int64_t start, int64_t end) {
  float sum[FEATURE_BLOCK * FK_DOT_ROWS], line[FEATURE_BLOCK];
  const char *w[FEATURE_BLOCK];
  int rows = (int)p->rows;
  for (int64_t n = start; n < end; n++) w[n - start] = weight_row(p, n);
  fk_dot_args dot = {x, ldx, p->depth};
  fk_dot_many(&dot, p->type, rows, end - start, w, sum);
  for (int r = 0; r < rows; r++) {
    for (int64_t n = 0; n < end - start; n++) line[n] = sum[n * rows + r];
    finish(p, r, start, line, end - start);
  }
}

static fk_status few_rows(fk_context *ctx, const problem *p) {
  int64_t ldx = (p->depth + FK_LANES - 1) / FK_LANES * FK_LANES;
  float *x = fk_scratch(ctx, (size_t)(p->rows * ldx) * 4);
  if (!x) return FK_ERROR_MEMORY;
  for (int64_t r = 0; r < p->rows; r++) fk_widen(p->type, fk_row(p->a->x, r), x + r * ldx, p->depth);
  int64_t blocks = (p->features + p->block - 1) / p->block;
#pragma omp parallel for schedule(static) if (p->rows * p->depth * p->features > 1 << 16)
  for (int64_t i = 0; i < blocks; i++) {
    int64_t end = (i + 1) * p->block;
    few_rows_block(p, x, ldx, i * p->block, end < p->features ? end : p->features);
  }
  return FK_OK;
}

/* ---- Many rows ------------------------------------------------------------------------------------------- */

typedef struct workspace {
  float *packed;  /* x transposed: panels of FK_PANEL rows or less, each [depth][panel] */
  float *threads; /* per thread: weights as floats [FEATURE_BLOCK][DEPTH_BLOCK], sums [FEATURE_BLOCK][ROW_BLOCK] */
} workspace;

enum { THREAD_FLOATS = FEATURE_BLOCK * (DEPTH_BLOCK + ROW_BLOCK) };

/* Packs FK_LANES rows from r (of n, starting at row r0 of x) into their place `to` in a panel. */
static void pack_rows(const problem *p, int64_t r0, int64_t r, int64_t n, float *to, int64_t width) {
  float room[FK_LANES][DEPTH_BLOCK];
  int valid = (int)(n - r < FK_LANES ? n - r : FK_LANES);
  for (int64_t k = 0; k < p->depth; k += DEPTH_BLOCK) {
    int64_t depth = p->depth - k < DEPTH_BLOCK ? p->depth - k : DEPTH_BLOCK;
    const float *row[FK_LANES];
    for (int i = 0; i < FK_LANES; i++)
      row[i] = i < valid ? fk_row_read(p->type, fk_row(p->a->x, r0 + r + i), k, room[i], depth) : NULL;
    fk_pack_columns(row, valid, depth, to + k * width, width);
  }
}

static void pack(const problem *p, int64_t r0, int64_t n, float *packed) {
  /* Panel widths depend on what is left, so each panel finds its start by walking; there are few. */
#pragma omp parallel for schedule(dynamic) if (n * p->depth > 1 << 15)
  for (int64_t lane = 0; lane < n; lane += FK_LANES) {
    int64_t start = 0;
    while (start + fk_panel_vecs(start, n) * FK_LANES <= lane) start += fk_panel_vecs(start, n) * FK_LANES;
    int64_t width = fk_panel_vecs(start, n) * FK_LANES;
    pack_rows(p, r0, lane, n, packed + start * p->depth + lane - start, width);
  }
}

/* sums[feature][row] (+)= over depths [k, k + depth), for `count` features whose floats begin at w, ldw apart. */
static void multiply(const problem *p, const float *packed, int64_t n, int64_t k, int64_t depth, const float *w,
                     int64_t ldw, int64_t count, float *sums) {
  for (int64_t start = 0; start < n;) {
    int vecs = fk_panel_vecs(start, n);
    int64_t width = vecs * FK_LANES;
    fk_tile_args t = {.a_step = 1, .ldb = width, .depth = depth, .ldc = ROW_BLOCK, .add = k > 0};
    t.b = packed + start * p->depth + k * width;
    for (int64_t f = 0; f < count; f += FK_TILE_ROWS) {
      t.rows = (int)(count - f < FK_TILE_ROWS ? count - f : FK_TILE_ROWS);
      for (int i = 0; i < FK_TILE_ROWS; i++) t.a[i] = w + (f + (i < t.rows ? i : t.rows - 1)) * ldw;
      t.c = sums + f * ROW_BLOCK + start;
      fk_tile(&t, vecs);
    }
    start += width;
  }
}

/* Turns sums[feature][row] into rows of out: whole vectors of floats, straight from the registers that turned them. */
static void write_floats(const problem *p, int64_t r0, int64_t n, int64_t start, int64_t count, const float *sums) {
  const float *bias = p->a->bias ? (const float *)fk_data(p->a->bias) + start : NULL;
  for (int64_t r = 0; r < n; r += FK_LANES) {
    int valid = (int)(n - r < FK_LANES ? n - r : FK_LANES);
    float *row[FK_LANES];
    for (int i = 0; i < valid; i++) row[i] = (float *)fk_row(p->a->out, r0 + r + i) + start;
    fk_unpack_columns(sums + r, ROW_BLOCK, count, bias, row, valid);
  }
}

/* The same of any type and number. */
static void write_rows(const problem *p, int64_t r0, int64_t n, int64_t start, int64_t count, const float *sums) {
  float line[FK_LANES][FEATURE_BLOCK];
  if (p->type == FK_F32 && count % FK_LANES == 0) return write_floats(p, r0, n, start, count, sums);
  for (int64_t r = 0; r < n; r += FK_LANES) {
    for (int64_t f = 0; f < FEATURE_BLOCK; f += FK_LANES) {
      fk_vec v[FK_LANES];
      if (f >= count) break;
      for (int i = 0; i < FK_LANES; i++) v[i] = fk_vec_load(sums + (f + i) * ROW_BLOCK + r);
      fk_transpose(v);
      for (int i = 0; i < FK_LANES; i++) fk_vec_store(line[i] + f, v[i]);
    }
    for (int i = 0; i < FK_LANES && r + i < n; i++) finish(p, r0 + r + i, start, line[i], count);
  }
}

static void feature_block(const problem *p, const workspace *ws, int64_t r0, int64_t n, int64_t start) {
  int64_t count = p->features - start < p->block ? p->features - start : p->block;
  float *room = ws->threads + (int64_t)fk_thread_index() * THREAD_FLOATS, *sums = room + FEATURE_BLOCK * DEPTH_BLOCK;
  for (int64_t k = 0; k < p->depth; k += DEPTH_BLOCK) {
    int64_t depth = p->depth - k < DEPTH_BLOCK ? p->depth - k : DEPTH_BLOCK, ldw = DEPTH_BLOCK;
    const float *w = room;
    if (p->type == FK_F32) {
      w = (const float *)(const void *)weight_row(p, start) + k;
      ldw = fk_stride(p->a->weight, 0);
    } else {
      for (int64_t f = 0; f < count; f++)
        fk_widen(p->type, weight_row(p, start + f) + k * fk_width(p->type), room + f * DEPTH_BLOCK, depth);
    }
    multiply(p, ws->packed, n, k, depth, w, ldw, count, sums);
  }
  write_rows(p, r0, n, start, count, sums);
}

/* Nothing to sum: the tiles would leave their sums unwritten. */
static fk_status bias_only(const problem *p) {
  for (int64_t r = 0; r < p->rows; r++)
    for (int64_t n = 0; n < p->features; n += FEATURE_BLOCK) {
      float zero[FEATURE_BLOCK] = {0};
      finish(p, r, n, zero, p->features - n < FEATURE_BLOCK ? p->features - n : FEATURE_BLOCK);
    }
  return FK_OK;
}

static fk_status many_rows(fk_context *ctx, const problem *p) {
  if (p->depth == 0) return bias_only(p);
  /* Equal blocks: each reads every weight again. */
  int64_t parts = (p->rows + ROW_BLOCK - 1) / ROW_BLOCK, threads = fk_max_threads();
  int64_t most = ((p->rows + parts - 1) / parts + FK_PANEL - 1) / FK_PANEL * FK_PANEL;
  workspace ws = {.packed = fk_scratch(ctx, (size_t)(most * p->depth) * 4),
                  .threads = fk_scratch(ctx, (size_t)(threads * THREAD_FLOATS) * 4)};
  if (!ws.packed || !ws.threads) return FK_ERROR_MEMORY;
  int64_t blocks = (p->features + p->block - 1) / p->block;
  for (int64_t r0 = 0; r0 < p->rows; r0 += most) {
    int64_t n = p->rows - r0 < most ? p->rows - r0 : most;
    pack(p, r0, n, ws.packed);
#pragma omp parallel for schedule(dynamic) if (n * p->depth * p->features > 1 << 16)
    for (int64_t i = 0; i < blocks; i++) feature_block(p, &ws, r0, n, i * p->block);
  }
  return FK_OK;
}

fk_status fk_cpu_linear(fk_context *ctx, const fk_linear_args *a) {
  problem p = {.a = a, .type = fk_type_of(a->x), .rows = fk_rows(a->x), .block = FEATURE_BLOCK};
  p.depth = fk_size(a->weight, 1);
  p.features = fk_size(a->weight, 0);
  if (p.rows == 0 || p.features == 0) return FK_OK;
  /* Enough items for every thread; where a block ends changes no sum. */
  while (p.block > 2 * FK_TILE_ROWS && p.features < 2 * p.block * fk_max_threads()) p.block /= 2;
  return p.rows <= FK_DOT_ROWS ? few_rows(ctx, &p) : many_rows(ctx, &p);
}
