#include "tasks/convnextv2_stage.h"

/* Block i's part of a weight that holds all blocks' one after the other. */
static fk_tensor *part(fk_context *ctx, const fk_convnextv2_stage_args *a, const fk_tensor *stacked, int64_t i) {
  int64_t rows = fk_size(stacked, 0) / a->depth;
  return fk_slice(ctx, stacked, 0, i * rows, rows);
}

static fk_status block(fk_context *ctx, const fk_convnextv2_stage_args *a, const fk_tensor *x, int64_t i) {
  return fk_call(ctx, "convnextv2_block", x, part(ctx, a, a->layers_dwconv_weight, i),
                 part(ctx, a, a->layers_dwconv_bias, i), part(ctx, a, a->layers_layernorm_weight, i),
                 part(ctx, a, a->layers_layernorm_bias, i), part(ctx, a, a->layers_pwconv1_weight, i),
                 part(ctx, a, a->layers_pwconv1_bias, i), part(ctx, a, a->layers_grn_weight, i),
                 part(ctx, a, a->layers_grn_bias, i), part(ctx, a, a->layers_pwconv2_weight, i),
                 part(ctx, a, a->layers_pwconv2_bias, i), a->epsilon, a->out);
}

fk_status fk_compose_convnextv2_stage(fk_context *ctx, const fk_convnextv2_stage_args *a) {
  const fk_tensor *x = a->x;
  if (a->downsampling_layer_1_weight) {
    int64_t size = fk_size(a->downsampling_layer_1_weight, 2);
    fk_tensor *normed = fk_empty_like(ctx, x);
    FK_TRY(fk_call(ctx, "layer_norm", x, a->downsampling_layer_0_weight, a->downsampling_layer_0_bias, a->epsilon,
                   normed));
    FK_TRY(fk_call(ctx, "conv2d", normed, a->downsampling_layer_1_weight, a->downsampling_layer_1_bias, size, size, 0,
                   0, 1, 1, 1, a->out));
    x = a->out;
  }
  for (int64_t i = 0; i < a->depth; i++, x = a->out) FK_TRY(block(ctx, a, x, i));
  return FK_OK;
}
