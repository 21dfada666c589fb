#include "tasks/nchw_to_nhwc.h"

fk_status fk_ref_nchw_to_nhwc(fk_context *ctx, const fk_nchw_to_nhwc_args *a) {
  (void)ctx;
  int64_t batch = fk_size(a->x, 0), channels = fk_size(a->x, 1), pixels = fk_size(a->x, 2) * fk_size(a->x, 3);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t n = 0; n < batch; n++)
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < pixels; i++) out[(n * pixels + i) * channels + c] = *x++;
  return FK_OK;
}
