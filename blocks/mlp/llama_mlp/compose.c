#include "tasks/llama_mlp.h"

fk_status fk_compose_llama_mlp(fk_context *ctx, const fk_llama_mlp_args *a) {
  int64_t tokens = fk_size(a->x, 0), inner = fk_size(a->down_proj_weight, 1);
  fk_tensor *gate_up = fk_empty(ctx, fk_type_of(a->x), tokens, 2 * inner);
  fk_tensor *gated = fk_empty(ctx, fk_type_of(a->x), tokens, inner);
  FK_TRY(fk_call(ctx, "linear", a->x, a->gate_up_proj_weight, a->gate_up_proj_bias, gate_up));
  FK_TRY(fk_call(ctx, "silu_and_mul", gate_up, gated));
  return fk_call(ctx, "linear", gated, a->down_proj_weight, a->down_proj_bias, a->out);
}
