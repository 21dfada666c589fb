#include "tasks/column_parallel_linear.h"

fk_status fk_compose_column_parallel_linear(fk_context *ctx, const fk_column_parallel_linear_args *a) {
  int64_t ranks = fk_size(a->x, 0), rows = fk_size(a->x, 1), in = fk_size(a->x, 2), features = fk_size(a->weight, 1);
  bool gather = a->gather_output && a->world_size > 1;
  fk_tensor *own = gather ? fk_empty(ctx, fk_type_of(a->x), ranks, rows, features) : a->out;
  for (int64_t r = 0; r < ranks; r++) {
    fk_tensor *x = fk_view(ctx, fk_slice(ctx, a->x, 0, r, 1), rows, in);
    fk_tensor *weight = fk_view(ctx, fk_slice(ctx, a->weight, 0, r, 1), features, in);
    fk_tensor *bias = a->bias ? fk_view(ctx, fk_slice(ctx, a->bias, 0, r, 1), features) : NULL;
    fk_tensor *out = fk_view(ctx, fk_slice(ctx, own, 0, r, 1), rows, features);
    FK_TRY(fk_call(ctx, "linear", x, weight, bias, out));
  }
  if (!gather) return FK_OK;
  return fk_call(ctx, "all_gather", own, a->world_size, a->rank, a->comm, 1 /* along columns */, a->out);
}
