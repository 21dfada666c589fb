#include "tasks/bert_mlp.h"

fk_status fk_compose_bert_mlp(fk_context *ctx, const fk_bert_mlp_args *a) {
  int64_t rows = fk_rows(a->hidden_states), inner = fk_size(a->intermediate_dense_weight, 0);
  fk_tensor *x = fk_view(ctx, a->hidden_states, rows, fk_size(a->hidden_states, -1));
  fk_tensor *out = fk_view(ctx, a->out, rows, fk_size(a->out, -1));
  fk_tensor *wide = fk_empty(ctx, fk_type_of(a->hidden_states), rows, inner);
  FK_TRY(fk_call(ctx, "linear", x, a->intermediate_dense_weight, a->intermediate_dense_bias, wide));
  FK_TRY(fk_call(ctx, "gelu", wide, a->approximate, wide));
  return fk_call(ctx, "linear", wide, a->output_dense_weight, a->output_dense_bias, out);
}
