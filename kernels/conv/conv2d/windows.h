/* Convolution as a matrix product with the windows as rows: the weights are packed into panels of output channels, in
 * the order (kernel row, kernel column, channel), in which a window is a few runs of memory. Neither windows nor
 * results need a transposition then, so this serves images of many pixels; with few pixels packing the weights would
 * cost more than it saves (gemm.h). */
#pragma once

#include "window.h"

enum {
  WINDOW_BLOCK = 48, /* windows per work item: a multiple of every tile's rows */
  WINDOW_DEPTH = 256 /* of a panel that the first-level cache holds beside a tile's windows */
};

typedef struct windows {
  const problem *p;
  int64_t depth, step; /* step: floats from window to window, no power of two, which would share few cache lines */
  int64_t group, panels, per_item;
  float *packed;  /* panels, each [depth][FK_PANEL] */
  float *threads; /* per thread: windows [WINDOW_BLOCK][step], sums [WINDOW_BLOCK][FK_PANEL] */
} windows;

/* ---- Weights --------------------------------------------------------------------------------------------- */

/* FK_LANES output channels from f on, into their lanes of a panel. */
static void pack_features(const windows *w, int64_t f, float *to) {
  const problem *p = w->p;
  float room[FK_LANES][FK_CHUNK / FK_LANES], columns[FK_CHUNK];
  int valid = (int)at_most(p->features - f, FK_LANES);
  const char *weight =
      (const char *)fk_data(p->a->weight) + (w->group * p->features + f) * w->depth * fk_width(p->type);
  int64_t channel = 0, tap = 0;
  for (int64_t k = 0; k < w->depth; k += FK_CHUNK / FK_LANES) {
    int64_t n = at_most(w->depth - k, FK_CHUNK / FK_LANES);
    const float *row[FK_LANES] = {0};
    for (int i = 0; i < valid; i++)
      row[i] = fk_row_read(p->type, weight + i * w->depth * fk_width(p->type), k, room[i], n);
    fk_pack_columns(row, valid, n, columns, FK_LANES);
    for (int64_t i = 0; i < n; i++) {
      fk_vec_store(to + (tap * p->channels + channel) * FK_PANEL, fk_vec_load(columns + i * FK_LANES));
      if (++tap == p->taps) tap = 0, channel++;
    }
  }
}

static void pack_weights_once(const windows *w) {
  int64_t vecs = w->panels * FK_TILE_VECS;
#pragma omp parallel for schedule(static) if (w->depth * w->p->features > 1 << 15)
  for (int64_t v = 0; v < vecs; v++) {
    float *to = w->packed + v / FK_TILE_VECS * w->depth * FK_PANEL + v % FK_TILE_VECS * FK_LANES;
    if (v * FK_LANES < w->p->features) {
      pack_features(w, v * FK_LANES, to);
    } else {
      for (int64_t k = 0; k < w->depth; k++) fk_vec_store(to + k * FK_PANEL, (fk_vec){0});
    }
  }
}

/* ---- Windows --------------------------------------------------------------------------------------------- */

/* As fk_widen, without a call for the short runs of images of few channels. */
static inline void widen_run(fk_type type, const void *from, float *to, int64_t n) {
  if (type != FK_F32 || n > 64) {
    fk_widen(type, from, to, n);
    return;
  }
  const float *x = from;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) memcpy(to + i, x + i, 16);
  for (; i < n; i++) to[i] = x[i];
}

/* One kernel row of a window that starts at column x of line y; columns outside the image are zero. */
static void copy_taps(const windows *w, int64_t n, int64_t y, int64_t x, float *to) {
  const problem *p = w->p;
  int64_t last = x + (p->kernel_w - 1) * p->a->dilation_w, skip = w->group * p->channels * fk_width(p->type);
  bool run = p->a->dilation_w == 1 && fk_stride(p->a->x, 2) == p->channels;
  if (run && x >= 0 && last < p->width) {
    widen_run(p->type, pixel_of(p, n, y, x) + skip, to, p->kernel_w * p->channels);
    return;
  }
  for (int64_t k = 0; k < p->kernel_w; k++, x += p->a->dilation_w, to += p->channels) {
    if (x >= 0 && x < p->width)
      widen_run(p->type, pixel_of(p, n, y, x) + skip, to, p->channels);
    else
      memset(to, 0, (size_t)p->channels * 4);
  }
}

/* The windows of n output pixels from r on. */
static void copy_windows(const windows *w, int64_t r, int64_t n, float *to) {
  const problem *p = w->p;
  int64_t run = p->kernel_w * p->channels, column = r % p->out_width, row = r / p->out_width % p->out_height;
  int64_t image = r / p->out_width / p->out_height;
  for (int64_t i = 0; i < n; i++, to += w->step) {
    int64_t y = row * p->a->stride_h - p->a->padding_h, x = column * p->a->stride_w - p->a->padding_w;
    for (int64_t k = 0; k < p->kernel_h; k++, y += p->a->dilation_h) {
      if (y >= 0 && y < p->height)
        copy_taps(w, image, y, x, to + k * run);
      else
        memset(to + k * run, 0, (size_t)run * 4);
    }
    if (++column < p->out_width) continue;
    column = 0;
    if (++row < p->out_height) continue;
    row = 0;
    image++;
  }
}

