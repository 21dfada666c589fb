#include "tasks/linear_fp8.h"

fk_status fk_ref_linear_fp8(fk_context *ctx, const fk_linear_fp8_args *a) {
  (void)ctx;
  int64_t rows = fk_size(a->x, 0), depth = fk_size(a->x, 1), features = fk_size(a->weight, 0);
  const double *x = fk_f64(a->x), *weight = fk_f64(a->weight), *bias = a->bias ? fk_f64(a->bias) : NULL;
  const double *x_scale = fk_f64(a->x_scale), *weight_scale = fk_f64(a->weight_scale);
  bool x_rows = fk_numel(a->x_scale) > 1, weight_rows = fk_numel(a->weight_scale) > 1;
  for (int64_t m = 0; m < rows; m++)
    for (int64_t n = 0; n < features; n++) {
      double sum = 0;
      for (int64_t k = 0; k < depth; k++) sum += x[m * depth + k] * weight[n * depth + k];
      sum *= x_scale[x_rows ? m : 0] * weight_scale[weight_rows ? n : 0];
      fk_f64(a->out)[m * features + n] = sum + (bias ? bias[n] : 0);
    }
  return FK_OK;
}
