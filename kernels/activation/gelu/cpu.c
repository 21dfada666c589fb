#include "device/cpu_map.h"
#include "device/cpu_math.h"
#include "tasks/gelu.h"

static void gelu_chunk(const float *x, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = fk_geluf(x[i]);
}

static void gelu_tanh_chunk(const float *x, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = fk_gelu_tanhf(x[i]);
}

fk_status fk_cpu_gelu(fk_context *ctx, const fk_gelu_args *a) {
  (void)ctx;
  fk_map(a->approximate ? gelu_tanh_chunk : gelu_chunk, a->x, a->out);
  return FK_OK;
}
