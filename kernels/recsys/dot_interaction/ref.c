#include "tasks/dot_interaction.h"

/* Vector i of a sample: 0 is dense. */
static const double *vector(const fk_dot_interaction_args *a, int64_t sample, int64_t i) {
  int64_t dim = fk_size(a->dense, 1), features = fk_size(a->sparse, 1);
  return i == 0 ? fk_f64(a->dense) + sample * dim : fk_f64(a->sparse) + (sample * features + i - 1) * dim;
}

fk_status fk_ref_dot_interaction(fk_context *ctx, const fk_dot_interaction_args *a) {
  (void)ctx;
  int64_t batch = fk_size(a->dense, 0), dim = fk_size(a->dense, 1), features = fk_size(a->sparse, 1);
  double *out = fk_f64(a->out);
  for (int64_t s = 0; s < batch; s++) {
    for (int64_t k = 0; k < dim; k++) *out++ = vector(a, s, 0)[k];
    for (int64_t i = 0; i <= features; i++)
      for (int64_t j = i + 1; j <= features; j++) {
        double sum = 0;
        for (int64_t k = 0; k < dim; k++) sum += vector(a, s, i)[k] * vector(a, s, j)[k];
        *out++ = sum;
      }
  }
  return FK_OK;
}
