#include "tasks/conv2d.h"

/* The sum under one window, for one output channel. */
static double window(const fk_conv2d_args *a, int64_t n, int64_t y0, int64_t x0, int64_t o) {
  int64_t height = fk_size(a->x, 1), width = fk_size(a->x, 2), in = fk_size(a->x, 3);
  int64_t channels = in / a->groups, kh = fk_size(a->weight, 2), kw = fk_size(a->weight, 3);
  int64_t first = o / (fk_size(a->weight, 0) / a->groups) * channels; /* of the group's input channels */
  const double *x = fk_f64(a->x), *w = fk_f64(a->weight) + o * channels * kh * kw;
  double sum = 0;
  for (int64_t ky = 0; ky < kh; ky++) {
    int64_t y = y0 + ky * a->dilation_h;
    if (y < 0 || y >= height) continue;
    for (int64_t kx = 0; kx < kw; kx++) {
      int64_t column = x0 + kx * a->dilation_w;
      if (column < 0 || column >= width) continue;
      const double *pixel = x + ((n * height + y) * width + column) * in + first;
      for (int64_t c = 0; c < channels; c++) sum += pixel[c] * w[(c * kh + ky) * kw + kx];
    }
  }
  return sum;
}

fk_status fk_ref_conv2d(fk_context *ctx, const fk_conv2d_args *a) {
  (void)ctx;
  double *out = fk_f64(a->out);
  const double *bias = a->bias ? fk_f64(a->bias) : NULL;
  for (int64_t n = 0; n < fk_size(a->out, 0); n++)
    for (int64_t y = 0; y < fk_size(a->out, 1); y++)
      for (int64_t x = 0; x < fk_size(a->out, 2); x++)
        for (int64_t o = 0; o < fk_size(a->out, 3); o++)
          *out++ =
              (bias ? bias[o] : 0) + window(a, n, y * a->stride_h - a->padding_h, x * a->stride_w - a->padding_w, o);
  return FK_OK;
}
