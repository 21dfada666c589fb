#include <math.h>

#include "tasks/fused_add_rms_norm.h"

fk_status fk_ref_fused_add_rms_norm(fk_context *ctx, const fk_fused_add_rms_norm_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  double *x = fk_f64(a->x), *residual = fk_f64(a->residual);
  const double *weight = fk_f64(a->weight);
  for (int64_t r = 0; r < rows; r++, x += n, residual += n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
      residual[i] += x[i];
      sum += residual[i] * residual[i];
    }
    double scale = 1 / sqrt(sum / (double)n + a->epsilon);
    for (int64_t i = 0; i < n; i++) x[i] = residual[i] * scale * weight[i];
  }
  return FK_OK;
}
