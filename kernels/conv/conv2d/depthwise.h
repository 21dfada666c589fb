/* Depthwise convolution: one kernel per channel, channels in SIMD lanes.
 *
 * A work item takes FK_LANES channels of some rows of one image. It copies each line of the image that it needs once
 * into a ring of zero-padded float lines, [column][lane], in which neither borders nor strides nor dtypes matter any
 * more, and slides a row of accumulators over them. Every sum runs over the taps in the same order. */
#pragma once

#include "window.h"

#if defined(__AVX512F__)
/* Accumulators: with 7 weights and a pixel they fit 32 registers, or 16. */
enum { TILE = 14, TILE_B = 12, TILE_C = 7 };
#else
enum { TILE = 6, TILE_B = 5, TILE_C = 4 };
#endif

typedef struct depthwise {
  const problem *p;
  int64_t tile;    /* output columns at a time */
  int64_t columns; /* of a padded line */
  int64_t lines;   /* of the ring */
  int64_t rows;    /* output rows per work item */
  float *weights;  /* [block of channels][taps][lane] */
  char *threads;   /* per thread: lines [lines][columns][lane], tags [lines], addresses of lines [kernel_h] */
  int64_t thread_bytes;
} depthwise;

typedef struct strip { /* one work item */
  const depthwise *d;
  int64_t n, c;
  int lanes; /* valid ones */
  const float *weights;
  float *ring;
  int64_t *tags; /* which line of the image each line of the ring holds */
  fk_vec bias;
} strip;

/* Weights of FK_LANES channels from c on, as [tap][lane]. */
static void pack_kernels(const problem *p, int64_t c, float *to) {
  const char *weight = (const char *)fk_data(p->a->weight) + c * p->taps * fk_width(p->type);
  int lanes = (int)at_most(p->in_channels - c, FK_LANES);
  for (int64_t tap = 0; tap < p->taps; tap += FK_CHUNK / FK_LANES) {
    float room[FK_CHUNK];
    const float *row[FK_LANES] = {0};
    int64_t n = at_most(p->taps - tap, FK_CHUNK / FK_LANES);
    for (int i = 0; i < lanes; i++)
      row[i] = fk_row_read(p->type, weight + i * p->taps * fk_width(p->type), tap, room + i * (FK_CHUNK / FK_LANES), n);
    fk_pack_columns(row, lanes, n, to + tap * FK_LANES, FK_LANES);
  }
}

static inline __attribute__((always_inline)) void copy_pixels(fk_type type, const char *from, int64_t step, int64_t n,
                                                              float *to) {
  for (int64_t i = 0; i < n; i++, from += step, to += FK_LANES) fk_widen(type, from, to, FK_LANES);
}

/* The line of the ring that holds line y of the image. What lies beside the image is zero from the start. */
static const float *line_of(const strip *s, int64_t y) {
  const problem *p = s->d->p;
  int64_t slot = y % s->d->lines, pad = p->a->padding_w, n = at_most(p->width, s->d->columns - pad);
  float *line = s->ring + slot * s->d->columns * FK_LANES;
  if (s->tags[slot] == y || n <= 0) return line;
  s->tags[slot] = y;
  float *to = line + pad * FK_LANES;
  const char *from = pixel_of(p, s->n, y, 0) + s->c * fk_width(p->type);
  int64_t step = fk_stride(p->a->x, 2) * fk_width(p->type);
  if (s->lanes < FK_LANES) {
    for (int64_t i = 0; i < n; i++) fk_widen(p->type, from + i * step, to + i * FK_LANES, s->lanes);
  } else if (p->type == FK_F32) {
    copy_pixels(FK_F32, from, step, n, to);
  } else if (p->type == FK_BF16) {
    copy_pixels(FK_BF16, from, step, n, to);
  } else {
    copy_pixels(FK_F16, from, step, n, to);
  }
  return line;
}

/* sum[t] += the taps of one kernel row, for neighbouring windows from `line` on. With constants for taps, stride and
 * tile everything stays in registers, and with stride 1 every pixel is loaded once. */
