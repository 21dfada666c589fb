#include <math.h>

#include "tasks/silu_and_mul.h"

fk_status fk_ref_silu_and_mul(fk_context *ctx, const fk_silu_and_mul_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->out), n = fk_size(a->out, -1);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += 2 * n, out += n)
    for (int64_t i = 0; i < n; i++) out[i] = x[i] / (1 + exp(-x[i])) * x[n + i];
  return FK_OK;
}
