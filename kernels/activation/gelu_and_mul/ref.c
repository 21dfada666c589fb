#include <math.h>

#include "tasks/gelu_and_mul.h"

/* erfc keeps the digits of the lower tail that 1 + erf would lose. */
static double exact(double x) {
  return x * erfc(-x * M_SQRT1_2) / 2;
}

static double approximate(double x) {
  return x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x))) / 2;
}

fk_status fk_ref_gelu_and_mul(fk_context *ctx, const fk_gelu_and_mul_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->out), n = fk_size(a->out, -1);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += 2 * n, out += n)
    for (int64_t i = 0; i < n; i++) out[i] = (a->approximate ? approximate(x[i]) : exact(x[i])) * x[n + i];
  return FK_OK;
}
