#include "tasks/add.h"

fk_status fk_ref_add(fk_context *ctx, const fk_add_args *a) {
  (void)ctx;
  const double *x = fk_f64(a->a), *y = fk_f64(a->b);
  double *out = fk_f64(a->out);
  for (int64_t i = 0, n = fk_numel(a->out); i < n; i++) out[i] = x[i] + y[i];
  return FK_OK;
}
