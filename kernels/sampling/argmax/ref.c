#include <math.h>

#include "tasks/argmax.h"

/* Whether a comes before b in descending order, NaN first. */
static bool larger(double a, double b) {
  return isnan(a) ? !isnan(b) : a > b;
}

fk_status fk_ref_argmax(fk_context *ctx, const fk_argmax_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), *out = fk_i64(a->out);
  const double *x = fk_f64(a->x);
  for (int64_t r = 0; r < rows; r++, x += n) {
    out[r] = 0;
    for (int64_t i = 1; i < n; i++)
      if (larger(x[i], x[out[r]])) out[r] = i;
  }
  return FK_OK;
}
