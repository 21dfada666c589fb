#include "tasks/embedding.h"

fk_status fk_ref_embedding(fk_context *ctx, const fk_embedding_args *a) {
  (void)ctx;
  int64_t rows = fk_numel(a->input_ids), n = fk_size(a->weight, 1), vocab_size = fk_size(a->weight, 0);
  const int64_t *ids = fk_i64(a->input_ids);
  const double *weight = fk_f64(a->weight);
  double *out = fk_f64(a->out);
  for (int64_t r = 0; r < rows; r++) {
    if (ids[r] < 0 || ids[r] >= vocab_size)
      return fk_fail(FK_ERROR_ARGUMENT, "input_ids, element %lld: expected an id from 0 to %lld, got %lld",
                     (long long)r, (long long)vocab_size - 1, (long long)ids[r]);
    for (int64_t i = 0; i < n; i++) out[r * n + i] = weight[ids[r] * n + i];
  }
  return FK_OK;
}
