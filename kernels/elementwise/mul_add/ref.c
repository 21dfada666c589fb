#include "tasks/mul_add.h"

fk_status fk_ref_mul_add(fk_context *ctx, const fk_mul_add_args *t) {
  (void)ctx;
  const double *a = fk_f64(t->a), *b = fk_f64(t->b), *c = fk_f64(t->c);
  double *out = fk_f64(t->out);
  for (int64_t i = 0, n = fk_numel(t->out); i < n; i++) out[i] = a[i] * b[i] + c[i];
  return FK_OK;
}
