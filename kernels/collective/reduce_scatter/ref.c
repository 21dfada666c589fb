#include "tasks/reduce_scatter.h"

fk_status fk_ref_reduce_scatter(fk_context *ctx, const fk_reduce_scatter_args *a) {
  (void)ctx;
  int64_t ranks = fk_size(a->x, 0), n = fk_size(a->out, 1) * fk_size(a->out, 2);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  if (a->comm) return fk_fail(FK_ERROR_UNSUPPORTED, "reduce_scatter: a communicator needs device cuda");
  for (int64_t i = 0; i < ranks * n; i++) { /* element of the sum: out's blocks lie in the order of ranks */
    double sum = 0;
    for (int64_t r = 0; r < ranks; r++) sum += x[r * ranks * n + i];
    out[i] = sum;
  }
  return FK_OK;
}
