#include <math.h>

#include "tasks/rms_norm_gated.h"

static double silu(double x) {
  return x / (1 + exp(-x));
}

fk_status fk_ref_rms_norm_gated(fk_context *ctx, const fk_rms_norm_gated_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), size = a->group_size;
  for (int64_t start = 0; start < rows * n; start += size) {
    const double *x = fk_f64(a->x) + start, *gate = fk_f64(a->gate) + start, *weight = fk_f64(a->weight) + start % n;
    double *out = fk_f64(a->out) + start, sum = 0;
    for (int64_t i = 0; i < size; i++) {
      double t = a->norm_before_gate ? x[i] : x[i] * silu(gate[i]);
      sum += t * t;
    }
    double scale = 1 / sqrt(sum / (double)size + a->epsilon);
    for (int64_t i = 0; i < size; i++) out[i] = x[i] * silu(gate[i]) * scale * weight[i];
  }
  return FK_OK;
}
