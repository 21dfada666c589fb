#include <math.h>

#include "tasks/layer_norm.h"

fk_status fk_ref_layer_norm(fk_context *ctx, const fk_layer_norm_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++, x += n, out += n) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(squares / (double)n + a->epsilon);
    for (int64_t i = 0; i < n; i++) {
      out[i] = (x[i] - mean) * scale;
      if (a->weight) out[i] *= fk_f64(a->weight)[i];
      if (a->bias) out[i] += fk_f64(a->bias)[i];
    }
  }
  return FK_OK;
}
