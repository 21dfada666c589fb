#include "tasks/low_rank_cross_net.h"

fk_status fk_compose_low_rank_cross_net(fk_context *ctx, const fk_low_rank_cross_net_args *a) {
  int64_t features = fk_size(a->x_0, 1), rank = fk_size(a->W_kernels, 1);
  const fk_tensor *x = a->x_0;
  for (int64_t i = 0; i < a->num_layers; i++, x = a->out)
    FK_TRY(fk_call(ctx, "low_rank_cross", a->x_0, x, fk_slice(ctx, a->V_kernels, 0, i * rank, rank),
                   fk_slice(ctx, a->W_kernels, 0, i * features, features),
                   fk_slice(ctx, a->bias, 0, i * features, features), a->out));
  return FK_OK;
}
