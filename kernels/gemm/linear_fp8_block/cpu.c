#include "device/cpu_row.h"
#include "device/cpu_threads.h"
#include "tasks/linear_fp8_block.h"

enum { BLOCK = 128 };

static float dot(const float *x, const float *w, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * w[i];
  return sum;
}

/* Row m of x, times its scales: exact products of a float8 and a float32 are rounded once, as in the sum that follows.
 */
static fk_status widen_scaled(const fk_linear_fp8_block_args *a, int64_t m, float *to, int64_t depth) {
  const float *scale = fk_row(a->x_scale, m);
  FK_TRY(fk_convert_row(FK_F32, to, FK_F8_E4M3FN, fk_row(a->x, m), depth));
  for (int64_t k = 0; k < depth; k++) to[k] *= scale[k / BLOCK];
  return FK_OK;
}

fk_status fk_cpu_linear_fp8_block(fk_context *ctx, const fk_linear_fp8_block_args *a) {
  int64_t rows = fk_size(a->x, 0), depth = fk_size(a->x, 1), features = fk_size(a->weight, 0);
  if (rows == 0 || features == 0) return FK_OK;
  float *x = fk_scratch(ctx, (size_t)(rows * depth) * 4);
  float *weights = fk_scratch(ctx, (size_t)(fk_max_threads() * depth) * 4);
  if (!x || !weights) return FK_ERROR_MEMORY;
  for (int64_t m = 0; m < rows; m++) FK_TRY(widen_scaled(a, m, x + m * depth, depth));
#pragma omp parallel for schedule(static) if (rows * depth * features > 1 << 14)
  for (int64_t n = 0; n < features; n++) {
    float *w = weights + fk_thread_index() * depth;
    const float *scale = fk_row(a->weight_scale, n / BLOCK);
    (void)fk_convert_row(FK_F32, w, FK_F8_E4M3FN, fk_row(a->weight, n), depth); /* cannot fail: both are floats */
    for (int64_t m = 0; m < rows; m++) {
      float sum = 0;
      for (int64_t k = 0; k < depth; k += BLOCK)
        sum += scale[k / BLOCK] * dot(x + m * depth + k, w + k, depth - k < BLOCK ? depth - k : BLOCK);
      fk_store_f64(fk_type_of(a->out), fk_row(a->out, m), n, (double)sum);
    }
  }
  return FK_OK;
}
