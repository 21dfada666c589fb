/* A candidate as an author would write it: float32, checks its arguments, needs abi.h and nothing else. */
#include <math.h>

#include "fastkernels/abi.h"

FK_EXPORT(rms_norm) {
  (void)self;
  (void)result;
  FK_REQUIRE(num_args == 4, "TypeError", "rms_norm: expected x, weight, epsilon, out");
  const fk_tensor *x = fk_arg_tensor(&args[0]), *weight = fk_arg_tensor(&args[1]), *out = fk_arg_tensor(&args[3]);
  FK_REQUIRE(x && weight && out, "TypeError", "rms_norm: x, weight and out must be tensors");
  FK_REQUIRE(x->ndim == 2, "ValueError", "rms_norm: x must have 2 dimensions");
  FK_REQUIRE(fk_type_of(x) == FK_F32 && fk_type_of(weight) == FK_F32 && fk_type_of(out) == FK_F32, "TypeError",
             "rms_norm: float32 only");
  int64_t rows = x->shape[0], n = x->shape[1];
  FK_REQUIRE(weight->ndim == 1 && weight->shape[0] == n, "ValueError", "rms_norm: weight must be [hidden_size]");
  float epsilon = (float)fk_arg_float(&args[2]);
  const float *w = (const float *)fk_data(weight);
  for (int64_t r = 0; r < rows; r++) {
    const float *row = (const float *)fk_data(x) + r * fk_stride(x, 0);
    float *to = (float *)fk_data(out) + r * fk_stride(out, 0), sum = 0;
    for (int64_t i = 0; i < n; i++) sum += row[i] * row[i];
    float scale = 1 / sqrtf(sum / (float)n + epsilon);
    for (int64_t i = 0; i < n; i++) to[i] = row[i] * scale * w[i];
  }
  return 0;
}
