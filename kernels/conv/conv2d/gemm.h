/* Convolution as a matrix product that never stores its matrix of windows: the windows of a block of pixels are packed
 * as columns, in the order (channel, kernel row, kernel column) in which the weights lie, so the weights are read where
 * they are. Serves every convolution; pointwise and patch convolutions are its special cases with nothing to skip. */
#pragma once

#include "window.h"

enum {
  ROW_BLOCK = 480,    /* pixels packed at a time: a multiple of every panel width */
  DEPTH_BLOCK = 256,  /* of a panel that the first-level cache holds */
  FEATURE_BLOCK = 48, /* output channels per work item: a multiple of every tile's rows */
  THREAD_FLOATS = FEATURE_BLOCK * (DEPTH_BLOCK + ROW_BLOCK) + FK_LANES * DEPTH_BLOCK,
};

typedef struct gemm {
  const problem *p;
  int64_t depth, group, block; /* block: output channels per work item */
  const int64_t *offsets;      /* few channels: elements from a window's first pixel to each of its depth values */
  const float *zeros;          /* DEPTH_BLOCK of them */
  float *packed;               /* panels of FK_PANEL pixels or less, each [depth][panel] */
  float *threads;              /* per thread: weights [FEATURE_BLOCK][DEPTH_BLOCK], sums [FEATURE_BLOCK][ROW_BLOCK], and
                                  windows [FK_LANES][DEPTH_BLOCK] */
} gemm;

static float *thread_room(const gemm *g) {
  return g->threads + (int64_t)fk_thread_index() * THREAD_FLOATS;
}

/* ---- Packing --------------------------------------------------------------------------------------------- */

typedef struct lane { /* where the window of an output pixel starts */
  int64_t n, y, x;
} lane;

static lane lane_of(const problem *p, int64_t r) {
  int64_t row = r / p->out_width;
  return (lane){row / p->out_height, row % p->out_height * p->a->stride_h - p->a->padding_h,
                r % p->out_width * p->a->stride_w - p->a->padding_w};
}

static bool inside(const problem *p, int64_t y, int64_t x) {
  return y >= 0 && y < p->height && x >= 0 && x < p->width;
}

/* Many channels: tap by tap, a run of channels at once. */
static void pack_taps(const gemm *g, const lane *lanes, int valid, float *to, int64_t width) {
  const problem *p = g->p;
  float *room = thread_room(g);
  for (int64_t tap = 0; tap < p->taps; tap++) {
    const char *pixel[FK_LANES];
    for (int i = 0; i < valid; i++) {
      int64_t y = lanes[i].y + tap / p->kernel_w * p->a->dilation_h;
      int64_t x = lanes[i].x + tap % p->kernel_w * p->a->dilation_w;
      pixel[i] = inside(p, y, x) ? pixel_of(p, lanes[i].n, y, x) + g->group * p->channels * fk_width(p->type) : NULL;
    }
    for (int64_t c = 0; c < p->channels; c += DEPTH_BLOCK) {
      int64_t n = at_most(p->channels - c, DEPTH_BLOCK);
      const float *row[FK_LANES] = {0};
      for (int i = 0; i < valid; i++)
        row[i] = pixel[i] ? fk_row_read(p->type, pixel[i], c, room + i * DEPTH_BLOCK, n) : g->zeros;
      fk_pack_columns(row, valid, n, to + (c * p->taps + tap) * width, p->taps * width);
    }
  }
}

/* Depth values [k, k + n) of one window, element by element. */
static void gather(const gemm *g, const lane *l, int64_t k, int64_t n, float *to) {
  const problem *p = g->p;
  const char *first = pixel_of(p, l->n, l->y, l->x) + g->group * p->channels * fk_width(p->type);
  int64_t bottom = l->y + (p->kernel_h - 1) * p->a->dilation_h, right = l->x + (p->kernel_w - 1) * p->a->dilation_w;
  if (inside(p, l->y, l->x) && inside(p, bottom, right) && p->type == FK_F32) {
    const float *base = (const float *)(const void *)first;
    for (int64_t i = 0; i < n; i++) to[i] = base[g->offsets[k + i]];
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    int64_t tap = (k + i) % p->taps;
    int64_t y = l->y + tap / p->kernel_w * p->a->dilation_h, x = l->x + tap % p->kernel_w * p->a->dilation_w;
    const char *from = (const char *)((uintptr_t)first + (uintptr_t)(g->offsets[k + i] * fk_width(p->type)));
    to[i] = 0;
    if (inside(p, y, x)) fk_widen(p->type, from, to + i, 1);
  }
}

