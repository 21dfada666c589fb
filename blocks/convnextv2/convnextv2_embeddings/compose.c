#include "tasks/convnextv2_embeddings.h"

fk_status fk_compose_convnextv2_embeddings(fk_context *ctx, const fk_convnextv2_embeddings_args *a) {
  const fk_tensor *x = a->pixel_values;
  int64_t patch = fk_size(a->patch_embeddings_weight, 2);
  fk_tensor *image = fk_empty(ctx, fk_type_of(x), fk_size(x, 0), fk_size(x, 2), fk_size(x, 3), fk_size(x, 1));
  FK_TRY(fk_call(ctx, "nchw_to_nhwc", x, image));
  FK_TRY(fk_call(ctx, "conv2d", image, a->patch_embeddings_weight, a->patch_embeddings_bias, patch, patch, 0, 0, 1, 1,
                 1, a->out));
  return fk_call(ctx, "layer_norm", a->out, a->layernorm_weight, a->layernorm_bias, a->epsilon, a->out);
}
