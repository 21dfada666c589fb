#include "device/cpu_row.h"
#include "device/cpu_threads.h"
#include "tasks/linear_fp8.h"

/* float8 is widened once per row and multiplied in float32: simple, and bound by arithmetic. */
static float dot(const float *x, const float *w, int64_t n) {
  float a = 0, b = 0;
  int64_t half = n / 2;
#pragma omp simd reduction(+ : a, b)
  for (int64_t i = 0; i < half; i++) {
    a += x[i] * w[i];
    b += x[i + half] * w[i + half];
  }
  if (n % 2) a += x[n - 1] * w[n - 1];
  return a + b;
}

fk_status fk_cpu_linear_fp8(fk_context *ctx, const fk_linear_fp8_args *a) {
  int64_t rows = fk_size(a->x, 0), depth = fk_size(a->x, 1), features = fk_size(a->weight, 0);
  if (rows == 0 || features == 0) return FK_OK;
  float *x = fk_scratch(ctx, (size_t)(rows * depth) * 4);
  float *weights = fk_scratch(ctx, (size_t)(fk_max_threads() * depth) * 4);
  if (!x || !weights) return FK_ERROR_MEMORY;
  const float *x_scale = fk_data(a->x_scale), *weight_scale = fk_data(a->weight_scale);
  bool x_rows = fk_numel(a->x_scale) > 1, weight_rows = fk_numel(a->weight_scale) > 1;
  for (int64_t m = 0; m < rows; m++)
    FK_TRY(fk_convert_row(FK_F32, x + m * depth, FK_F8_E4M3FN, fk_row(a->x, m), depth));
#pragma omp parallel for schedule(static) if (rows * depth * features > 1 << 14)
  for (int64_t n = 0; n < features; n++) {
    float *w = weights + fk_thread_index() * depth;
    (void)fk_convert_row(FK_F32, w, FK_F8_E4M3FN, fk_row(a->weight, n), depth); /* cannot fail: both are floats */
    double bias = a->bias ? fk_load_f64(fk_type_of(a->bias), fk_data(a->bias), n) : 0;
    for (int64_t m = 0; m < rows; m++) {
      float scale = x_scale[x_rows ? m : 0] * weight_scale[weight_rows ? n : 0];
      fk_store_f64(fk_type_of(a->out), fk_row(a->out, m), n, (double)(dot(x + m * depth, w, depth) * scale) + bias);
    }
  }
  return FK_OK;
}
