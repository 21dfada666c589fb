#include "tasks/linear_fp8_block.h"

fk_status fk_ref_linear_fp8_block(fk_context *ctx, const fk_linear_fp8_block_args *a) {
  (void)ctx;
  int64_t rows = fk_size(a->x, 0), depth = fk_size(a->x, 1), features = fk_size(a->weight, 0);
  int64_t blocks = fk_size(a->x_scale, 1);
  const double *x = fk_f64(a->x), *weight = fk_f64(a->weight);
  const double *x_scale = fk_f64(a->x_scale), *weight_scale = fk_f64(a->weight_scale);
  for (int64_t m = 0; m < rows; m++)
    for (int64_t n = 0; n < features; n++) {
      double sum = 0;
      for (int64_t k = 0; k < depth; k++)
        sum += x[m * depth + k] * x_scale[m * blocks + k / 128] * weight[n * depth + k] *
               weight_scale[n / 128 * blocks + k / 128];
      fk_f64(a->out)[m * features + n] = sum;
    }
  return FK_OK;
}