/* Few channels: whole windows at once. */
static void pack_windows(const gemm *g, const lane *lanes, int valid, float *to, int64_t width) {
  float *room = thread_room(g);
  for (int64_t k = 0; k < g->depth; k += DEPTH_BLOCK) {
    int64_t n = at_most(g->depth - k, DEPTH_BLOCK);
    const float *row[FK_LANES] = {0};
    for (int i = 0; i < valid; i++) {
      gather(g, &lanes[i], k, n, room + i * DEPTH_BLOCK);
      row[i] = room + i * DEPTH_BLOCK;
    }
    fk_pack_columns(row, valid, n, to + k * width, width);
  }
}

/* Packs n pixels from r0 on. */
static void pack(const gemm *g, int64_t r0, int64_t n) {
#pragma omp parallel for schedule(static) if (n * g->depth > 1 << 14)
  for (int64_t r = 0; r < n; r += FK_LANES) {
    int64_t start = 0, width = fk_panel_vecs(0, n) * FK_LANES;
    while (start + width <= r) {
      start += width;
      width = fk_panel_vecs(start, n) * FK_LANES;
    }
    lane lanes[FK_LANES];
    int valid = (int)at_most(n - r, FK_LANES);
    for (int i = 0; i < valid; i++) lanes[i] = lane_of(g->p, r0 + r + i);
    float *to = g->packed + start * g->depth + r - start;
    if (g->offsets)
      pack_windows(g, lanes, valid, to, width);
    else
      pack_taps(g, lanes, valid, to, width);
  }
}

/* ---- Multiplying ----------------------------------------------------------------------------------------- */

/* sums[feature][pixel] (+)= over depths [k, k + depth), for `count` features whose floats begin at w, ldw apart. */
static void multiply(const gemm *g, int64_t n, int64_t k, int64_t depth, const float *w, int64_t ldw, int64_t count,
                     float *sums) {
  for (int64_t start = 0; start < n;) {
    int vecs = fk_panel_vecs(start, n);
    int64_t width = vecs * FK_LANES;
    fk_tile_args t = {.a_step = 1, .ldb = width, .depth = depth, .ldc = ROW_BLOCK, .add = k > 0};
    t.b = g->packed + start * g->depth + k * width;
    for (int64_t f = 0; f < count; f += FK_TILE_ROWS) {
      t.rows = (int)at_most(count - f, FK_TILE_ROWS);
      for (int i = 0; i < FK_TILE_ROWS; i++) t.a[i] = w + (f + (i < t.rows ? i : t.rows - 1)) * ldw;
      t.c = sums + f * ROW_BLOCK + start;
      fk_tile(&t, vecs);
    }
    start += width;
  }
}

/* Turns sums[feature][pixel] into pixels of out from channel c on: whole vectors of floats, straight from the registers
 * that turned them. */
static void write_floats(const gemm *g, int64_t r0, int64_t n, int64_t c, int64_t count, const float *sums) {
  const float *bias = g->p->a->bias ? (const float *)fk_data(g->p->a->bias) + c : NULL;
  for (int64_t r = 0; r < n; r += FK_LANES) {
    int valid = (int)at_most(n - r, FK_LANES);
    float *row[FK_LANES];
    for (int i = 0; i < valid; i++) row[i] = (float *)(void *)out_pixel(g->p, r0 + r + i, c);
    fk_unpack_columns(sums + r, ROW_BLOCK, count, bias, row, valid);
  }
}

/* The same of any type and number. */
static void write_pixels(const gemm *g, int64_t r0, int64_t n, int64_t c, int64_t count, const float *sums) {
  float line[FK_LANES][FEATURE_BLOCK], bias[FEATURE_BLOCK];
  if (g->p->type == FK_F32 && count % FK_LANES == 0) return write_floats(g, r0, n, c, count, sums);
  read_bias(g->p, c, count, bias);
  for (int64_t r = 0; r < n; r += FK_LANES) {
    for (int64_t f = 0; f < count; f += FK_LANES) {
      fk_vec v[FK_LANES];
      for (int i = 0; i < FK_LANES; i++) v[i] = fk_vec_load(sums + (f + i) * ROW_BLOCK + r);
      fk_transpose(v);
      for (int i = 0; i < FK_LANES; i++) fk_vec_store(line[i] + f, v[i]);
    }
    for (int i = 0; i < FK_LANES && r + i < n; i++) {
      for (int64_t f = 0; f < count; f++) line[i][f] += bias[f];
      fk_narrow(g->p->type, line[i], out_pixel(g->p, r0 + r + i, c), count);
    }
  }
}

