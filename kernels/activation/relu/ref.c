#include "tasks/relu.h"

fk_status fk_ref_relu(fk_context *ctx, const fk_relu_args *a) {
  (void)ctx;
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t i = 0, n = fk_numel(a->x); i < n; i++) out[i] = x[i] < 0 ? 0 : x[i];
  return FK_OK;
}
