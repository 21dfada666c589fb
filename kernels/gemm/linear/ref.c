#include "tasks/linear.h"

fk_status fk_ref_linear(fk_context *ctx, const fk_linear_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), in = fk_size(a->weight, 1), features = fk_size(a->weight, 0);
  const double *x = fk_f64(a->x), *bias = a->bias ? fk_f64(a->bias) : NULL;
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += in) {
    const double *w = fk_f64(a->weight);
    for (int64_t n = 0; n < features; n++, w += in) {
      double sum = bias ? bias[n] : 0;
      for (int64_t k = 0; k < in; k++) sum += x[k] * w[k];
      *out++ = sum;
    }
  }
  return FK_OK;
}
