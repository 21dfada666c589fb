#include <math.h>

#include "tasks/softmax.h"

fk_status fk_ref_softmax(fk_context *ctx, const fk_softmax_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += n, out += n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, x[i]); /* fmax skips NaN; the sum does not */
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - max);
    for (int64_t i = 0; i < n; i++) out[i] = exp(x[i] - max) / sum;
  }
  return FK_OK;
}
