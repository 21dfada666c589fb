#include <math.h>

#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "tasks/softmax.h"

/* The largest number of a chunk; a NaN is passed over, for the sum to meet. */
static float chunk_max(const float *x, int64_t n) {
  float max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

static float chunk_sum(const float *x, float max, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += fk_expf(x[i] - max);
  return sum;
}

/* Three passes over a row that the nearer caches hold. The exponential is computed twice rather than kept: at 16 bits
 * there is no place to keep it unrounded, and it costs less than the memory. */
static void softmax_row(fk_type type, const void *x, void *out, int64_t n, bool stream) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  float max = -INFINITY;
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    float m = chunk_max(fk_row_read(type, x, i, in_room, count), count);
    max = m > max ? m : max;
  }
  double sum = 0;
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    sum += (double)chunk_sum(fk_row_read(type, x, i, in_room, count), max, count);
  }
  float scale = (float)(1 / sum);
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *p = fk_row_read(type, x, i, in_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = fk_expf(p[k] - max) * scale;
    fk_row_write(type, out, i, o, count, stream);
  }
}

fk_status fk_cpu_softmax(fk_context *ctx, const fk_softmax_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  fk_type type = fk_type_of(a->x);
  double bytes = 2.0 * (double)rows * (double)n * (double)fk_width(type);
  bool stream = fk_data(a->out) != fk_data(a->x) && fk_stream_pays(bytes);
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) softmax_row(type, fk_row(a->x, r), fk_row(a->out, r), n, stream);
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
