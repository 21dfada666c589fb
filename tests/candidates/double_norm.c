/* A candidate for the dispatch test: writes twice the weight into every row, counts its calls in the workspace size,
 * and fails on request (epsilon 9). */
#include "fastkernels/abi.h"

FK_EXPORT(rms_norm_workspace) {
  (void)self;
  FK_REQUIRE(num_args == 4, "TypeError", "rms_norm_workspace: expected 4 arguments");
  result->type_index = FK_ANY_INT;
  result->v.i = 64 * fk_numel(fk_arg_tensor(&args[0]));
  return 0;
}

FK_EXPORT(rms_norm) {
  (void)self;
  (void)result;
  FK_REQUIRE(num_args == 5, "TypeError", "rms_norm: expected 4 arguments and a workspace");
  const fk_tensor *x = fk_arg_tensor(&args[0]), *weight = fk_arg_tensor(&args[1]), *out = fk_arg_tensor(&args[3]);
  const fk_tensor *workspace = fk_arg_tensor(&args[4]);
  FK_REQUIRE(fk_arg_float(&args[2]) != 9, "ValueError", "epsilon is nine");
  if (fk_arg_float(&args[2]) == 8) return -1; /* a failure without a word */
  FK_REQUIRE(workspace && workspace->ndim == 1 && workspace->shape[0] == 64 * fk_numel(x), "ValueError",
             "rms_norm: the workspace has another size");
  for (int64_t i = 0; i < workspace->shape[0]; i++) ((unsigned char *)fk_data(workspace))[i] = 255;
  int64_t n = x->shape[x->ndim - 1], rows = n ? fk_numel(x) / n : 0;
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t i = 0; i < n; i++) {
      if (fk_type_of(out) == FK_F64)
        ((double *)fk_data(out))[r * n + i] = 2 * ((const double *)fk_data(weight))[i];
      else
        ((float *)fk_data(out))[r * n + i] = 2 * ((const float *)fk_data(weight))[i];
    }
  }
  return 0;
}
