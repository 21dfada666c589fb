#include "bags.h"

fk_status fk_ref_embedding_bag(fk_context *ctx, const fk_embedding_bag_args *a) {
  (void)ctx;
  FK_TRY(check_bags(a));
  int64_t bags = fk_size(a->out, 0), n = fk_size(a->weight, 1);
  const double *weight = fk_f64(a->weight), *factors = a->per_sample_weights ? fk_f64(a->per_sample_weights) : NULL;
  double *out = fk_f64(a->out);
  for (int64_t b = 0; b < bags; b++, out += n) {
    int64_t start = int_at(a->offsets, b), end = int_at(a->offsets, b + 1);
    for (int64_t k = 0; k < n; k++) {
      double sum = 0;
      for (int64_t i = start; i < end; i++) sum += (factors ? factors[i] : 1) * weight[int_at(a->values, i) * n + k];
      out[k] = a->mode == 1 && end > start ? sum / (double)(end - start) : sum;
    }
  }
  return FK_OK;
}
