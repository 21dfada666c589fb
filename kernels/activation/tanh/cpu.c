#include "device/cpu_map.h"
#include "device/cpu_math.h"
#include "tasks/tanh.h"

static void tanh_chunk(const float *x, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = fk_tanhf(x[i]);
}

fk_status fk_cpu_tanh(fk_context *ctx, const fk_tanh_args *a) {
  (void)ctx;
  fk_map(tanh_chunk, a->x, a->out);
  return FK_OK;
}
