/* Convolution as a matrix product with the windows as rows: the weights are packed into panels of output channels, in
 * the order (kernel row, kernel column, channel), in which a window is a few runs of memory that are read where they
 * lie. Neither windows nor results need a transposition then, so this serves images of many pixels; with few pixels
 * packing the weights would cost more than it saves (gemm.h).
 *
 * A work item is some tiles of windows times some panels. A panel comes from the last-level cache once per item, so
 * items are as large as lets their windows stay in the second-level cache. */
#pragma once

#include "run_tile.h"
#include "window.h"

enum {
  WINDOW_BLOCK = 1024,       /* windows per work item at most: a multiple of every tile's rows */
  COPIED_BLOCK = 48,         /* the same where windows are copied */
  BLOCK_FLOATS = 3 << 17,    /* of image that an item may read: most of a second-level cache */
  WINDOW_DEPTH = 1280,       /* of a sum before it is added to the others, for precision */
  SMALL_PANELS = 1 << 13,    /* floats of weights that the first-level cache keeps beside a tile */
  SERIAL_PRODUCTS = 1 << 16, /* up to which waking threads does not pay */
};

typedef struct windows {
  const problem *p;
  const float *x; /* the image as floats, strides in elements */
  int64_t image_step, line_step, pixel_step;
  int64_t depth, group;
  int64_t runs, run;     /* runs per window, floats per run */
  bool lines, copied;    /* a run is a line of the window; or all of it, copied */
  int64_t slice;         /* floats of each run that are multiplied before the sums are added up */
  int64_t tiles, blocks; /* of all pixels; items along the pixels */
  int64_t vecs, parts;   /* of all features; items along the features */
  int64_t step;          /* windows of the largest item, rounded up to a tile */
  const float *zeros;    /* [run] */
  float *bias;           /* [vecs * FK_LANES] */
  float *packed;         /* panels, each [slices][runs][slice][vecs * FK_LANES]; NULL when each is used only once */
  char *threads;         /* per thread: addresses [runs][step], sums [step][FK_PANEL], one slice of a panel, copied
                            windows [step][depth] */
  int64_t thread_bytes;
} windows;

