#include <math.h>

#include "tasks/grn.h"

/* The norm of channel c over the pixels of one image. */
static double norm_of(const double *x, int64_t pixels, int64_t channels, int64_t c) {
  double sum = 0;
  for (int64_t i = 0; i < pixels; i++) sum += x[i * channels + c] * x[i * channels + c];
  return sqrt(sum);
}

fk_status fk_ref_grn(fk_context *ctx, const fk_grn_args *a) {
  (void)ctx;
  int64_t batch = fk_size(a->x, 0), pixels = fk_size(a->x, 1) * fk_size(a->x, 2), channels = fk_size(a->x, 3);
  const double *x = fk_f64(a->x), *weight = fk_f64(a->weight), *bias = fk_f64(a->bias);
  double *out = fk_f64(a->out);
  for (int64_t n = 0; n < batch; n++, x += pixels * channels, out += pixels * channels) {
    double mean = 0;
    for (int64_t c = 0; c < channels; c++) mean += norm_of(x, pixels, channels, c) / (double)channels;
    for (int64_t c = 0; c < channels; c++) {
      double response = norm_of(x, pixels, channels, c) / (mean + a->epsilon);
      /* Each channel in turn, so that x may be out: the norm is read before its channel is written, and the mean
       * before all. */
      for (int64_t i = c; i < pixels * channels; i += channels) out[i] = x[i] + weight[c] * x[i] * response + bias[c];
    }
  }
  return FK_OK;
}
