#include "tasks/global_avg_pool2d.h"

fk_status fk_ref_global_avg_pool2d(fk_context *ctx, const fk_global_avg_pool2d_args *a) {
  (void)ctx;
  int64_t batch = fk_size(a->x, 0), pixels = fk_size(a->x, 1) * fk_size(a->x, 2), channels = fk_size(a->x, 3);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t n = 0; n < batch; n++, x += pixels * channels)
    for (int64_t c = 0; c < channels; c++) {
      double sum = 0;
      for (int64_t i = 0; i < pixels; i++) sum += x[i * channels + c];
      *out++ = sum / (double)pixels;
    }
  return FK_OK;
}
