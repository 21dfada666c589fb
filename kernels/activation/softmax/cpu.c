#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "tasks/softmax.h"

enum { MAX_KEPT = 1 << 18 }; /* elements of a row whose exponentials are kept: 1 MiB of floats, a vocabulary fits */

/* Sum of a chunk's exponentials, which are kept. */
static float chunk_exp(const float *x, float max, float *kept, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    float e = fk_expf(x[i] - max);
    kept[i] = e;
    sum += e;
  }
  return sum;
}

/* Three passes over a row. Between the second and the third its exponentials wait unrounded in `kept`, n floats that
 * the nearer caches hold; a row too long for that (kept is NULL) computes them again, which costs less than memory. */
static void softmax_row(fk_type type, const void *x, void *out, int64_t n, float *kept, bool stream) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  float max = -INFINITY; /* of the numbers; the sum meets the NaN */
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    float m = fk_chunk_max(fk_row_read(type, x, i, in_room, count), count);
    max = m > max ? m : max;
  }
  double sum = 0;
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    sum += (double)chunk_exp(fk_row_read(type, x, i, in_room, count), max, kept ? kept + i : out_room, count);
  }
  float scale = (float)(1 / sum);
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *e = kept ? kept + i : out_room;
    if (!kept) chunk_exp(fk_row_read(type, x, i, in_room, count), max, out_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = e[k] * scale;
    fk_row_write(type, out, i, o, count, stream);
  }
}

fk_status fk_cpu_softmax(fk_context *ctx, const fk_softmax_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  fk_type type = fk_type_of(a->x);
  double bytes = 2.0 * (double)rows * (double)n * (double)fk_width(type);
  bool stream = fk_data(a->out) != fk_data(a->x) && fk_stream_pays(bytes);
  bool parallel = rows > 1 && rows * n >= FK_PARALLEL_MIN;
  int threads = 1;
#ifdef _OPENMP
  if (parallel) threads = omp_get_max_threads();
#endif
  float *kept = NULL;
  if (n <= MAX_KEPT) {
    kept = fk_scratch(ctx, (size_t)threads * (size_t)n * sizeof *kept);
    if (!kept) return FK_ERROR_MEMORY;
  }
#pragma omp parallel num_threads(threads) if (parallel)
  {
    float *mine = kept;
#ifdef _OPENMP
    if (kept) mine += omp_get_thread_num() * n;
#endif
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) softmax_row(type, fk_row(a->x, r), fk_row(a->out, r), n, mine, stream);
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