static inline __attribute__((always_inline)) void slide(const float *line, const float *weights, int taps, int stride,
                                                        int tile, fk_vec *sum) {
  fk_vec w[7];
#pragma GCC unroll 7
  for (int k = 0; k < taps; k++) w[k] = fk_vec_load(weights + k * FK_LANES);
#pragma GCC unroll 40
  for (int i = 0; i < (tile - 1) * stride + taps; i++) {
    fk_vec x = fk_vec_load(line + i * FK_LANES);
#pragma GCC unroll 7
    for (int k = 0; k < taps; k++)
      if (i >= k && (i - k) % stride == 0 && (i - k) / stride < tile) sum[(i - k) / stride] += w[k] * x;
  }
}

static inline __attribute__((always_inline)) void slide_any(const float *line, const float *weights, const problem *p,
                                                            int tile, fk_vec *sum) {
  int64_t step = p->a->stride_w * FK_LANES, tap = p->a->dilation_w * FK_LANES;
  for (int64_t k = 0; k < p->kernel_w; k++) {
    fk_vec w = fk_vec_load(weights + k * FK_LANES);
#pragma GCC unroll 14
    for (int t = 0; t < tile; t++) sum[t] += w * fk_vec_load(line + t * step + k * tap);
  }
}

/* One row of `tile` output pixels: lines of the window (NULL outside the image) from its first column on. */
static inline __attribute__((always_inline)) void row_tile(const strip *s, const float *const *lines, int64_t column,
                                                           int taps, int stride, int tile, fk_vec *sum) {
  const problem *p = s->d->p;
#pragma GCC unroll 14
  for (int t = 0; t < tile; t++) sum[t] = (fk_vec){0};
  for (int64_t ky = 0; ky < p->kernel_h; ky++) {
    const float *w = s->weights + ky * p->kernel_w * FK_LANES;
    if (!lines[ky]) continue;
    if (taps)
      slide(lines[ky] + column * FK_LANES, w, taps, stride, tile, sum);
    else
      slide_any(lines[ky] + column * FK_LANES, w, p, tile, sum);
  }
#pragma GCC unroll 14
  for (int t = 0; t < tile; t++) sum[t] += s->bias;
}

/* A shape of its own where it pays; taps 0 is any. */
#define ROW_TILE(NAME, TAPS, STRIDE, N)                                                                                \
  static __attribute__((noinline)) void NAME(const strip *s, const float *const *lines, int64_t column, fk_vec *out) { \
    fk_vec sum[N];                                                                                                     \
    row_tile(s, lines, column, TAPS, STRIDE, N, sum);                                                                  \
    for (int t = 0; t < N; t++) out[t] = sum[t];                                                                       \
  }
ROW_TILE(tile_7, 7, 1, TILE)
ROW_TILE(tile_7_b, 7, 1, TILE_B)
ROW_TILE(tile_7_c, 7, 1, TILE_C)
ROW_TILE(tile_5, 5, 1, TILE)
ROW_TILE(tile_3, 3, 1, TILE)
ROW_TILE(tile_3_stride_2, 3, 2, TILE)
ROW_TILE(tile_5_stride_2, 5, 2, TILE)
ROW_TILE(tile_any, 0, 0, TILE)

typedef void tile_fn(const strip *s, const float *const *lines, int64_t column, fk_vec *out);

static tile_fn *choose_tile(const depthwise *d) {
  const fk_conv2d_args *a = d->p->a;
  int64_t taps = d->p->kernel_w, stride = a->stride_w;
  if (a->dilation_w != 1 || stride > 2) return tile_any;
  if (taps == 7 && stride == 1) return d->tile == TILE ? tile_7 : d->tile == TILE_B ? tile_7_b : tile_7_c;
  if (taps == 5) return stride == 1 ? tile_5 : tile_5_stride_2;
  if (taps == 3) return stride == 1 ? tile_3 : tile_3_stride_2;
  return tile_any;
}

/* Rounds and stores the valid pixels of a tile. */
static void store_tile(const strip *s, int64_t pixel, const fk_vec *sum, int64_t n) {
  const problem *p = s->d->p;
  char *to = out_pixel(p, pixel, s->c);
  int64_t step = fk_stride(p->a->out, 2) * fk_width(p->type);
  for (int64_t t = 0; t < n; t++, to += step) {
    float room[FK_LANES];
    if (p->type == FK_F32 && s->lanes == FK_LANES) {
      fk_vec_store((float *)(void *)to, sum[t]);
    } else {
      fk_vec_store(room, sum[t]);
      fk_narrow(p->type, room, to, s->lanes);
    }
  }
}

