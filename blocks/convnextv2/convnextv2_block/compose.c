#include "tasks/convnextv2_block.h"

fk_status fk_compose_convnextv2_block(fk_context *ctx, const fk_convnextv2_block_args *a) {
  int64_t batch = fk_size(a->x, 0), height = fk_size(a->x, 1), width = fk_size(a->x, 2), dim = fk_size(a->x, 3);
  int64_t pixels = batch * height * width, inner = fk_size(a->pwconv1_weight, 0),
          pad = fk_size(a->dwconv_weight, 2) / 2;
  fk_type type = fk_type_of(a->x);
  fk_tensor *mixed = fk_empty(ctx, type, batch, height, width, dim);
  fk_tensor *wide = fk_empty(ctx, type, batch, height, width, inner);
  /* A pixel is a row to the pointwise layers. */
  fk_tensor *mixed_rows = fk_view(ctx, mixed, pixels, dim), *wide_rows = fk_view(ctx, wide, pixels, inner);
  FK_TRY(fk_call(ctx, "conv2d", a->x, a->dwconv_weight, a->dwconv_bias, 1, 1, pad, pad, 1, 1, dim, mixed));
  FK_TRY(fk_call(ctx, "layer_norm", mixed_rows, a->layernorm_weight, a->layernorm_bias, a->epsilon, mixed_rows));
  FK_TRY(fk_call(ctx, "linear", mixed_rows, a->pwconv1_weight, a->pwconv1_bias, wide_rows));
  FK_TRY(fk_call(ctx, "gelu", wide_rows, 0, wide_rows));
  FK_TRY(fk_call(ctx, "grn", wide, a->grn_weight, a->grn_bias, a->epsilon, wide));
  FK_TRY(fk_call(ctx, "linear", wide_rows, a->pwconv2_weight, a->pwconv2_bias, mixed_rows));
  return fk_call(ctx, "add", a->x, mixed, a->out);
}
