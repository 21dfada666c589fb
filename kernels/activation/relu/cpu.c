#include "device/cpu_map.h"
#include "tasks/relu.h"

/* A NaN is not below zero and stays. */
static void relu_chunk(const float *x, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = x[i] < 0 ? 0 : x[i];
}

fk_status fk_cpu_relu(fk_context *ctx, const fk_relu_args *a) {
  (void)ctx;
  fk_map(relu_chunk, a->x, a->out);
  return FK_OK;
}
