#include "tasks/nhwc_to_nchw.h"

fk_status fk_ref_nhwc_to_nchw(fk_context *ctx, const fk_nhwc_to_nchw_args *a) {
  (void)ctx;
  int64_t batch = fk_size(a->x, 0), channels = fk_size(a->x, 3), pixels = fk_size(a->x, 1) * fk_size(a->x, 2);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t n = 0; n < batch; n++)
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = 0; c < channels; c++) out[(n * channels + c) * pixels + i] = *x++;
  return FK_OK;
}