static int64_t ceil_div(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

/* First vector of features of a part. */
static int64_t part_start(const windows *w, int64_t part) {
  return part * w->vecs / w->parts;
}

/* Vectors of the panel at vector v of a part that ends at `end`. */
static int panel_vecs(int64_t v, int64_t end) {
  return fk_panel_vecs(v * FK_LANES, end * FK_LANES);
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

/* Depths [k0, k0 + n) of FK_LANES output channels from f on, in the order in which weights lie, as the columns of a
 * panel of ld floats a row: (channel, tap) becomes (tap, channel) unless windows are copied. */
static void pack_features(const windows *w, int64_t f, int64_t k0, int64_t n, float *to, int64_t ld) {
  const problem *p = w->p;
  float room[FK_LANES][FK_CHUNK / FK_LANES], columns[FK_CHUNK];
  int valid = (int)at_most(p->features - f, FK_LANES);
  const char *weight =
      (const char *)fk_data(p->a->weight) + (w->group * p->features + f) * w->depth * fk_width(p->type);
  int64_t channel = 0, tap = 0, channels = n / p->taps;
  for (int64_t k = 0; k < n; k += FK_CHUNK / FK_LANES) {
    int64_t count = at_most(n - k, FK_CHUNK / FK_LANES);
    const float *row[FK_LANES] = {0};
    for (int i = 0; i < valid; i++)
      row[i] = fk_row_read(p->type, weight + i * w->depth * fk_width(p->type), k0 + k, room[i], count);
    if (p->taps == 1 || w->copied) {
      fk_pack_columns(row, valid, count, to + k * ld, ld);
      continue;
    }
    fk_pack_columns(row, valid, count, columns, FK_LANES);
    for (int64_t i = 0; i < count; i++) {
      fk_vec_store(to + (tap * channels + channel) * ld, fk_vec_load(columns + i * FK_LANES));
      if (++tap == p->taps) tap = 0, channel++;
    }
  }
}

/* Depth of all runs of the slice at `first`. */
static int64_t slice_depth(const windows *w, int64_t first) {
  return at_most(w->run - first, w->slice) * w->runs;
}

/* Vector v of all features: its panel begins where its part's panels have come to. */
static void pack_vec(const windows *w, int64_t v) {
  int64_t part = 0, start;
  while (part_start(w, part + 1) <= v) part++;
  int64_t end = part_start(w, part + 1);
  for (start = part_start(w, part); start + panel_vecs(start, end) <= v;) start += panel_vecs(start, end);
  int64_t ld = panel_vecs(start, end) * FK_LANES;
  float *to = w->packed + start * FK_LANES * w->depth + (v - start) * FK_LANES;
  for (int64_t first = 0; first < w->run; first += w->slice)
    pack_features(w, v * FK_LANES, first * w->runs, slice_depth(w, first), to + first * w->runs * ld, ld);
}

/* ---- Windows --------------------------------------------------------------------------------------------- */

typedef struct place { /* an output pixel, and where its window begins */
  int64_t image, row, column, y, x;
} place;

static place place_of(const problem *p, int64_t r) {
  return (place){r / p->out_width / p->out_height, r / p->out_width % p->out_height, r % p->out_width, 0, 0};
}

static void find_window(const problem *p, place *at) {
  at->y = at->row * p->a->stride_h - p->a->padding_h;
  at->x = at->column * p->a->stride_w - p->a->padding_w;
}

static void next_place(const problem *p, place *at) {
  if (++at->column < p->out_width) return;
  at->column = 0;
  if (++at->row < p->out_height) return;
  at->row = 0;
  at->image++;
}

/* The first channel of this group of pixel (y, x), NULL outside the image. */
static const float *pixel_at(const windows *w, const place *at, int64_t y, int64_t x) {
  const problem *p = w->p;
  if (y < 0 || y >= p->height || x < 0 || x >= p->width) return NULL;
  return w->x + at->image * w->image_step + y * w->line_step + x * w->pixel_step + w->group * p->channels;
}

/* A window in the order of the weights. */
static void copy_window(const windows *w, const place *at, float *to) {
  const problem *p = w->p;
  int64_t tap = 0;
  for (int64_t ky = 0; ky < p->kernel_h; ky++)
    for (int64_t kx = 0; kx < p->kernel_w; kx++, tap++) {
      const float *from = pixel_at(w, at, at->y + ky * p->a->dilation_h, at->x + kx * p->a->dilation_w);
      for (int64_t c = 0; c < p->channels; c++) to[c * p->taps + tap] = from ? from[c] : 0;
    }
}

static void find_runs(const windows *w, const place *at, const float **run) {
  const problem *p = w->p;
  for (int64_t ky = 0; ky < p->kernel_h; ky++)
    for (int64_t kx = 0; kx < p->kernel_w; kx++, run += w->step) {
      const float *from = pixel_at(w, at, at->y + ky * p->a->dilation_h, at->x + kx * p->a->dilation_w);
      *run = from ? from : w->zeros;
    }
}

/* Windows whose lines are runs, all of them inside the image: neighbours are evenly spaced. */
static void find_lines(const windows *w, int64_t r, int64_t n, const float **run) {
  const problem *p = w->p;
  place at = place_of(p, r);
  int64_t across = p->a->stride_w * w->pixel_step, down = p->a->dilation_h * w->line_step;
  for (int64_t i = 0; i < n;) {
    int64_t count = at_most(n - i, p->out_width - at.column);
    find_window(p, &at);
    const float *first = pixel_at(w, &at, at.y, at.x);
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
      for (int64_t k = 0; k < count; k++) run[ky * w->step + i + k] = first + ky * down + k * across;
    i += count;
    at = place_of(p, r + i);
  }
}

/* Where the runs of n windows from r on begin; the last window again up to a whole tile. */
static void find_windows(const windows *w, int64_t r, int64_t n, const float **run, float *copies) {
  place at = place_of(w->p, r);
  if (w->lines) find_lines(w, r, n, run);
  for (int64_t i = 0; i < n && !w->lines; i++, next_place(w->p, &at)) {
    find_window(w->p, &at);
    if (w->copied) {
      copy_window(w, &at, copies + i * w->depth);
      run[i] = copies + i * w->depth;
    } else {
      find_runs(w, &at, run + i);
    }
  }
  for (int64_t i = n; i % FK_TILE_ROWS; i++)
    for (int64_t k = 0; k < w->runs; k++) run[k * w->step + i] = run[k * w->step + n - 1];
}

/* ---- Product --------------------------------------------------------------------------------------------- */

/* Rounds n complete sums into output channels [first, first + count) of the pixels from r on. */
static void write_sums(const problem *p, int64_t r, int64_t n, int64_t first, int64_t count, const float *sums) {
  for (int64_t i = 0; i < n; i++, sums += FK_PANEL) fk_narrow(p->type, sums, out_pixel(p, r + i, first), count);
}

/* n windows, from pixel r on, times the panel at vector v; room as long as the sums and a slice of the panel. */
static void multiply_panel(const windows *w, const float *const *run, int64_t r, int64_t n, int64_t v, int vecs,
                           float *room) {
  const problem *p = w->p;
  int64_t f = v * FK_LANES, ld = vecs * FK_LANES, count = at_most(p->features - f, ld);
  int64_t channel = w->group * p->features + f;
  bool in_place = p->type == FK_F32 && p->out_step && count == ld;
  float *c = in_place ? (float *)(void *)out_pixel(p, r, channel) : room, *slice = room + w->step * FK_PANEL;
  run_tile t = {.step = w->step, .runs = w->runs, .ldc = in_place ? p->out_step : FK_PANEL};
  for (; t.first < w->run; t.first += t.length) {
    int64_t depth = slice_depth(w, t.first);
    t.length = depth / w->runs;
    t.add = t.first > 0;
    t.bias = t.first + t.length == w->run ? w->bias + f : NULL;
    t.b = w->packed ? w->packed + f * w->depth + t.first * w->runs * ld : slice;
    for (int j = 0; j < vecs && !w->packed; j++)
      pack_features(w, f + j * FK_LANES, t.first * w->runs, depth, slice + j * FK_LANES, ld);
    for (int64_t i = 0; i < n; i += FK_TILE_ROWS) {
      t.at = run + i;
      t.count = (int)at_most(n - i, FK_TILE_ROWS);
      t.c = c + i * t.ldc;
      multiply_runs(&t, vecs);
    }
  }
  if (!in_place) write_sums(p, r, n, channel, count, room);
}

static void window_item(const windows *w, int64_t item) {
  int64_t block = item / w->parts, part = item % w->parts, end = part_start(w, part + 1);
  int64_t r = block * w->tiles / w->blocks * FK_TILE_ROWS;
  int64_t n = at_most((block + 1) * w->tiles / w->blocks * FK_TILE_ROWS, w->p->pixels) - r;
  const float **run = (const float **)(void *)(w->threads + fk_thread_index() * w->thread_bytes);
  float *room = (float *)(void *)(run + w->runs * w->step);
  find_windows(w, r, n, run, room + (w->step + w->slice * w->runs) * FK_PANEL);
  /* Weights that stay close by are taken tile by tile, such that pixels are written in the order of memory. */
  bool small = w->packed && w->vecs * FK_LANES * w->depth <= SMALL_PANELS;
  int64_t most = small ? FK_TILE_ROWS : n;
  for (int64_t i = 0; i < n; i += most)
    for (int64_t v = part_start(w, part); v < end; v += panel_vecs(v, end))
      multiply_panel(w, run + i, r + i, at_most(n - i, most), v, panel_vecs(v, end), room);
}

/* ---- Plan ------------------------------------------------------------------------------------------------ */

/* Whether packing the weights costs less than transposing windows and results. */
static inline bool windows_pay(const problem *p) {
  double depth = (double)(p->channels * p->taps), features = (double)p->features;
  return features >= FK_LANES && (double)p->pixels * (depth + features) > depth * features / 4;
}

/* Keeps a split when its busiest thread has less to do, in 256ths of a tile times a vector of features. Every item
 * costs a little of its own, threads that differ in speed wait for a part of one, and weights that several blocks share
 * are written and read again. */
static void try_split(windows *w, int64_t blocks, int64_t parts, int64_t *least) {
  if (blocks > w->tiles || parts > w->vecs) return;
  int64_t item = (32 * ceil_div(w->tiles, blocks) + 32) * (8 * ceil_div(w->vecs, parts) + 4),
          threads = fk_max_threads();
  int64_t cost = ceil_div(blocks * parts, threads) * item + item / 32 + (blocks > 1 ? 1024 * w->vecs / threads : 0);
  if (cost >= *least) return;
  *least = cost;
  w->blocks = blocks;
  w->parts = parts;
}

static void split_work(windows *w) {
  const problem *p = w->p;
  int64_t seen = at_most(p->taps, p->a->stride_h * p->a->stride_w) * p->channels; /* of the image, per window */
  int64_t most = w->copied ? COPIED_BLOCK : at_most(BLOCK_FLOATS / seen, WINDOW_BLOCK), threads = fk_max_threads();
  int64_t fewest = ceil_div(w->tiles, most < FK_TILE_ROWS ? 1 : most / FK_TILE_ROWS), least = INT64_MAX;
  for (int64_t parts = 1; parts <= 4 * threads; parts *= 2)
    for (int64_t more = 1; more <= 4; more++)
      for (int64_t i = 0; i < threads; i++) try_split(w, at_most(more * fewest + i, w->tiles), parts, &least);
  w->step = ceil_div(w->tiles, w->blocks) * FK_TILE_ROWS;
}

/* The image as floats: x itself, or a copy without gaps. */
static fk_status widen_image(fk_context *ctx, windows *w) {
  const problem *p = w->p;
  const fk_tensor *x = p->a->x;
  if (p->type == FK_F32) {
    w->x = fk_data(x);
    w->image_step = fk_stride(x, 0);
    w->line_step = fk_stride(x, 1);
    w->pixel_step = fk_stride(x, 2);
    return FK_OK;
  }
  int64_t lines = fk_size(x, 0) * p->height;
  w->pixel_step = p->in_channels;
  w->line_step = p->width * w->pixel_step;
  w->image_step = p->height * w->line_step;
  float *floats = fk_scratch(ctx, (size_t)(lines * w->line_step) * 4);
  if (!floats) return FK_ERROR_MEMORY;
#pragma omp parallel for schedule(static) if (lines * w->line_step > SERIAL_PRODUCTS)
  for (int64_t l = 0; l < lines; l++)
    for (int64_t i = 0; i < p->width; i++)
      fk_widen(p->type, pixel_of(p, l / p->height, l % p->height, i), floats + l * w->line_step + i * w->pixel_step,
               p->in_channels);
  w->x = floats;
  return FK_OK;
}

static void choose_runs(windows *w) {
  const problem *p = w->p;
  bool few = p->channels < FK_LANES && p->taps > 1;
  bool dense = p->a->padding_h == 0 && p->a->padding_w == 0 && p->a->dilation_w == 1;
  w->lines = few && dense && w->pixel_step == p->channels;
  w->copied = few && !w->lines;
  w->runs = w->copied ? 1 : w->lines ? p->kernel_h : p->taps;
  w->run = w->depth / w->runs;
  w->slice = ceil_div(ceil_div(w->run, ceil_div(w->depth, WINDOW_DEPTH)), FK_LANES) * FK_LANES;
  if (w->lines || w->slice > w->run) w->slice = w->run;
}

static fk_status make_room(fk_context *ctx, windows *w) {
  int64_t floats = w->step * FK_PANEL + w->slice * w->runs * FK_PANEL + (w->copied ? w->step * w->depth : 0);
  w->thread_bytes = ceil_div(w->step * w->runs * 8 + floats * 4, 64) * 64;
  w->threads = fk_scratch(ctx, (size_t)(fk_max_threads() * w->thread_bytes));
  w->bias = fk_scratch(ctx, (size_t)(w->vecs * FK_LANES) * 4);
  float *zeros = fk_scratch(ctx, (size_t)w->run * 4);
  if (!w->threads || !w->bias || !zeros) return FK_ERROR_MEMORY;
  memset(zeros, 0, (size_t)w->run * 4);
  w->zeros = zeros;
  if (w->blocks > 1) w->packed = fk_scratch(ctx, (size_t)(w->vecs * FK_LANES * w->depth) * 4);
  return w->blocks > 1 && !w->packed ? FK_ERROR_MEMORY : FK_OK;
}

static inline fk_status conv_windows(fk_context *ctx, const problem *p) {
  windows w = {.p = p, .depth = p->channels * p->taps};
  w.tiles = ceil_div(p->pixels, FK_TILE_ROWS);
  w.vecs = ceil_div(p->features, FK_LANES);
  FK_TRY(widen_image(ctx, &w));
  choose_runs(&w);
  split_work(&w);
  FK_TRY(make_room(ctx, &w));
  bool parallel = p->pixels * w.depth * p->features > SERIAL_PRODUCTS;
  for (int64_t group = 0; group < p->a->groups; group++) {
    w.group = group;
    memset(w.bias, 0, (size_t)(w.vecs * FK_LANES) * 4);
    read_bias(p, group * p->features, p->features, w.bias);
#pragma omp parallel if (parallel)
    {
      if (w.packed) {
#pragma omp for schedule(static)
        for (int64_t v = 0; v < w.vecs; v++) pack_vec(&w, v);
      }
      /* With an item each, threads keep theirs from call to call, and its pixels in their caches. */
      if (w.blocks * w.parts <= fk_max_threads()) {
#pragma omp for schedule(static, 1)
        for (int64_t i = 0; i < w.blocks * w.parts; i++) window_item(&w, i);
      } else {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < w.blocks * w.parts; i++) window_item(&w, i);
      }
    }
  }
  return FK_OK;
}
