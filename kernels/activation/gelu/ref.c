#include <math.h>

#include "tasks/gelu.h"

/* erfc keeps the digits of the lower tail that 1 + erf would lose. */
static double exact(double x) {
  return x * erfc(-x * M_SQRT1_2) / 2;
}

static double approximate(double x) {
  return x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x))) / 2;
}

fk_status fk_ref_gelu(fk_context *ctx, const fk_gelu_args *a) {
  (void)ctx;
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t i = 0, n = fk_numel(a->x); i < n; i++) out[i] = a->approximate ? approximate(x[i]) : exact(x[i]);
  return FK_OK;
}