static void feature_block(const gemm *g, int64_t r0, int64_t n, int64_t start) {
  const problem *p = g->p;
  int64_t count = at_most(p->features - start, g->block), first = g->group * p->features + start;
  float *room = thread_room(g), *sums = room + FEATURE_BLOCK * DEPTH_BLOCK;
  const char *weight = (const char *)fk_data(p->a->weight) + first * g->depth * fk_width(p->type);
  for (int64_t k = 0; k < g->depth; k += DEPTH_BLOCK) {
    int64_t depth = at_most(g->depth - k, DEPTH_BLOCK), ldw = DEPTH_BLOCK;
    const float *w = room;
    if (p->type == FK_F32) {
      w = (const float *)(const void *)weight + k;
      ldw = g->depth;
    } else {
      for (int64_t f = 0; f < count; f++)
        fk_widen(p->type, weight + (f * g->depth + k) * fk_width(p->type), room + f * DEPTH_BLOCK, depth);
    }
    multiply(g, n, k, depth, w, ldw, count, sums);
  }
  write_pixels(g, r0, n, first, count, sums);
}

/* Where each depth value of a window lies, when channels are too few to be read in runs. */
static const int64_t *window_offsets(fk_context *ctx, const problem *p, int64_t depth) {
  int64_t *offsets = fk_scratch(ctx, (size_t)depth * sizeof *offsets);
  for (int64_t k = 0; k < depth && offsets; k++) {
    int64_t tap = k % p->taps;
    offsets[k] = k / p->taps + tap / p->kernel_w * p->a->dilation_h * fk_stride(p->a->x, 1) +
                 tap % p->kernel_w * p->a->dilation_w * fk_stride(p->a->x, 2);
  }
  return offsets;
}

/* Output channels per work item, such that the busiest thread has the least to do; each block costs as much
 * again as a few channels. Where a block ends changes no sum. */
static int64_t choose_block(int64_t features) {
  int64_t best = FEATURE_BLOCK, least = INT64_MAX, threads = fk_max_threads();
  for (int64_t block = FEATURE_BLOCK; block > 0; block -= FK_TILE_ROWS) {
    int64_t items = (features + block - 1) / block, busiest = (items + threads - 1) / threads * (block + 4);
    if (busiest < least) best = block, least = busiest;
  }
  return best;
}

static inline fk_status conv_gemm(fk_context *ctx, const problem *p) {
  gemm g = {.p = p, .depth = p->channels * p->taps, .block = FEATURE_BLOCK};
  int64_t most = at_most(p->pixels, ROW_BLOCK), padded = (most + FK_PANEL - 1) / FK_PANEL * FK_PANEL;
  g.packed = fk_scratch(ctx, (size_t)(padded * g.depth) * 4);
  g.threads = fk_scratch(ctx, (size_t)fk_max_threads() * THREAD_FLOATS * 4);
  float *zeros = fk_scratch(ctx, DEPTH_BLOCK * 4);
  if (!g.packed || !g.threads || !zeros) return FK_ERROR_MEMORY;
  memset(zeros, 0, DEPTH_BLOCK * 4);
  g.zeros = zeros;
  if (p->channels < FK_LANES && p->taps > 1) {
    g.offsets = window_offsets(ctx, p, g.depth);
    if (!g.offsets) return FK_ERROR_MEMORY;
  }
  g.block = choose_block(p->features);
  int64_t blocks = (p->features + g.block - 1) / g.block;
  for (g.group = 0; g.group < p->a->groups; g.group++)
    for (int64_t r0 = 0; r0 < p->pixels; r0 += ROW_BLOCK) {
      int64_t n = at_most(p->pixels - r0, ROW_BLOCK);
      pack(&g, r0, n);
#pragma omp parallel for schedule(dynamic) if (n * g.depth * p->features > 1 << 16)
      for (int64_t i = 0; i < blocks; i++) feature_block(&g, r0, n, i * g.block);
    }
  return FK_OK;
}
