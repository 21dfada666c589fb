#include "tasks/row_parallel_linear.h"

fk_status fk_compose_row_parallel_linear(fk_context *ctx, const fk_row_parallel_linear_args *a) {
  int64_t ranks = fk_size(a->x, 0), rows = fk_size(a->x, 1), in = fk_size(a->x, 2), features = fk_size(a->out, 2);
  fk_tensor *partial = fk_empty(ctx, fk_type_of(a->x), ranks, rows, features);
  for (int64_t r = 0; r < ranks; r++) {
    fk_tensor *x = fk_view(ctx, fk_slice(ctx, a->x, 0, r, 1), rows, in);
    fk_tensor *weight = fk_view(ctx, fk_slice(ctx, a->weight, 0, r, 1), features, in);
    fk_tensor *out = fk_view(ctx, fk_slice(ctx, partial, 0, r, 1), rows, features);
    FK_TRY(fk_call(ctx, "linear", x, weight, a->rank + r == 0 ? a->bias : NULL, out));
  }
  return fk_call(ctx, "all_reduce", partial, a->world_size, a->rank, a->comm, a->out);
}
