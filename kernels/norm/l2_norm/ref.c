#include <math.h>

#include "tasks/l2_norm.h"

fk_status fk_ref_l2_norm(fk_context *ctx, const fk_l2_norm_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += n, out += n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    double norm = sqrt(sum);
    if (norm < a->epsilon) norm = a->epsilon;
    for (int64_t i = 0; i < n; i++) out[i] = x[i] / norm;
  }
  return FK_OK;
}