/* ---- Product --------------------------------------------------------------------------------------------- */

/* Sums of n pixels from r0 on, with their biases, into output channels [first, first + count). */
static void write_sums(const windows *w, int64_t r0, int64_t n, int64_t first, int64_t count, const float *sums) {
  float bias[FK_PANEL] = {0}, line[FK_PANEL];
  bool in_place = w->p->type == FK_F32 && count == FK_PANEL;
  read_bias(w->p, first, count, bias);
  for (int64_t i = 0; i < n; i++, sums += FK_PANEL) {
    char *out = out_pixel(w->p, r0 + i, first);
    float *to = in_place ? (float *)(void *)out : line;
    for (int j = 0; j < FK_PANEL; j += FK_LANES) fk_vec_store(to + j, fk_vec_load(sums + j) + fk_vec_load(bias + j));
    if (!in_place) fk_narrow(w->p->type, line, out, count);
  }
}

/* n windows times one panel, into sums and from there into the pixels of out from r0 on. */
static void multiply_panel(const windows *w, const float *rows, int64_t r0, int64_t n, int64_t panel, float *sums) {
  const problem *p = w->p;
  int64_t f = panel * FK_PANEL, count = at_most(p->features - f, FK_PANEL), first = w->group * p->features + f;
  int vecs = (int)((count + FK_LANES - 1) / FK_LANES);
  for (int64_t k = 0; k < w->depth; k += WINDOW_DEPTH) {
    fk_tile_args t = {.a_step = 1, .ldb = FK_PANEL, .depth = at_most(w->depth - k, WINDOW_DEPTH)};
    t.b = w->packed + (panel * w->depth + k) * FK_PANEL;
    t.ldc = FK_PANEL;
    t.add = k > 0;
    for (int64_t i = 0; i < n; i += FK_TILE_ROWS) {
      t.rows = (int)at_most(n - i, FK_TILE_ROWS);
      for (int j = 0; j < FK_TILE_ROWS; j++) t.a[j] = rows + (i + (j < t.rows ? j : t.rows - 1)) * w->step + k;
      t.c = sums + i * FK_PANEL;
      fk_tile(&t, vecs);
    }
  }
  write_sums(w, r0, n, first, count, sums);
}

static void window_block(const windows *w, int64_t r0, int64_t start, int64_t end) {
  int64_t n = at_most(w->p->pixels - r0, WINDOW_BLOCK);
  float *rows = w->threads + thread_index() * WINDOW_BLOCK * (w->step + FK_PANEL),
        *sums = rows + WINDOW_BLOCK * w->step;
  copy_windows(w, r0, n, rows);
  for (int64_t panel = start; panel < end; panel++) multiply_panel(w, rows, r0, n, panel, sums);
}

/* Whether packing the weights costs less than transposing windows and results. */
static inline bool windows_pay(const problem *p) {
  double depth = (double)(p->channels * p->taps), features = (double)p->features;
  return features >= FK_LANES && (double)p->pixels * (depth + features) > 2 * depth * features;
}

static inline fk_status conv_windows(fk_context *ctx, const problem *p) {
  windows w = {.p = p, .depth = p->channels * p->taps};
  w.step = (w.depth + FK_LANES - 1) / FK_LANES * FK_LANES + FK_LANES;
  w.panels = (p->features + FK_PANEL - 1) / FK_PANEL;
  w.packed = fk_scratch(ctx, (size_t)(w.panels * w.depth * FK_PANEL) * 4);
  w.threads = fk_scratch(ctx, (size_t)(max_threads() * WINDOW_BLOCK * (w.step + FK_PANEL)) * 4);
  if (!w.packed || !w.threads) return FK_ERROR_MEMORY;
  /* Panels are split among items only when blocks are too few for the threads: each item copies its windows. */
  int64_t blocks = (p->pixels + WINDOW_BLOCK - 1) / WINDOW_BLOCK, parts = 1;
  while (blocks * parts < 3 * max_threads() && 2 * parts <= w.panels) parts *= 2;
  w.per_item = (w.panels + parts - 1) / parts;
  for (w.group = 0; w.group < p->a->groups; w.group++) {
    pack_weights_once(&w);
#pragma omp parallel for schedule(dynamic) if (p->pixels * w.depth * p->features > 1 << 16)
    for (int64_t i = 0; i < blocks * parts; i++) {
      int64_t start = i % parts * w.per_item, end = at_most(start + w.per_item, w.panels);
      if (start < end) window_block(&w, i / parts * WINDOW_BLOCK, start, end);
    }
  }
  return FK_OK;
}
