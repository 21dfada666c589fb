#include "tasks/low_rank_cross.h"

fk_status fk_compose_low_rank_cross(fk_context *ctx, const fk_low_rank_cross_args *a) {
  int64_t rows = fk_size(a->x_0, 0), features = fk_size(a->x_0, 1), rank = fk_size(a->V_kernel, 0);
  fk_type type = fk_type_of(a->x_0);
  fk_tensor *low = fk_empty(ctx, type, rows, rank), *high = fk_empty(ctx, type, rows, features);
  FK_TRY(fk_call(ctx, "linear", a->x, a->V_kernel, NULL, low));
  FK_TRY(fk_call(ctx, "linear", low, a->W_kernel, a->bias, high));
  return fk_call(ctx, "mul_add", a->x_0, high, a->x, a->out);
}
