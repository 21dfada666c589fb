#include <math.h>

#include "tasks/rms_norm.h"

fk_status fk_ref_rms_norm(fk_context *ctx, const fk_rms_norm_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  const double *x = fk_f64(a->x), *weight = fk_f64(a->weight);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += n, out += n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / (double)n + a->epsilon);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
  }
  return FK_OK;
}
