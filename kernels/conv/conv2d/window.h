/* The geometry of a convolution, shared by the kernels of this folder. */
#pragma once

#include "device/cpu_row.h"
#include "device/cpu_threads.h"
#include "device/cpu_tile.h"
#include "tasks/conv2d.h"

typedef struct problem {
  const fk_conv2d_args *a;
  fk_type type;
  int64_t height, width, out_height, out_width, kernel_h, kernel_w, taps;
  int64_t in_channels, channels; /* of x, and of one group */
  int64_t out_channels, features;
  int64_t pixels;   /* of out */
  int64_t out_step; /* elements from pixel to pixel of out, 0 when they are not evenly spaced */
} problem;

static inline int64_t at_most(int64_t n, int64_t limit) {
  return n < limit ? n : limit;
}

/* Pixel (y, x) of image n of x; may lie outside, as an address that is not read. */
static inline const char *pixel_of(const problem *p, int64_t n, int64_t y, int64_t x) {
  const fk_tensor *t = p->a->x;
  int64_t offset = n * fk_stride(t, 0) + y * fk_stride(t, 1) + x * fk_stride(t, 2);
  return (const char *)((uintptr_t)fk_data(t) + (uintptr_t)(offset * fk_width(p->type)));
}

/* Output pixel r, at channel c. */
static inline char *out_pixel(const problem *p, int64_t r, int64_t c) {
  char *row = p->out_step ? (char *)fk_data(p->a->out) + r * p->out_step * fk_width(p->type) : fk_row(p->a->out, r);
  return row + c * fk_width(p->type);
}

/* Biases [c, c + n) as floats; zeros when there are none. */
static inline void read_bias(const problem *p, int64_t c, int64_t n, float *to) {
  const fk_tensor *b = p->a->bias;
  for (int64_t i = 0; i < n && !b; i++) to[i] = 0;
  if (b) fk_widen(p->type, (const char *)fk_data(b) + c * fk_width(p->type), to, n);
}