static void output_rows(strip *s, int64_t start, int64_t end, const float **lines) {
  const problem *p = s->d->p;
  tile_fn *tile = choose_tile(s->d);
  fk_vec sum[TILE];
  for (int64_t i = 0; i < s->d->lines; i++) s->tags[i] = -1;
  for (int64_t row = start; row < end; row++) {
    for (int64_t ky = 0; ky < p->kernel_h; ky++) {
      int64_t y = row * p->a->stride_h - p->a->padding_h + ky * p->a->dilation_h;
      lines[ky] = y >= 0 && y < p->height ? line_of(s, y) : NULL;
    }
    for (int64_t x = 0; x < p->out_width; x += s->d->tile) {
      tile(s, lines, x * p->a->stride_w, sum);
      store_tile(s, (s->n * p->out_height + row) * p->out_width + x, sum, at_most(p->out_width - x, s->d->tile));
    }
  }
}

static int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

static void work_item(const depthwise *d, int64_t item) {
  const problem *p = d->p;
  int64_t parts = (p->out_height + d->rows - 1) / d->rows,
          blocks = (p->channels * p->a->groups + FK_LANES - 1) / FK_LANES;
  int64_t part = item % parts, block = item / parts % blocks;
  strip s = {.d = d, .n = item / parts / blocks, .c = block * FK_LANES};
  char *room = d->threads + fk_thread_index() * d->thread_bytes;
  float bias[FK_LANES] = {0};
  s.lanes = (int)at_most(p->in_channels - s.c, FK_LANES);
  s.weights = d->weights + block * p->taps * FK_LANES;
  s.ring = (float *)(void *)room;
  s.tags = (int64_t *)(void *)(s.ring + d->lines * d->columns * FK_LANES);
  read_bias(p, s.c, s.lanes, bias);
  s.bias = fk_vec_load(bias);
  output_rows(&s, part * d->rows, at_most((part + 1) * d->rows, p->out_height),
              (const float **)(void *)(s.tags + d->lines));
}

static inline fk_status conv_depthwise(fk_context *ctx, const problem *p) {
  depthwise d = {.p = p, .tile = TILE, .lines = (p->kernel_h - 1) * p->a->dilation_h + 1};
  if (p->kernel_w == 7 && p->a->stride_w == 1 && p->a->dilation_w == 1) {
    /* The tile that computes the fewest columns beyond the image. */
    if (round_up(p->out_width, TILE_B) < round_up(p->out_width, d.tile)) d.tile = TILE_B;
    if (round_up(p->out_width, TILE_C) < round_up(p->out_width, d.tile)) d.tile = TILE_C;
  }
  d.columns = (round_up(p->out_width, d.tile) - 1) * p->a->stride_w + (p->kernel_w - 1) * p->a->dilation_w + 1;
  d.thread_bytes = round_up(d.lines * d.columns * FK_LANES * 4 + (d.lines + p->kernel_h) * 8, 64);
  d.threads = fk_scratch(ctx, (size_t)(fk_max_threads() * d.thread_bytes));
  int64_t blocks = (p->in_channels + FK_LANES - 1) / FK_LANES;
  d.weights = fk_scratch(ctx, (size_t)(blocks * p->taps * FK_LANES) * 4);
  if (!d.threads || !d.weights) return FK_ERROR_MEMORY;
  /* Rows are split only when images and channels are too few for the threads: the parts copy some lines twice. */
  int64_t strips = fk_size(p->a->x, 0) * blocks, parts = 1;
  while (strips * parts < 4 * fk_max_threads() && p->out_height > 8 * parts) parts *= 2;
  d.rows = (p->out_height + parts - 1) / parts;
  int64_t items = strips * ((p->out_height + d.rows - 1) / d.rows);
#pragma omp parallel if (p->pixels * p->taps * p->in_channels > 1 << 16)
  {
    /* Items write the same columns of a ring, so what is beside the image stays zero. */
    memset(d.threads + fk_thread_index() * d.thread_bytes, 0, (size_t)(d.lines * d.columns * FK_LANES) * 4);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; i++) pack_kernels(p, i * FK_LANES, d.weights + i * p->taps * FK_LANES);
      /* In order: neighbouring channels share cache lines and pages. */
#pragma omp for schedule(static)
    for (int64_t i = 0; i < items; i++) work_item(&d, i);
  }
  return FK_OK;
}
